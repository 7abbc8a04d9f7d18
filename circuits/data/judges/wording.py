"""A judge that has learnt from labelled texts, with nothing in common with the word lists.

Words, pairs of words and character sequences, weighted by TF-IDF, enter a logistic regression
over the six emotions and ``neutral``. It is trained when it is first asked, always on the same
texts, in about a second, and nothing but the texts is stored.

Its texts were written for it: none is a reply that the embedded model was trained on, none was
used to improve the word lists, and none measures a judge. So where both judges agree, they have
not learnt it from the same place.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from circuits.assets import shipped
from circuits.data.judges.calibration import read_labelled
from circuits.data.judges.protocol import Verdict
from circuits.data.judges.questions import EMPTY, check_questions
from circuits.files import digest
from circuits.names import NEUTRAL

__all__ = ["WordingJudge"]

_TEXTS: Final = "judge/wording.jsonl"
_WORDS: Final = (1, 2)
_CHARACTERS: Final = (2, 5)
_INVERSE_PENALTY: Final = 10.0


class WordingJudge:
    """Takes the likeliest of seven classes; needs no network and trains in about a second."""

    @property
    def name(self) -> str:
        """``wording``."""
        return "wording"

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: The two sequences differ in length, or an emotion is none of the seven
                classes that the judge has learnt.
        """
        check_questions(texts, emotions)
        verdicts = [Verdict(match=False, label=NEUTRAL, reason=EMPTY) for _ in texts]
        spoken = [index for index, text in enumerate(texts) if text.strip()]
        if not spoken:
            return verdicts
        classifier = _trained()
        shares = classifier.predict_proba([texts[index] for index in spoken])
        for index, share in zip(spoken, shares, strict=True):
            best = int(share.argmax())
            label = str(classifier.classes_[best])
            reason = f"{label} with probability {share[best]:.2f}"
            verdicts[index] = Verdict(label == emotions[index], label, reason)
        return verdicts

    def describe(self) -> Mapping[str, Any]:
        """Training texts with their fingerprint, features, and the version that trains."""
        import sklearn

        path = shipped(_TEXTS)
        labels = Counter(item.label for item in read_labelled(path))
        return {
            "name": self.name,
            "texts_sha256": digest(path).removeprefix("sha256:"),
            "texts": dict(labels),
            "words": list(_WORDS),
            "characters": list(_CHARACTERS),
            "inverse_penalty": _INVERSE_PENALTY,
            "scikit_learn": sklearn.__version__,
        }


@cache
def _trained() -> Any:
    """The classifier, trained once per process."""
    # Imported here: importing the package must not load a model library.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    # Contractions stay whole, and "I" and "a" are words.
    words = TfidfVectorizer(ngram_range=_WORDS, sublinear_tf=True, token_pattern=r"\w[\w']*")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=_CHARACTERS, sublinear_tf=True)
    classifier = make_pipeline(
        make_union(words, characters), LogisticRegression(C=_INVERSE_PENALTY, max_iter=300)
    )
    learnt = read_labelled(shipped(_TEXTS))
    return classifier.fit([item.text for item in learnt], [item.label for item in learnt])

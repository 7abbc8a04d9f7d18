"""A judge that has learnt from labelled texts: the shipped ones, or one's own.

The shipped texts have nothing in common with the word lists.

Words, pairs of words and character sequences, weighted by TF-IDF, enter a logistic regression
over the labels of the texts. It is trained when it is first asked, always on the same
texts, in about a second, and nothing but the texts is stored.

The shipped texts were written for it: none is a reply that the embedded model was trained on, none
was used to improve the word lists, and none measures a judge. So where both judges agree, they
have not learnt it from the same place.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from circuits.errors import JudgeError
from circuits.files import digest, shipped
from circuits.judges.agreement import LABELS, Labelled, read_labelled
from circuits.judges.judge import EMPTY, Verdict, check_questions
from circuits.names import NEUTRAL

__all__ = ["WordingJudge"]

_TEXTS: Final = "judge/wording.jsonl"
_WORDS: Final = (1, 2)
_CHARACTERS: Final = (2, 5)
_INVERSE_PENALTY: Final = 10.0
_FEWEST: Final = 2


class WordingJudge:
    """Takes the likeliest of its texts' labels; needs no network and trains in about a second."""

    def __init__(self, texts: Path | None = None) -> None:
        """Remember the file of one's own labelled texts: lines with ``text`` and ``label``.

        Raises:
            DataError: the file is missing or malformed.
            JudgeError: it has fewer than two labels.
        """
        self._path = texts or shipped(_TEXTS)
        self._own = texts is not None
        if len({item.label for item in self._texts()}) < _FEWEST:
            raise JudgeError(f"{texts}: texts of one label teach nothing; give two or more")

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be told apart, beside ``neutral``."""
        found = dict.fromkeys(item.label for item in self._texts())
        return tuple(label for label in found if label != NEUTRAL)

    def _texts(self) -> list[Labelled]:
        return _read(self._path, self._own)

    @property
    def name(self) -> str:
        """``wording``."""
        return "wording"

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: The two sequences differ in length, or an emotion is none that
                the judge has learnt.
        """
        check_questions(texts, emotions, self.labels)
        verdicts = [Verdict(match=False, label=NEUTRAL, reason=EMPTY) for _ in texts]
        spoken = [index for index, text in enumerate(texts) if text.strip()]
        if not spoken:
            return verdicts
        classifier = _trained(self._path, self._own)
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

        labels = Counter(item.label for item in self._texts())
        return {
            "name": self.name,
            "texts_sha256": digest(self._path).removeprefix("sha256:"),
            "texts": dict(labels),
            "words": list(_WORDS),
            "characters": list(_CHARACTERS),
            "inverse_penalty": _INVERSE_PENALTY,
            "scikit_learn": sklearn.__version__,
        }


@cache
def _read(path: Path, own: bool) -> list[Labelled]:
    return read_labelled(path, labels=None if own else LABELS)


@cache
def _trained(path: Path, own: bool) -> Any:
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
    learnt = _read(path, own)
    return classifier.fit([item.text for item in learnt], [item.label for item in learnt])

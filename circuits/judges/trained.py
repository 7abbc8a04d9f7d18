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
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from circuits.errors import JudgeError
from circuits.files import digest, shipped
from circuits.judges.agreement import LABELS, Labelled, read_labelled
from circuits.judges.judge import Verdict, by_label
from circuits.names import NEUTRAL

__all__ = ["WordingJudge"]

_TEXTS: Final = "judge/wording.jsonl"
_WORDS: Final = (1, 2)
_CHARACTERS: Final = (2, 5)
_INVERSE_PENALTY: Final = 10.0
_FEWEST: Final = 2


class WordingJudge:
    """Takes the likeliest of its texts' labels; needs no network and trains in about a second."""

    name = "wording"

    def __init__(self, texts: Path | None = None) -> None:
        """Read one's own labelled texts: lines with ``text`` and ``label``.

        Raises:
            DataError: the file is missing or malformed.
            JudgeError: it has fewer than two labels.
        """
        self._file = (texts or shipped(_TEXTS), texts is not None)
        self._counts = Counter(item.label for item in _read(*self._file))
        if len(self._counts) < _FEWEST:
            raise JudgeError(f"{texts}: texts of one label teach nothing; give two or more")

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be told apart, beside ``neutral``."""
        return tuple(label for label in self._counts if label != NEUTRAL)

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: The two sequences differ in length, or an emotion is none that
                the judge has learnt.
        """
        return by_label(texts, emotions, self.labels, self._find)

    def _find(self, texts: list[str]) -> list[tuple[str, str]]:
        classifier = _trained(*self._file)
        shares = classifier.predict_proba(texts)
        labels = (str(classifier.classes_[best]) for best in shares.argmax(1))
        return [
            (label, f"{label} with probability {share:.2f}")
            for label, share in zip(labels, shares.max(1), strict=True)
        ]

    def describe(self) -> Mapping[str, Any]:
        """Training texts with their fingerprint, features, and the version that trains."""
        return {
            "name": self.name,
            "texts_sha256": digest(self._file[0]).removeprefix("sha256:"),
            "texts": dict(self._counts),
            "words": list(_WORDS),
            "characters": list(_CHARACTERS),
            "inverse_penalty": _INVERSE_PENALTY,
            "scikit_learn": version("scikit-learn"),
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

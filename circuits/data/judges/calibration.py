"""How often a judge is wrong, measured on texts whose emotion a person has labelled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from circuits.data.judges.protocol import Judge, Verdict
from circuits.errors import DataError
from circuits.files import read_json_lines
from circuits.names import EMOTIONS, NEUTRAL

__all__ = ["LABELS", "Calibration", "Labelled", "error_rate", "read_labelled", "wilson_interval"]

LABELS: Final = (*EMOTIONS, NEUTRAL)
"""Of the shipped texts."""


@dataclass(frozen=True)
class Labelled:
    """A short text and the emotion that a person hears in it."""

    text: str
    label: str


@dataclass(frozen=True)
class Calibration:
    """What a judge answered on labelled texts when asked for each text's own label."""

    judge: str
    n: int
    accuracy: float
    """Share of texts on which the judge agrees with the label."""
    interval: tuple[float, float]
    """Wilson's 95% interval of the accuracy."""
    by_label: Mapping[str, float]
    """Accuracy among the texts of each label; labels without texts are absent."""
    confusion: Mapping[str, Mapping[str, int]]
    """``confusion[label][heard]``: how many texts of ``label`` the judge took for ``heard``.

    A judge that only answers yes or no hears ``other`` where it disagrees.
    """

    @property
    def error(self) -> float:
        """Share of texts on which the judge disagrees with the label."""
        return 1.0 - self.accuracy


def error_rate(judge: Judge, path: Path | str) -> Calibration:
    """Ask ``judge`` for the label of every text in ``path`` and count how often it agrees.

    Raises:
        DataError: The file cannot be read, or a line is malformed.
        JudgeError: The judge cannot be reached, or its answers cannot be read.
    """
    labelled = read_labelled(path, labels=None)
    labels = [item.label for item in labelled]
    verdicts = judge.judge([item.text for item in labelled], labels)
    pairs = list(zip(labels, verdicts, strict=True))
    confusion = {
        label: dict(Counter(_heard(asked, v) for asked, v in pairs if asked == label))
        for label in sorted({*labels}, key=_rank)
    }
    right = sum(verdict.match for verdict in verdicts)
    return Calibration(
        judge=judge.name,
        n=len(labelled),
        accuracy=right / len(labelled),
        interval=wilson_interval(right, len(labelled)),
        by_label={label: _share(label, pairs) for label in confusion},
        confusion=confusion,
    )


def read_labelled(path: Path | str, labels: Sequence[str] | None = LABELS) -> list[Labelled]:
    """Read one ``{"text": …, "label": …}`` per line; the label out of ``labels``, or any word.

    Raises:
        DataError: The file cannot be read or is empty, or a line is malformed.
    """
    rows = read_json_lines(Path(path))
    labelled = [_labelled(f"{path}, line {number}", row, labels) for number, row in rows]
    if not labelled:
        raise DataError(f"{path} holds no labelled texts; write one JSON object per line")
    return labelled


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of the share ``right / n`` (Wilson 1927).

    >>> tuple(round(bound, 3) for bound in wilson_interval(8, 10))
    (0.49, 0.943)
    """
    # Imported here: a saved circuit is opened, and a judge made, without it.
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _labelled(where: str, row: Mapping[str, Any], labels: Sequence[str] | None) -> Labelled:
    text, label = row.get("text"), row.get("label")
    known = isinstance(label, str) and bool(label.strip()) and (labels is None or label in labels)
    if not isinstance(text, str) or not isinstance(label, str) or not known:
        wanted = "that is a word" if labels is None else f"out of {', '.join(labels)}"
        raise DataError(
            f"{where}: a labelled text needs a string 'text' and a 'label' {wanted}; "
            f"found {str(row)[:80]}"
        )
    return Labelled(text, label)


def _rank(label: str) -> tuple[int, str]:
    return (LABELS.index(label) if label in LABELS else len(LABELS), label)


def _heard(asked: str, verdict: Verdict) -> str:
    if verdict.label is not None:
        return verdict.label
    return asked if verdict.match else "other"


def _share(label: str, pairs: list[tuple[str, Verdict]]) -> float:
    matches = [verdict.match for asked, verdict in pairs if asked == label]
    return sum(matches) / len(matches)

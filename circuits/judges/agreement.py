"""How often a judge is wrong, and how far two judges agree beyond chance."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from circuits.errors import DataError
from circuits.files import read_json_lines
from circuits.judges.judge import Judge, Verdict
from circuits.names import EMOTIONS, NEUTRAL

__all__ = [
    "LABELS",
    "Calibration",
    "Kappa",
    "Labelled",
    "agreement",
    "error_rate",
    "read_labelled",
    "wilson_interval",
]

LABELS: Final = (*EMOTIONS, NEUTRAL)
"""Of the shipped texts."""


@dataclass(frozen=True)
class Labelled:
    """A short text and the emotion that a person finds in it."""

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

    A judge that only answers yes or no finds ``other`` where it disagrees.
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


_AT_ONCE: Final = 100
"""Draws that are held at a time."""


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa of two judges."""

    value: float | None
    """1 where they always agree, 0 where they agree as often as chance would have them.

    ``None`` where it is undefined: both judges find one and the same label in every text.
    """
    interval: tuple[float, float] | None
    """95% percentile interval over resampled groups of texts; ``None`` where undefined."""
    agreed: float
    """Share of texts on which the two answers are the same."""
    n: int


def agreement(
    first: Sequence[Verdict],
    second: Sequence[Verdict],
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Kappa:
    """Cohen's kappa (Cohen 1960) of what two judges found, with a bootstrap interval.

    Where a judge only answers yes or no, the answers are compared, not the labels.

    Args:
        first: Verdicts of one judge.
        second: Verdicts of the other, on the same texts in the same order.
        groups: What each text belongs to, such as its context. Texts of one group are drawn
            together, since they are not independent; by default each text is its own group.
        draws: How often the groups are resampled.
        seed: Of the resampling.

    Raises:
        DataError: There are no verdicts, the lengths differ, or there are no draws.
    """
    groups = range(len(first)) if groups is None else groups
    if not first or not len(first) == len(second) == len(groups) or draws < 1:
        raise DataError(
            "agreement needs two verdicts and a group for each text, and a draw or more; found "
            f"{len(first)} and {len(second)} verdicts, {len(groups)} groups and {draws} draws"
        )
    named = all(verdict.label is not None for verdict in (*first, *second))
    a, b = ([str(v.label if named else v.match) for v in own] for own in (first, second))
    return Kappa(
        value=_kappa(a, b),
        interval=_interval(a, b, groups, draws, seed),
        agreed=sum(x == y for x, y in zip(a, b, strict=True)) / len(a),
        n=len(a),
    )


def _kappa(a: list[str], b: list[str]) -> float | None:
    # Imported here: importing the package must not load a model library.
    from sklearn.metrics import cohen_kappa_score

    # Chance would agree always, and nothing is left to divide by.
    return None if len({*a, *b}) == 1 else float(cohen_kappa_score(a, b))


def _interval(
    a: list[str], b: list[str], groups: Sequence[Hashable], draws: int, seed: int
) -> tuple[float, float] | None:
    import numpy as np

    tables = _tables(a, b, groups)
    random, found = np.random.default_rng(seed), []
    for start in range(0, draws, _AT_ONCE):
        n = min(_AT_ONCE, draws - start)
        times = random.multinomial(len(tables), np.full(len(tables), 1 / len(tables)), size=n)
        drawn = np.einsum("dg,gab->dab", times.astype(float), tables, optimize=True)
        drawn /= drawn.sum(axis=(1, 2), keepdims=True)
        same = np.einsum("daa->d", drawn)
        chance = (drawn.sum(axis=1) * drawn.sum(axis=2)).sum(axis=1)
        # Rounding must not turn a draw of one label into a number.
        defined = chance < 1 - 1e-12
        found.append((same[defined] - chance[defined]) / (1 - chance[defined]))
    kappas = np.concatenate(found)
    if not len(kappas):
        return None
    low, high = np.quantile(kappas, (0.025, 0.975))
    return float(low), float(high)


def _tables(a: list[str], b: list[str], groups: Sequence[Hashable]) -> Any:
    """How often each pair of labels was found in each group, ``[group, first, second]``."""
    import numpy as np

    labels = {label: place for place, label in enumerate(sorted({*a, *b}))}
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    tables = np.zeros((len(places), len(labels), len(labels)))
    for group, x, y in zip(groups, a, b, strict=True):
        tables[places[group], labels[x], labels[y]] += 1
    return tables

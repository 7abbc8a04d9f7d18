"""How often a judge is wrong, and how far two judges agree beyond chance."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from circuits.errors import DataError
from circuits.files import Text, Words, read_rows
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
    """``confusion[label][judged]``: how many texts of ``label`` the judge took for ``judged``.

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
    judged: dict[str, Counter[str]] = {label: Counter() for label in (*LABELS, *sorted({*labels}))}
    right = Counter(label for label, own in zip(labels, verdicts, strict=True) if own.match)
    for label, own in zip(labels, verdicts, strict=True):
        judged[label][own.label or (label if own.match else "other")] += 1
    confusion = {label: dict(own) for label, own in judged.items() if own}
    return Calibration(
        judge=judge.name,
        n=len(labelled),
        accuracy=right.total() / len(labelled),
        interval=wilson_interval(right.total(), len(labelled)),
        by_label={label: right[label] / labels.count(label) for label in confusion},
        confusion=confusion,
    )


class _Row(BaseModel):
    text: Text
    label: Words


def read_labelled(path: Path | str, labels: Sequence[str] | None = LABELS) -> list[Labelled]:
    """Read one ``{"text": …, "label": …}`` per line; the label out of ``labels``, or any word.

    Raises:
        DataError: The file cannot be read or is empty, or a line is malformed.
    """
    found = []
    for where, row in read_rows(Path(path), _Row):
        if labels is not None and row.label not in labels:
            raise DataError(
                f"{where}: field 'label': {row.label[:40]!r} is none of {', '.join(labels)}"
            )
        found.append(Labelled(row.text, row.label))
    if not found:
        raise DataError(f"{path} holds no labelled texts; write one JSON object per line")
    return found


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of the share ``right / n`` (Wilson 1927).

    >>> tuple(round(bound, 3) for bound in wilson_interval(8, 10))
    (0.49, 0.943)
    """
    # Imported here: a saved circuit is opened, and a judge made, without it.
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


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
    # Imported here: a saved circuit is opened, and a judge made, without them.
    import numpy as np
    import pandas as pd

    named = all(verdict.label is not None for verdict in (*first, *second))
    found = [str(v.label if named else v.match) for v in (*first, *second)]
    labels, codes = np.unique(found, return_inverse=True)
    a, b = codes.reshape(2, -1)
    group, different = pd.factorize(pd.Series([*groups], dtype=object))
    tables = np.zeros((len(different), len(labels), len(labels)))
    np.add.at(tables, (group, a, b), 1)
    value = _kappas(tables.sum(0)[None])
    times = np.random.default_rng(seed).multinomial(
        len(tables), np.full(len(tables), 1 / len(tables)), size=draws
    )
    drawn = _kappas(np.einsum("dg,gab->dab", times.astype(float), tables, optimize=True))
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (0.0, 0.0)
    return Kappa(
        value=float(value[0]) if len(value) else None,
        interval=(float(low), float(high)) if len(drawn) else None,
        agreed=float((a == b).mean()),
        n=len(a),
    )


def _kappas(tables: Any) -> Any:
    """Kappa of every table of counts, ``[table, first, second]``, for which it is defined."""
    n = tables.sum((1, 2))
    same = tables.trace(axis1=1, axis2=2) / n
    chance = (tables.sum(1) * tables.sum(2)).sum(1) / n**2
    # Where both find one label alone, chance agrees always, and nothing is left to divide by.
    defined = chance < 1 - 1e-12
    return ((same - chance) / (1 - chance).clip(1e-12))[defined]

"""How far two judges agree beyond chance, on the same texts."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from circuits.data.judges.protocol import Verdict
from circuits.errors import DataError

__all__ = ["Kappa", "agreement"]

_AT_ONCE: Final = 100
"""Draws that are held at a time."""


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa of two judges."""

    value: float | None
    """1 where they always agree, 0 where they agree as often as chance would have them.

    ``None`` where it is undefined: both judges hear one and the same label in every text.
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
    """Cohen's kappa (Cohen 1960) of what two judges heard, with a bootstrap interval.

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
    """How often each pair of labels was heard in each group, ``[group, first, second]``."""
    import numpy as np

    labels = {label: place for place, label in enumerate(sorted({*a, *b}))}
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    tables = np.zeros((len(places), len(labels), len(labels)))
    for group, x, y in zip(groups, a, b, strict=True):
        tables[places[group], labels[x], labels[y]] += 1
    return tables

"""Two ways to the same numbers, timed in turns; the table and the file that come of it."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from circuits.models.memory import Receipt, counted

OURS = 6
"""Runs of ours for each of the baseline's."""

__all__ = ["Row", "compare", "show", "write"]


@dataclass(frozen=True)
class Row:
    """One comparison: medians in seconds, what was run, and how far the numbers are apart."""

    name: str
    baseline: float
    ours: float
    baseline_cost: Receipt
    our_cost: Receipt
    max_abs_diff: float
    largest: float
    """Largest value, to judge the difference by."""
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times longer the baseline takes."""
        return self.baseline / self.ours


def compare(
    name: str,
    baseline: Callable[[], Tensor],
    ours: Callable[[], Tensor],
    *,
    repeats: int = 3,
    note: str = "",
) -> Row:
    """Run both in turns, ``repeats`` times, and keep the medians.

    Ours, the short one, runs ``OURS`` times per turn, half of them before and half after the
    baseline. Its very first run is not timed, so that no side pays for what is loaded once.
    """
    ours()
    plain: list[_Timed] = []
    own: list[_Timed] = []
    for _ in range(repeats):
        own += [_timed(ours) for _ in range(OURS // 2)]
        plain.append(_timed(baseline))
        own += [_timed(ours) for _ in range(OURS - OURS // 2)]
    left, right = plain[-1], own[-1]
    return Row(
        name,
        statistics.median(one.seconds for one in plain),
        statistics.median(one.seconds for one in own),
        left.cost,
        right.cost,
        float((left.found - right.found).abs().max()),
        float(left.found.abs().max()),
        note,
    )


@dataclass(frozen=True)
class _Timed:
    seconds: float
    found: Tensor
    cost: Receipt


def _timed(work: Callable[[], Tensor]) -> _Timed:
    with counted() as cost:
        start = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - start
    return _Timed(seconds, found, cost)


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(title="the plain way beside ours (medians)")
    for column in ("", "plain s", "ours s", "ratio", "plain passes", "ours", "plain token-layers"):
        table.add_column(column, justify="right" if column else "left")
    for column in ("ours", "largest difference", "of values up to"):
        table.add_column(column, justify="right")
    for row in rows:
        plain, ours = row.baseline_cost, row.our_cost
        table.add_row(
            row.name,
            f"{row.baseline:.3f}",
            f"{row.ours:.4f}",
            f"{row.ratio:.1f}x",
            _cost(plain),
            _cost(ours),
            f"{plain.token_layers:,}",
            f"{ours.token_layers:,}",
            f"{row.max_abs_diff:.1e}",
            f"{row.largest:.3g}",
        )
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", highlight=False)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON."""
    values = [
        {
            "name": row.name,
            "baseline": row.baseline,
            "ours": row.ours,
            "ratio": row.ratio,
            "baseline_passes": row.baseline_cost.passes,
            "our_passes": row.our_cost.passes,
            "max_abs_diff": row.max_abs_diff,
        }
        for row in rows
    ]
    path.write_text(json.dumps(values, indent=2) + "\n")


def _cost(receipt: Receipt) -> str:
    steps = f" + {receipt.steps:,} steps" if receipt.steps else ""
    return f"{receipt.passes:,}{steps}"

"""From which prompts the differences are made that modulation writes.

By default from those that directions and effects are made from. Wang et al. 2025 (arXiv
2510.11328, stage 5) read them from an indented wording; as released, their scripts also keep only
one valence of a scenario, the last file read.
"""

from dataclasses import replace
from typing import Literal

from circuits.data.sev import Context
from circuits.measure.sweep import Grid

__all__ = ["DiffGrouping", "DiffPrompt", "last_valence", "reworded"]

DiffPrompt = Literal["asked", "indented"]
"""Wording of the prompts: as everywhere, or (published) indented."""

DiffGrouping = Literal["context", "scenario"]
"""A mean is taken off within a context, or (as released) within what is left of a scenario: its
last complete valence in sorted order."""


def reworded(grid: Grid, wording: DiffPrompt) -> Grid:
    """The same cells with prompts in this wording."""
    indented = wording == "indented"
    cells = {
        place: replace(reply, prompt=replace(reply.prompt, indented=indented))
        for place, reply in grid.cells.items()
    }
    return replace(grid, cells=cells)


def last_valence(grid: Grid) -> Grid:
    """Of every scenario only the complete context whose valence is last in sorted order."""
    last: dict[str, Context] = {}
    for context, complete in zip(grid.contexts, grid.complete.tolist(), strict=True):
        before = last.get(context.scenario)
        if complete and (before is None or context.valence > before.valence):
            last[context.scenario] = context
    kept = {context.id for context in last.values()}
    cells = {place: reply for place, reply in grid.cells.items() if place[0] in kept}
    return replace(grid, contexts=tuple(last.values()), cells=cells)

"""Heat maps of changes in percentage points, each cell with its number."""

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from circuits.plot.style import DIVERGING, numbers, words

__all__ = ["signed_cells"]


def signed_cells(
    values: Float[Tensor, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    spread: Float[Tensor, "row column both"],
    hover: str = "95% interval %{customdata[0]:.1f} to %{customdata[1]:.1f}",
    marks: Sequence[Sequence[str]] | None = None,
    form: str = ".0f",
) -> go.Heatmap:
    """Blue below zero, orange above; the first row stands on top, as in a table.

    Args:
        values: Changes, in percentage points.
        rows: Their names.
        columns: Their names.
        spread: What ``hover`` shows beside each value.
        hover: Second line of the hover text.
        marks: What follows each number.
        form: How the numbers are written.
    """
    limit = float(values.abs().max()) or 1.0
    signs = marks or [[""] * len(columns) for _ in rows]
    shown = [
        [f"{value:{form}}{mark}" for value, mark in zip(own, stars, strict=True)]
        for own, stars in zip(values.tolist(), signs, strict=True)
    ]
    return go.Heatmap(
        z=numbers(values.flip(0)),
        x=[words(column) for column in columns],
        y=[words(row) for row in reversed(rows)],
        customdata=numbers(spread.flip(0)),
        text=shown[::-1],
        texttemplate="%{text}",
        zmin=-limit,
        zmax=limit,
        colorscale=[list(stop) for stop in DIVERGING],
        colorbar={"title": {"text": "percentage points", "side": "right"}},
        hovertemplate=f"%{{y}}, %{{x}}: %{{z:.1f}}<br>{hover}<extra></extra>",
        xgap=1,
        ygap=1,
    )

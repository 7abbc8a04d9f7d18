"""Paths between the components of a circuit, as lines of its drawing.

The width says how large a path's weight is (the patched one where there is one), the colour its
sign, the dashes the input that it enters. Paths whose effect is not shown are left to the legend.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import plotly.graph_objects as go

from circuits.graph.circuit import Edge
from circuits.plot.style import SIGN_COLOURS, short

__all__ = ["path_lines"]

_DASHES: Final = {"q": "solid", "k": "dash", "v": "dot", "mlp": "dashdot", "readout": "longdash"}
_WIDTHS: Final = (0.75, 1.75, 3.25, 5.0)
"""One line has one width, so widths come in steps; each holds a quarter of the range."""

_Places = Mapping[str, tuple[float, float]]


def path_lines(edges: Sequence[Edge], places: _Places) -> list[go.Scatter]:
    """Lines and hover points of path edges.

    Args:
        edges: Paths; both ends must have a place.
        places: Node id -> where it is drawn.
    """
    largest = max((abs(_weight(edge)) for edge in edges), default=0.0) or 1.0
    groups: dict[tuple[str, str, bool], list[Edge]] = {}
    for edge in edges:
        sign = "towards" if _weight(edge) >= 0 else "away"
        groups.setdefault((edge.via or "", sign, edge.causal is not False), []).append(edge)
    found: list[go.Scatter] = []
    for (via, sign, shown), own in sorted(groups.items()):
        name = f"path into {via} ({sign}{'' if shown else ', not shown to be causal'})"
        look = {"color": SIGN_COLOURS[sign], "dash": _DASHES[via]}
        common = {"legendgroup": name, "visible": True if shown else "legendonly"}
        points = _points(own, places, SIGN_COLOURS[sign])
        points.update(name=name, showlegend=False, **common)
        steps: dict[int, list[Edge]] = {}
        for edge in own:
            step = min(len(_WIDTHS) - 1, int(abs(_weight(edge)) / largest * len(_WIDTHS)))
            steps.setdefault(step, []).append(edge)
        for number, (step, some) in enumerate(sorted(steps.items(), reverse=True)):
            line = _line(some, places, {**look, "width": _WIDTHS[step]})
            line.update(name=name, showlegend=number == 0, **common)
            found.append(line)
        found.append(points)
    return found


def _weight(edge: Edge) -> float:
    return (edge.weight if edge.exact is None else edge.exact) or 0.0


def _line(edges: Sequence[Edge], places: _Places, look: Mapping[str, object]) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for edge in edges:
        for at, height in (places[edge.source], places[edge.target]):
            x.append(round(at, 3))
            y.append(round(height, 3))
        x.append(None)
        y.append(None)
    return go.Scatter(x=x, y=y, mode="lines", line=look, hoverinfo="skip")


def _points(edges: Sequence[Edge], places: _Places, shade: str) -> go.Scatter:
    """A small point in the middle of every path, which says what it carries."""
    ends = [(places[edge.source], places[edge.target]) for edge in edges]
    return go.Scatter(
        x=[round((start[0] + end[0]) / 2, 3) for start, end in ends],
        y=[round((start[1] + end[1]) / 2, 3) for start, end in ends],
        mode="markers",
        marker={"size": 4, "color": shade},
        customdata=[_hover(edge) for edge in edges],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _hover(edge: Edge) -> str:
    lines = [f"<b>{edge}</b>", f"attributed {short(edge.weight)} ± {short(edge.stderr)}"]
    if edge.exact is not None:
        lines.append(f"patched {short(edge.exact)} ± {short(edge.exact_stderr)}")
    verdict = {True: ", beaten", False: ", not beaten", None: ""}[edge.causal]
    if edge.control is not None:
        lines.append(f"control {short(edge.control)}{verdict}")
    return "<br>".join(lines)

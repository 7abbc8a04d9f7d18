"""All paths of a model as a map, and attributed beside patched effects."""

from typing import Final

import plotly.graph_objects as go
import torch

from circuits.measure.exact_paths import ExactPaths
from circuits.measure.paths import PathEffects
from circuits.plot.style import (
    CONTROL,
    DIVERGING,
    colour,
    cue,
    layout,
    numbers,
    words,
)

__all__ = ["path_agreement", "path_map"]

_UNITS: Final = {"projection": "residual-stream length", "logit difference": "logits"}


def path_map(paths: PathEffects, most: int = 18) -> go.Figure:
    """Attribution of the paths between the ends with the strongest ones, sender by receiver.

    Empty cells are no paths: the sender comes after the input.

    Args:
        paths: All paths.
        most: Senders, and receivers, drawn.
    """
    values = torch.where(paths.exists, paths.mean, torch.nan)
    sizes = paths.mean.abs()
    rows = sizes.amax(1).argsort(descending=True)[:most].sort().values.tolist()
    columns = sizes.amax(0).argsort(descending=True)[:most].sort().values.tolist()
    limit = float(sizes.max()) or 1.0
    details = torch.stack([1.96 * paths.stderr, paths.control], dim=-1)
    figure = go.Figure(
        go.Heatmap(
            z=numbers(values[rows][:, columns]),
            x=[words(paths.receiver[column]) for column in columns],
            y=[words(paths.sender[row]) for row in rows],
            customdata=numbers(details[rows][:, columns]),
            zmin=-limit,
            zmax=limit,
            colorscale=[list(stop) for stop in DIVERGING],
            colorbar={"title": {"text": _unit(paths.readout), "side": "right"}, "thickness": 12},
            hovertemplate="%{y} to %{x}: %{z:.3g} ± %{customdata[0]:.2g} (95%)<br>"
            "control %{customdata[1]:.2g}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(tickangle=-90, dtick=1, tickfont={"size": 9}, showgrid=False)
    figure.update_yaxes(dtick=1, tickfont={"size": 9}, showgrid=False)
    title = (
        f"Attribution of paths: {words(paths.emotion)} against "
        f"{words(paths.other or 'no emotion')} (the strongest of {int(paths.exists.sum()):,})"
    )
    height = 240 + 20 * len(rows)
    return layout(figure, title, x="input (receiver)", y="writer (sender)", height=height)


def path_agreement(paths: PathEffects, exact: ExactPaths) -> go.Figure:
    """Attributed by patched effect of the same paths; on the dotted line they are equal."""
    ends = [edge.split("->") for edge in exact.edge]
    guessed = [paths.at("mean", sender=sender, receiver=reader) for sender, reader in ends]
    across = [1.96 * paths.at("stderr", sender=sender, receiver=reader) for sender, reader in ends]
    patched = numbers(exact.mean)
    ends_of_line = [min([0.0, *guessed, *patched]), max([0.0, *guessed, *patched])]
    figure = go.Figure(
        go.Scatter(
            x=ends_of_line,
            y=ends_of_line,
            name="equal",
            mode="lines",
            line={"color": CONTROL, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    shade = colour(exact.emotion)
    bars = {"type": "data", "color": shade, "thickness": 1, "width": 2}
    figure.add_trace(
        go.Scatter(
            x=numbers(guessed),
            y=patched,
            error_x={**bars, "array": numbers(across)},
            error_y={**bars, "array": numbers(1.96 * exact.stderr)},
            name="path",
            mode="markers",
            marker={"color": shade, "symbol": cue(exact.emotion, "symbol"), "size": 8},
            customdata=[words(edge) for edge in exact.edge],
            hovertemplate="%{customdata}<br>attributed %{x:.3g}, patched %{y:.3g}<extra></extra>",
        )
    )
    unit = _unit(exact.readout)
    return layout(
        figure,
        f"Paths of {words(exact.emotion)}: estimated and measured",
        x=f"attributed ({unit})",
        y=f"patched ({unit})",
        height=460,
    )


def _unit(readout: str) -> str:
    return _UNITS.get(readout, words(readout))

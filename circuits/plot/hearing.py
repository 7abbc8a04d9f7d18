"""What a judge hears in replies, by what was asked for."""

import plotly.graph_objects as go
import torch

from circuits.measure.hearing import Hearing
from circuits.names import NEUTRAL
from circuits.plot.style import DIVERGING, layout, numbers, words

__all__ = ["hearing_map"]


def hearing_map(found: Hearing) -> go.Figure:
    """Asked for by heard, in percent of the replies; the lowest row asked for nothing."""
    details = torch.stack([found.low, found.high, found.n[:, None].expand_as(found.low)], dim=-1)
    figure = go.Figure(
        go.Heatmap(
            z=numbers(found.share),
            x=[words(emotion) for emotion in found.emotion],
            y=[words("no emotion" if label == NEUTRAL else label) for label in found.label],
            customdata=numbers(details),
            zmin=0,
            zmax=100,
            colorscale=[[0, "rgba(128,128,128,0.08)"], [1, DIVERGING[-1][1]]],
            colorbar={"title": {"text": "% of the replies", "side": "right"}, "thickness": 12},
            texttemplate="%{z:.0f}",
            hovertemplate="asked for %{y}, heard %{x}: %{z:.0f} % (95% interval "
            "%{customdata[0]:.0f} to %{customdata[1]:.0f}, %{customdata[2]:.0f} replies)"
            "<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=-45)
    return layout(
        figure,
        "What the judge hears in the replies",
        x="emotion heard",
        y="emotion asked for",
        height=220 + 34 * len(found.label),
    )

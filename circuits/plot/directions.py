"""Emotion directions: how alike they are, and whether they hold beyond their contexts."""

from typing import Final

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from circuits.measure.directions import Directions, similarity
from circuits.measure.generality import Generality
from circuits.plot.style import (
    CONTROL,
    DIVERGING,
    SUBLAYER_WORDS,
    band,
    choose,
    colour,
    cue,
    integers,
    layout,
    lighter,
    numbers,
    traces,
    words,
)

__all__ = ["generality_profile", "similarity_map"]

_PANELS: Final = (
    "cosine of two random halves of the contexts",
    "cosine of a theme and all the others",
    "held-out prompts named correctly",
)


def similarity_map(directions: Directions) -> go.Figure:
    """Cosine between the directions of every two emotions; a slider picks the layer.

    The slider begins with the mean over layers; a layer has one position per sublayer.
    """
    cosine = similarity(directions)
    steps = {
        f"mean over layers, {SUBLAYER_WORDS[sublayer]}": cosine[:, :, s].mean(-1)
        for s, sublayer in enumerate(directions.sublayer)
    }
    for n, layer in enumerate(directions.layer):
        for s, sublayer in enumerate(directions.sublayer):
            steps[f"layer {layer}, {SUBLAYER_WORDS[sublayer]}"] = cosine[:, :, s, n]
    emotions = [words(emotion) for emotion in directions.emotion]
    figure = go.Figure(
        go.Heatmap(
            z=numbers(next(iter(steps.values()))),
            x=emotions,
            y=emotions,
            zmin=-1,
            zmax=1,
            colorscale=DIVERGING,
            texttemplate="%{z:.2f}",
            hovertemplate="%{y} and %{x}<br>cosine %{z:.3f}<extra></extra>",
            colorbar={"title": {"text": "cosine"}, "thickness": 12},
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(sliders=[_slider({name: numbers(z) for name, z in steps.items()})])
    figure.update_yaxes(autorange="reversed")
    return layout(
        figure,
        "How alike the emotion directions are (cosine)",
        x="direction of emotion",
        y="direction of emotion",
        height=560,
    )


def generality_profile(generality: Generality) -> go.Figure:
    """Three answers by layer: split halves, left-out themes, held-out accuracy.

    The band below the first is the 2.5th percentile over splits; the second shows the median
    theme within all themes. Chance and the shuffled control belong to the third.
    """
    figure = make_subplots(
        rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=_PANELS
    )
    shown: dict[str, list[int]] = {}
    for s, sublayer in enumerate(generality.sublayer):
        before = len(traces(figure))
        for e, emotion in enumerate(generality.emotion):
            _stability(figure, generality, e, emotion, s)
        _accuracy(figure, generality, s)
        shown[f"after {SUBLAYER_WORDS[sublayer]}"] = list(range(before, len(traces(figure))))
    choose(figure, "Directions read", shown)
    lows = (generality.split_half_low, generality.without_theme)
    for row, low in enumerate(lows, start=1):
        known = low[torch.isfinite(low)]
        least = min(0.0, float(known.min())) if len(known) else 0.0
        figure.update_yaxes(title_text="cosine", range=[least - 0.05, 1.05], row=row, col=1)
    figure.update_yaxes(title_text="share (%)", range=[0, 105], row=3, col=1)
    figure.update_xaxes(integers(len(generality.layer)))
    figure.update_xaxes(title_text="layer", row=3, col=1)
    return layout(figure, "Do the directions hold in other contexts?", height=820)


def _stability(figure: go.Figure, generality: Generality, e: int, emotion: str, s: int) -> None:
    halves, low = generality.split_half[e, s], generality.split_half_low[e, s]
    themes = generality.without_theme[e, s]
    middle = themes.median(-1).values
    rows = ((halves, low, halves), (middle, themes.amin(-1), themes.amax(-1)))
    hover = ("cosine %{y:.3f} (2.5th percentile %{customdata[0]})",
             "median theme %{y:.3f} (%{customdata[0]} to %{customdata[1]})")  # fmt: skip
    for row, (line, under, over) in enumerate(rows, start=1):
        shade = lighter(colour(emotion), 0.12)
        figure.add_trace(
            band(generality.layer, under, over, shade, legendgroup=emotion), row=row, col=1
        )
        figure.add_trace(
            go.Scatter(
                x=generality.layer,
                y=numbers(line),
                customdata=numbers(torch.stack([under, over], -1)),
                name=words(emotion),
                legendgroup=emotion,
                showlegend=row == 1,
                mode="lines+markers",
                line={"color": colour(emotion), "width": 2, "dash": cue(emotion, "dash")},
                marker={"symbol": cue(emotion, "symbol"), "size": 6},
                hovertemplate=f"{words(emotion)}, layer %{{x}}<br>{hover[row - 1]}<extra></extra>",
            ),
            row=row,
            col=1,
        )


def _accuracy(figure: go.Figure, generality: Generality, s: int) -> None:
    chance = torch.full_like(generality.accuracy[s], 1 / len(generality.emotion))
    lines = (
        ("held out", generality.accuracy[s], "solid", "circle", "#6a6fd0"),
        ("emotions shuffled (control)", generality.control[s], "dash", "square-open", CONTROL),
        ("chance", chance, "dot", None, CONTROL),
    )
    for name, share, dash, symbol, shade in lines:
        figure.add_trace(
            go.Scatter(
                x=generality.layer,
                y=numbers(100 * share),
                name=name,
                mode="lines+markers" if symbol else "lines",
                line={"color": shade, "width": 2, "dash": dash},
                marker={"symbol": symbol or "circle", "size": 6},
                hovertemplate=f"{name}, layer %{{x}}<br>%{{y:.1f}} %<extra></extra>",
            ),
            row=3,
            col=1,
        )


def _slider(steps: dict[str, list[object]]) -> dict[str, object]:
    return {
        "name": "Layer",
        "active": 0,
        "currentvalue": {"prefix": "read after: "},
        "pad": {"t": 90},
        "ticklen": 0,
        "minorticklen": 0,
        "font": {"size": 9},
        "steps": [
            {"label": name, "method": "restyle", "args": [{"z": [z]}, [0]]}
            for name, z in steps.items()
        ],
    }

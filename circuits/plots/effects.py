"""Directions, effects of components, importance of sublayers, and traces of texts."""

import math
from collections.abc import Sequence
from typing import Any, Final

import plotly.graph_objects as go
import torch
from torch import Tensor

from circuits.effects.directions import Directions, Generality, similarity
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.inspection import TokenTrace
from circuits.effects.neurons import NeuronEffects
from circuits.names import neuron_name
from circuits.plots.style import (
    BASELINE,
    INK,
    SUBLAYER_WORDS,
    band,
    choose,
    choose_one,
    colour,
    heat,
    integers,
    layout,
    lighter,
    line,
    numbers,
    panels,
    short,
    words,
)

__all__ = [
    "generality_profile",
    "head_map",
    "importance_profile",
    "neuron_tail",
    "similarity_map",
    "token_map",
]


def similarity_map(directions: Directions) -> go.Figure:
    """Cosine between the directions of every two emotions; a slider picks the layer.

    The slider begins with the mean over layers; a layer has one position per sublayer.
    """
    cosine = similarity(directions)
    places = [("mean over layers", cosine.mean(-1))]
    places += [(f"layer {layer}", cosine[..., n]) for n, layer in enumerate(directions.layer)]
    steps = {
        f"{place}, {SUBLAYER_WORDS[sublayer]}": own[:, :, s]
        for place, own in places
        for s, sublayer in enumerate(directions.sublayer)
    }
    emotions = [words(emotion) for emotion in directions.emotion]
    hover = "%{y} and %{x}<br>cosine %{z:.3f}"
    first = next(iter(steps.values()))
    figure = go.Figure(
        heat(first, emotions, emotions, "cosine", hover, limit=1.0, texttemplate="%{z:.2f}")
    )
    slider = {
        "name": "Layer",
        "active": 0,
        "currentvalue": {"prefix": "read after: "},
        "pad": {"t": 90},
        "ticklen": 0,
        "minorticklen": 0,
        "font": {"size": 9},
        "steps": [
            {"label": name, "method": "restyle", "args": [{"z": [numbers(z)]}, [0]]}
            for name, z in steps.items()
        ],
    }
    figure.update_layout(sliders=[slider])
    figure.update_yaxes(autorange="reversed")
    title, axis = "How alike the emotion directions are (cosine)", "direction of emotion"
    return layout(figure, title, x=axis, y=axis, height=560)


def generality_profile(generality: Generality) -> go.Figure:
    """Three answers by layer: split halves, left-out themes, held-out accuracy.

    The band below the first is the 2.5th percentile over splits; the second shows the median
    theme within all themes. Chance and the shuffled baseline belong to the third.
    """
    titles = (
        "cosine of two random halves of the contexts",
        "cosine of a theme and all the others",
        "held-out prompts named correctly",
    )
    figure, layers = panels(titles, 0.09), generality.layer

    def stability(e: int, emotion: str, s: int) -> list[tuple[go.Scatter, int]]:
        halves, low = generality.split_half[e, s], generality.split_half_low[e, s]
        themes, found = generality.without_theme[e, s], []
        rows = (
            (halves, low, halves, "cosine %{y:.3f} (2.5th percentile %{customdata[0]})"),
            (
                themes.median(-1).values,
                themes.amin(-1),
                themes.amax(-1),
                "median theme %{y:.3f} (%{customdata[0]} to %{customdata[1]})",
            ),
        )
        for row, (middle, under, over, hover) in enumerate(rows, start=1):
            shade = lighter(colour(emotion), 0.12)
            found.append((band(layers, under, over, shade, legendgroup=emotion), row))
            own = line(
                emotion,
                layers,
                middle,
                f"{words(emotion)}, layer %{{x}}<br>{hover}",
                size=6,
                customdata=numbers(torch.stack([under, over], -1)),
                legendgroup=emotion,
                showlegend=row == 1,
            )
            found.append((own, row))
        return found

    def accuracy(s: int) -> list[tuple[go.Scatter, int]]:
        chance = torch.full_like(generality.accuracy[s], 1 / len(generality.emotion))
        shuffled, name = generality.random_baseline[s], "emotions shuffled (baseline)"

        def share(name: str, own: Tensor, shade: str, dash: str, symbol: str | None) -> go.Scatter:
            hover = f"{name}, layer %{{x}}<br>%{{y:.1f}} %"
            look: Any = {"shade": shade, "dash": dash, "size": 6 if symbol else 0}
            look["marker"] = {"symbol": symbol or "circle", "size": 6}
            return line(name, layers, 100 * own, hover, **look)

        lines = [
            share("held out", generality.accuracy[s], "#6a6fd0", "solid", "circle"),
            share(name, shuffled, BASELINE, "dash", "square-open"),
            share("chance", chance, BASELINE, "dot", None),
        ]
        return [(own, 3) for own in lines]

    emotions = list(enumerate(generality.emotion))
    groups = {
        f"after {SUBLAYER_WORDS[sublayer]}": [
            *(own for e, emotion in emotions for own in stability(e, emotion, s)),
            *accuracy(s),
        ]
        for s, sublayer in enumerate(generality.sublayer)
    }
    choose(figure, "Directions read", groups)
    for row, low in enumerate((generality.split_half_low, generality.without_theme), start=1):
        known = low[torch.isfinite(low)]
        least = min(0.0, float(known.min())) if len(known) else 0.0
        figure.update_yaxes(title_text="cosine", range=[least - 0.05, 1.05], row=row, col=1)
    figure.update_yaxes(title_text="share (%)", range=[0, 105], row=3, col=1)
    figure.update_xaxes(integers(len(layers)))
    figure.update_xaxes(title_text="layer", row=3, col=1)
    return layout(figure, "Do the directions hold in other contexts?", height=820)


_READOUT_UNITS: Final = {
    "resid_mid": "length in the residual stream",
    "post_norm": "projection of the normed stream",
}


def head_map(heads: HeadEffects) -> go.Figure:
    """Centred effect of every head, layer by head; a menu picks the emotion.

    A dot marks heads whose 95% interval lies beyond the layer's baseline. One colour scale serves
    all emotions; it ends at the 99th percentile of |effect|, so that one head cannot wash it out.
    """
    sizes = heads.centred[torch.isfinite(heads.centred)].abs().flatten()
    limit = 1.0
    if len(sizes) and float(sizes.max()) > 0:
        place = sizes.kthvalue(max(1, round(0.99 * len(sizes)))).values
        limit = numbers((place if place > 0 else sizes.max())[None])[0]
    hover = (
        "<b>L%{y}H%{x}</b><br>effect %{z:.3g} ± %{customdata[0]}<br>"
        "random baseline %{customdata[1]}<br>not centred: %{customdata[2]}"
    )

    known = (heads.centred_stderr, heads.mean, heads.random_baseline)

    def cells(e: int, emotion: str) -> go.Heatmap:
        details = [
            [[short(error, 2), short(beyond), short(raw)] for error, raw in zip(*row, strict=True)]
            for *row, beyond in zip(*(own[e].tolist() for own in known), strict=True)
        ]
        own: Any = {"limit": limit, "customdata": details, "name": words(emotion)}
        return heat(heads.centred[e], heads.head, heads.layer, "effect", hover, **own)

    def marks(e: int) -> go.Scatter:
        least = heads.centred[e].abs() - 1.96 * heads.centred_stderr[e]
        found = (least > heads.random_baseline[e][:, None]).nonzero().tolist()
        return go.Scatter(
            x=[heads.head[head] for _, head in found],
            y=[heads.layer[layer] for layer, _ in found],
            name="95% interval beyond the random baseline",
            mode="markers",
            marker={
                "symbol": "circle",
                "size": 5,
                "color": "#111111",
                "line": {"width": 0.5, "color": "#c8c8c8"},
            },
            hoverinfo="skip",
            showlegend=True,
        )

    def axis(labels: Sequence[int]) -> dict[str, Any]:
        edges = [min(labels, default=0) - 0.5, max(labels, default=0) + 0.5]
        return {**integers(len(labels)), "range": edges, "showgrid": False, "zeroline": False}

    figure = go.Figure()
    groups = {
        words(emotion): [cells(e, emotion), marks(e)] for e, emotion in enumerate(heads.emotion)
    }
    choose(figure, "Emotion", groups)
    figure.update_xaxes(**axis(heads.head))
    figure.update_yaxes(**axis(heads.layer))
    unit = _READOUT_UNITS.get(heads.readout, heads.readout)
    return layout(
        figure,
        f"What every attention head adds towards the emotion ({unit})",
        x="head",
        y="layer",
        height=max(440, min(900, 190 + 18 * len(heads.layer))),
    )


_RANKS: Final = 160
"""Points of a line of neurons, evenly spaced on its logarithmic axis."""
_DECADES: Final = 4.5


def neuron_tail(neurons: NeuronEffects) -> go.Figure:
    """|Centred effect| of all neurons by rank, both logarithmic, one line per emotion.

    Ranks are thinned evenly on the logarithmic axis. The dotted line is the random baseline of the
    median layer; hover text compares a neuron with its own layer's.
    """
    figure, top = go.Figure(), 0.0
    total, per_layer = neurons.centred[0].numel(), neurons.centred.shape[2]
    for e, emotion in enumerate(neurons.emotion):
        centred, errors = neurons.centred[e].flatten(), neurons.centred_stderr[e].flatten()
        # A logarithmic axis has no place for zero, nor for what is not a number.
        sizes = torch.nan_to_num(centred.abs(), nan=0.0, posinf=0.0)
        order = sizes.argsort(descending=True, stable=True)[: int((sizes > 0).sum())].tolist()
        step = math.log(max(1, len(order))) / (_RANKS - 1)
        ranks = sorted({min(len(order), round(math.exp(step * i))) for i in range(_RANKS)} - {0})
        details = []
        for place in (order[rank - 1] for rank in ranks):
            n, index = divmod(place, per_layer)
            effect = f"{short(float(centred[place]))} ± {short(float(errors[place]), 2)}"
            name = neuron_name(neurons.layer[n], neurons.neuron[index])
            details.append([name, effect, short(float(neurons.random_baseline[e, n]))])
        drawn = numbers([float(sizes[order[rank - 1]]) for rank in ranks])
        top = max([top, *drawn])
        hover = (
            f"<b>%{{customdata[0]}}</b>, rank %{{x:,}}<br>{words(emotion)}: %{{customdata[1]}}<br>"
            "baseline of its layer %{customdata[2]}"
        )
        figure.add_trace(
            line(emotion, ranks, drawn, hover, size=5, customdata=details, legendgroup=emotion)
        )
        known = neurons.random_baseline[e][neurons.random_baseline[e] > 0]
        height = numbers(known.median()[None])[0] if len(known) else None
        figure.add_trace(
            go.Scatter(
                x=[1, total],
                y=[height, height],
                name=f"random baseline, {words(emotion)}",
                legendgroup=emotion,
                showlegend=False,
                mode="lines",
                line={"color": colour(emotion), "width": 1, "dash": "dot"},
                hovertemplate=f"baseline of the median layer, {words(emotion)}: %{{y:.3g}}"
                "<extra></extra>",
            )
        )
    figure.update_xaxes(type="log", dtick=1, exponentformat="SI")
    # Below some decades there is only noise; it is there for those who zoom out.
    highest = math.log10(top or 1.0)
    span = [highest - _DECADES, highest + 0.3]
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", range=span)
    return layout(
        figure,
        f"How few neurons carry an emotion: all {total:,} ranked by |effect|",
        x="rank of the neuron (log scale)",
        y="|effect| (residual-stream length, log scale)",
        height=520,
    )


def importance_profile(importance: Importance) -> go.Figure:
    """Slope by layer, attention above MLP, with 95% bars; a menu picks the emotion.

    The grey band reaches from minus to plus the largest response to random directions.
    """
    titles = [SUBLAYER_WORDS[sublayer] for sublayer in importance.sublayer]
    figure = panels(titles, 0.1)

    def panel(e: int, emotion: str, s: int) -> list[tuple[go.Scatter, int]]:
        random, found, row = importance.random_baseline[e, s], [], s + 1
        if importance.n_random:
            shade = lighter(BASELINE, 0.3)
            name = "random directions (baseline)"
            grey = band(importance.layer, -random, random, shade, name=name, showlegend=s == 0)
            found.append((grey, row))
        own = line(
            emotion,
            importance.layer,
            importance.slope[e, s],
            f"L%{{x}}.{importance.sublayer[s]}, {words(emotion)}<br>"
            "%{y:.3g} ± %{error_y.array:.2g} (95%)<br>random baseline %{customdata:.3g}",
            customdata=numbers(random),
            error_y={
                "type": "data",
                "array": numbers(1.96 * importance.stderr[e, s]),
                "color": colour(emotion),
                "thickness": 1.2,
            },
            showlegend=s == 0,
        )
        return [*found, (own, row)]

    groups = {
        words(emotion): [own for s in range(len(titles)) for own in panel(e, emotion, s)]
        for e, emotion in enumerate(importance.emotion)
    }
    # One scale for both sublayers.
    for row in range(2, len(titles) + 1):
        figure.update_yaxes(matches="y", row=row, col=1)
    choose(figure, "Emotion", groups)
    figure.update_xaxes(integers(len(importance.layer)))
    figure.update_xaxes(title_text="layer", row=len(titles), col=1)
    title = "How much each sublayer moves the emotion readout"
    return layout(figure, title, y="response per unit injected", height=640)


def token_map(trace: TokenTrace) -> go.Figure:
    """Tokens by layer as a heat map, tokens from top to bottom; a menu picks the emotion.

    Colours end at 1, as far as asking for the emotion moves the last prompt position.
    """
    scale = {"thickness": 12, "xpad": 4, "tickvals": [-1, 0, 1]}
    scale |= {"y": 1, "yanchor": "top", "lenmode": "pixels", "len": 180}
    tokens = list(range(len(trace.pos)))
    details = [[words(label)] * len(trace.layer) for label in trace.pos]
    figure, hover = go.Figure(), "%{customdata}<br>layer %{x}: %{z:.2f}"
    look: Any = {"limit": 1.0, "customdata": details, "colorbar": scale}
    cells = {
        words(emotion): heat(trace.value[e].T, trace.layer, tokens, "", hover, **look)
        for e, emotion in enumerate(trace.emotion)
    }
    choose_one(figure, "Emotion", cells)
    places = [int(label.split(" ", 1)[0]) for label in trace.pos]
    first = next((i for i, place in enumerate(places) if place >= trace.n_prompt), None)
    if first is not None:
        figure.add_hline(
            first - 0.5,
            line={"color": INK, "width": 2, "dash": "dot"},
            annotation={"text": "reply", "xanchor": "right", "yanchor": "top", "x": 1},
        )
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        ticklabelstandoff=4,
        tickvals=tokens,
        ticktext=[words(_shown(token)) for token in trace.tokens],
    )
    figure.update_xaxes(integers(len(trace.layer)), showgrid=False)
    named = words(trace.emotion[0]) if len(cells) == 1 else "an emotion"
    return layout(
        figure,
        f"Tokens along the direction of {named} (1: as far as asking goes)",
        x="layer",
        y="token",
        height=200 + 17 * len(trace.pos),
    )


def _shown(token: str) -> str:
    return token.replace("\n", "⏎").replace("\t", "⇥").strip(" ") or "␣"

"""Directions, effects of components, importance of sublayers, and traces of texts."""

import math
from typing import Any, Final

import plotly.graph_objects as go
import torch

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
    bars,
    chart,
    colour,
    details,
    figure_of,
    heat,
    integers,
    lighter,
    line,
    numbers,
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


@figure_of.register
def similarity_map(directions: Directions) -> go.Figure:
    """Cosine between the directions of every two emotions; a slider picks the layer.

    The slider begins with the mean over layers; a layer has one position per sublayer.
    """
    cosine, emotions = similarity(directions), [words(e) for e in directions.emotion]
    places = {"mean over layers": cosine.mean(-1)}
    places |= {f"layer {layer}": cosine[..., n] for n, layer in enumerate(directions.layer)}
    steps = {
        f"{place}, {SUBLAYER_WORDS[sublayer]}": own[:, :, s]
        for place, own in places.items()
        for s, sublayer in enumerate(directions.sublayer)
    }
    hover, first = "%{y} and %{x}<br>cosine %{z:.3f}", next(iter(steps.values()))
    cells = heat(first, emotions, emotions, "cosine", hover, limit=1.0, texttemplate="%{z:.2f}")
    slider = {
        "name": "Layer",
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
    title, axis = "How alike the emotion directions are (cosine)", "direction of emotion"
    look: Any = {"yaxis": {"autorange": "reversed"}, "height": 560, "sliders": [slider]}
    return chart([cells], title, axis, axis, **look)


@figure_of.register
def generality_profile(generality: Generality) -> go.Figure:
    """Three answers by layer: split halves, left-out themes, held-out accuracy.

    The band below the first is the 2.5th percentile over splits; the second shows the median
    theme within all themes. Chance and the shuffled baseline belong to the third.
    """
    layers = generality.layer

    def stability(e: int, emotion: str, s: int) -> list[go.Scatter]:
        halves, themes = generality.split_half[e, s], generality.without_theme[e, s]
        spread = (themes.median(-1).values, themes.amin(-1), themes.amax(-1))
        rows = (
            (halves, generality.split_half_low[e, s], halves, "cosine", "2.5th percentile"),
            (*spread, "median theme", "worst"),
        )
        found = []
        for row, (middle, low, high, name, least) in enumerate(rows, start=1):
            own: Any = {"panel": row, "legendgroup": emotion}
            found.append(band(layers, low, high, lighter(colour(emotion), 0.12), **own))
            hover = f"{words(emotion)}, layer %{{x}}<br>{name} %{{y:.3f}} ({least} %{{customdata}})"
            own |= {"size": 6, "customdata": [short(v) for v in low.tolist()]}
            found.append(line(emotion, layers, middle, hover, showlegend=row == 1, **own))
        return found

    def accuracy(s: int) -> list[go.Scatter]:
        rows = (
            ("held out", generality.accuracy[s], {"shade": "#6a6fd0", "dash": "solid", "size": 6}),
            ("emotions shuffled (baseline)", generality.random_baseline[s], {"dash": "dash"}),
            ("chance", torch.ones(len(layers)) / len(generality.emotion), {"dash": "dot"}),
        )
        return [
            line(
                name,
                layers,
                100 * share,
                f"{name}, layer %{{x}}<br>%{{y:.1f}} %",
                **{"shade": BASELINE, "size": 0, "panel": 3, **look},
            )
            for name, share, look in rows
        ]

    groups = {
        f"after {SUBLAYER_WORDS[sublayer]}": [
            *(own for e, name in enumerate(generality.emotion) for own in stability(e, name, s)),
            *accuracy(s),
        ]
        for s, sublayer in enumerate(generality.sublayer)
    }
    figure = chart(
        groups,
        "Do the directions hold in other contexts?",
        "layer",
        "cosine",
        menu="Directions read",
        panels=(
            "cosine of two random halves of the contexts",
            "cosine of a theme and all the others",
            "held-out prompts named correctly",
        ),
        xaxis=integers(len(layers)),
        yaxis={"rangemode": "tozero"},
        height=820,
    )
    return figure.update_yaxes(title_text="share (%)", range=[0, 105], row=3, col=1)


_READOUT_UNITS: Final = {
    "resid_mid": "length in the residual stream",
    "post_norm": "projection of the normed stream",
}


@figure_of.register
def head_map(heads: HeadEffects) -> go.Figure:
    """Centred effect of every head, layer by head; a menu picks the emotion.

    A dot marks heads whose 95% interval lies beyond the layer's baseline. One colour scale serves
    all emotions; it ends at the 99th percentile of |effect|, so that one head cannot wash it out.
    """
    sizes = heads.centred[torch.isfinite(heads.centred)].abs()
    limit = float(sizes.quantile(0.99, interpolation="nearest")) if len(sizes) else 1.0
    texts = details(
        heads.centred_stderr, heads.random_baseline[..., None].expand_as(heads.mean), heads.mean
    )
    hover = (
        "<b>L%{y}H%{x}</b><br>effect %{z:.3g} ± %{customdata[0]}<br>"
        "random baseline %{customdata[1]}<br>not centred: %{customdata[2]}"
    )
    beyond = heads.centred.abs() - 1.96 * heads.centred_stderr > heads.random_baseline[..., None]

    def traces(e: int, emotion: str) -> list[Any]:
        own: Any = {"limit": limit, "customdata": texts[e], "name": words(emotion)}
        cells = heat(heads.centred[e], heads.head, heads.layer, "effect", hover, **own)
        found = beyond[e].nonzero().tolist()
        dots = go.Scatter(
            x=[heads.head[head] for _, head in found],
            y=[heads.layer[layer] for layer, _ in found],
            name="95% interval beyond the random baseline",
            mode="markers",
            marker={"size": 5, "color": "#111111", "line": {"width": 0.5, "color": "#c8c8c8"}},
            hoverinfo="skip",
            showlegend=True,
        )
        return [cells, dots]

    def axis(labels: tuple[int, ...]) -> dict[str, Any]:
        edges = [min(labels, default=0) - 0.5, max(labels, default=0) + 0.5]
        return {**integers(len(labels)), "range": edges, "showgrid": False, "zeroline": False}

    unit = _READOUT_UNITS.get(heads.readout, heads.readout)
    return chart(
        {emotion: traces(e, emotion) for e, emotion in enumerate(heads.emotion)},
        f"What every attention head adds towards the emotion ({unit})",
        "head",
        "layer",
        menu="Emotion",
        xaxis=axis(heads.head),
        yaxis=axis(heads.layer),
        height=max(440, min(900, 190 + 18 * len(heads.layer))),
    )


_RANKS: Final = 160
"""Points of a line of neurons, evenly spaced on its logarithmic axis."""


@figure_of.register
def neuron_tail(neurons: NeuronEffects) -> go.Figure:
    """|Centred effect| of all neurons by rank, both logarithmic, one line per emotion.

    Ranks are thinned evenly on the logarithmic axis. The dotted line is the random baseline of the
    median layer; hover text compares a neuron with its own layer's.
    """
    total, per_layer = neurons.centred[0].numel(), len(neurons.neuron)
    traces, top = [], 0.0
    for e, emotion in enumerate(neurons.emotion):
        # A logarithmic axis has no place for zero, nor for what is not a number.
        sizes = torch.nan_to_num(neurons.centred[e].flatten().abs(), nan=0.0, posinf=0.0)
        known, ranks = int((sizes > 0).sum()), torch.zeros(0, dtype=torch.long)
        if known:
            ranks = torch.logspace(0, math.log10(known), _RANKS).round().long().unique()
        places = sizes.argsort(descending=True, stable=True)[ranks - 1]
        texts = details(
            neurons.centred[e].flatten()[places],
            neurons.centred_stderr[e].flatten()[places],
            neurons.random_baseline[e][places // per_layer],
        )
        named = [divmod(place, per_layer) for place in places.tolist()]
        names = [neuron_name(neurons.layer[n], neurons.neuron[own]) for n, own in named]
        hover = (
            f"<b>%{{text}}</b>, rank %{{x:,}}<br>{words(emotion)}: %{{customdata[0]}} ± "
            "%{customdata[1]}<br>baseline of its layer %{customdata[2]}"
        )
        own: Any = {"legendgroup": emotion, "customdata": texts, "text": names, "size": 5}
        own |= {"mode": "lines+markers"}
        traces.append(line(emotion, ranks.tolist(), sizes[places], hover, **own))
        top = max([top, *sizes[places].tolist()])
        beyond = neurons.random_baseline[e][neurons.random_baseline[e] > 0]
        height = beyond.median() if len(beyond) else torch.tensor(math.nan)
        hover = f"baseline of the median layer, {words(emotion)}: %{{y:.3g}}"
        look: Any = {"dash": "dot", "width": 1, "size": 0, "showlegend": False}
        look |= {"legendgroup": emotion, "name": f"random baseline, {words(emotion)}"}
        traces.append(line(emotion, [1, total], torch.stack([height] * 2), hover, **look))
    # Lower down there is only noise; it is there for those who zoom out.
    highest = math.log10(top or 1.0)
    return chart(
        traces,
        f"How few neurons carry an emotion: all {total:,} ranked by |effect|",
        "rank of the neuron (log scale)",
        "|effect| (residual-stream length, log scale)",
        xaxis={"type": "log", "dtick": 1, "exponentformat": "SI"},
        yaxis={
            "type": "log",
            "dtick": 1,
            "exponentformat": "power",
            "range": [highest - 4.5, highest + 0.3],
        },
        height=520,
    )


@figure_of.register
def importance_profile(importance: Importance) -> go.Figure:
    """Slope by layer, attention above MLP, with 95% bars; a menu picks the emotion.

    The grey band reaches from minus to plus the largest response to random directions.
    """

    def panel(e: int, emotion: str, s: int) -> list[go.Scatter]:
        random, slope = importance.random_baseline[e, s], importance.slope[e, s]
        own: Any = {"panel": s + 1, "showlegend": s == 0}
        grey = band(importance.layer, -random, random, name="random directions (baseline)", **own)
        reach, place = 1.96 * importance.stderr[e, s], f"L%{{x}}.{importance.sublayer[s]}"
        hover = (
            f"{place}, {words(emotion)}<br>%{{y:.3g}} ± %{{customdata[0]}} (95%)"
            "<br>random baseline %{customdata[1]}"
        )
        own |= {"error_y": bars(slope, slope - reach, slope + reach, colour(emotion))}
        own |= {"customdata": details(reach, random)}
        curve = line(emotion, importance.layer, slope, hover, **own)
        return [grey, curve] if importance.n_random else [curve]

    titles = [SUBLAYER_WORDS[sublayer] for sublayer in importance.sublayer]
    figure = chart(
        {
            emotion: [own for s in range(len(titles)) for own in panel(e, emotion, s)]
            for e, emotion in enumerate(importance.emotion)
        },
        "How much each sublayer moves the emotion readout",
        "layer",
        "response per unit injected",
        menu="Emotion",
        panels=titles,
        xaxis=integers(len(importance.layer)),
        height=640,
    )
    for row in range(2, len(titles) + 1):  # One scale for both sublayers.
        figure.update_yaxes(matches="y", row=row, col=1)
    return figure


@figure_of.register
def token_map(trace: TokenTrace) -> go.Figure:
    """Tokens by layer as a heat map, tokens from top to bottom; a menu picks the emotion.

    Colours end at 1, as far as asking for the emotion moves the last prompt position.
    """
    scale = {"thickness": 12, "xpad": 4, "tickvals": [-1, 0, 1]}
    scale |= {"y": 1, "yanchor": "top", "lenmode": "pixels", "len": 180}
    tokens, hover = list(range(len(trace.pos))), "%{customdata}<br>layer %{x}: %{z:.2f}"
    look: Any = {"limit": 1.0, "colorbar": scale}
    look |= {"customdata": [[words(label)] * len(trace.layer) for label in trace.pos]}
    shown = [
        token.replace("\n", "⏎").replace("\t", "⇥").strip(" ") or "␣" for token in trace.tokens
    ]
    figure = chart(
        {
            emotion: [heat(trace.value[e].T, trace.layer, tokens, "", hover, **look)]
            for e, emotion in enumerate(trace.emotion)
        },
        "Tokens along an emotion's direction (1: as far as asking goes)",
        "layer",
        "token",
        menu="Emotion",
        xaxis={**integers(len(trace.layer)), "showgrid": False},
        yaxis={
            "autorange": "reversed",
            "showgrid": False,
            "ticklabelstandoff": 4,
            "tickvals": tokens,
            "ticktext": [*map(words, shown)],
        },
        height=200 + 17 * len(trace.pos),
    )
    places = [int(label.split(" ", 1)[0]) for label in trace.pos]
    first = next((i for i, place in enumerate(places) if place >= trace.n_prompt), None)
    if first is not None:
        named = {"text": "reply", "xanchor": "right", "yanchor": "top", "x": 1}
        ink = {"color": INK, "width": 2, "dash": "dot"}
        figure.add_hline(first - 0.5, line=ink, annotation=named)
    return figure

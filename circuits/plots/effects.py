"""Directions, effects of components, importance of sublayers, and traces of texts."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from circuits.effects.directions import Directions, Generality, similarity
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.inspection import TokenTrace
from circuits.effects.neurons import NeuronEffects
from circuits.names import neuron_name
from circuits.plots.style import (
    CONTROL,
    DIVERGING,
    INK,
    SIGN_COLOURS,
    SUBLAYER_WORDS,
    band,
    choose,
    colour,
    cue,
    integers,
    layout,
    lighter,
    numbers,
    short,
    traces,
    words,
)

__all__ = [
    "generality_profile",
    "head_map",
    "importance_profile",
    "neuron_tail",
    "similarity_map",
    "tail_ranks",
    "token_html",
    "token_map",
]

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
    hover = (
        "cosine %{y:.3f} (2.5th percentile %{customdata[0]})",
        "median theme %{y:.3f} (%{customdata[0]} to %{customdata[1]})",
    )
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


_READOUT_UNITS: Final = {
    "resid_mid": "length in the residual stream",
    "post_norm": "projection of the normed stream",
}
_DECADES: Final = 4.5
_HEAD_HOVER: Final = (
    "<b>L%{y}H%{x}</b><br>effect %{z:.3g} ± %{customdata[0]}<br>"
    "control %{customdata[1]}<br>not centred: %{customdata[2]}<extra></extra>"
)


def head_map(heads: HeadEffects) -> go.Figure:
    """Centred effect of every head, layer by head; a menu picks the emotion.

    A dot marks heads whose 95% interval lies beyond the layer's control. One colour scale serves
    all emotions; it ends at the 99th percentile of |effect|, so that one head cannot wash it out.
    """
    limit = _limit(heads.centred)
    figure = go.Figure()
    shown: dict[str, list[int]] = {}
    for e, emotion in enumerate(heads.emotion):
        figure.add_trace(_head_cells(heads, e, emotion, limit))
        figure.add_trace(_beyond(heads, e))
        shown[words(emotion)] = [2 * e, 2 * e + 1]
    choose(figure, "Emotion", shown)
    figure.update_xaxes(**_cells(heads.head))
    figure.update_yaxes(**_cells(heads.layer))
    unit = _READOUT_UNITS.get(heads.readout, heads.readout)
    return layout(
        figure,
        f"What every attention head adds towards the emotion ({unit})",
        x="head",
        y="layer",
        height=max(440, min(900, 190 + 18 * len(heads.layer))),
    )


def neuron_tail(neurons: NeuronEffects) -> go.Figure:
    """|Centred effect| of all neurons by rank, both logarithmic, one line per emotion.

    Ranks are thinned evenly on the logarithmic axis. The dotted line is the control of the
    median layer; hover text compares a neuron with its own layer's.
    """
    figure = go.Figure()
    total = neurons.centred[0].numel()
    for e, emotion in enumerate(neurons.emotion):
        tail = _tail(neurons, e)
        look = {"color": colour(emotion), "width": 2}
        figure.add_trace(
            go.Scatter(
                x=tail.ranks,
                y=tail.sizes,
                customdata=tail.details,
                name=words(emotion),
                legendgroup=emotion,
                mode="lines+markers",
                line={**look, "dash": cue(emotion, "dash")},
                marker={"symbol": cue(emotion, "symbol"), "size": 5},
                hovertemplate="<b>%{customdata[0]}</b>, rank %{x:,}<br>"
                + f"{words(emotion)}: %{{customdata[1]}}<br>"
                + "control of its layer %{customdata[2]}<extra></extra>",
            )
        )
        figure.add_trace(_control_line(neurons.control[e], emotion, total))
    figure.update_xaxes(type="log", dtick=1, exponentformat="SI")
    # Below some decades there is only noise; it is there for those who zoom out.
    top = max((max(t.y) for t in traces(figure) if t.mode == "lines+markers" and t.y), default=1.0)
    span = [math.log10(top) - _DECADES, math.log10(top) + 0.3]
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", range=span)
    return layout(
        figure,
        f"How few neurons carry an emotion: all {total:,} ranked by |effect|",
        x="rank of the neuron (log scale)",
        y="|effect| (residual-stream length, log scale)",
        height=520,
    )


def tail_ranks(total: int, most: int = 160) -> list[int]:
    """Ranks from 1 to ``total``, all at the beginning and evenly spaced in logarithm after it.

    >>> tail_ranks(5), len(tail_ranks(229_376)) <= 160
    ([1, 2, 3, 4, 5], True)
    """
    if total <= 0:
        return []
    step = math.log(total) / max(1, most - 1)
    return sorted({min(total, round(math.exp(step * i))) for i in range(most)})


@dataclass(frozen=True, eq=False)
class _Tail:
    """The neurons of one emotion that are drawn."""

    ranks: Sequence[int]
    sizes: Sequence[float]
    details: Sequence[Sequence[str]]


def _tail(neurons: NeuronEffects, e: int) -> _Tail:
    centred = neurons.centred[e].flatten()
    errors, control = neurons.centred_stderr[e].flatten(), neurons.control[e]
    # A logarithmic axis has no place for zero, nor for what is not a number.
    sizes = torch.nan_to_num(centred.abs(), nan=0.0, posinf=0.0)
    order = sizes.argsort(descending=True, stable=True)[: int((sizes > 0).sum())]
    ranks = tail_ranks(len(order))
    chosen = [int(order[rank - 1]) for rank in ranks]
    per_layer, details = neurons.centred.shape[2], []
    for place in chosen:
        n, index = divmod(place, per_layer)
        name = neuron_name(neurons.layer[n], neurons.neuron[index])
        effect = f"{short(float(centred[place]))} ± {short(float(errors[place]), 2)}"
        details.append([name, effect, short(float(control[n]))])
    return _Tail(ranks, numbers([float(sizes[place]) for place in chosen]), details)


def _control_line(control: Tensor, emotion: str, total: int) -> go.Scatter:
    known = control[control > 0]
    height = numbers(known.median()[None])[0] if len(known) else None
    return go.Scatter(
        x=[1, total],
        y=[height, height],
        name=f"control, {words(emotion)}",
        legendgroup=emotion,
        showlegend=False,
        mode="lines",
        line={"color": colour(emotion), "width": 1, "dash": "dot"},
        hovertemplate=f"control of the median layer, {words(emotion)}: %{{y:.3g}}<extra></extra>",
    )


def _head_cells(heads: HeadEffects, e: int, emotion: str, limit: float) -> go.Heatmap:
    errors = heads.centred_stderr[e].tolist()
    plain, control = heads.mean[e].tolist(), heads.control[e].tolist()
    details = [
        [[short(error, 2), short(beyond), short(raw)] for error, raw in zip(row, own, strict=True)]
        for row, own, beyond in zip(errors, plain, control, strict=True)
    ]
    return go.Heatmap(
        z=numbers(heads.centred[e]),
        x=heads.head,
        y=heads.layer,
        customdata=details,
        name=words(emotion),
        zmin=-limit,
        zmax=limit,
        colorscale=DIVERGING,
        colorbar={"title": {"text": "effect"}, "thickness": 12},
        hovertemplate=_HEAD_HOVER,
        xgap=1,
        ygap=1,
    )


def _beyond(heads: HeadEffects, e: int) -> go.Scatter:
    sure = heads.centred[e].abs() - 1.96 * heads.centred_stderr[e] > heads.control[e][:, None]
    cells = sure.nonzero().tolist()
    return go.Scatter(
        x=[heads.head[head] for _, head in cells],
        y=[heads.layer[layer] for layer, _ in cells],
        name="95% interval beyond the control",
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


def _cells(labels: Sequence[int]) -> dict[str, Any]:
    edges = [min(labels, default=0) - 0.5, max(labels, default=0) + 0.5]
    return {**integers(len(labels)), "range": edges, "showgrid": False, "zeroline": False}


def _limit(effects: Tensor) -> float:
    sizes = effects[torch.isfinite(effects)].abs().flatten()
    if len(sizes) == 0 or float(sizes.max()) == 0.0:
        return 1.0
    place = sizes.kthvalue(max(1, round(0.99 * len(sizes)))).values
    return numbers((place if place > 0 else sizes.max())[None])[0]


def importance_profile(importance: Importance) -> go.Figure:
    """Slope by layer, attention above MLP, with 95% bars; a menu picks the emotion.

    The grey band reaches from minus to plus the largest response to random directions.
    """
    titles = [SUBLAYER_WORDS[sublayer] for sublayer in importance.sublayer]
    figure = make_subplots(
        rows=len(titles),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.1,
        subplot_titles=titles,
    )
    shown: dict[str, list[int]] = {}
    for e, emotion in enumerate(importance.emotion):
        before = len(traces(figure))
        for s in range(len(titles)):
            _panel(figure, importance, e, emotion, s)
        shown[words(emotion)] = list(range(before, len(traces(figure))))
    # One scale for both sublayers.
    for row in range(2, len(titles) + 1):
        figure.update_yaxes(matches="y", row=row, col=1)
    choose(figure, "Emotion", shown)
    figure.update_xaxes(integers(len(importance.layer)))
    figure.update_xaxes(title_text="layer", row=len(titles), col=1)
    return layout(
        figure,
        "How much each sublayer moves the emotion readout",
        y="response per unit injected",
        height=640,
    )


def _panel(figure: go.Figure, importance: Importance, e: int, emotion: str, s: int) -> None:
    random, row = importance.control[e, s], s + 1
    if importance.n_random:
        shade = lighter(CONTROL, 0.3)
        grey = band(importance.layer, -random, random, shade, name="random directions (control)")
        grey.showlegend = s == 0
        figure.add_trace(grey, row=row, col=1)
    figure.add_trace(
        go.Scatter(
            x=importance.layer,
            y=numbers(importance.slope[e, s]),
            customdata=numbers(random),
            error_y={
                "type": "data",
                "array": numbers(1.96 * importance.stderr[e, s]),
                "color": colour(emotion),
                "thickness": 1.2,
            },
            name=words(emotion),
            showlegend=s == 0,
            mode="lines+markers",
            line={"color": colour(emotion), "width": 2, "dash": cue(emotion, "dash")},
            marker={"symbol": cue(emotion, "symbol"), "size": 7},
            hovertemplate=f"L%{{x}}.{importance.sublayer[s]}, {words(emotion)}<br>"
            "%{y:.3g} ± %{error_y.array:.2g} (95%)<br>control %{customdata:.3g}<extra></extra>",
        ),
        row=row,
        col=1,
    )


_FULL: Final = 1.0
"""The value of the strongest colour: as far as asking goes."""
_ROW: Final = 17
"""Pixels per token."""
_DEEPEST: Final = 0.6
"""Black on this much of a colour reads well."""
_MARKED: Final = 0.25
"""Tokens beyond this are underlined as well: solid towards the emotion, dotted away from it."""


def token_map(trace: TokenTrace) -> go.Figure:
    """Tokens by layer as a heat map, tokens from top to bottom; a menu picks the emotion.

    Colours end at 1, as far as asking for the emotion moves the last prompt position.
    """
    figure, shown = go.Figure(), {}
    for e, emotion in enumerate(trace.emotion):
        figure.add_trace(
            go.Heatmap(
                z=numbers(trace.value[e].T),
                x=trace.layer,
                y=list(range(len(trace.pos))),
                customdata=[[words(label)] * len(trace.layer) for label in trace.pos],
                zmin=-_FULL,
                zmax=_FULL,
                colorscale=[list(stop) for stop in DIVERGING],
                colorbar={
                    "thickness": 12,
                    "y": 1,
                    "yanchor": "top",
                    "lenmode": "pixels",
                    "len": 180,
                    "tickvals": [-_FULL, 0, _FULL],
                    "xpad": 4,
                },
                hovertemplate="%{customdata}<br>layer %{x}: %{z:.2f}<extra></extra>",
                xgap=1,
                ygap=1,
            )
        )
        shown[words(emotion)] = [e]
    if len(shown) > 1:
        choose(figure, "Emotion", shown)
    _mark_reply(figure, trace)
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        ticklabelstandoff=4,
        tickvals=list(range(len(trace.pos))),
        ticktext=[words(_shown(t)) for t in trace.tokens],
    )
    figure.update_xaxes(integers(len(trace.layer)), showgrid=False)
    named = words(trace.emotion[0]) if len(shown) == 1 else "an emotion"
    return layout(
        figure,
        f"Tokens along the direction of {named} (1: as far as asking goes)",
        x="layer",
        y="token",
        height=200 + _ROW * len(trace.pos),
    )


def token_html(trace: TokenTrace, emotion: str, layers: Sequence[int] | None = None) -> str:
    """The text once per layer, its tokens coloured; HTML for a notebook.

    Orange is towards the emotion, blue away from it, full colour 1 and more; the number is shown
    when a token is pointed at. Whatever the text says is text, never markup.

    Raises:
        AxisError: the trace has no such emotion or layer.
    """
    e = trace.index("emotion", emotion)
    rows = [
        f'<div style="margin:0 0 .6em"><b>layer {layer}</b> '
        + "".join(
            _coloured(token, float(value))
            for token, value in zip(
                trace.tokens, trace.value[e, trace.index("layer", layer)].tolist(), strict=True
            )
        )
        + "</div>"
        for layer in (trace.layer if layers is None else layers)
    ]
    return (
        '<div style="background:#fff;color:#111;padding:.5em;line-height:1.7;'
        'white-space:pre-wrap;overflow-wrap:anywhere;font-family:system-ui,sans-serif">'
        f"<div>along <b>{html.escape(emotion)}</b>; 1: as far as asking goes</div>"
        f"{''.join(rows)}</div>"
    )


def _coloured(token: str, value: float) -> str:
    if not math.isfinite(value):
        return f'<span title="not known">{html.escape(token)}</span>'
    shade = SIGN_COLOURS["towards" if value > 0 else "away"]
    alpha = round(_DEEPEST * min(abs(value) / _FULL, 1.0), 3)
    line = "solid" if value > 0 else "dotted"
    under = f";border-bottom:2px {line} {shade}" if abs(value) >= _MARKED else ""
    return (
        f'<span title="{value:+.2f}" style="background:{lighter(shade, alpha)}{under}">'
        f"{html.escape(token)}</span>"
    )


def _shown(token: str) -> str:
    return token.replace("\n", "⏎").replace("\t", "⇥").strip(" ") or "␣"


def _mark_reply(figure: go.Figure, trace: TokenTrace) -> None:
    numbers_of = [int(label.split(" ", 1)[0]) for label in trace.pos]
    first = next((i for i, number in enumerate(numbers_of) if number >= trace.n_prompt), None)
    if first is not None:
        figure.add_hline(
            first - 0.5,
            line={"color": INK, "width": 2, "dash": "dot"},
            annotation={"text": "reply", "xanchor": "right", "yanchor": "top", "x": 1},
        )

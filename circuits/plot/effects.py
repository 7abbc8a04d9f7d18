"""Effects of heads and neurons: a map of all heads, and the tail of all neurons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go
import torch
from torch import Tensor

from circuits.measure.heads import HeadEffects
from circuits.measure.neurons import NeuronEffects
from circuits.names import neuron_name
from circuits.plot.style import (
    DIVERGING,
    choose,
    colour,
    cue,
    integers,
    layout,
    numbers,
    short,
    traces,
    words,
)

__all__ = ["head_map", "neuron_tail", "tail_ranks"]

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

"""Class-selective neurons: what masking them does to recognition, and where they lie."""

from collections.abc import Sequence
from typing import Final

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.neurons.adaptive import Adaptive
from circuits.neurons.recognition import DepthProfile, MaskEffects, RangeSweep
from circuits.neurons.select import Association
from circuits.neurons.steer import CrossSignal, Induction
from circuits.plots.style import (
    CONTROL,
    DIVERGING,
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

__all__ = [
    "association_map",
    "change_matrix",
    "cross_map",
    "depth_lines",
    "induction_curves",
    "loop_lines",
    "range_map",
    "signed_cells",
]


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


_POINTS: Final = "percentage points"
_MASKS: Final = {
    "zero": "set to zero",
    "mean": "set to their mean",
    "resample": "taken from another text",
    "gain": "amplified",
    "attenuate": "attenuated",
    "static": "attenuated by the class's mean",
}


def change_matrix(effects: MaskEffects) -> go.Figure:
    """Masked class by true class: change of accuracy, a star where the effect is supported."""
    marks = [
        ["★" if own and masked == true else "" for true in effects.other_label]
        for masked, own in zip(effects.label, effects.supported.tolist(), strict=True)
    ]
    title = (
        f"Recognition when a class's neurons are {_MASKS[effects.mask]} "
        "(★: beyond 95% of random sets and every other class)"
    )
    figure = go.Figure(
        signed_cells(
            effects.change,
            effects.label,
            effects.other_label,
            marks=marks,
            spread=torch.stack([effects.low, effects.high], dim=-1),
        )
    )
    height = 240 + 34 * len(effects.label)
    return layout(figure, title, x="true class", y="masked class", height=height)


def range_map(sweep: RangeSweep) -> go.Figure:
    """Layer range by share of masked neurons: change on the class itself; a menu picks it."""
    figure, shown = go.Figure(), dict[str, list[int]]()
    shares = [f"{dose:.0%}" for dose in sweep.dose]
    beyond = sweep.own - sweep.random_own
    for number, label in enumerate(sweep.label):
        spread = torch.stack([sweep.random_own[number], beyond[number]], dim=-1)
        figure.add_trace(
            signed_cells(
                sweep.own[number],
                sweep.place,
                shares,
                spread=spread,
                hover="random sets %{customdata[0]:.1f}, beyond them %{customdata[1]:.1f}",
            )
        )
        shown[words(label)] = [number]
    choose(figure, "Class", shown)
    # Shares would be read as numbers.
    figure.update_xaxes(type="category")
    whole = "the model's neurons" if sweep.ratio_of == "all_neurons" else "the class's set"
    title = f"Masking by layer range and share of {whole}: accuracy on the class itself"
    return layout(figure, title, x=f"share of {whole}", y="layers", height=380)


def depth_lines(profile: DepthProfile) -> go.Figure:
    """How many of every class's neurons each layer has."""
    figure = go.Figure()
    for number, label in enumerate(profile.label):
        figure.add_trace(
            go.Scatter(
                x=list(profile.layer),
                y=profile.count[number].tolist(),
                name=words(label),
                mode="lines+markers",
                line={"color": colour(label), "dash": cue(label, "dash")},
                marker={"symbol": cue(label, "symbol"), "size": 7},
                hovertemplate=f"{words(label)}<br>layer %{{x}}: %{{y}} neurons<extra></extra>",
            )
        )
    figure.update_xaxes(integers(len(profile.layer)))
    figure.update_yaxes(rangemode="tozero")
    title = "Where the class-selective neurons lie"
    return layout(figure, title, x="layer", y="selected neurons", height=460)


def loop_lines(adaptive: Adaptive) -> go.Figure:
    """Change on dev texts along the loop, for the class's neurons and for random pools."""
    figure, shown = go.Figure(), dict[str, list[int]]()
    steps = list(range(1, len(adaptive.dose) + 1))
    settings = torch.stack([adaptive.alphas, adaptive.taus], dim=-1)
    for number, label in enumerate(adaptive.label):
        before = len(traces(figure))
        low, high = adaptive.random_band(label)
        figure.add_trace(band(steps, low, high, lighter(CONTROL, 0.3), name="random pools"))
        figure.add_trace(
            go.Scatter(
                x=steps,
                y=numbers(adaptive.trajectory[number]),
                name=words(label),
                mode="lines+markers",
                line={"color": colour(label), "dash": cue(label, "dash")},
                marker={"symbol": cue(label, "symbol"), "size": 8},
                customdata=numbers(settings),
                hovertemplate=f"{words(label)}, step %{{x}}: %{{y:.1f}}<br>strength "
                "%{customdata[0]:.1f}, share %{customdata[1]:.0%}<extra></extra>",
            )
        )
        shown[words(label)] = list(range(before, len(traces(figure))))
    choose(figure, "Class", shown)
    figure.update_xaxes(integers(len(steps)))
    title = "Adaptive masking on dev texts; the band holds 95% of the random pools"
    return layout(figure, title, x="step", y=f"change of accuracy ({_POINTS})", height=440)


def association_map(association: Association) -> go.Figure:
    """Jaccard overlap of the neurons of every two classes."""
    figure = go.Figure(
        go.Heatmap(
            z=numbers(association.jaccard),
            x=[words(label) for label in association.other_label],
            y=[words(label) for label in association.label],
            zmin=0,
            colorscale=[[0, "rgba(128,128,128,0.08)"], [1, DIVERGING[-1][1]]],
            colorbar={"title": {"text": "Jaccard overlap", "side": "right"}},
            text=[[f"{v:.2f}" for v in row] for row in association.jaccard.tolist()],
            texttemplate="%{text}",
            hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=-45)
    title = "Neurons that classes share"
    height = 240 + 30 * len(association.label)
    return layout(figure, title, x="class", y="class", height=height)


def induction_curves(induction: Induction) -> go.Figure:
    """How often a class is named for texts of other classes, by strength; a menu picks it."""
    figure, shown = go.Figure(), dict[str, list[int]]()
    doses = list(induction.dose)
    for number, label in enumerate(induction.label):
        before = len(traces(figure))
        figure.add_traces(_controls(induction, number))
        rate = induction.rate[number]
        figure.add_trace(
            go.Scatter(
                x=doses,
                y=numbers(rate),
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": numbers(induction.high[number] - rate),
                    "arrayminus": numbers(rate - induction.low[number]),
                    "color": lighter(colour(label), 0.6),
                },
                name=words(label),
                mode="lines+markers",
                line={"color": colour(label), "dash": cue(label, "dash")},
                marker={"symbol": cue(label, "symbol"), "size": 8},
                hovertemplate=f"{words(label)}<br>strength %{{x}}: %{{y:.1f}}%<extra></extra>",
            )
        )
        shown[words(label)] = list(range(before, len(traces(figure))))
    choose(figure, "Class", shown)
    title = "Inducing a class: texts of other classes that are named as it"
    x = "strength (multiples of the class's mean activation)"
    return layout(figure, title, x=x, y="named as the class (%)", height=460)


def _controls(induction: Induction, number: int) -> list[go.Scatter]:
    """Rates when random neurons or random vectors are driven instead."""
    return [
        go.Scatter(
            x=list(induction.dose),
            y=numbers(rates[:, number].mean(0)),
            name=name,
            mode="lines",
            line={"color": CONTROL, "dash": dash},
            hovertemplate=f"{name}<br>strength %{{x}}: %{{y:.1f}}%<extra></extra>",
        )
        for name, rates, dash in (
            ("random neurons (mean)", induction.random_rate, "dot"),
            ("random vectors of the same length (mean)", induction.vector_rate, "dash"),
        )
    ]


def cross_map(cross: CrossSignal) -> go.Figure:
    """Device by emotion: change of the emotion's accuracy when the device's mean is added."""
    spread = torch.stack([cross.low, cross.high, cross.random_change.mean(0), cross.dose], dim=-1)
    marks = [["★" if beats else "" for beats in row] for row in (cross.corrected_p < 0.05).tolist()]
    figure = go.Figure(
        signed_cells(
            cross.change,
            cross.label,
            cross.emotion,
            spread=spread,
            marks=marks,
            form="+.1f",
            hover="95% interval %{customdata[0]:.1f} to %{customdata[1]:.1f}<br>random neurons "
            "%{customdata[2]:.1f}, strength %{customdata[3]:g}",
        )
    )
    title = "Rhetoric into emotion neurons: change of the emotion's recognition (★: beats random)"
    return layout(figure, title, x="emotion", y="device", height=380)

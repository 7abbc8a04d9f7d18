"""Class-selective neurons: what masking them does to recognition, and where they lie."""

from typing import Final

import plotly.graph_objects as go
import torch

from circuits.plot.cells import signed_cells
from circuits.plot.style import (
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
from circuits.selective.adaptive import Adaptive
from circuits.selective.evaluation import MaskEffects
from circuits.selective.selection import Association
from circuits.selective.sweeps import DepthProfile, RangeSweep

__all__ = [
    "association_map",
    "change_matrix",
    "depth_lines",
    "loop_lines",
    "range_map",
]

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
            effects.change, effects.label, effects.other_label, marks=marks,
            spread=torch.stack([effects.low, effects.high], dim=-1),
        )
    )  # fmt: skip
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
                sweep.own[number], sweep.place, shares, spread=spread,
                hover="random sets %{customdata[0]:.1f}, beyond them %{customdata[1]:.1f}",
            )
        )  # fmt: skip
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

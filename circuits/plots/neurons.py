"""Class-selective neurons: what masking them does to recognition, and where they lie."""

from collections.abc import Sequence
from typing import Any, Final

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.neurons.adaptive import Adaptive
from circuits.neurons.select import Association, DepthProfile
from circuits.neurons.steer import CrossSignal, Induction
from circuits.neurons.study import MaskEffects, RangeSweep
from circuits.plots.style import (
    BASELINE,
    band,
    bars,
    choose,
    colour,
    heat,
    integers,
    layout,
    lighter,
    line,
    numbers,
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
]

_INTERVAL: Final = "95% interval %{customdata[0]:.1f} to %{customdata[1]:.1f}"
_MASKS: Final = {
    "zero": "set to zero",
    "mean": "set to their mean",
    "resample": "taken from another text",
    "gain": "amplified",
    "attenuate": "attenuated",
    "static": "attenuated by the class's mean",
}


def _changes(
    values: Float[Tensor, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    spread: Float[Tensor, "row column both"],
    hover: str,
    *,
    marked: Tensor | None = None,
    form: str = ".0f",
) -> go.Heatmap:
    """Changes with their numbers, a star where marked; the first row stands on top."""
    stars = (torch.zeros_like(values) if marked is None else marked).bool().tolist()
    shown = [
        [f"{value:{form}}{'★' if star else ''}" for value, star in zip(*own, strict=True)]
        for own in zip(values.tolist(), stars, strict=True)
    ]
    return heat(
        values.flip(0),
        [words(column) for column in columns],
        [words(row) for row in reversed(rows)],
        "percentage points",
        f"%{{y}}, %{{x}}: %{{z:.1f}}<br>{hover}",
        customdata=numbers(spread.flip(0)),
        text=shown[::-1],
        texttemplate="%{text}",
    )


def change_matrix(effects: MaskEffects) -> go.Figure:
    """Masked class by true class: change of accuracy, a star where the effect is supported."""
    own = torch.tensor([[a == b for b in effects.other_label] for a in effects.label])
    cells = _changes(
        effects.change,
        effects.label,
        effects.other_label,
        torch.stack([effects.low, effects.high], dim=-1),
        _INTERVAL,
        marked=own & effects.supported[:, None].bool(),
    )
    title = (
        f"Recognition when a class's neurons are {_MASKS[effects.mask]} "
        "(★: beyond 95% of random sets and every other class)"
    )
    height = 240 + 34 * len(effects.label)
    return layout(go.Figure(cells), title, x="true class", y="masked class", height=height)


def range_map(sweep: RangeSweep) -> go.Figure:
    """Layer range by share of masked neurons: change on the class itself; a menu picks it."""
    figure, shares = go.Figure(), [f"{dose:.0%}" for dose in sweep.dose]
    spread = torch.stack([sweep.random_own, sweep.own - sweep.random_own], dim=-1)
    hover = "random sets %{customdata[0]:.1f}, beyond them %{customdata[1]:.1f}"
    groups = {
        words(label): [_changes(own, sweep.place, shares, around, hover)]
        for label, own, around in zip(sweep.label, sweep.own, spread, strict=True)
    }
    choose(figure, "Class", groups)
    # Shares would be read as numbers.
    figure.update_xaxes(type="category")
    whole = "the model's neurons" if sweep.ratio_of == "all_neurons" else "the class's set"
    title = f"Masking by layer range and share of {whole}: accuracy on the class itself"
    return layout(figure, title, x=f"share of {whole}", y="layers", height=380)


def depth_lines(profile: DepthProfile) -> go.Figure:
    """How many of every class's neurons each layer has."""
    figure = go.Figure()
    for label, count in zip(profile.label, profile.count, strict=True):
        hover = f"{words(label)}<br>layer %{{x}}: %{{y}} neurons"
        figure.add_trace(line(label, profile.layer, count, hover))
    figure.update_xaxes(integers(len(profile.layer)))
    figure.update_yaxes(rangemode="tozero")
    title = "Where the class-selective neurons lie"
    return layout(figure, title, x="layer", y="selected neurons", height=460)


def loop_lines(adaptive: Adaptive) -> go.Figure:
    """Change on dev texts along the loop, for the class's neurons and for random pools."""
    figure, steps = go.Figure(), list(range(1, len(adaptive.dose) + 1))
    settings = numbers(torch.stack([adaptive.alphas, adaptive.taus], dim=-1))

    def lines(label: str, changes: Tensor) -> list[go.Scatter]:
        low, high = adaptive.random_band(label)
        hover = (
            f"{words(label)}, step %{{x}}: %{{y:.1f}}<br>"
            "strength %{customdata[0]:.1f}, share %{customdata[1]:.0%}"
        )
        return [
            band(steps, low, high, lighter(BASELINE, 0.3), name="random pools"),
            line(label, steps, changes, hover, size=8, customdata=settings),
        ]

    found = zip(adaptive.label, adaptive.trajectory, strict=True)
    choose(figure, "Class", {words(label): lines(label, changes) for label, changes in found})
    figure.update_xaxes(integers(len(steps)))
    title = "Adaptive masking on dev texts; the band holds 95% of the random pools"
    y = "change of accuracy (percentage points)"
    return layout(figure, title, x="step", y=y, height=440)


def association_map(association: Association) -> go.Figure:
    """Jaccard overlap of the neurons of every two classes."""
    cells = heat(
        association.jaccard,
        [words(label) for label in association.other_label],
        [words(label) for label in association.label],
        "Jaccard overlap",
        "%{y} and %{x}: %{z:.3f}",
        signed=False,
        text=[[f"{v:.2f}" for v in row] for row in association.jaccard.tolist()],
        texttemplate="%{text}",
    )
    figure = go.Figure(cells)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=-45)
    height = 240 + 30 * len(association.label)
    return layout(figure, "Neurons that classes share", x="class", y="class", height=height)


def induction_curves(induction: Induction) -> go.Figure:
    """How often a class is named for texts of other classes, by strength; a menu picks it."""
    figure, doses = go.Figure(), list(induction.dose)
    baselines = (
        ("random neurons (mean)", induction.random_rate, "dot"),
        ("random vectors of the same length (mean)", induction.vector_rate, "dash"),
    )

    def lines(number: int, label: str) -> list[go.Scatter]:
        rate, hover = induction.rate[number], "strength %{x}: %{y:.1f}%"
        look: Any = {"shade": BASELINE, "size": 0}
        found = [
            line(name, doses, rates[:, number].mean(0), f"{name}<br>{hover}", dash=dash, **look)
            for name, rates, dash in baselines
        ]
        shade = lighter(colour(label), 0.6)
        reach = bars(rate, induction.low[number], induction.high[number], shade)
        own = line(label, doses, rate, f"{words(label)}<br>{hover}", size=8, error_y=reach)
        return [*found, own]

    groups = {words(label): lines(number, label) for number, label in enumerate(induction.label)}
    choose(figure, "Class", groups)
    title = "Steering to a class: texts of other classes that are named as it"
    x = "strength (multiples of the class's mean activation)"
    return layout(figure, title, x=x, y="named as the class (%)", height=460)


def cross_map(cross: CrossSignal) -> go.Figure:
    """Device by emotion: change of the emotion's accuracy when the device's mean is added."""
    cells = _changes(
        cross.change,
        cross.label,
        cross.emotion,
        torch.stack([cross.low, cross.high, cross.random_change.mean(0), cross.dose], dim=-1),
        _INTERVAL + "<br>random neurons %{customdata[2]:.1f}, strength %{customdata[3]:g}",
        marked=cross.corrected_p < 0.05,
        form="+.1f",
    )
    title = "Rhetoric into emotion neurons: change of the emotion's recognition (★: beats random)"
    return layout(go.Figure(cells), title, x="emotion", y="device", height=380)

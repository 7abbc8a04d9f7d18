"""Class-selective neurons: what masking them does to recognition, and where they lie."""

from collections.abc import Sequence
from typing import Any, Final

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.neurons.select import Association, DepthProfile
from circuits.neurons.steer import CrossSignal, Induction
from circuits.neurons.study import Adaptive, MaskEffects, RangeSweep
from circuits.plots.style import (
    BASELINE,
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

_INTERVAL: Final = "95% interval %{customdata[0]} to %{customdata[1]}"
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
    hover: str,
    texts: list[Any],
    marked: Tensor | None = None,
    form: str = ".0f",
) -> go.Heatmap:
    """Changes with their numbers, a star where marked."""
    stars = (torch.zeros_like(values) if marked is None else marked).bool()
    shown = [
        [f"{value:{form}}{'★' if star else ''}" for value, star in zip(*own, strict=True)]
        for own in zip(values.tolist(), stars.tolist(), strict=True)
    ]
    return heat(
        values,
        [words(column) for column in columns],
        [words(row) for row in rows],
        "percentage points",
        f"%{{y}}, %{{x}}: %{{z:.1f}}<br>{hover}",
        customdata=texts,
        text=shown,
        texttemplate="%{text}",
    )


@figure_of.register
def change_matrix(effects: MaskEffects) -> go.Figure:
    """Masked class by true class: change of accuracy, a star where the effect is supported."""
    own = torch.tensor([[a == b for b in effects.other_label] for a in effects.label])
    texts, marked = details(effects.low, effects.high), own & effects.supported[:, None].bool()
    cells = _changes(
        effects.change, effects.label, effects.other_label, _INTERVAL, texts, marked=marked
    )
    title = (
        f"Recognition when a class's neurons are {_MASKS[effects.mask]} "
        "(★: beyond 95% of random sets and every other class)"
    )
    look: Any = {"yaxis": {"autorange": "reversed"}, "height": 240 + 34 * len(effects.label)}
    return chart([cells], title, "true class", "masked class", **look)


@figure_of.register
def range_map(sweep: RangeSweep) -> go.Figure:
    """Layer range by share of masked neurons: change on the class itself; a menu picks it."""
    shares, texts = (
        [f"{dose:.0%}" for dose in sweep.dose],
        details(sweep.random_own, sweep.own - sweep.random_own),
    )
    hover = "random sets %{customdata[0]}, beyond them %{customdata[1]}"
    whole = "the model's neurons" if sweep.ratio_of == "all_neurons" else "the class's set"
    return chart(
        {
            label: [_changes(sweep.own[i], sweep.place, shares, hover, texts[i])]
            for i, label in enumerate(sweep.label)
        },
        f"Masking by layer range and share of {whole}: accuracy on the class itself",
        f"share of {whole}",
        "layers",
        menu="Class",
        xaxis={"type": "category"},  # Shares would be read as numbers.
        yaxis={"autorange": "reversed"},
        height=380,
    )


@figure_of.register
def depth_lines(profile: DepthProfile) -> go.Figure:
    """How many of every class's neurons each layer has."""
    lines = [
        line(label, profile.layer, count, f"{words(label)}<br>layer %{{x}}: %{{y}} neurons")
        for label, count in zip(profile.label, profile.count, strict=True)
    ]
    look: Any = {"xaxis": integers(len(profile.layer)), "yaxis": {"rangemode": "tozero"}}
    title = "Where the class-selective neurons lie"
    return chart(lines, title, "layer", "selected neurons", height=460, **look)


@figure_of.register
def loop_lines(adaptive: Adaptive) -> go.Figure:
    """Change on dev texts along the loop, for the class's neurons and for random pools."""
    steps = list(range(1, len(adaptive.dose) + 1))
    texts = details(adaptive.alphas, 100 * adaptive.taus)

    def lines(label: str, changes: Tensor) -> list[go.Scatter]:
        hover = (
            f"{words(label)}, step %{{x}}: %{{y:.1f}}<br>"
            "strength %{customdata[0]}, share %{customdata[1]}%"
        )
        return [
            band(steps, *adaptive.random_band(label), name="random pools"),
            line(label, steps, changes, hover, size=8, customdata=texts),
        ]

    return chart(
        {
            label: lines(label, changes)
            for label, changes in zip(adaptive.label, adaptive.trajectory, strict=True)
        },
        "Adaptive masking on dev texts; the band holds 95% of the random pools",
        "step",
        "change of accuracy (percentage points)",
        menu="Class",
        xaxis=integers(len(steps)),
    )


@figure_of.register
def association_map(association: Association) -> go.Figure:
    """Jaccard overlap of the neurons of every two classes."""
    cells = heat(
        association.jaccard,
        [words(label) for label in association.other_label],
        [words(label) for label in association.label],
        "Jaccard overlap",
        "%{y} and %{x}: %{z:.3f}",
        signed=False,
        texttemplate="%{z:.2f}",
    )
    look: Any = {"xaxis": {"showgrid": False, "tickangle": -45}}
    look |= {"yaxis": {"autorange": "reversed", "showgrid": False}}
    look |= {"height": 240 + 30 * len(association.label)}
    return chart([cells], "Neurons that classes share", "class", "class", **look)


@figure_of.register
def induction_curves(induction: Induction) -> go.Figure:
    """How often a class is named for texts of other classes, by strength; a menu picks it."""
    doses, hover = list(induction.dose), "strength %{x}: %{y:.1f}%"
    baselines = (
        ("random neurons (mean)", induction.random_rate, "dot"),
        ("random vectors of the same length (mean)", induction.vector_rate, "dash"),
    )

    def lines(i: int, label: str) -> list[go.Scatter]:
        look: Any = {"shade": BASELINE, "size": 0}
        found = [
            line(name, doses, rates[:, i].mean(0), f"{name}<br>{hover}", dash=dash, **look)
            for name, rates, dash in baselines
        ]
        bounds = (induction.rate[i], induction.low[i], induction.high[i])
        reach = bars(*bounds, lighter(colour(label), 0.6))
        own = f"{words(label)}<br>{hover}"
        return [*found, line(label, doses, induction.rate[i], own, size=8, error_y=reach)]

    title = "Steering to a class: texts of other classes that are named as it"
    x, y = "strength (multiples of the class's mean activation)", "named as the class (%)"
    groups = {label: lines(i, label) for i, label in enumerate(induction.label)}
    return chart(groups, title, x, y, menu="Class", height=460)


@figure_of.register
def cross_map(cross: CrossSignal) -> go.Figure:
    """Device by emotion: change of the emotion's accuracy when the device's mean is added."""
    texts = details(cross.low, cross.high, cross.random_change.mean(0), cross.dose)
    hover = _INTERVAL + "<br>random neurons %{customdata[2]}, strength %{customdata[3]}"
    marked = cross.corrected_p < 0.05
    cells = _changes(cross.change, cross.label, cross.emotion, hover, texts, marked, form="+.1f")
    title = "Rhetoric into emotion neurons: change of the emotion's recognition (★: beats random)"
    look: Any = {"yaxis": {"autorange": "reversed"}, "height": 380}
    return chart([cells], title, "emotion", "device", **look)

"""What is added to class-selective neurons: induction of a class, rhetoric into emotions."""

import plotly.graph_objects as go
import torch

from circuits.plot.cells import signed_cells
from circuits.plot.style import (
    CONTROL,
    choose,
    colour,
    cue,
    layout,
    lighter,
    numbers,
    traces,
    words,
)
from circuits.selective.cross import CrossSignal
from circuits.selective.steering import Induction

__all__ = ["cross_map", "induction_curves"]


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
            cross.change, cross.label, cross.emotion, spread=spread, marks=marks, form="+.1f",
            hover="95% interval %{customdata[0]:.1f} to %{customdata[1]:.1f}<br>random neurons "
            "%{customdata[2]:.1f}, strength %{customdata[3]:g}",
        )
    )  # fmt: skip
    title = "Rhetoric into emotion neurons: change of the emotion's recognition (★: beats random)"
    return layout(figure, title, x="emotion", y="device", height=380)

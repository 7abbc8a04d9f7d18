"""Curves of what readouts and judged replies lose and gain, by the size of the set."""

from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.control.validation import Validation
from circuits.control.validation_replies import Heard
from circuits.plot.style import (
    CONTROL,
    band,
    choose,
    colour,
    cue,
    layout,
    lighter,
    numbers,
    traces,
    words,
)

__all__ = ["heard_curves", "validation_curves"]

_TITLES: Final = {
    "zero": "ablated: zero",
    "plain mean": "ablated: mean of plain prompts",
    "emotion mean": "ablated: mean over the emotions",
    "enhance": "enhanced in plain prompts",
}
_ORDERS: Final = {
    "top": ("ranked first", "solid"),
    "bottom": ("ranked last", "dot"),
    "single": ("rank k alone", "dash"),
}


def validation_curves(found: Validation) -> go.Figure:
    """Effect on the readout by number of components, a panel per change; a menu picks the emotion.

    The components ranked first have a band (95% over contexts), as have random sets (grey, 95% of
    them). Thin lines are the readouts of the other emotions under the components ranked first.
    """
    titles = [_TITLES[method] for method in found.method]
    figure = make_subplots(
        rows=len(titles), cols=1, shared_xaxes=True,
        vertical_spacing=0.06, subplot_titles=titles,
    )  # fmt: skip
    shown: dict[str, list[int]] = {}
    for e, emotion in enumerate(found.emotion):
        before = len(traces(figure))
        for m in range(len(titles)):
            for trace in _panel(found, e, m):
                trace.showlegend = m == 0 and trace.name is not None
                figure.add_trace(trace, row=m + 1, col=1)
        shown[words(emotion)] = list(range(before, len(traces(figure))))
    choose(figure, "Emotion", shown)
    _sizes(figure, found.size, f"{found.kind}s (k)", len(titles))
    title = f"What the k {found.kind}s ranked first do to the readouts"
    return layout(figure, title, y="effect (length)", height=300 * len(titles))


def heard_curves(found: Heard) -> go.Figure:
    """Judged expression by number of components, one panel per change.

    Random sets are grey, the components ranked last dotted; bars are 95% intervals (Wilson).
    """
    titles = [_TITLES[method] for method in found.method]
    figure = make_subplots(
        rows=len(titles), cols=1, shared_xaxes=True,
        vertical_spacing=0.12, subplot_titles=titles,
    )  # fmt: skip
    for m in range(len(titles)):
        for o, order in enumerate(found.order):
            for e, emotion in enumerate(found.emotion):
                trace = _heard(found, e, m, o)
                first = order == "top" or e == 0
                trace.showlegend = m == 0 and first
                trace.name = words(emotion) if order == "top" else _GROUPS[order]
                figure.add_trace(trace, row=m + 1, col=1)
    _sizes(figure, found.size, f"{found.kind}s (k)", len(titles))
    figure.update_yaxes(range=[-4, 104])
    title = f"Replies that express the emotion, by the {found.kind}s ablated or enhanced"
    return layout(figure, title, y="replies that match (%)", height=640)


_GROUPS: Final = {"bottom": "ranked last", "random": "random, same layers (control)"}


def _panel(found: Validation, e: int, m: int) -> list[Any]:
    emotion, x = found.emotion[e], found.size
    own = found.other_emotion.index(emotion)
    shade = colour(emotion)
    random = band(
        x, found.control_low[e, m, :, own], found.control_high[e, m, :, own],
        lighter(CONTROL, 0.3), name="random, same layers (control)",
    )  # fmt: skip
    interval = band(
        x, found.low[e, m, 0, :, own], found.high[e, m, 0, :, own], lighter(shade, 0.25)
    )
    lines = [random, interval]
    for o, order in enumerate(found.order):
        name, dash = _ORDERS[order]
        limits = zip(
            numbers(found.low[e, m, o, :, own]), numbers(found.high[e, m, o, :, own]), strict=True
        )
        lines.append(
            go.Scatter(
                x=x,
                y=numbers(found.effect[e, m, o, :, own]),
                customdata=[list(pair) for pair in limits],
                name=f"{words(emotion)}, {name}",
                mode="lines+markers",
                line={"color": shade, "width": 2.5 if order == "top" else 1.5, "dash": dash},
                marker={"symbol": cue(emotion, "symbol"), "size": 7 if order == "top" else 5},
                hovertemplate=f"{words(emotion)}, {name}, k = %{{x}}<br>%{{y:.3g}} "
                "(95%: %{customdata[0]:.3g} to %{customdata[1]:.3g})<extra></extra>",
            )
        )
    return lines + [_other(found, e, m, f) for f in range(len(found.other_emotion)) if f != own]


def _other(found: Validation, e: int, m: int, f: int) -> go.Scatter:
    name = words(found.other_emotion[f])
    return go.Scatter(
        x=found.size,
        y=numbers(found.effect[e, m, 0, :, f]),
        name=f"readout of {name}",
        mode="lines",
        line={"color": colour(found.other_emotion[f]), "width": 1},
        hovertemplate=f"readout of {name}, k = %{{x}}<br>%{{y:.3g}}<extra></extra>",
    )


def _heard(found: Heard, e: int, m: int, o: int) -> Any:
    emotion, order = found.emotion[e], found.order[o]
    y = numbers(found.judged[e, m, o])
    up = numbers(found.high[e, m, o] - found.judged[e, m, o])
    down = numbers(found.judged[e, m, o] - found.low[e, m, o])
    shade = CONTROL if order == "random" else colour(emotion)
    strong = order == "top"
    return go.Scatter(
        x=found.size,
        y=y,
        error_y={
            "type": "data", "symmetric": False, "array": up, "arrayminus": down,
            "color": shade, "thickness": 1, "width": 2, "visible": strong,
        },
        mode="lines+markers",
        line={
            "color": shade,
            "width": 2 if strong else 1,
            "dash": cue(emotion, "dash") if strong else "dot" if order == "bottom" else "solid",
        },
        marker={"symbol": cue(emotion, "symbol"), "size": 7 if strong else 4},
        hovertemplate=f"{words(emotion)}, {_GROUPS.get(order, 'ranked first')}, k = %{{x}}<br>"
        "%{y:.1f} %<extra></extra>",
    )  # fmt: skip


def _sizes(figure: go.Figure, sizes: tuple[int, ...], title: str, panels: int) -> None:
    # Few of the sizes are named, or names would lie on each other on a phone.
    shown = sizes[:: max(1, len(sizes) // 5)]
    figure.update_xaxes(type="log", tickvals=list(shown), ticktext=[f"{k:,}" for k in shown])
    figure.update_xaxes(title_text=title, row=panels, col=1)

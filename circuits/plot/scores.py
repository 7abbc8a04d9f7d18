"""Faithfulness over circuit size, against random rankings."""

from collections.abc import Mapping

import plotly.graph_objects as go

from circuits.graph.scores import CircuitScores
from circuits.plot.style import CONTROL, choose, colour, cue, layout, lighter, traces, words

__all__ = ["faithfulness_curve"]


def faithfulness_curve(scores: Mapping[str, CircuitScores]) -> go.Figure:
    """Faithfulness by share of the components, sizes on a log axis; a menu picks the emotion.

    The star is the circuit itself, at its own size.
    """
    figure, shown = go.Figure(), dict[str, list[int]]()
    for emotion, found in scores.items():
        before = len(traces(figure))
        _band(figure, found)
        _curve(figure, emotion, found)
        shown[words(emotion)] = list(range(before, len(traces(figure))))
    choose(figure, "Emotion", shown)
    # Every decade has one name: more would lie on each other on a phone.
    figure.update_xaxes(
        type="log", dtick=1, title_text="share of heads and neurons", tickformat=".1%"
    )
    return layout(
        figure,
        "How much of the emotion a circuit of each size carries",
        y="faithfulness",
        height=520,
    )


def _band(figure: go.Figure, found: CircuitScores) -> None:
    figure.add_trace(
        go.Scatter(
            x=[*found.sizes, *reversed(found.sizes)],
            y=[*found.curve_high, *reversed(found.curve_low)],
            name="random rankings (control)",
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=lighter(CONTROL, 0.3),
            hoverinfo="skip",
        )
    )


def _curve(figure: go.Figure, emotion: str, found: CircuitScores) -> None:
    name = words(emotion)
    figure.add_trace(
        go.Scatter(
            x=found.sizes,
            y=found.curve,
            name=name,
            mode="lines+markers",
            line={"color": colour(emotion), "width": 2, "dash": cue(emotion, "dash")},
            marker={"symbol": cue(emotion, "symbol"), "size": 7},
            hovertemplate=f"{name}<br>%{{x:.1%}} of the components: %{{y:.3f}}<extra></extra>",
        )
    )
    own = found.scores["faithfulness"]
    figure.add_trace(
        go.Scatter(
            x=[found.size],
            y=[own.value],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [own.high - own.value],
                "arrayminus": [own.value - own.low],
                "color": colour(emotion),
            },
            name=f"the circuit of {name}",
            mode="markers",
            marker={"symbol": "star", "size": 13, "color": colour(emotion)},
            hovertemplate=f"the circuit of {name}<br>%{{x:.1%}} of the components: %{{y:.3f}}"
            "<extra></extra>",
        )
    )

"""How much every sublayer moves the emotion readout, against random directions."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.measure.importance import Importance
from circuits.plot.style import (
    CONTROL,
    SUBLAYER_WORDS,
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

__all__ = ["importance_profile"]


def importance_profile(importance: Importance) -> go.Figure:
    """Slope by layer, attention above MLP, with 95% bars; a menu picks the emotion.

    The grey band reaches from minus to plus the largest response to random directions.
    """
    titles = [SUBLAYER_WORDS[sublayer] for sublayer in importance.sublayer]
    figure = make_subplots(
        rows=len(titles), cols=1, shared_xaxes=True, 
        vertical_spacing=0.1, subplot_titles=titles,
    )  # fmt: skip
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

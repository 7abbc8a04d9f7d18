"""Traces of texts: every token at every layer along an emotion's direction."""

import html
import math
from collections.abc import Sequence
from typing import Final

import plotly.graph_objects as go

from circuits.measure.trace import TokenTrace
from circuits.plot.style import (
    DIVERGING,
    INK,
    SIGN_COLOURS,
    choose,
    integers,
    layout,
    lighter,
    numbers,
    words,
)

__all__ = ["token_html", "token_map"]

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
                    "thickness": 12, "y": 1, "yanchor": "top", "lenmode": "pixels", "len": 180,
                    "tickvals": [-_FULL, 0, _FULL], "xpad": 4,
                },
                hovertemplate="%{customdata}<br>layer %{x}: %{z:.2f}<extra></extra>",
                xgap=1,
                ygap=1,
            )
        )  # fmt: skip
        shown[words(emotion)] = [e]
    if len(shown) > 1:
        choose(figure, "Emotion", shown)
    _mark_reply(figure, trace)
    figure.update_yaxes(
        autorange="reversed", showgrid=False, ticklabelstandoff=4,
        tickvals=list(range(len(trace.pos))), ticktext=[words(_shown(t)) for t in trace.tokens],
    )  # fmt: skip
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
            first - 0.5, line={"color": INK, "width": 2, "dash": "dot"},
            annotation={"text": "reply", "xanchor": "right", "yanchor": "top", "x": 1},
        )  # fmt: skip

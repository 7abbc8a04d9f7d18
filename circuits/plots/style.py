"""How every figure looks: one colour, marker and dash per emotion, one layout.

Colours are told apart by people who see no red or no green, and each comes with a marker, a dash
and a hatch, so that colour is never the only cue. Backgrounds are transparent and the ink reads
on white and on black. Nothing global is set: a figure carries its own look.
"""

import colorsys
import hashlib
import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import plotly.graph_objects as go
from torch import Tensor

__all__ = [
    "CONTROL",
    "Cue",
    "DIVERGING",
    "EMOTION_COLOURS",
    "GRID",
    "INK",
    "SIGN_COLOURS",
    "SUBLAYER_WORDS",
    "band",
    "choose",
    "colour",
    "cue",
    "integers",
    "layout",
    "lighter",
    "numbers",
    "short",
    "traces",
    "words",
]

EMOTION_COLOURS: Final[Mapping[str, str]] = {
    "anger": "#b21f12",
    "sadness": "#1f4fe0",
    "happiness": "#f29b18",
    "fear": "#bc8cff",
    "surprise": "#00818c",
    "disgust": "#69bf86",
}
"""One colour per emotion, the same in every figure; apart also without red or green vision."""

INK: Final = "#757575"
"""Text and axes: contrast about 4.5 on white and on black."""

GRID: Final = "rgba(128,128,128,0.25)"
CONTROL: Final = "#8a8a8a"
"""Controls and chance are grey, and nothing else is."""

SIGN_COLOURS: Final = {"towards": "#c2570c", "away": "#2f6fbf"}
"""Components that push towards an emotion, and away from it."""

DIVERGING: Final = (
    (0.0, "#1d4f91"),
    (0.25, "#7ba7d6"),
    (0.5, "#f5f5f5"),
    (0.75, "#e8a064"),
    (1.0, "#a8430a"),
)
"""Signed effects: blue below zero, near white at zero, orange above."""

SUBLAYER_WORDS: Final = {"attn": "attention", "mlp": "MLP"}

_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "star", "x")
_DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_HATCHES: Final = ("", "/", "x", "\\", ".", "-")
_WIDTH: Final = 44
"""Characters of a title that fit on a line of a phone."""

Cue = Literal["symbol", "dash", "hatch"]
_CUES: Final[Mapping[str, tuple[str, ...]]] = {
    "symbol": _SYMBOLS,
    "dash": _DASHES,
    "hatch": _HATCHES,
}


def colour(emotion: str) -> str:
    """The emotion's colour; a label of the user's own gets one that depends on it alone.

    >>> colour("anger"), colour("awe") == colour("awe")
    ('#b21f12', True)
    """
    if emotion in EMOTION_COLOURS:
        return EMOTION_COLOURS[emotion]
    seed = _seed(emotion)
    red, green, blue = colorsys.hls_to_rgb((seed % 360) / 360, 0.42 + seed // 360 % 3 * 0.09, 0.6)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def cue(emotion: str, kind: Cue) -> str:
    """The emotion's marker symbol, line dash or bar hatch.

    >>> cue("fear", "symbol")
    'triangle-up'
    """
    known = tuple(EMOTION_COLOURS)
    place = known.index(emotion) if emotion in known else _seed(emotion)
    return _CUES[kind][place % len(_CUES[kind])]


def lighter(shade: str, alpha: float) -> str:
    """The same colour, see-through.

    >>> lighter("#b21f12", 0.2)
    'rgba(178,31,18,0.2)'
    """
    red, green, blue = (int(shade[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def words(text: object) -> str:
    """A label as Plotly shows it: its angle brackets are text, never markup."""
    return html.escape(str(text), quote=False)


def numbers(values: Tensor | Sequence[float]) -> list[Any]:
    """Nested lists with six digits; what is not a number becomes ``None``, which draws a gap."""
    plain = values.detach().cpu().tolist() if isinstance(values, Tensor) else values
    return [_number(value) for value in plain]


def short(value: float | None, digits: int = 3) -> str:
    """A number in hover text; a dash where there is none.

    >>> short(0.012345), short(None)
    ('0.0123', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def traces(figure: go.Figure) -> list[Any]:
    """The figure's traces; Plotly declares no type for them."""
    known: Any = figure
    return list(known.data)


def band(
    x: Sequence[int] | Sequence[float], low: Tensor, high: Tensor, shade: str, **options: Any
) -> go.Scatter:
    """A filled band between two lines; where a bound is missing there is no band."""
    bounds = zip(x, numbers(low), numbers(high), strict=True)
    kept = [(at, under, over) for at, under, over in bounds if None not in (under, over)]
    return go.Scatter(
        x=[at for at, _, _ in kept] + [at for at, _, _ in reversed(kept)],
        y=[under for _, under, _ in kept] + [over for _, _, over in reversed(kept)],
        mode="lines",
        fill="toself",
        fillcolor=shade,
        line={"width": 0, "color": shade},
        hoverinfo="skip",
        showlegend=False,
        **options,
    )


def choose(figure: go.Figure, what: str, groups: Mapping[str, Sequence[int]]) -> None:
    """Show one group of traces at a time, picked from a menu called ``what``."""
    first = next(iter(groups.values()))
    found: Any = figure.layout
    for number, trace in enumerate(traces(figure)):
        trace.visible = number in first
    buttons = [
        {
            "label": label,
            "method": "restyle",
            "args": [{"visible": [number in shown for number in range(len(traces(figure)))]}],
        }
        for label, shown in groups.items()
    ]
    menu = {
        "name": what,
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 26 if len(found.annotations) else 8},
        "bgcolor": "#ffffff",
        "font": {"color": "#333333"},
    }
    figure.update_layout(updatemenus=[menu])


def integers(count: int) -> dict[str, Any]:
    """Axis ticks for layers or heads: whole numbers, about a dozen of them."""
    return {"tickmode": "linear", "tick0": 0, "dtick": max(1, math.ceil(count / 12))}


def layout(
    figure: go.Figure,
    title: str,
    *,
    x: str | None = None,
    y: str | None = None,
    height: int = 440,
) -> go.Figure:
    """Title, axis titles with units, fonts, margins and a legend below; the same figure."""
    lines = textwrap.wrap(title, _WIDTH)
    found: Any = figure.layout
    menu, panels = len(found.updatemenus) > 0, len(found.annotations) > 0
    top = 24 + 20 * len(lines) + (44 if menu else 0) + (20 if panels else 0)
    figure.update_layout(
        template=go.layout.Template(),
        title={
            "text": "<br>".join(lines),
            "font": {"size": 15},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 10 * len(lines)},
        },
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        autosize=True,
        height=height,
        margin={"l": 12, "r": 12, "t": top, "b": 12},
        hovermode="closest",
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
    )
    figure.update_annotations(font={"size": 13})
    figure.update_xaxes(_axis(), zeroline=False)
    figure.update_yaxes(_axis())
    if x is not None:
        figure.update_xaxes(title_text=x)
    if y is not None:
        figure.update_yaxes(title_text=y)
    return figure


def _axis() -> dict[str, Any]:
    return {
        "automargin": True,
        "gridcolor": GRID,
        "zerolinecolor": CONTROL,
        "linecolor": GRID,
        "title": {"standoff": 8},
    }


def _seed(label: str) -> int:
    # hash() differs from one Python to the next; a label's colour must not.
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big")


def _number(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_number(item) for item in value]
    return float(f"{value:.6g}") if math.isfinite(value) else None

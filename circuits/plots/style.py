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
from plotly.subplots import make_subplots
from torch import Tensor

__all__ = [
    "BASELINE",
    "DIVERGING",
    "EMOTION_COLOURS",
    "GRID",
    "INK",
    "SHARES",
    "SIGN_COLOURS",
    "SUBLAYER_WORDS",
    "Cue",
    "band",
    "bars",
    "choose",
    "choose_one",
    "colour",
    "cue",
    "heat",
    "integers",
    "layout",
    "lighter",
    "line",
    "numbers",
    "panels",
    "short",
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
BASELINE: Final = "#8a8a8a"
"""Baselines and chance are grey, and nothing else is."""

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

SHARES: Final = ((0.0, "rgba(128,128,128,0.08)"), (1.0, DIVERGING[-1][1]))
"""From nothing to the most."""

SUBLAYER_WORDS: Final = {"attn": "attention", "mlp": "MLP"}

_WIDTH: Final = 44
"""Characters of a title that fit on a line of a phone."""

Cue = Literal["symbol", "dash", "hatch"]
_CUES: Final[Mapping[str, tuple[str, ...]]] = {
    "symbol": ("circle", "square", "diamond", "triangle-up", "star", "x"),
    "dash": ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot"),
    "hatch": ("", "/", "x", "\\", ".", "-"),
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


def numbers(values: Tensor | Sequence[Any]) -> list[Any]:
    """Nested lists with six digits; what is not a number becomes ``None``, which draws a gap."""
    plain = values.detach().cpu().tolist() if isinstance(values, Tensor) else values
    return [_number(value) for value in plain]


def short(value: float | None, digits: int = 3) -> str:
    """A number in hover text; a dash where there is none.

    >>> short(0.012345), short(None)
    ('0.0123', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def bars(value: Any, low: Any, high: Any, shade: str, **options: Any) -> dict[str, Any]:
    """Error bars of values between two bounds; ``None`` where one of them is missing."""
    rows = list(zip(numbers(value), numbers(low), numbers(high), strict=True))

    def apart(sign: int, bound: int) -> list[float | None]:
        return [
            None if None in (row[0], row[bound]) else max(0.0, sign * (row[bound] - row[0]))
            for row in rows
        ]

    return {
        "type": "data",
        "symmetric": False,
        "array": numbers(apart(1, 2)),
        "arrayminus": numbers(apart(-1, 1)),
        "color": shade,
        "thickness": 1.2,
        "width": 2,
        **options,
    }


def line(
    label: str,
    x: Sequence[int] | Sequence[float],
    y: Tensor | Sequence[Any],
    hover: str,
    *,
    shade: str | None = None,
    dash: str | None = None,
    width: int | float = 2,
    size: int = 7,
    **options: Any,
) -> go.Scatter:
    """A line in an emotion's colour, dash and marker; of size 0 it has no markers."""
    shade = shade or colour(label)
    return go.Scatter(
        **{
            "x": list(x),
            "y": numbers(y),
            "name": words(label),
            "mode": "lines+markers" if size else "lines",
            "line": {"color": shade, "width": width, "dash": dash or cue(label, "dash")},
            "marker": {"symbol": cue(label, "symbol"), "size": size} if size else None,
            "hovertemplate": f"{hover}<extra></extra>",
            **options,
        }
    )


def heat(
    values: Tensor,
    columns: Sequence[Any] | None,
    rows: Sequence[Any] | None,
    unit: str,
    hover: str,
    *,
    limit: int | float | None = None,
    signed: bool = True,
    **options: Any,
) -> go.Heatmap:
    """Cells ``[row column]``: blue below zero and orange above it, or shares from zero up.

    Colours end at ``limit``, or at the largest size.
    """
    limit = limit or float(values.abs().max()) or 1.0
    return go.Heatmap(
        z=numbers(values),
        x=columns,
        y=rows,
        zmin=-limit if signed else 0,
        zmax=limit,
        colorscale=[list(stop) for stop in (DIVERGING if signed else SHARES)],
        hovertemplate=f"{hover}<extra></extra>",
        xgap=1,
        ygap=1,
        **{"colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 12}, **options},
    )


def panels(titles: Sequence[str], spacing: float) -> go.Figure:
    """Panels below each other that share their x axis."""
    return make_subplots(
        rows=len(titles), cols=1, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=titles
    )


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
        **{"showlegend": False, **options},
    )


def choose(figure: go.Figure, what: str, groups: Mapping[str, Sequence[Any]]) -> None:
    """Add groups of traces and show one at a time, picked from a menu called ``what``.

    A trace of a figure with panels comes as a pair of trace and row.
    """
    found: Any = figure
    ranges: dict[str, range] = {}
    for label, group in groups.items():
        before = len(found.data)
        for item in group:
            trace, where = (
                (item[0], {"row": item[1], "col": 1}) if type(item) is tuple else (item, {})
            )
            trace.visible = not ranges
            found.add_trace(trace, **where)
        ranges[label] = range(before, len(found.data))
    buttons = [
        {
            "label": label,
            "method": "restyle",
            "args": [{"visible": [number in shown for number in range(len(found.data))]}],
        }
        for label, shown in ranges.items()
    ]
    menu = {
        "name": what,
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 26 if len(found.layout.annotations) else 8},
        "bgcolor": "#ffffff",
        "font": {"color": "#333333"},
    }
    figure.update_layout(updatemenus=[menu])


def choose_one(figure: go.Figure, what: str, traces: Mapping[str, Any]) -> None:
    """The same with one trace each, and without a menu where there is only one."""
    if len(traces) > 1:
        choose(figure, what, {label: [own] for label, own in traces.items()})
    else:
        figure.add_traces(list(traces.values()))


def integers(count: int) -> dict[str, Any]:
    """Axis ticks for layers or heads: whole numbers, about a dozen of them."""
    return {"tickmode": "linear", "tick0": 0, "dtick": max(1, math.ceil(count / 12))}


def layout(
    figure: go.Figure, title: str, *, x: str | None = None, y: str | None = None, height: int = 440
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
    axis = {"automargin": True, "gridcolor": GRID, "linecolor": GRID, "zerolinecolor": BASELINE}
    for update, name in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
        text = {} if name is None else {"title_text": name}
        update(axis, title_standoff=8, **text)
    figure.update_xaxes(zeroline=False)
    return figure


def _seed(label: str) -> int:
    # hash() differs from one Python to the next; a label's colour must not.
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big")


def _number(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_number(item) for item in value]
    return float(f"{value:.6g}") if math.isfinite(value) else None

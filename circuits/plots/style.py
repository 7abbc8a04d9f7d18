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
from functools import singledispatch
from typing import Any, Final, Literal

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

__all__ = [
    "BASELINE",
    "EMOTION_COLOURS",
    "GRID",
    "INK",
    "SHADE",
    "SIGN_COLOURS",
    "SUBLAYER_WORDS",
    "band",
    "bars",
    "chart",
    "colour",
    "cue",
    "details",
    "figure_of",
    "heat",
    "integers",
    "lighter",
    "line",
    "numbers",
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
SHADE: Final = "rgba(138,138,138,0.3)"
"""Bands of baselines."""

SIGN_COLOURS: Final = {"towards": "#c2570c", "away": "#2f6fbf"}
"""Components that push towards an emotion, and away from it."""

SUBLAYER_WORDS: Final = {"attn": "attention", "mlp": "MLP"}

# Signed effects: blue below zero, near white at zero, orange above.
_DIVERGING = [[0, "#1d4f91"], [0.25, "#7ba7d6"], [0.5, "#f5f5f5"], [0.75, "#e8a064"]]
_DIVERGING += [[1, "#a8430a"]]
_SHARES = [[0, "rgba(128,128,128,0.08)"], [1, "#a8430a"]]

_WIDTH: Final = 44
"""Characters of a title that fit on a line of a phone."""

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


def cue(emotion: str, kind: Literal["symbol", "dash", "hatch"]) -> str:
    """The emotion's marker symbol, line dash or bar hatch.

    >>> cue("fear", "symbol")
    'triangle-up'
    """
    known = tuple(EMOTION_COLOURS)
    place = known.index(emotion) if emotion in known else _seed(emotion)
    return _CUES[kind][place % len(_CUES[kind])]


def _seed(label: str) -> int:
    # hash() differs from one Python to the next; a label's colour must not.
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big")


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


def short(value: float | None, digits: int = 3) -> str:
    """A number in hover text; a dash where there is none.

    >>> short(0.012345), short(None)
    ('0.0123', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def numbers(values: Tensor | Sequence[Any]) -> list[Any]:
    """Nested lists with six digits; what is not a number becomes ``None``, which draws a gap."""

    def number(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [number(own) for own in value]
        return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

    return number(values.tolist() if isinstance(values, Tensor) else list(values))


def details(*columns: Tensor) -> list[Any]:
    """For hover text: the numbers of each cell side by side, a dash where there is none."""

    def texts(value: Any) -> Any:
        return [texts(own) for own in value] if isinstance(value, list) else short(value)

    return texts(torch.stack(torch.broadcast_tensors(*columns), -1).tolist())


def bars(value: Any, low: Any, high: Any, shade: str, **options: Any) -> dict[str, Any]:
    """Error bars of values between two bounds; ``None`` where one of them is missing."""
    rows = list(zip(*map(numbers, (value, low, high)), strict=True))
    up = [None if None in (own, over) else max(0.0, over - own) for own, _, over in rows]
    down = [None if None in (own, under) else max(0.0, own - under) for own, under, _ in rows]
    look = {"color": shade, "thickness": 1.2, "width": 2, **options}
    return {"array": numbers(up), "arrayminus": numbers(down), "symmetric": False, **look}


def line(label: str, x: Sequence[Any], y: Any, hover: str, **options: Any) -> go.Scatter:
    """A line in an emotion's colour, dash and marker.

    Options are those of a trace, and of its look: ``shade``, ``dash``, ``width``, ``size`` (of the
    markers; 0: none), ``panel`` (from 1).
    """
    look = {"shade": colour(label), "dash": cue(label, "dash"), "width": 2, "size": 7, "panel": 1}
    look = {own: options.pop(own, default) for own, default in look.items()}
    trace = {
        "x": list(x),
        "y": numbers(y),
        "name": words(label),
        "mode": "lines+markers" if look["size"] else "lines",
        "line": {"color": look["shade"], "width": look["width"], "dash": look["dash"]},
        "marker": {"symbol": cue(label, "symbol"), "size": look["size"], "color": look["shade"]},
        "hovertemplate": f"{hover}<extra></extra>",
        **_panel(look["panel"]),
    }
    return go.Scatter(trace | options)


def band(
    x: Sequence[Any], low: Any, high: Any, shade: str = SHADE, panel: int = 1, **options: Any
) -> go.Scatter:
    """A filled band between two lines; where a bound is missing there is no band."""
    rows = zip(x, numbers(low), numbers(high), strict=True)
    kept = [(at, under, over) for at, under, over in rows if None not in (under, over)]
    look = {"mode": "lines", "fill": "toself", "fillcolor": shade, "line": {"width": 0}}
    return go.Scatter(
        x=[at for at, _, _ in kept] + [at for at, _, _ in reversed(kept)],
        y=[under for _, under, _ in kept] + [over for _, _, over in reversed(kept)],
        hoverinfo="skip",
        **{**look, **_panel(panel), "showlegend": "name" in options, **options},
    )


def _panel(number: int) -> dict[str, str]:
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def heat(
    values: Tensor,
    columns: Sequence[Any] | None,
    rows: Sequence[Any] | None,
    unit: str,
    hover: str,
    *,
    limit: float = 0.0,
    signed: bool = True,
    **options: Any,
) -> go.Heatmap:
    """Cells ``[row column]``: blue below zero and orange above it, or shares from zero up.

    Colours end at ``limit``, or at the largest size.
    """
    limit = limit or float(values.abs().max()) or 1.0
    bar = {"title": {"text": unit, "side": "right"}, "thickness": 12}
    return go.Heatmap(
        z=numbers(values),
        x=columns,
        y=rows,
        zmin=-limit if signed else 0,
        zmax=limit,
        colorscale=_DIVERGING if signed else _SHARES,
        hovertemplate=f"{hover}<extra></extra>",
        xgap=1,
        ygap=1,
        **{"colorbar": bar, **options},
    )


def integers(count: int) -> dict[str, Any]:
    """Axis ticks for layers or heads: whole numbers, about a dozen of them."""
    return {"tickmode": "linear", "tick0": 0, "dtick": max(1, math.ceil(count / 12))}


def chart(
    traces: Sequence[Any] | Mapping[str, Sequence[Any]],
    title: str,
    x: str,
    y: str,
    *,
    menu: str = "",
    panels: Sequence[str] = (),
    xaxis: Mapping[str, Any] | None = None,
    yaxis: Mapping[str, Any] | None = None,
    height: int = 440,
    **options: Any,
) -> go.Figure:
    """A figure of traces, its axes named with their units, its legend below.

    Args:
        traces: All of them, or groups by label, of which a menu shows one at a time.
        title: Broken into lines that fit on a phone.
        x: Of the (lowest) horizontal axis.
        y: Of every vertical axis.
        menu: What the labels of the groups are; of a single group the title says the label.
        panels: Titles of panels below each other that share their horizontal axis.
        xaxis: Look of every horizontal axis.
        yaxis: And of every vertical one.
        height: In pixels.
        options: Of the layout.
    """
    figure: Any = go.Figure()
    if panels:
        gap = 0.18 / len(panels)
        figure = make_subplots(
            len(panels), 1, shared_xaxes=True, vertical_spacing=gap, subplot_titles=panels
        )
    groups = {words(own): list(group) for own, group in dict(traces).items()} if menu else {}
    labels = [own for own, group in groups.items() for _ in group]
    figure.add_traces([own for group in groups.values() for own in group] or list(traces))
    if len(groups) > 1:
        for trace, own in zip(figure.data, labels, strict=True):
            trace.visible = own == labels[0]
        look = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "bgcolor": "#ffffff"}
        look |= {"pad": {"b": 26 if panels else 8}, "font": {"color": "#333333"}}
        buttons = [
            {
                "label": group,
                "method": "restyle",
                "args": [{"visible": [own == group for own in labels]}],
            }
            for group in groups
        ]
        figure.update_layout(updatemenus=[{"name": menu, "buttons": buttons, **look}])
    elif groups:
        title += f": {labels[0]}"
    lines = textwrap.wrap(title, _WIDTH)
    top = 24 + 20 * len(lines) + (44 if len(groups) > 1 else 0) + (20 if panels else 0)
    heading = {"text": "<br>".join(lines), "font": {"size": 15}, "x": 0, "y": 1}
    heading |= {"xref": "container", "yref": "container", "xanchor": "left", "yanchor": "top"}
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yanchor": "bottom"}
    figure.update_layout(
        template=go.layout.Template(),
        title={**heading, "pad": {"l": 12, "t": 10 * len(lines)}},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        autosize=True,
        height=height,
        margin={"l": 12, "r": 12, "t": top, "b": 12},
        hovermode="closest",
        legend={**legend, "yref": "container"},
        **options,
    )
    figure.update_annotations(font={"size": 13})
    axis = {"automargin": True, "gridcolor": GRID, "linecolor": GRID, "zerolinecolor": BASELINE}
    axis["title_standoff"] = 8
    figure.update_xaxes({**axis, "zeroline": False, **(xaxis or {})})
    figure.update_yaxes({**axis, "title_text": y, **(yaxis or {})})
    figure.update_xaxes({"title_text": x}, **({"row": len(panels), "col": 1} if panels else {}))
    return figure


@singledispatch
def figure_of(record: object) -> go.Figure:
    """The figure of a record, by its type; a function that draws a type is registered here."""
    known = ", ".join(kind.__name__ for kind in figure_of.registry if kind is not object)
    raise TypeError(f"no figure for a {type(record).__name__}; there are figures for {known}")

"""Expression against price, and the circuit's strength as a dial."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go
import torch

from circuits.errors import DataError
from circuits.measure.expression import wilson
from circuits.names import VALENCES
from circuits.plot.expression import METHOD_WORDS
from circuits.plot.style import CONTROL, band, choose, colour, cue, layout, lighter, traces, words

__all__ = ["dial_curve", "price_map"]

_LOOKS: Final[Mapping[str, tuple[str, str]]] = {
    "none": ("#6b7280", "circle-open"),
    "prompt": ("#1d4f91", "square"),
    "steer": ("#c2570c", "triangle-up"),
    "steer_layers": ("#c2570c", "triangle-up-open"),
    "steer_plain": ("#a21caf", "triangle-down"),
    "probe": ("#a21caf", "triangle-down-open"),
    "neurons": ("#00818c", "diamond"),
    "circuit": ("#b21f12", "star"),
    "random_circuit": (CONTROL, "x"),
    "random_anywhere": (CONTROL, "cross"),
}


def price_map(control: Mapping[str, Any]) -> go.Figure:
    """Judged expression by perplexity ratio, with 95% intervals; a menu picks emotion or valence.

    The good corner is the upper left. Intervals of the ratio are drawn for all replies together.

    Args:
        control: ``methods`` and ``controls``, as the comparison of methods leaves them.

    Raises:
        DataError: there is no method.
    """
    found = {**control.get("methods", {}), **control.get("controls", {})}
    if not found:
        raise DataError("no method to draw; expected an entry under 'methods'")
    known = {m: s for m, s in found.items() if s["perplexity_ratio"] is not None}
    figure, shown = go.Figure(), dict[str, list[int]]()

    def add(group: str, points: Sequence[go.Scatter]) -> None:
        before = len(traces(figure))
        figure.add_traces(list(points))
        shown[group] = list(range(before, len(traces(figure))))

    add("all replies", [_overall(method, stats) for method, stats in known.items()])
    for kind, order in (("emotion", None), ("valence", VALENCES)):
        names = dict.fromkeys(n for s in known.values() for n in s.get(f"ratio_by_{kind}", {}))
        for name in names if order is None else (v for v in order if v in names):
            label = words(name if kind == "emotion" else f"{name} event")
            add(label, [_part(m, s, kind, name, len(names)) for m, s in known.items()])
    choose(figure, "Replies", shown)
    figure.update_yaxes(range=[-4, 106])
    figure.update_xaxes(title_text="perplexity ratio (1: as prompted)")
    return layout(
        figure, "Expression against its price, by method", y="replies that match (%)", height=560
    )


def dial_curve(control: Mapping[str, Any]) -> go.Figure:
    """Judged expression by the circuit's strength, with Wilson's 95% band, and by emotion.

    Raises:
        DataError: no strength was swept.
    """
    found = control.get("dial")
    if not found:
        raise DataError("no strength was swept; expected an entry 'dial'")
    figure, at = go.Figure(), found["strength"]
    shade = lighter(_LOOKS["circuit"][0], 0.2)
    figure.add_trace(band(at, torch.tensor(found["low"]), torch.tensor(found["high"]), shade))
    for emotion, shares in found["by_emotion"].items():
        figure.add_trace(
            go.Scatter(
                x=at,
                y=shares,
                name=words(emotion),
                mode="lines",
                line={"color": colour(emotion), "width": 1, "dash": cue(emotion, "dash")},
                hovertemplate=f"{words(emotion)}, strength %{{x}}: %{{y:.1f}} %<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=at,
            y=found["overall"],
            name="all emotions",
            mode="lines+markers",
            line={"color": _LOOKS["circuit"][0], "width": 3},
            customdata=[_dash(ratio) for ratio in found["perplexity_ratio"]],
            hovertemplate="strength %{x}: %{y:.1f} %<br>perplexity ratio %{customdata}"
            "<extra></extra>",
        )
    )
    figure.update_yaxes(range=[-4, 106])
    return layout(
        figure,
        "The circuit's strength as a dial",
        x="strength (1: the model's own difference)",
        y="replies that match (%)",
        height=460,
    )


def _overall(method: str, stats: Mapping[str, Any]) -> go.Scatter:
    between = stats.get("intervals") or {}
    across = between.get("perplexity_ratio")
    upright = between.get("overall") or (stats.get("low"), stats.get("high"))
    return _point(method, stats["perplexity_ratio"], stats["overall"], across, upright)


def _part(method: str, stats: Mapping[str, Any], kind: str, name: str, parts: int) -> go.Scatter:
    # All methods answer every context in every emotion, so a group has n / parts replies.
    share, n = stats[f"by_{kind}"].get(name), round(stats["n"] / parts)
    upright = None if share is None else wilson(round(share * n / 100), n)
    return _point(method, stats.get(f"ratio_by_{kind}", {}).get(name), share, None, upright)


def _point(
    method: str,
    x: float | None,
    y: float | None,
    across: Sequence[float] | None,
    upright: Sequence[Any] | None,
) -> go.Scatter:
    shade, symbol = _LOOKS.get(method, (colour(method), "circle"))
    name = words(METHOD_WORDS.get(method, method))
    bars = {"error_x": _bar(x, across, shade), "error_y": _bar(y, upright, shade)}
    return go.Scatter(
        x=[x],
        y=[y],
        name=name,
        mode="markers",
        marker={"color": shade, "symbol": symbol, "size": 12, "line": {"width": 2, "color": shade}},
        hovertemplate=f"{name}<br>%{{y:.2f}} % at a ratio of %{{x:.3f}}<extra></extra>",
        **{side: bar for side, bar in bars.items() if bar},
    )


def _bar(value: float | None, bounds: Sequence[Any] | None, shade: str) -> dict[str, Any]:
    if value is None or bounds is None or None in tuple(bounds):
        return {}
    low, high = bounds
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - value)],
        "arrayminus": [max(0.0, value - low)],
        "color": shade,
        "thickness": 1.2,
        "width": 3,
    }


def _dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

"""What steering reaches, what it costs, and what a judge makes of replies."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from circuits.errors import DataError
from circuits.judges.replies import Hearing, wilson
from circuits.names import NEUTRAL, VALENCES
from circuits.plots.style import (
    CONTROL,
    DIVERGING,
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
from circuits.steering.validation import Heard, Validation

__all__ = [
    "METHOD_WORDS",
    "accuracy_bars",
    "dial_curve",
    "heard_curves",
    "hearing_map",
    "price_map",
    "valence_bars",
    "validation_curves",
]

METHOD_WORDS: Final[Mapping[str, str]] = {
    "none": "no change",
    "prompt": "prompting",
    "steer": "steering",
    "steer_layers": "steering, several layers",
    "steer_plain": "steering from plain",
    "probe": "probe direction",
    "neurons": "neuron induction",
    "circuit": "circuit",
    "random_circuit": "random, same layers (control)",
    "random_anywhere": "random, any layer (control)",
}
"""What each method is called where people read it."""

_HATCH: Final = {
    "fillmode": "overlay",
    "fgcolor": "#ffffff",
    "fgopacity": 0.55,
    "size": 6,
    "solidity": 0.25,
}
_VALENCE_LOOKS: Final = {
    "positive": ("#e3a018", "/"),
    "neutral": ("#2a9d8f", ""),
    "negative": ("#5b68c8", "x"),
}


def accuracy_bars(accuracy: Mapping[str, Any]) -> go.Figure:
    """Accuracy of every method overall and by emotion, with Wilson's 95% intervals.

    Args:
        accuracy: ``methods`` and ``controls``, as the comparison of methods leaves them.

    Raises:
        DataError: there is no method.
    """
    found = _methods(accuracy)
    overall = {method: stats["overall"] for method, stats in found.items()}
    figure = go.Figure(_bars("overall", overall, found, 1, ("#5b6472", "")))
    emotions = dict.fromkeys(e for stats in found.values() for e in stats["by_emotion"])
    for emotion in emotions:
        shares = {method: stats["by_emotion"].get(emotion) for method, stats in found.items()}
        look = (colour(emotion), cue(emotion, "hatch"))
        figure.add_trace(_bars(emotion, shares, found, len(emotions), look))
    return _finish(figure, "How often replies express the asked emotion, by method")


def valence_bars(accuracy: Mapping[str, Any]) -> go.Figure:
    """Accuracy of every method by the valence of the event, with Wilson's 95% intervals.

    Raises:
        DataError: there is no method.
    """
    found = _methods(accuracy)
    figure = go.Figure()
    present = {v for stats in found.values() for v in stats["by_valence"]}
    valences = [valence for valence in VALENCES if valence in present]
    for valence in valences:
        shares = {method: stats["by_valence"].get(valence) for method, stats in found.items()}
        look = _VALENCE_LOOKS[valence]
        figure.add_trace(_bars(f"{valence} event", shares, found, len(valences), look))
    return _finish(figure, "How often replies express the asked emotion, by valence of the event")


def _methods(accuracy: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = {**accuracy.get("methods", {}), **accuracy.get("controls", {})}
    if not found:
        raise DataError("no method to draw; expected an entry under 'methods'")
    return found


def _bars(
    name: str,
    shares: Mapping[str, float | None],
    found: Mapping[str, Mapping[str, Any]],
    parts: int,
    look: tuple[str, str],
) -> go.Bar:
    # All methods answer every context in every emotion, so a group has n / parts replies.
    known = {method: share for method, share in shares.items() if share is not None}
    sizes = {method: round(found[method]["n"] / parts) for method in known}
    bounds = {m: wilson(round(share * sizes[m] / 100), sizes[m]) for m, share in known.items()}
    shade, hatch = look
    return go.Bar(
        x=[words(METHOD_WORDS.get(method, method)) for method in known],
        y=list(known.values()),
        customdata=[[f"{bounds[m][0]:.0f}–{bounds[m][1]:.0f}", f"{sizes[m]:,}"] for m in known],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, round(bounds[m][1] - y, 4)) for m, y in known.items()],
            "arrayminus": [max(0.0, round(y - bounds[m][0], 4)) for m, y in known.items()],
            "color": CONTROL,
            "thickness": 1.2,
            "width": 2,
        },
        name=words(name),
        marker={"color": shade, "pattern": {**_HATCH, "shape": hatch}},
        hovertemplate=f"{words(name)}, %{{x}}<br>%{{y:.1f}} % "
        "(95% interval %{customdata[0]})<br>%{customdata[1]} replies<extra></extra>",
    )


def _finish(figure: go.Figure, title: str) -> go.Figure:
    figure.update_layout(barmode="group", bargap=0.2)
    named = list(dict.fromkeys(name for trace in traces(figure) for name in trace.x))
    # One word per line, so that names stay level on a phone.
    broken = [name.replace(" ", "<br>") for name in named]
    size = 9 if len(named) > 4 else 12
    figure.update_xaxes(tickvals=named, ticktext=broken, tickangle=0, tickfont={"size": size})
    figure.update_yaxes(range=[0, 105])
    return layout(figure, title, x="method", y="replies that match (%)", height=480)


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


def hearing_map(found: Hearing) -> go.Figure:
    """Asked for by heard, in percent of the replies; the lowest row asked for nothing."""
    details = torch.stack([found.low, found.high, found.n[:, None].expand_as(found.low)], dim=-1)
    figure = go.Figure(
        go.Heatmap(
            z=numbers(found.share),
            x=[words(emotion) for emotion in found.emotion],
            y=[words("no emotion" if label == NEUTRAL else label) for label in found.label],
            customdata=numbers(details),
            zmin=0,
            zmax=100,
            colorscale=[[0, "rgba(128,128,128,0.08)"], [1, DIVERGING[-1][1]]],
            colorbar={"title": {"text": "% of the replies", "side": "right"}, "thickness": 12},
            texttemplate="%{z:.0f}",
            hovertemplate="asked for %{y}, heard %{x}: %{z:.0f} % (95% interval "
            "%{customdata[0]:.0f} to %{customdata[1]:.0f}, %{customdata[2]:.0f} replies)"
            "<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=-45)
    return layout(
        figure,
        "What the judge hears in the replies",
        x="emotion heard",
        y="emotion asked for",
        height=220 + 34 * len(found.label),
    )


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
        rows=len(titles),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.06,
        subplot_titles=titles,
    )
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
        rows=len(titles),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.12,
        subplot_titles=titles,
    )
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
        x,
        found.control_low[e, m, :, own],
        found.control_high[e, m, :, own],
        lighter(CONTROL, 0.3),
        name="random, same layers (control)",
    )
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
            "type": "data",
            "symmetric": False,
            "array": up,
            "arrayminus": down,
            "color": shade,
            "thickness": 1,
            "width": 2,
            "visible": strong,
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
    )


def _sizes(figure: go.Figure, sizes: tuple[int, ...], title: str, panels: int) -> None:
    # Few of the sizes are named, or names would lie on each other on a phone.
    shown = sizes[:: max(1, len(sizes) // 5)]
    figure.update_xaxes(type="log", tickvals=list(shown), ticktext=[f"{k:,}" for k in shown])
    figure.update_xaxes(title_text=title, row=panels, col=1)

"""What steering reaches, what it costs, and what a judge makes of replies."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go
import torch

from circuits.errors import DataError
from circuits.judges.replies import JudgeConfusion, wilson
from circuits.names import NEUTRAL, VALENCES
from circuits.plots.style import (
    BASELINE,
    band,
    bars,
    choose,
    colour,
    cue,
    heat,
    layout,
    lighter,
    line,
    numbers,
    panels,
    short,
    words,
)
from circuits.steering.validation import ReplyValidation, Validation

__all__ = [
    "METHODS",
    "METHOD_WORDS",
    "Method",
    "accuracy_bars",
    "confusion_map",
    "reply_curves",
    "side_effects_map",
    "strength_curve",
    "valence_bars",
    "validation_curves",
]


class Method(NamedTuple):
    """How a method is named, explained and drawn."""

    word: str
    meaning: str
    shade: str
    symbol: str


METHODS: Final[Mapping[str, Method]] = {
    "none": Method(
        "unsteered", "the model as it is, with no emotion asked for", "#6b7280", "circle-open"
    ),
    "prompt": Method("prompting", "the system prompt asks for the emotion", "#1d4f91", "square"),
    "steer": Method(
        "steering",
        "the emotion's direction is added to the residual stream; no emotion is asked for",
        "#c2570c",
        "triangle-up",
    ),
    "steer_layers": Method(
        "steering, several layers",
        "the same at several layers at once, which share the strength",
        "#c2570c",
        "triangle-up-open",
    ),
    "steer_neutral": Method(
        "steering from neutral",
        "the difference between emotion and neutral prompts is added instead",
        "#a21caf",
        "triangle-down",
    ),
    "probe": Method(
        "probe direction",
        "the weights of a linear probe (logistic regression) are added instead",
        "#a21caf",
        "triangle-down-open",
    ),
    "neurons": Method(
        "neuron induction",
        "the neurons with the largest effects, as many as the circuit's, get a multiple of "
        "their own mean activation",
        "#00818c",
        "diamond",
    ),
    "circuit": Method(
        "circuit",
        "what the circuit's heads and neurons do differently when the emotion is asked "
        "for is added to them; no emotion is asked for",
        "#b21f12",
        "star",
    ),
    "random_circuit": Method(
        "random, same layers (baseline)",
        "baseline: the same with as many random heads and neurons of the same layers",
        BASELINE,
        "x",
    ),
    "random_anywhere": Method(
        "random, any layer (baseline)",
        "baseline: the same with as many random heads and neurons of any layer",
        BASELINE,
        "cross",
    ),
}
METHOD_WORDS: Final[Mapping[str, str]] = {name: own.word for name, own in METHODS.items()}
"""What each method is called where people read it."""

_VALENCE_LOOKS: Final = {
    "positive": ("#e3a018", "/"),
    "neutral": ("#2a9d8f", ""),
    "negative": ("#5b68c8", "x"),
}


def accuracy_bars(accuracy: Mapping[str, Any]) -> go.Figure:
    """Accuracy of every method overall and by emotion, with Wilson's 95% intervals.

    Args:
        accuracy: ``methods`` and ``baselines``, as the comparison of methods leaves them.

    Raises:
        DataError: there is no method.
    """
    found = _methods(accuracy)
    overall = {method: stats["overall"] for method, stats in found.items()}
    emotions = dict.fromkeys(e for stats in found.values() for e in stats["by_emotion"])
    groups = [_bars("overall", overall, found, 1, ("#5b6472", ""))]
    for emotion in emotions:
        shares = {method: stats["by_emotion"].get(emotion) for method, stats in found.items()}
        look = (colour(emotion), cue(emotion, "hatch"))
        groups.append(_bars(emotion, shares, found, len(emotions), look))
    return _grouped(groups, "How often replies express the target emotion, by method")


def valence_bars(accuracy: Mapping[str, Any]) -> go.Figure:
    """Accuracy of every method by the valence of the event, with Wilson's 95% intervals.

    Raises:
        DataError: there is no method.
    """
    found = _methods(accuracy)
    present = {v for stats in found.values() for v in stats["by_valence"]}
    valences = [valence for valence in VALENCES if valence in present]
    groups = []
    for valence in valences:
        shares = {method: stats["by_valence"].get(valence) for method, stats in found.items()}
        look = _VALENCE_LOOKS[valence]
        groups.append(_bars(f"{valence} event", shares, found, len(valences), look))
    return _grouped(groups, "How often replies express the target emotion, by valence of the event")


def _methods(accuracy: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = {**accuracy.get("methods", {}), **accuracy.get("baselines", {})}
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
    sizes = [round(found[method]["n"] / parts) for method in known]
    bounds = [wilson(round(y * n / 100), n) for y, n in zip(known.values(), sizes, strict=True)]
    low, high = [own[0] for own in bounds], [own[1] for own in bounds]
    shade, hatch = look
    return go.Bar(
        x=[words(METHOD_WORDS.get(method, method)) for method in known],
        y=list(known.values()),
        customdata=[
            [f"{under:.0f}–{over:.0f}", f"{n:,}"]
            for (under, over), n in zip(bounds, sizes, strict=True)
        ],
        error_y=bars(list(known.values()), low, high, BASELINE),
        name=words(name),
        marker={
            "color": shade,
            "pattern": {
                "fillmode": "overlay",
                "fgcolor": "#ffffff",
                "fgopacity": 0.55,
                "size": 6,
                "solidity": 0.25,
                "shape": hatch,
            },
        },
        hovertemplate=f"{words(name)}, %{{x}}<br>%{{y:.1f}} % "
        "(95% interval %{customdata[0]})<br>%{customdata[1]} replies<extra></extra>",
    )


def _grouped(groups: list[Any], title: str) -> go.Figure:
    figure = go.Figure(groups)
    figure.update_layout(barmode="group", bargap=0.2)
    named = list(dict.fromkeys(name for group in groups for name in group.x))
    # One word per line, so that names stay level on a phone.
    broken = [name.replace(" ", "<br>") for name in named]
    size = 9 if len(named) > 4 else 12
    figure.update_xaxes(tickvals=named, ticktext=broken, tickangle=0, tickfont={"size": size})
    figure.update_yaxes(range=[0, 105])
    return layout(figure, title, x="method", y="replies that match (%)", height=480)


def side_effects_map(found: Mapping[str, Any]) -> go.Figure:
    """Judged expression by perplexity ratio, with 95% intervals; a menu picks emotion or valence.

    The good corner is the upper left. Intervals of the ratio are drawn for all replies together.

    Args:
        found: ``methods`` and ``baselines``, as the comparison of methods leaves them.

    Raises:
        DataError: there is no method.
    """
    found = _methods(found)
    known = {m: s for m, s in found.items() if s["perplexity_ratio"] is not None}

    def overall(method: str) -> go.Scatter:
        stats = known[method]
        between = stats.get("intervals") or {}
        upright = between.get("overall") or (stats.get("low"), stats.get("high"))
        across = between.get("perplexity_ratio")
        return _point(method, stats["perplexity_ratio"], stats["overall"], across, upright)

    def part(method: str, kind: str, name: str, parts: int) -> go.Scatter:
        stats = known[method]
        share, n = stats[f"by_{kind}"].get(name), round(stats["n"] / parts)
        upright = None if share is None else wilson(round(share * n / 100), n)
        return _point(method, stats.get(f"ratio_by_{kind}", {}).get(name), share, None, upright)

    groups = {"all replies": [overall(method) for method in known]}
    for kind, order in (("emotion", None), ("valence", VALENCES)):
        names = dict.fromkeys(n for s in known.values() for n in s.get(f"ratio_by_{kind}", {}))
        for name in names if order is None else (v for v in order if v in names):
            label = words(name if kind == "emotion" else f"{name} event")
            groups[label] = [part(method, kind, name, len(names)) for method in known]
    figure = go.Figure()
    choose(figure, "Replies", groups)
    figure.update_yaxes(range=[-4, 106])
    figure.update_xaxes(title_text="perplexity ratio (1: as prompted)")
    title = "Expression against its side effects, by method"
    return layout(figure, title, y="replies that match (%)", height=560)


def _point(
    method: str,
    x: float | None,
    y: float | None,
    across: Sequence[float] | None,
    upright: Sequence[Any] | None,
) -> go.Scatter:
    own = METHODS.get(method, Method(method, "", colour(method), "circle"))
    name, shade = words(own.word), own.shade
    sides = {
        side: bars([value], [bounds[0]], [bounds[1]], shade, width=3)
        for side, value, bounds in (("error_x", x, across), ("error_y", y, upright))
        if value is not None and bounds is not None and None not in tuple(bounds)
    }
    return go.Scatter(
        x=[x],
        y=[y],
        name=name,
        mode="markers",
        marker={
            "color": shade,
            "symbol": own.symbol,
            "size": 12,
            "line": {"width": 2, "color": shade},
        },
        hovertemplate=f"{name}<br>%{{y:.2f}} % at a ratio of %{{x:.3f}}<extra></extra>",
        **sides,
    )


def strength_curve(found: Mapping[str, Any]) -> go.Figure:
    """Judged expression by the circuit's strength, with Wilson's 95% band, and by emotion.

    Raises:
        DataError: no strength was swept.
    """
    swept = found.get("strengths")
    if not swept:
        raise DataError("no strength was swept; expected an entry 'strengths'")
    at, shade = swept["strength"], METHODS["circuit"].shade
    low, high = torch.tensor(swept["low"]), torch.tensor(swept["high"])
    figure = go.Figure(band(at, low, high, lighter(shade, 0.2)))
    for emotion, shares in swept["by_emotion"].items():
        hover = f"{words(emotion)}, strength %{{x}}: %{{y:.1f}} %"
        figure.add_trace(line(emotion, at, shares, hover, width=1, size=0))
    figure.add_trace(
        go.Scatter(
            x=at,
            y=swept["overall"],
            name="all emotions",
            mode="lines+markers",
            line={"color": shade, "width": 3},
            customdata=[short(ratio) for ratio in swept["perplexity_ratio"]],
            hovertemplate="strength %{x}: %{y:.1f} %<br>perplexity ratio %{customdata}"
            "<extra></extra>",
        )
    )
    figure.update_yaxes(range=[-4, 106])
    x = "strength (1: the model's own difference)"
    return layout(figure, "Strength of the circuit", x=x, y="replies that match (%)", height=460)


def confusion_map(found: JudgeConfusion) -> go.Figure:
    """Asked for by judged emotion, in percent of the replies; the lowest row asked for nothing."""
    details = torch.stack([found.low, found.high, found.n[:, None].expand_as(found.low)], dim=-1)
    figure = go.Figure(
        heat(
            found.share,
            [words(emotion) for emotion in found.emotion],
            [words("no emotion" if label == NEUTRAL else label) for label in found.label],
            "% of the replies",
            "asked for %{y}, judged %{x}: %{z:.0f} % (95% interval "
            "%{customdata[0]:.0f} to %{customdata[1]:.0f}, %{customdata[2]:.0f} replies)",
            limit=100,
            signed=False,
            customdata=numbers(details),
            texttemplate="%{z:.0f}",
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=-45)
    title, height = "What the judge finds in the replies", 220 + 34 * len(found.label)
    return layout(figure, title, x="judged emotion", y="emotion asked for", height=height)


_TITLES: Final = {
    "zero": "ablated: zero",
    "neutral mean": "ablated: mean of neutral prompts",
    "emotion mean": "ablated: mean over the emotions",
    "add": "added in neutral prompts",
}
_ORDERS: Final = {
    "top": ("ranked first", "solid"),
    "bottom": ("ranked last", "dot"),
    "single": ("rank k alone", "dash"),
}
_GROUPS: Final = {"bottom": "ranked last", "random": "random, same layers (baseline)"}


def validation_curves(found: Validation) -> go.Figure:
    """Effect on the readout by number of components, a panel per change; a menu picks the emotion.

    The components ranked first have a band (95% over contexts), as have random sets (grey, 95% of
    them). Thin lines are the readouts of the other emotions under the components ranked first.
    """
    figure = panels([_TITLES[method] for method in found.method], 0.06)

    def panel(e: int, m: int) -> list[tuple[go.Scatter, int]]:
        emotion, x = found.emotion[e], found.size
        own, shade = found.other_emotion.index(emotion), colour(emotion)
        low = found.random_baseline_low[e, m, :, own]
        high = found.random_baseline_high[e, m, :, own]
        traces = [
            band(x, low, high, lighter(BASELINE, 0.3), name=_GROUPS["random"]),
            band(x, found.low[e, m, 0, :, own], found.high[e, m, 0, :, own], lighter(shade, 0.25)),
        ]
        for o, order in enumerate(found.order):
            name, dash = _ORDERS[order]
            limits = torch.stack([found.low[e, m, o, :, own], found.high[e, m, o, :, own]], -1)
            label, top = f"{words(emotion)}, {name}", order == "top"
            hover = (
                f"{label}, k = %{{x}}<br>%{{y:.3g}} "
                "(95%: %{customdata[0]:.3g} to %{customdata[1]:.3g})"
            )
            look: Any = {"dash": dash, "width": 2.5 if top else 1.5, "size": 7 if top else 5}
            look |= {"name": label, "customdata": numbers(limits)}
            traces.append(line(emotion, x, found.effect[e, m, o, :, own], hover, **look))
        for f, other in enumerate(found.other_emotion):
            if f != own:
                name = f"readout of {words(other)}"
                hover = f"{name}, k = %{{x}}<br>%{{y:.3g}}"
                effect = found.effect[e, m, 0, :, f]
                traces.append(
                    line(other, x, effect, hover, dash="solid", width=1, size=0, name=name)
                )
        for trace in traces:
            trace.showlegend = m == 0 and trace.name is not None
        return [(trace, m + 1) for trace in traces]

    groups = {
        words(emotion): [own for m in range(len(found.method)) for own in panel(e, m)]
        for e, emotion in enumerate(found.emotion)
    }
    choose(figure, "Emotion", groups)
    _sizes(figure, found)
    title = f"What the k {found.kind}s ranked first do to the readouts"
    return layout(figure, title, y="effect (length)", height=300 * len(found.method))


def reply_curves(found: ReplyValidation) -> go.Figure:
    """Judged expression by number of components, one panel per change.

    Random sets are grey, the components ranked last dotted; bars are 95% intervals (Wilson).
    """
    figure: Any = panels([_TITLES[method] for method in found.method], 0.12)
    for m in range(len(found.method)):
        for o, order in enumerate(found.order):
            top = order == "top"
            for e, emotion in enumerate(found.emotion):
                y = found.judged[e, m, o]
                shade = BASELINE if order == "random" else colour(emotion)
                reach = bars(y, found.low[e, m, o], found.high[e, m, o], shade, thickness=1)
                name = _GROUPS.get(order, "ranked first")
                trace = line(
                    emotion,
                    found.size,
                    y,
                    f"{words(emotion)}, {name}, k = %{{x}}<br>%{{y:.1f}} %",
                    shade=shade,
                    dash=None if top else "dot" if order == "bottom" else "solid",
                    width=2 if top else 1,
                    size=7 if top else 4,
                    name=words(emotion) if top else name,
                    error_y={**reach, "visible": top},
                    showlegend=m == 0 and (top or e == 0),
                )
                figure.add_trace(trace, row=m + 1, col=1)
    _sizes(figure, found)
    figure.update_yaxes(range=[-4, 104])
    title = f"Replies that express the emotion, by the {found.kind}s ablated or added to"
    return layout(figure, title, y="replies that match (%)", height=640)


def _sizes(figure: go.Figure, found: Validation | ReplyValidation) -> None:
    # Few of the sizes are named, or names would lie on each other on a phone.
    shown = found.size[:: max(1, len(found.size) // 5)]
    figure.update_xaxes(type="log", tickvals=list(shown), ticktext=[f"{k:,}" for k in shown])
    figure.update_xaxes(title_text=f"{found.kind}s (k)", row=len(found.method), col=1)

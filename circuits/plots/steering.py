"""What steering reaches, what it costs, and what a judge makes of replies."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final, Literal, NamedTuple

import plotly.graph_objects as go

from circuits.errors import DataError
from circuits.judges.replies import JudgeConfusion, wilson
from circuits.names import NEUTRAL, VALENCES
from circuits.plots.style import (
    BASELINE,
    band,
    bars,
    chart,
    colour,
    cue,
    details,
    figure_of,
    heat,
    lighter,
    line,
    short,
    words,
)
from circuits.steering.evaluate import Comparison
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
    "validation_curves",
]


class Method(NamedTuple):
    """How a method is named and drawn."""

    word: str
    shade: str
    symbol: str


METHODS: Final[Mapping[str, Method]] = {
    "none": Method("unsteered", "#6b7280", "circle-open"),
    "prompt": Method("prompting", "#1d4f91", "square"),
    "steer": Method("steering", "#c2570c", "triangle-up"),
    "steer_layers": Method("steering, several layers", "#c2570c", "triangle-up-open"),
    "steer_neutral": Method("steering from neutral", "#a21caf", "triangle-down"),
    "probe": Method("probe direction", "#a21caf", "triangle-down-open"),
    "neurons": Method("neuron induction", "#00818c", "diamond"),
    "circuit": Method("circuit", "#b21f12", "star"),
    "random_circuit": Method("random, same layers (baseline)", BASELINE, "x"),
    "random_anywhere": Method("random, any layer (baseline)", BASELINE, "cross"),
}
METHOD_WORDS: Final[Mapping[str, str]] = {name: own.word for name, own in METHODS.items()}
"""What each method is called where people read it."""

_VALENCE_LOOKS: Final = {
    "positive": ("#e3a018", "/"),
    "neutral": ("#2a9d8f", ""),
    "negative": ("#5b68c8", "x"),
}


@figure_of.register
def _(found: Comparison) -> go.Figure:
    return accuracy_bars(found.to_json())


def accuracy_bars(
    accuracy: Mapping[str, Any], by: Literal["emotion", "valence"] = "emotion"
) -> go.Figure:
    """Accuracy of every method overall and by emotion, with Wilson's 95% intervals.

    Args:
        accuracy: ``methods`` and ``baselines``, as the comparison of methods leaves them.
        by: Bars of emotions beside those of all replies, or of the valences of events.

    Raises:
        DataError: there is no method.
    """
    names = _names(accuracy, f"by_{by}")
    if by == "valence":
        looks = {f"{name} event": (name, *_VALENCE_LOOKS[name]) for name in names}
    else:
        looks = {name: (name, colour(name), cue(name, "hatch")) for name in names}
        looks = {"overall": ("overall", "#5b6472", ""), **looks}
    bars_of, ticks = [], list[str]()
    for label, (name, shade, hatch) in looks.items():
        # All methods answer every context in every emotion, so a group has n / parts replies.
        parts = 1 if label == "overall" else len(names)
        rows = [
            (words(METHOD_WORDS.get(method, method)), share, round(own["n"] / parts))
            for method, own in _methods(accuracy).items()
            if (share := {**own[f"by_{by}"], "overall": own["overall"]}.get(name)) is not None
        ]
        bounds = [wilson(round(share * n / 100), n) for _, share, n in rows]
        low, high, shares = [a for a, _ in bounds], [b for _, b in bounds], [y for _, y, _ in rows]
        pattern = {"fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.55, "size": 6}
        reach = [f"{under:.0f}–{over:.0f}" for under, over in bounds]
        bar = go.Bar(
            x=[method for method, _, _ in rows],
            y=shares,
            customdata=[[own, f"{n:,}"] for own, (_, _, n) in zip(reach, rows, strict=True)],
            error_y=bars(shares, low, high, BASELINE),
            name=words(label),
            marker={"color": shade, "pattern": {**pattern, "solidity": 0.25, "shape": hatch}},
            hovertemplate=f"{words(label)}, %{{x}}<br>%{{y:.1f}} % "
            "(95% interval %{customdata[0]})<br>%{customdata[1]} replies<extra></extra>",
        )
        bars_of.append(bar)
        ticks += [method for method, _, _ in rows if method not in ticks]
    # One word per line, so that names stay level on a phone.
    axis: dict[str, Any] = {
        "tickvals": ticks,
        "ticktext": [own.replace(" ", "<br>") for own in ticks],
    }
    axis |= {"tickangle": 0, "tickfont_size": 9 if len(ticks) > 4 else 12}
    what = "method" if by == "emotion" else "valence of the event"
    return chart(
        bars_of,
        f"How often replies express the target emotion, by {what}",
        "method",
        "replies that match (%)",
        xaxis=axis,
        yaxis={"range": [0, 105]},
        barmode="group",
        bargap=0.2,
        height=480,
    )


def _methods(accuracy: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = {**accuracy.get("methods", {}), **accuracy.get("baselines", {})}
    if not found:
        raise DataError("no method to draw; expected an entry under 'methods'")
    return found


def _names(accuracy: Mapping[str, Any], by: str) -> list[str]:
    """Emotions in their order, or valences in the usual one."""
    known = dict.fromkeys(name for own in _methods(accuracy).values() for name in own.get(by, {}))
    return [v for v in VALENCES if v in known] if by.endswith("valence") else list(known)


def side_effects_map(found: Mapping[str, Any]) -> go.Figure:
    """Judged expression by perplexity ratio, with 95% intervals; a menu picks emotion or valence.

    The good corner is the upper left. Intervals of the ratio are drawn for all replies together.

    Args:
        found: ``methods`` and ``baselines``, as the comparison of methods leaves them.

    Raises:
        DataError: there is no method.
    """
    known = {m: own for m, own in _methods(found).items() if own["perplexity_ratio"] is not None}

    def overall(method: str) -> go.Scatter:
        own = known[method]
        between = own.get("intervals", {})
        upright = between.get("overall") or (own.get("low"), own.get("high"))
        across = between.get("perplexity_ratio")
        return _point(method, own["perplexity_ratio"], own["overall"], across, upright)

    def part(method: str, kind: str, name: str, parts: int) -> go.Scatter:
        own = known[method]
        share, n = own[f"by_{kind}"].get(name), round(own["n"] / parts)
        upright = None if share is None else wilson(round(share * n / 100), n)
        return _point(method, own.get(f"ratio_by_{kind}", {}).get(name), share, None, upright)

    groups = {"all replies": [overall(method) for method in known]}
    for kind in ("emotion", "valence"):
        names = _names(found, f"ratio_by_{kind}")
        for name in names:
            label = name if kind == "emotion" else f"{name} event"
            groups[label] = [part(method, kind, name, len(names)) for method in known]
    return chart(
        groups,
        "Expression against its side effects, by method",
        "perplexity ratio (1: as prompted)",
        "replies that match (%)",
        menu="Replies",
        yaxis={"range": [-4, 106]},
        height=560,
    )


def _point(
    method: str,
    x: float | None,
    y: float | None,
    across: Sequence[float] | None,
    upright: Sequence[Any] | None,
) -> go.Scatter:
    own = METHODS.get(method, Method(method, colour(method), "circle"))
    edge = {"width": 2, "color": own.shade}
    return go.Scatter(
        x=[x],
        y=[y],
        name=words(own.word),
        mode="markers",
        marker={"color": own.shade, "symbol": own.symbol, "size": 12, "line": edge},
        hovertemplate=f"{words(own.word)}<br>%{{y:.2f}} % at a ratio of %{{x:.3f}}<extra></extra>",
        **{
            side: bars([value], [bounds[0]], [bounds[1]], own.shade, width=3)
            for side, value, bounds in (("error_x", x, across), ("error_y", y, upright))
            if bounds is not None and None not in (value, *bounds)
        },
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
    traces = [band(at, swept["low"], swept["high"], lighter(shade, 0.2))]
    for emotion, shares in swept["by_emotion"].items():
        hover = f"{words(emotion)}, strength %{{x}}: %{{y:.1f}} %"
        traces.append(line(emotion, at, shares, hover, width=1, size=0))
    hover = "strength %{x}: %{y:.1f} %<br>perplexity ratio %{customdata}"
    look: Any = {"shade": shade, "dash": "solid", "width": 3}
    look |= {"customdata": [short(ratio) for ratio in swept["perplexity_ratio"]]}
    traces.append(line("all emotions", at, swept["overall"], hover, **look))
    x, y = "strength (1: the model's own difference)", "replies that match (%)"
    return chart(traces, "Strength of the circuit", x, y, yaxis={"range": [-4, 106]}, height=460)


@figure_of.register
def confusion_map(found: JudgeConfusion) -> go.Figure:
    """Asked for by judged emotion, in percent of the replies; the lowest row asked for nothing."""
    cells = heat(
        found.share,
        [words(emotion) for emotion in found.emotion],
        [words("no emotion" if label == NEUTRAL else label) for label in found.label],
        "% of the replies",
        "asked for %{y}, judged %{x}: %{z:.0f} % (95% interval %{customdata[0]} to "
        "%{customdata[1]}, %{customdata[2]} replies)",
        limit=100.0,
        signed=False,
        customdata=details(found.low, found.high, found.n[:, None].expand_as(found.low)),
        texttemplate="%{z:.0f}",
    )
    look: Any = {"xaxis": {"showgrid": False, "tickangle": -45}}
    look |= {"yaxis": {"autorange": "reversed", "showgrid": False}}
    look |= {"height": 220 + 34 * len(found.label)}
    title = "What the judge finds in the replies"
    return chart([cells], title, "judged emotion", "emotion asked for", **look)


_TITLES: Final = {
    "zero": "ablated: zero",
    "neutral mean": "ablated: mean of neutral prompts",
    "emotion mean": "ablated: mean over the emotions",
    "add": "added in neutral prompts",
}
_ORDERS: Final = {
    "top": "ranked first",
    "bottom": "ranked last",
    "single": "rank k alone",
    "random": "random, same layers (baseline)",
}
_DASHES: Final = {"top": "solid", "bottom": "dot", "single": "dash"}


@figure_of.register
def validation_curves(found: Validation) -> go.Figure:
    """Effect on the readout by number of components, a panel per change; a menu picks the emotion.

    The components ranked first have a band (95% over contexts), as have random sets (grey, 95% of
    them). Thin lines are the readouts of the other emotions under the components ranked first.
    """

    def panel(e: int, emotion: str, m: int) -> list[go.Scatter]:
        x, own, shade = found.size, found.other_emotion.index(emotion), colour(emotion)
        at: Any = {"panel": m + 1, "showlegend": m == 0}
        under, over = found.random_baseline_low[e, m], found.random_baseline_high[e, m]
        low, high = found.low[e, m, ..., own], found.high[e, m, ..., own]
        traces = [
            band(x, under[:, own], over[:, own], name=_ORDERS["random"], **at),
            band(x, low[0], high[0], lighter(shade, 0.25), **{**at, "showlegend": False}),
        ]
        for o, order in enumerate(found.order):
            name, top = f"{words(emotion)}, {_ORDERS[order]}", order == "top"
            hover = "k = %{x}<br>%{y:.3g} (95%: %{customdata[0]} to %{customdata[1]})"
            look = {"dash": _DASHES[order], "width": 2.5 if top else 1.5, "size": 7 if top else 5}
            look |= {"name": name, "customdata": details(low[o], high[o]), **at}
            effect = found.effect[e, m, o, :, own]
            traces.append(line(emotion, x, effect, f"{name}, {hover}", **look))
        for f, other in enumerate(found.other_emotion):
            if f != own:
                name = f"readout of {words(other)}"
                look = {"dash": "solid", "width": 1, "size": 0, "name": name, **at}
                hover = f"{name}, k = %{{x}}<br>%{{y:.3g}}"
                traces.append(line(other, x, found.effect[e, m, 0, :, f], hover, **look))
        return traces

    return chart(
        {
            emotion: [own for m in range(len(found.method)) for own in panel(e, emotion, m)]
            for e, emotion in enumerate(found.emotion)
        },
        f"What the k {found.kind}s ranked first do to the readouts",
        f"{found.kind}s (k)",
        "effect (length)",
        menu="Emotion",
        panels=[_TITLES[method] for method in found.method],
        xaxis=_sizes(found),
        height=300 * len(found.method),
    )


@figure_of.register
def reply_curves(found: ReplyValidation) -> go.Figure:
    """Judged expression by number of components, one panel per change.

    Random sets are grey, the components ranked last dotted; bars are 95% intervals (Wilson).
    """
    traces = []
    for m, (o, order), (e, emotion) in product(
        range(len(found.method)), enumerate(found.order), enumerate(found.emotion)
    ):
        top, y, name = order == "top", found.judged[e, m, o], _ORDERS[order]
        shade = BASELINE if order == "random" else colour(emotion)
        reach = bars(y, found.low[e, m, o], found.high[e, m, o], shade, thickness=1, visible=top)
        dash = cue(emotion, "dash") if top else "dot" if order == "bottom" else "solid"
        look: Any = {
            "shade": shade,
            "dash": dash,
            "width": 2 if top else 1,
            "size": 7 if top else 4,
        }
        look |= {"panel": m + 1, "showlegend": m == 0 and (top or e == 0), "error_y": reach}
        hover = f"{words(emotion)}, {name}, k = %{{x}}<br>%{{y:.1f}} %"
        traces.append(
            line(emotion, found.size, y, hover, name=words(emotion) if top else name, **look)
        )
    return chart(
        traces,
        f"Replies that express the emotion, by the {found.kind}s ablated or added to",
        f"{found.kind}s (k)",
        "replies that match (%)",
        panels=[_TITLES[method] for method in found.method],
        xaxis=_sizes(found),
        yaxis={"range": [-4, 104]},
        height=640,
    )


def _sizes(found: Validation | ReplyValidation) -> dict[str, Any]:
    # Few of the sizes are named, or names would lie on each other on a phone.
    shown = found.size[:: max(1, len(found.size) // 5)]
    return {"type": "log", "tickvals": list(shown), "ticktext": [f"{k:,}" for k in shown]}

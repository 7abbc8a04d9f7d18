"""Expression accuracy: how often each method reaches the asked emotion."""

from collections.abc import Mapping
from typing import Any, Final

import plotly.graph_objects as go

from circuits.errors import DataError
from circuits.measure.expression import wilson
from circuits.names import VALENCES
from circuits.plot.style import CONTROL, colour, cue, layout, traces, words

__all__ = ["METHOD_WORDS", "accuracy_bars", "valence_bars"]

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
    "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.55, "size": 6, "solidity": 0.25,
}  # fmt: skip
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

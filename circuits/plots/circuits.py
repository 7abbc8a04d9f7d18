"""Circuits as drawings, and their scores.

The residual stream runs from left to right. Attention sublayers lie above it with their heads
stacked above them, MLP sublayers below with their neurons stacked below. Size says how large an
effect is; a filled marker pushes towards the emotion, an open one away from it.

Paths between components are lines. The width says how large a path's weight is (the patched one
where there is one), the colour its sign, the dashes the input that it enters. Paths whose effect
is not shown are left to the legend.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import plotly.graph_objects as go
import torch

from circuits.circuit.circuit import Circuit, CircuitScores, Edge, EdgeKind, Node
from circuits.names import component
from circuits.plots.style import (
    BASELINE,
    GRID,
    SIGN_COLOURS,
    band,
    bars,
    choose,
    colour,
    layout,
    lighter,
    line,
    short,
    words,
)

__all__ = ["circuit_graph", "faithfulness_curve", "strongest"]

_DASHES: Final = {"q": "solid", "k": "dash", "v": "dot", "mlp": "dashdot", "readout": "longdash"}
_WIDTHS: Final = (0.75, 1.75, 3.25, 5.0)
"""One line has one width, so widths come in steps; each holds a quarter of the range."""

_Places = Mapping[str, tuple[float, float]]


def _path_lines(edges: Sequence[Edge], places: _Places) -> list[go.Scatter]:
    """Lines and hover points of paths, both of whose ends have a place."""
    largest = max((abs(_weight(edge)) for edge in edges), default=0.0) or 1.0

    def group(edge: Edge) -> tuple[str, str, bool]:
        return edge.via or "", "towards" if _weight(edge) >= 0 else "away", edge.causal is not False

    def step(edge: Edge) -> int:
        return min(len(_WIDTHS) - 1, int(abs(_weight(edge)) / largest * len(_WIDTHS)))

    found: list[go.Scatter] = []
    for (via, sign, shown), grouped in groupby(sorted(edges, key=group), group):
        own, shade = list(grouped), SIGN_COLOURS[sign]
        name = f"path into {via} ({sign}{'' if shown else ', not shown to be causal'})"
        common = {"name": name, "legendgroup": name, "visible": True if shown else "legendonly"}
        steps = groupby(sorted(own, key=step, reverse=True), step)
        for number, (at, alike) in enumerate(steps):
            look = {"color": shade, "dash": _DASHES[via], "width": _WIDTHS[at]}
            found.append(_line(alike, places, line=look, showlegend=number == 0, **common))
        found.append(_points(own, places, shade, showlegend=False, **common))
    return found


def _weight(edge: Edge) -> float:
    return (edge.weight if edge.exact is None else edge.exact) or 0.0


def _points(edges: Sequence[Edge], places: _Places, shade: str, **look: Any) -> go.Scatter:
    """A small point in the middle of every path, which says what it carries."""
    ends = [(places[edge.source], places[edge.target]) for edge in edges]
    return go.Scatter(
        x=[round((start[0] + end[0]) / 2, 3) for start, end in ends],
        y=[round((start[1] + end[1]) / 2, 3) for start, end in ends],
        mode="markers",
        marker={"size": 4, "color": shade},
        customdata=[_hover(edge) for edge in edges],
        hovertemplate="%{customdata}<extra></extra>",
        **look,
    )


def _hover(edge: Edge) -> str:
    lines = [f"<b>{edge}</b>", f"attributed {short(edge.weight)} ± {short(edge.stderr)}"]
    if edge.exact is not None:
        lines.append(f"patched {short(edge.exact)} ± {short(edge.exact_stderr)}")
    return "<br>".join([*lines, *_baseline(edge.random_baseline, edge.causal)])


def _baseline(value: float | None, exceeded: bool | None) -> list[str]:
    verdict = {True: ", exceeded", False: ", not exceeded", None: ""}[exceeded]
    return [] if value is None else [f"random baseline {short(value)}{verdict}"]


_OFFSET: Final = {"attn": 0.25, "mlp": 0.75}
"""Where in its layer a sublayer writes."""

_SIDE: Final = {"attn": 1, "mlp": -1}
_WIDTH: Final = 0.9
"""Width of a stack, in layers."""
_KINDS: Final = {
    "head": ("circle", "heads"),
    "neuron": ("diamond", "neurons"),
    "sublayer": ("square", "sublayers"),
}
_EDGE_WORDS: Final[Mapping[EdgeKind, str]] = {
    "residual": "residual stream",
    "part": "writes through its sublayer",
    "direct": "direct effect on the readout",
}


def circuit_graph(circuit: Circuit, most: int = 24) -> go.Figure:
    """The circuit of one emotion.

    Args:
        circuit: The circuit.
        most: Neurons drawn per layer, those with the largest |effect|; a label counts the rest.
    """
    drawn = _drawn(circuit, most)
    places = _places(drawn)
    figure = go.Figure()
    for kind in ("direct", "part", "residual"):
        edges = [e for e in circuit.edges if e.kind == kind]
        figure.add_traces(_edges(kind, [e for e in edges if e.source in places], places))
    drawn_paths = [e for e in circuit.paths if e.source in places and e.target in places]
    figure.add_traces(_path_lines(drawn_paths, places))
    for kind in _KINDS:
        figure.add_traces(_nodes(kind, [n for n in drawn if n.kind == kind], places))
    figure.add_trace(_ends([n for n in drawn if n.kind in ("embed", "readout")], places))
    _label_rest(figure, circuit, drawn, places)
    return _finish(figure, circuit, places)


def strongest(nodes: Sequence[Node], count: int) -> list[Node]:
    """The ``count`` nodes with the largest |score|, largest first; unmeasured ones last."""
    return sorted(nodes, key=lambda node: -abs(node.score or 0.0))[:count]


def _drawn(circuit: Circuit, most: int) -> list[Node]:
    by_layer: dict[int | None, list[Node]] = {}
    for node in circuit.of_kind("neuron"):
        by_layer.setdefault(node.layer, []).append(node)
    kept = {node.id for own in by_layer.values() for node in strongest(own, most)}
    return [node for node in circuit.nodes if node.kind != "neuron" or node.id in kept]


def _places(nodes: Sequence[Node]) -> dict[str, tuple[float, float]]:
    places: dict[str, tuple[float, float]] = {}
    stacks: dict[tuple[int, str], list[Node]] = {}
    last = max((node.layer for node in nodes if node.layer is not None), default=0)
    for node in nodes:
        part = component(node.id)
        if part.layer is None or part.sublayer is None:
            places[node.id] = (-0.8 if node.kind == "embed" else last + 1.9, 0.0)
        elif node.kind == "sublayer":
            places[node.id] = (part.layer + _OFFSET[part.sublayer], 1.0 * _SIDE[part.sublayer])
        else:
            stacks.setdefault((part.layer, part.sublayer), []).append(node)
    # The more layers, the narrower each is on the page: then neurons take height, not width.
    columns = 6 if last < 8 else 4 if last < 16 else 3
    for (layer, sublayer), stack in stacks.items():
        places |= _stack(layer + _OFFSET[sublayer], _SIDE[sublayer], stack, columns)
    return places


def _stack(x: float, side: int, nodes: Sequence[Node], most: int) -> dict[str, tuple[float, float]]:
    # A grid with the strongest next to the sublayer.
    columns = max(1, min(most, math.ceil(math.sqrt(len(nodes) / 2))))
    places = {}
    for number, node in enumerate(strongest(nodes, len(nodes))):
        row, column = divmod(number, columns)
        left = min(columns, len(nodes) - row * columns)
        places[node.id] = (x + (column - (left - 1) / 2) * _WIDTH / most, side * (2.2 + row))
    return places


def _edges(kind: EdgeKind, edges: Sequence[Edge], places: _Places) -> list[go.Scatter]:
    stream = {"color": BASELINE, "width": 2.5}
    if kind == "residual":
        return [_line(edges, places, line=stream, name=_EDGE_WORDS[kind])] if edges else []
    # Every component has a direct edge: hundreds of lines, shown when asked for.
    visible = "legendonly" if kind == "direct" else True
    traces = []
    for sign, dash in (("towards", "solid"), ("away", "dot")):
        own = [e for e in edges if ((e.weight or 0.0) >= 0) == (sign == "towards")]
        look = {"color": lighter(SIGN_COLOURS[sign], 0.25), "width": 1, "dash": dash}
        name = f"{_EDGE_WORDS[kind]} ({sign})"
        if own:
            traces.append(_line(own, places, line=look, name=name, visible=visible))
    return traces


def _line(edges: Iterable[Edge], places: _Places, **look: Any) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for edge in edges:
        start, end = places[edge.source], places[edge.target]
        # The stream itself is straight: sublayers read from it and write to it.
        turns = [(start[0], 0.0), (end[0], 0.0)] if edge.kind == "residual" else []
        x += [*(round(at, 3) for at, _ in (start, *turns, end)), None]
        y += [*(round(height, 3) for _, height in (start, *turns, end)), None]
    return go.Scatter(x=x, y=y, mode="lines", hoverinfo="skip", **look)


def _nodes(kind: str, nodes: Sequence[Node], places: _Places) -> list[go.Scatter]:
    largest = max((abs(node.score or 0.0) for node in nodes), default=0.0) or 1.0
    symbol, name = _KINDS[kind]
    groups = {
        "towards": [n for n in nodes if (n.score or 0.0) > 0],
        "away": [n for n in nodes if (n.score or 0.0) < 0],
        "no effect": [n for n in nodes if not n.score],
    }

    def size(node: Node) -> float:
        return round(smallest + range_ * math.sqrt(abs(node.score or 0.0) / largest), 1)

    smallest, range_ = (5, 9) if kind == "sublayer" else (4, 8)
    return [
        go.Scatter(
            x=[round(places[n.id][0], 3) for n in own],
            y=[round(places[n.id][1], 3) for n in own],
            name=f"{name} ({sign})" if sign != "towards" else name,
            mode="markers",
            marker={
                "symbol": symbol if sign == "towards" else f"{symbol}-open",
                "color": SIGN_COLOURS.get(sign, BASELINE),
                "size": [size(n) for n in own],
                "line": {"width": 1, "color": SIGN_COLOURS.get(sign, BASELINE)},
            },
            customdata=[_hover_graph(n) for n in own],
            hovertemplate="%{customdata}<extra></extra>",
        )
        for sign, own in groups.items()
        if own
    ]


def _hover_graph(node: Node) -> str:
    what = "importance" if node.kind == "sublayer" else "effect"
    lines = [f"<b>{node.id}</b>", f"{what} {short(node.score)}"]
    if node.interval is not None:
        lines[1] += f" (95%: {short(node.interval[0])} to {short(node.interval[1])})"
    lines += _baseline(node.random_baseline, node.above_baseline)
    if node.direct is not None:
        lines.append(f"direct effect on the readout {short(node.direct)}")
    return "<br>".join(lines)


def _ends(nodes: Sequence[Node], places: _Places) -> go.Scatter:
    return go.Scatter(
        x=[places[n.id][0] for n in nodes],
        y=[places[n.id][1] for n in nodes],
        text=[n.id for n in nodes],
        name="embedding and readout",
        mode="markers+text",
        textposition="bottom center",
        cliponaxis=False,
        marker={"symbol": "hexagon", "size": 15, "color": BASELINE},
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _label_rest(
    figure: go.Figure, circuit: Circuit, drawn: Sequence[Node], places: _Places
) -> None:
    kept = {node.id for node in drawn}
    neurons = circuit.of_kind("neuron")
    left = Counter(n.layer for n in neurons if n.id not in kept and n.layer is not None)
    if not left:
        return
    lowest = {layer: min(places[n.id][1] for n in drawn if n.layer == layer) for layer in left}
    figure.add_trace(
        go.Scatter(
            x=[layer + _OFFSET["mlp"] for layer in left],
            y=[lowest[layer] - 1 for layer in left],
            text=[f"+{count:,}" for count in left.values()],
            mode="text",
            textfont={"size": 9},
            name="neurons not drawn",
            hovertemplate="%{text} weaker neurons of this layer are not drawn<extra></extra>",
            showlegend=False,
        )
    )


def _finish(figure: go.Figure, circuit: Circuit, places: _Places) -> go.Figure:
    low, high = min(y for _, y in places.values()), max(y for _, y in places.values())
    layers = sorted({n.layer for n in circuit.nodes if n.layer is not None})
    step = max(1, math.ceil(len(layers) / 14))
    figure.update_xaxes(
        tickvals=[layer + 0.5 for layer in layers[::step]],
        ticktext=[str(layer) for layer in layers[::step]],
        range=[-1.6, max(layers, default=0) + 2.7],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        tickvals=[-2.2, -1, 0, 1, 2.2],
        ticktext=["neurons", "MLP", "stream", "attention", "heads"],
        gridcolor=GRID,
        zeroline=False,
        range=[min(low, -2.2) - 1.8, max(high, 2.2) + 1],
    )
    heads, neurons = len(circuit.heads), len(circuit.neurons)
    # The kinds of paths lengthen the legend, which must not take the drawing's height.
    found: Any = figure
    named = sum(trace.legendgroup is not None and bool(trace.showlegend) for trace in found.data)
    return layout(
        figure,
        f"Circuit of {words(circuit.emotion)}: {heads:,} heads, {neurons:,} neurons",
        x="layer (position in the residual stream)",
        y="sublayers and their components",
        height=round(max(460, min(900, 330 + 17 * (high - low)))) + 24 * named,
    )


def faithfulness_curve(scores: Mapping[str, CircuitScores]) -> go.Figure:
    """Faithfulness by share of the components, sizes on a log axis; a menu picks the emotion.

    The star is the circuit itself, at its own size.
    """

    def curve(emotion: str, found: CircuitScores) -> list[go.Scatter]:
        own, name = found.scores["faithfulness"], words(emotion)
        low, high = torch.tensor(found.curve_low), torch.tensor(found.curve_high)
        grey = lighter(BASELINE, 0.3)
        title = "random rankings (baseline)"
        random = band(found.sizes, low, high, grey, name=title, showlegend=True)
        hover = "%{x:.1%} of the components: %{y:.3f}"
        star = line(
            emotion,
            [found.size],
            [own.value],
            f"the circuit of {name}<br>{hover}",
            mode="markers",
            name=f"the circuit of {name}",
            marker={"symbol": "star", "size": 13, "color": colour(emotion)},
            error_y=bars([own.value], [own.low], [own.high], colour(emotion)),
        )
        return [random, line(emotion, found.sizes, found.curve, f"{name}<br>{hover}"), star]

    figure = go.Figure()
    choose(figure, "Emotion", {words(e): curve(e, found) for e, found in scores.items()})
    # Every decade has one name: more would lie on each other on a phone.
    figure.update_xaxes(
        type="log", dtick=1, title_text="share of heads and neurons", tickformat=".1%"
    )
    title = "How much of the emotion a circuit of each size carries"
    return layout(figure, title, y="faithfulness", height=520)

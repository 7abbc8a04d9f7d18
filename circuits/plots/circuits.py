"""Circuits as drawings, and their scores.

The residual stream runs from left to right. Attention sublayers lie above it with their heads
stacked above them, MLP sublayers below with their neurons stacked below. Size says how large an
effect is; a filled marker pushes towards the emotion, an open one away from it.

Paths between components are lines. The width says how large a path's weight is (the patched one
where there is one), the colour its sign, the dashes the input that it enters. Paths whose effect
is not shown are left to the legend.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import plotly.graph_objects as go

from circuits.circuit.circuit import Circuit, CircuitScores, Edge, Node
from circuits.names import component
from circuits.plots.style import (
    BASELINE,
    SIGN_COLOURS,
    band,
    bars,
    chart,
    colour,
    figure_of,
    lighter,
    line,
    short,
    words,
)

__all__ = ["circuit_graph", "faithfulness_curve", "strongest"]

_DASHES: Final = {"q": "solid", "k": "dash", "v": "dot", "mlp": "dashdot", "readout": "longdash"}
_WIDTHS: Final = (0.75, 1.75, 3.25, 5.0)
"""One line has one width, so widths come in steps; each holds a quarter of the range."""
_OFFSET: Final = {"attn": 0.25, "mlp": 0.75}
"""Where in its layer a sublayer writes."""
_SIDE: Final = {"attn": 1, "mlp": -1}
_KINDS: Final = {
    "head": ("circle", "heads", 4, 8),
    "neuron": ("diamond", "neurons", 4, 8),
    "sublayer": ("square", "sublayers", 5, 9),
}
"""Kind -> marker, name, smallest size and how much is added for the largest effect."""
_EDGE_WORDS: Final = {
    "direct": "direct effect on the readout",
    "part": "writes through its sublayer",
    "residual": "residual stream",
}
_Places = Mapping[str, tuple[float, float]]


@figure_of.register
def circuit_graph(circuit: Circuit, most: int = 24) -> go.Figure:
    """The circuit of one emotion.

    Args:
        circuit: The circuit.
        most: Neurons drawn per layer, those with the largest |effect|; a label counts the rest.
    """
    by_layer = defaultdict(list)
    for node in circuit.of_kind("neuron"):
        by_layer[node.layer].append(node)
    left_out = {node.id for own in by_layer.values() for node in strongest(own, len(own))[most:]}
    drawn = [node for node in circuit.nodes if node.id not in left_out]
    places = _places(drawn)
    edges = [e for e in circuit.edges if e.source in places and e.target in places]
    paths = _path_lines([e for e in edges if e.kind == "path"], places)
    ends = [node for node in drawn if node.kind in ("embed", "readout")]
    traces = [
        *(own for kind in _EDGE_WORDS for own in _edges(kind, edges, places)),
        *paths,
        *(own for kind in _KINDS for own in _nodes(kind, drawn, places)),
        go.Scatter(
            x=[places[node.id][0] for node in ends],
            y=[places[node.id][1] for node in ends],
            text=[node.id for node in ends],
            mode="markers+text",
            textposition="bottom center",
            cliponaxis=False,
            marker={"symbol": "hexagon", "size": 15, "color": BASELINE},
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        ),
    ]
    rest = Counter(component(name).layer or 0 for name in left_out)
    if rest:
        lowest = {n: min(places[node.id][1] for node in drawn if node.layer == n) for n in rest}
        traces.append(
            go.Scatter(
                x=[layer + _OFFSET["mlp"] for layer in rest],
                y=[lowest[layer] - 1 for layer in rest],
                text=[f"+{count:,}" for count in rest.values()],
                mode="text",
                textfont={"size": 9},
                name="neurons not drawn",
                hovertemplate="%{text} weaker neurons of this layer are not drawn<extra></extra>",
                showlegend=False,
            )
        )
    low, high = min(y for _, y in places.values()), max(y for _, y in places.values())
    layers = sorted({node.layer for node in circuit.nodes if node.layer is not None})
    ticks = layers[:: max(1, math.ceil(len(layers) / 14))]
    # The kinds of paths lengthen the legend, which must not take the drawing's height.
    named = sum(trace.showlegend is True for trace in paths)
    return chart(
        traces,
        f"Circuit of {words(circuit.emotion)}: {len(circuit.heads):,} heads, "
        f"{len(circuit.neurons):,} neurons",
        "layer (position in the residual stream)",
        "sublayers and their components",
        xaxis={
            "tickvals": [layer + 0.5 for layer in ticks],
            "ticktext": [str(layer) for layer in ticks],
            "range": [-1.6, max(layers, default=0) + 2.7],
            "showgrid": False,
        },
        yaxis={
            "tickvals": [-2.2, -1, 0, 1, 2.2],
            "ticktext": ["neurons", "MLP", "stream", "attention", "heads"],
            "zeroline": False,
            "range": [min(low, -2.2) - 1.8, max(high, 2.2) + 1],
        },
        height=round(max(460, min(900, 330 + 17 * (high - low)))) + 24 * named,
    )


def strongest(nodes: Sequence[Node], count: int) -> list[Node]:
    """The ``count`` nodes with the largest |score|, largest first; unmeasured ones last."""
    return sorted(nodes, key=lambda node: -abs(node.score or 0.0))[:count]


def _places(nodes: Sequence[Node]) -> dict[str, tuple[float, float]]:
    """Sublayers beside the stream, and outwards from each a grid with its strongest parts first."""
    places, stacks = {}, defaultdict(list)
    last = max((node.layer for node in nodes if node.layer is not None), default=0)
    for node in nodes:
        part = component(node.id)
        if part.layer is None or part.sublayer is None:
            places[node.id] = (-0.8 if node.kind == "embed" else last + 1.9, 0.0)
        elif node.kind == "sublayer":
            places[node.id] = (part.layer + _OFFSET[part.sublayer], 1.0 * _SIDE[part.sublayer])
        else:
            stacks[part.layer, part.sublayer].append(node)
    # The more layers, the narrower each is on the page: then neurons take height, not width.
    most = 6 if last < 8 else 4 if last < 16 else 3
    for (layer, sublayer), stack in stacks.items():
        columns = max(1, min(most, math.ceil(math.sqrt(len(stack) / 2))))
        for number, node in enumerate(strongest(stack, len(stack))):
            row, column = divmod(number, columns)
            middle = (min(columns, len(stack) - row * columns) - 1) / 2
            x = layer + _OFFSET[sublayer] + (column - middle) * 0.9 / most
            places[node.id] = (x, _SIDE[sublayer] * (2.2 + row))
    return places


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


def _edges(kind: str, edges: Sequence[Edge], places: _Places) -> list[go.Scatter]:
    found, name = [], _EDGE_WORDS[kind]
    edges = [edge for edge in edges if edge.kind == kind]
    if kind == "residual":
        stream = {"color": BASELINE, "width": 2.5}
        return [_line(edges, places, line=stream, name=name)] if edges else []
    for sign, dash in (("towards", "solid"), ("away", "dot")):
        own = [e for e in edges if ((e.weight or 0.0) >= 0) == (sign == "towards")]
        look: Any = {"color": lighter(SIGN_COLOURS[sign], 0.25), "width": 1, "dash": dash}
        # Every component has a direct edge: hundreds of lines, shown when asked for.
        look = {"line": look, "visible": "legendonly" if kind == "direct" else True}
        if own:
            found.append(_line(own, places, name=f"{name} ({sign})", **look))
    return found


def _path_lines(edges: Sequence[Edge], places: _Places) -> list[go.Scatter]:
    """Lines, and a point in the middle of every path, which says what it carries."""

    def weight(edge: Edge) -> float:
        return (edge.weight if edge.exact is None else edge.exact) or 0.0

    def group(edge: Edge) -> tuple[str, str, bool]:
        return edge.via or "", "towards" if weight(edge) >= 0 else "away", edge.causal is not False

    def step(edge: Edge) -> int:
        return min(len(_WIDTHS) - 1, int(abs(weight(edge)) / largest * len(_WIDTHS)))

    largest = max((abs(weight(edge)) for edge in edges), default=0.0) or 1.0
    found: list[go.Scatter] = []
    for (via, sign, shown), grouped in groupby(sorted(edges, key=group), group):
        own, shade = sorted(grouped, key=step, reverse=True), SIGN_COLOURS[sign]
        name = f"path into {via} ({sign}{'' if shown else ', not shown to be causal'})"
        common: Any = {"name": name, "legendgroup": name}
        common |= {"visible": True if shown else "legendonly"}
        for number, (at, alike) in enumerate(groupby(own, step)):
            look = {"color": shade, "dash": _DASHES[via], "width": _WIDTHS[at]}
            found.append(_line(alike, places, line=look, showlegend=number == 0, **common))
        ends = [(places[edge.source], places[edge.target]) for edge in own]
        points = go.Scatter(
            x=[round((start[0] + end[0]) / 2, 3) for start, end in ends],
            y=[round((start[1] + end[1]) / 2, 3) for start, end in ends],
            mode="markers",
            marker={"size": 4, "color": shade},
            customdata=[_path_words(edge) for edge in own],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
            **common,
        )
        found.append(points)
    return found


def _path_words(edge: Edge) -> str:
    lines = [f"<b>{edge}</b>", f"attributed {short(edge.weight)} ± {short(edge.stderr)}"]
    if edge.exact is not None:
        lines.append(f"patched {short(edge.exact)} ± {short(edge.exact_stderr)}")
    return "<br>".join([*lines, *_baseline(edge.random_baseline, edge.causal)])


def _baseline(value: float | None, exceeded: bool | None) -> list[str]:
    verdict = {True: ", exceeded", False: ", not exceeded", None: ""}[exceeded]
    return [] if value is None else [f"random baseline {short(value)}{verdict}"]


def _nodes(kind: str, nodes: Sequence[Node], places: _Places) -> list[go.Scatter]:
    nodes, found = [node for node in nodes if node.kind == kind], []
    largest = max((abs(node.score or 0.0) for node in nodes), default=0.0) or 1.0
    symbol, name, smallest, more = _KINDS[kind]
    signs = {1: "towards", -1: "away", 0: "no effect"}
    for side, sign in signs.items():
        own = [n for n in nodes if (n.score or 0.0) * side > 0 or not (side or n.score)]
        shade = SIGN_COLOURS.get(sign, BASELINE)
        sizes = [math.sqrt(abs(node.score or 0.0) / largest) for node in own]
        marker = {
            "symbol": symbol if side > 0 else f"{symbol}-open",
            "color": shade,
            "size": [round(smallest + more * size, 1) for size in sizes],
            "line": {"width": 1, "color": shade},
        }
        trace = go.Scatter(
            x=[round(places[node.id][0], 3) for node in own],
            y=[round(places[node.id][1], 3) for node in own],
            name=name if side > 0 else f"{name} ({sign})",
            mode="markers",
            marker=marker,
            customdata=[_node_words(node) for node in own],
            hovertemplate="%{customdata}<extra></extra>",
        )
        found += [trace] if own else []
    return found


def _node_words(node: Node) -> str:
    what = "importance" if node.kind == "sublayer" else "effect"
    lines = [f"<b>{node.id}</b>", f"{what} {short(node.score)}"]
    if node.interval is not None:
        lines[1] += f" (95%: {short(node.interval[0])} to {short(node.interval[1])})"
    lines += _baseline(node.random_baseline, node.above_baseline)
    if node.direct is not None:
        lines.append(f"direct effect on the readout {short(node.direct)}")
    return "<br>".join(lines)


def faithfulness_curve(scores: Mapping[str, CircuitScores]) -> go.Figure:
    """Faithfulness by share of the components, sizes on a log axis; a menu picks the emotion.

    The star is the circuit itself, at its own size.
    """

    def curve(emotion: str, found: CircuitScores) -> list[go.Scatter]:
        own, name = found.scores["faithfulness"], words(emotion)
        hover, circuit = "%{x:.1%} of the components: %{y:.3f}", f"the circuit of {name}"
        look: Any = {"mode": "markers", "name": circuit}
        look |= {"marker": {"symbol": "star", "size": 13, "color": colour(emotion)}}
        look |= {"error_y": bars([own.value], [own.low], [own.high], colour(emotion))}
        baseline = "random rankings (baseline)"
        return [
            band(found.sizes, found.curve_low, found.curve_high, name=baseline),
            line(emotion, found.sizes, found.curve, f"{name}<br>{hover}"),
            line(emotion, [found.size], [own.value], f"{circuit}<br>{hover}", **look),
        ]

    return chart(
        {emotion: curve(emotion, found) for emotion, found in scores.items()},
        "How much of the emotion a circuit of each size carries",
        "share of heads and neurons",
        "faithfulness",
        menu="Emotion",
        # Every decade has one name: more would lie on each other on a phone.
        xaxis={"type": "log", "dtick": 1, "tickformat": ".1%"},
        height=520,
    )

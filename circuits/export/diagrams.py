"""A circuit as a diagram in text: DOT for Graphviz, and Mermaid, which GitHub and notebooks draw.

One row per layer, the residual stream going up. The shape says the kind, the colour the sign of
the score (vermilion: towards the emotion, blue: away from it, grey: zero or not measured; told
apart by colour-blind readers, after Okabe and Ito 2008) and the width of the line its size,
relative to the largest of the same quantity. A dashed outline is a score that does not exceed
its random baseline. A path bears the input that it enters, with a question mark (in DOT an open
arrow too) where its effect is not shown.

Mermaid's viewers refuse more than 500 edges by default; draw larger circuits with Graphviz.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.export.node_link import plain_values
from circuits.export.tables import lost
from circuits.files import Loss

__all__ = ["diagram_losses", "dot", "mermaid"]

_TOWARDS, _AWAY, _NEITHER = "#D55E00", "#0072B2", "#888888"
# Kind -> shape in DOT, brackets of Mermaid.
_SHAPES = {
    "embed": ("invtrapezium", "[\\", "/]"),
    "sublayer": ("box", "[", "]"),
    "head": ("ellipse", "([", "])"),
    "neuron": ("hexagon", "{{", "}}"),
    "readout": ("trapezium", "[/", "\\]"),
}
# Kind -> line in DOT, arrow of Mermaid.
_LINES = {
    "residual": ("dotted", "-.->"),
    "part": ("solid", "-->"),
    "direct": ("dashed", "==>"),
    "path": ("solid", "-->"),
}
# Rows that are no layer -> their place in Graphviz.
_RANKS = {"embed": "source", "readout": "sink"}


def dot(circuit: Circuit) -> str:
    """The circuit in the DOT language of Graphviz.

    Raises:
        CircuitError: a value cannot be drawn, such as NaN; names the node.
    """
    plain_values(circuit)
    lines = _lines(circuit, 'color="{}", penwidth={:.2f}')
    text = [
        "digraph circuit {",
        f'  label="{_dot_escape(_title(circuit))}";',
        '  labelloc="t";',
        "  rankdir=BT;",
        '  node [fontname="sans-serif"];',
    ]
    for name, row in _rows(circuit):
        text += [f"  // {name}", f"  {{ rank={_RANKS.get(name, 'same')};"]
        for node in row:
            style = "dashed" if node.above_baseline is False else "solid"
            label = "\\n".join(_dot_escape(part) for part in _label(node, circuit))
            text.append(
                f'    "{node.id}" [label="{label}", shape={_SHAPES[node.kind][0]}, '
                f"style={style}, {lines[node]}];"
            )
        text.append("  }")
    for edge in circuit.edges:
        named = f', label="{_path_label(edge)}"' if edge.kind == "path" else ""
        arrow = ', arrowhead="empty"' if edge.causal is False else ""
        text.append(
            f'  "{edge.source}" -> "{edge.target}" '
            f"[style={_LINES[edge.kind][0]}, {lines[edge]}{named}{arrow}];"
        )
    return "\n".join([*text, "}"]) + "\n"


def mermaid(circuit: Circuit) -> str:
    """The circuit as a Mermaid flowchart.

    Raises:
        CircuitError: a value cannot be drawn, such as NaN; names the node.
    """
    plain_values(circuit)
    lines = _lines(circuit, "stroke:{},stroke-width:{:.2f}px")
    ids = {node.id: node.id.replace(".", "_") for node in circuit.nodes}
    # JSON's texts are YAML's, in which Mermaid's title is written.
    title = json.dumps(_title(circuit), ensure_ascii=False)
    text = ["---", f"title: {title}", "---", "flowchart BT"]
    for name, row in _rows(circuit):
        inner = []
        for node in row:
            label = "<br/>".join(_mermaid_escape(part) for part in _label(node, circuit))
            _, start, end = _SHAPES[node.kind]
            inner.append(f'  {ids[node.id]}{start}"{label}"{end}')
        if name not in _RANKS:
            subgraph = f'  subgraph {name.replace(" ", "_")}["{name}"]'
            inner = [subgraph, *(f"  {line}" for line in inner), "  end"]
        text += inner
    for edge in circuit.edges:
        entry = f"|{_path_label(edge)}|" if edge.kind == "path" else ""
        text.append(f"  {ids[edge.source]} {_LINES[edge.kind][1]}{entry} {ids[edge.target]}")
    for node in circuit.nodes:
        dashes = ",stroke-dasharray:4" if node.above_baseline is False else ""
        text.append(f"  style {ids[node.id]} {lines[node]}{dashes}")
    text += [f"  linkStyle {i} {lines[edge]}" for i, edge in enumerate(circuit.edges)]
    return "\n".join(text) + "\n"


def diagram_losses(circuit: Circuit) -> list[Loss]:
    """What the diagrams do not say; scores are rounded to three digits there."""
    return lost(
        circuit,
        "nodes.stderr nodes.random_baseline nodes.direct nodes.total edges.weight edges.stderr "
        "edges.random_baseline edges.exact edges.exact_stderr scores provenance",
    )


def _rows(circuit: Circuit) -> Iterator[tuple[str, Iterable[Node]]]:
    def height(node: Node) -> float:
        if node.layer is not None:
            return float(node.layer)
        return -1.0 if node.kind == "embed" else float("inf")

    def name(node: Node) -> str:
        return node.kind if node.layer is None else f"layer {node.layer}"

    return groupby(sorted(circuit.nodes, key=height), name)


def _title(circuit: Circuit) -> str:
    model = circuit.provenance.model.get("name")
    # A name may hold anything; a title is one line.
    named = " ".join(f" in {model}".split()) if model else ""
    return f"{circuit.emotion} {named}".strip()


def _label(node: Node, circuit: Circuit) -> list[str]:
    name = f"readout of {circuit.emotion}" if node.kind == "readout" else node.id
    return [name] if node.score is None else [name, f"{node.score:+.3g}"]


def _lines(circuit: Circuit, form: str) -> dict[Node | Edge, str]:
    """Colour and width of every node's and edge's line."""

    # Effects and importances, and kinds of edges, have different units and are not compared.
    def quantity(own: Node | Edge) -> str:
        return own.kind if isinstance(own, Edge) or own.kind == "sublayer" else "node"

    scores = {node: node.score for node in circuit.nodes} | {
        edge: edge.weight for edge in circuit.edges
    }
    largest: dict[str, float] = {}
    for own, score in scores.items():
        largest[quantity(own)] = max(largest.get(quantity(own), 0.0), abs(score or 0.0))
    return {
        own: form.format(
            _TOWARDS if score > 0 else _AWAY, 1 + 4 * (abs(score) / largest[quantity(own)])
        )
        if score
        else form.format(_NEITHER, 1.0)
        for own, score in scores.items()
    }


def _path_label(edge: Edge) -> str:
    """The input that a path enters; a question mark says that its effect is not shown."""
    return f"{edge.via}{'?' if edge.causal is False else ''}"


def _dot_escape(text: str) -> str:
    # Graphviz reads backslash sequences and HTML entities in every label.
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def _mermaid_escape(text: str) -> str:
    # Quotes, markup and the "#" of Mermaid's own entities, but also what its preprocessing
    # takes for a comment, a style or a directive.
    return re.sub(r"[!-*/:-@\[-^`{-~]", lambda found: f"#{ord(found[0])};", text)

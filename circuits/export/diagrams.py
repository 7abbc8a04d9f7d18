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
from collections.abc import Sequence
from dataclasses import dataclass

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.export.node_link import plain_values
from circuits.export.tables import fields_lost, whole_lost
from circuits.files import Loss

__all__ = ["diagram_losses", "dot", "mermaid"]

_TOWARDS, _AWAY, _NEITHER = "#D55E00", "#0072B2", "#888888"
_DOT_SHAPES = {
    "embed": "invtrapezium",
    "sublayer": "box",
    "head": "ellipse",
    "neuron": "hexagon",
    "readout": "trapezium",
}
_DOT_LINES = {"residual": "dotted", "part": "solid", "direct": "dashed", "path": "solid"}
_MERMAID_SHAPES = {
    "embed": ("[\\", "/]"),
    "sublayer": ("[", "]"),
    "head": ("([", "])"),
    "neuron": ("{{", "}}"),
    "readout": ("[/", "\\]"),
}
_MERMAID_ARROWS = {"residual": "-.->", "part": "-->", "direct": "==>", "path": "-->"}

_RANKS = {"embed": "source", "readout": "sink"}
"""Rows that are no layer -> their place in Graphviz."""


@dataclass(frozen=True)
class _Line:
    colour: str = _NEITHER
    width: float = 1.0


def dot(circuit: Circuit) -> str:
    """The circuit in the DOT language of Graphviz.

    Raises:
        CircuitError: a value cannot be drawn, such as NaN; names the node.
    """
    plain_values(circuit)
    lines = _node_lines(circuit)
    text = [
        "digraph circuit {",
        f'  label="{_dot_escape(_title(circuit))}";',
        '  labelloc="t";',
        "  rankdir=BT;",
        '  node [fontname="sans-serif"];',
    ]
    for name, row in _rows(circuit).items():
        text.append(f"  // {name}")
        text.append(f"  {{ rank={_RANKS.get(name, 'same')};")
        for node in row:
            style = "dashed" if node.above_baseline is False else "solid"
            label = "\\n".join(_dot_escape(part) for part in _label(node, circuit))
            text.append(
                f'    "{node.id}" [label="{label}", shape={_DOT_SHAPES[node.kind]}, '
                f"style={style}, {_dot_line(lines[node.id])}];"
            )
        text.append("  }")
    for edge, line in zip(circuit.edges, _edge_lines(circuit), strict=True):
        text.append(
            f'  "{edge.source}" -> "{edge.target}" '
            f"[style={_DOT_LINES[edge.kind]}, {_dot_line(line)}{_dot_path(edge)}];"
        )
    return "\n".join([*text, "}"]) + "\n"


def mermaid(circuit: Circuit) -> str:
    """The circuit as a Mermaid flowchart.

    Raises:
        CircuitError: a value cannot be drawn, such as NaN; names the node.
    """
    plain_values(circuit)
    lines = _node_lines(circuit)
    # JSON's texts are YAML's, in which Mermaid's title is written.
    title = json.dumps(_title(circuit), ensure_ascii=False)
    text = ["---", f"title: {title}", "---", "flowchart BT"]
    for name, row in _rows(circuit).items():
        inner = [f"  {_mermaid_node(node, circuit)}" for node in row]
        if name in _RANKS:
            text += inner
            continue
        text.append(f'  subgraph {name.replace(" ", "_")}["{name}"]')
        text += [f"  {line}" for line in inner]
        text.append("  end")
    for edge in circuit.edges:
        entry = f"|{_path_label(edge)}|" if edge.kind == "path" else ""
        arrow = f"{_MERMAID_ARROWS[edge.kind]}{entry}"
        text.append(f"  {_mermaid_id(edge.source)} {arrow} {_mermaid_id(edge.target)}")
    for node in circuit.nodes:
        dashes = ",stroke-dasharray:4" if node.above_baseline is False else ""
        text.append(f"  style {_mermaid_id(node.id)} {_mermaid_line(lines[node.id])}{dashes}")
    for number, line in enumerate(_edge_lines(circuit)):
        text.append(f"  linkStyle {number} {_mermaid_line(line)}")
    return "\n".join(text) + "\n"


def diagram_losses(circuit: Circuit) -> list[Loss]:
    """What the diagrams do not say; scores are rounded to three digits there."""
    return [
        *fields_lost(
            circuit,
            nodes=("stderr", "random_baseline", "direct", "total"),
            edges=("weight", "stderr", "random_baseline", "exact", "exact_stderr"),
        ),
        *whole_lost(circuit),
    ]


def _rows(circuit: Circuit) -> dict[str, list[Node]]:
    rows: dict[str, list[Node]] = {}
    for node in sorted(circuit.nodes, key=_height):
        name = node.kind if node.layer is None else f"layer {node.layer}"
        rows.setdefault(name, []).append(node)
    return rows


def _height(node: Node) -> float:
    if node.layer is not None:
        return float(node.layer)
    return -1.0 if node.kind == "embed" else float("inf")


def _title(circuit: Circuit) -> str:
    model = circuit.provenance.model.get("name")
    # A name may hold anything; a title is one line.
    named = " ".join(f" in {model}".split()) if model else ""
    return f"{circuit.emotion} {named}".strip()


def _label(node: Node, circuit: Circuit) -> list[str]:
    name = f"readout of {circuit.emotion}" if node.kind == "readout" else node.id
    return [name] if node.score is None else [name, f"{node.score:+.3g}"]


def _node_lines(circuit: Circuit) -> dict[str, _Line]:
    # Effects and importances have different units and are not compared with each other.
    sublayers = circuit.of_kind("sublayer")
    others = [node for node in circuit.nodes if node.kind != "sublayer"]
    return {
        node.id: line
        for group in (sublayers, others)
        for node, line in zip(group, _lines([node.score for node in group]), strict=True)
    }


def _edge_lines(circuit: Circuit) -> list[_Line]:
    found: dict[Edge, _Line] = {}
    for kind in _DOT_LINES:
        group = [edge for edge in circuit.edges if edge.kind == kind]
        found.update(zip(group, _lines([edge.weight for edge in group]), strict=True))
    return [found[edge] for edge in circuit.edges]


def _lines(scores: Sequence[float | None]) -> list[_Line]:
    largest = max((abs(score) for score in scores if score is not None), default=0.0)
    return [
        _Line(_TOWARDS if score > 0 else _AWAY, 1 + 4 * (abs(score) / largest))
        if score
        else _Line()
        for score in scores
    ]


def _dot_line(line: _Line) -> str:
    return f'color="{line.colour}", penwidth={line.width:.2f}'


def _dot_path(edge: Edge) -> str:
    if edge.kind != "path":
        return ""
    arrow = ', arrowhead="empty"' if edge.causal is False else ""
    return f', label="{_path_label(edge)}"{arrow}'


def _path_label(edge: Edge) -> str:
    """The input that a path enters; a question mark says that its effect is not shown."""
    return f"{edge.via}{'?' if edge.causal is False else ''}"


def _dot_escape(text: str) -> str:
    # Graphviz reads backslash sequences and HTML entities in every label.
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def _mermaid_line(line: _Line) -> str:
    return f"stroke:{line.colour},stroke-width:{line.width:.2f}px"


def _mermaid_node(node: Node, circuit: Circuit) -> str:
    start, end = _MERMAID_SHAPES[node.kind]
    label = "<br/>".join(_mermaid_escape(part) for part in _label(node, circuit))
    return f'{_mermaid_id(node.id)}{start}"{label}"{end}'


def _mermaid_id(id: str) -> str:
    return id.replace(".", "_")


def _mermaid_escape(text: str) -> str:
    # Quotes, markup and the "#" of Mermaid's own entities, but also what its preprocessing
    # takes for a comment, a style or a directive.
    return re.sub(r"[!-*/:-@\[-^`{-~]", lambda found: f"#{ord(found[0])};", text)

"""Are tables and diagrams of a circuit whole and well formed?"""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from io import StringIO
from typing import Final

from circuits.errors import DataError
from circuits.graph.circuit import EDGE_KINDS, NODE_KINDS, VIAS, Edge, Node

__all__ = ["check_csv", "check_dot", "check_mermaid"]

_TEXTS: Final = ("emotion", "id", "source", "target", "kind", "via", "causal")
_HEADERS: Final = {
    kind.__name__.lower(): ["emotion", *(field.name for field in fields(kind))]
    for kind in (Node, Edge)
}
_ALLOWED: Final = {
    ("node", "kind"): NODE_KINDS,
    ("edge", "kind"): tuple(EDGE_KINDS),
    ("edge", "via"): ("", *dict.fromkeys(via for own in VIAS.values() for via in own)),
    ("edge", "causal"): ("", "True", "False"),
}


def check_csv(text: str) -> None:
    """Check a table of nodes or of edges.

    Raises:
        DataError: what is wrong, and in which line.
    """
    try:
        rows = list(csv.reader(StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"not CSV ({error})") from error
    table = next((name for name, own in _HEADERS.items() if rows and rows[0] == own), None)
    if table is None:
        raise DataError(
            "line 1 is not the header of a table of nodes or edges: "
            + " or ".join(",".join(own) for own in _HEADERS.values())
        )
    seen: set[tuple[str, ...]] = set()
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise DataError(f"line {number} has {len(row)} cells; the header has {len(rows[0])}")
        for column, cell in zip(rows[0], row, strict=True):
            _check_cell(table, column, cell, number)
        named = dict(zip(rows[0], row, strict=True))
        name = tuple(named.get(key, "") for key in ("emotion", "id", "source", "target", "via"))
        if name in seen:
            raise DataError(f"line {number} names a {table} that another line names")
        seen.add(name)


def _check_cell(table: str, column: str, cell: str, line: int) -> None:
    allowed: Iterable[str] | None = _ALLOWED.get((table, column))
    if allowed is not None and cell not in allowed:
        raise DataError(f"line {line}, {column}: {cell!r} is none of {', '.join(allowed)}")
    if column in _TEXTS or not cell:
        return
    try:
        finite = math.isfinite(float(cell))
    except ValueError:
        finite = False
    if not finite:
        raise DataError(f"line {line}, {column}: {cell!r} is not a finite number")


_DOT: Final = re.compile(
    r'\s+|//[^\n]*|/\*.*?\*/|#[^\n]*|"(?:[^"\\]|\\.)*"|->|--|[{}\[\];,=:]|[^\s{}\[\];,=:"]+', re.S
)
_PAIRS: Final = {"}": "{", "]": "["}


def check_dot(text: str) -> None:
    """Check that a DOT file is one whole graph: texts and brackets closed, one kind of edge.

    Raises:
        DataError: what is wrong, and in which line.
    """
    start = re.match(r'\s*(?:strict\s+)?(graph|digraph)\b[^{"]*(?:"[^"]*"\s*)?\{', text, re.I)
    if start is None:
        raise DataError("line 1 begins no graph; DOT begins with graph or digraph")
    wrong = "--" if start[1].lower() == "digraph" else "->"
    open_: list[str] = []
    place, closed = 0, False
    while place < len(text):
        found = _DOT.match(text, place)
        line = text.count("\n", 0, place) + 1
        if found is None:
            raise DataError(f"line {line}: a text is not closed")
        word, place = found[0], found.end()
        if word.isspace() or word.startswith(("//", "/*")):
            continue
        if closed:
            raise DataError(f"line {line}: {word[:20]!r} stands behind the graph")
        if word == wrong:
            raise DataError(f"line {line}: {word} is no edge of a {start[1]}")
        if word in ("{", "["):
            open_.append(word)
        elif word in _PAIRS:
            if not open_ or open_.pop() != _PAIRS[word]:
                raise DataError(f"line {line}: {word} closes nothing")
            closed = not open_
    if not closed:
        raise DataError(f"the file ends before {open_[-1]!r} is closed")


_MERMAID_EDGE: Final = re.compile(r"(\w+) (?:-\.->|-->|==>)(?:\|[^|]*\|)? (\w+)")
_MERMAID_NODE: Final = re.compile(r'(\w+)(?:\[\\|\[/|\[|\(\[|\{\{)"[^"]*"(?:/\]|\\\]|\]|\]\)|\}\})')


def check_mermaid(text: str) -> None:
    """Check a Mermaid flowchart as this package writes it.

    Raises:
        DataError: what is wrong, and in which line.
    """
    lines = text.splitlines()
    first = lines.index("---", 1) + 1 if lines[:1] == ["---"] and "---" in lines[1:] else 0
    if not lines[first:] or not re.fullmatch(r"(flowchart|graph) (TB|TD|BT|LR|RL)", lines[first]):
        raise DataError(f"line {first + 1} is not 'flowchart BT' or another direction")
    nodes: set[str] = set()
    edges, depth = 0, 0
    for number, line in enumerate(lines[first + 1 :], start=first + 2):
        words = line.split()
        if words[:1] in (["subgraph"], ["end"]):
            depth += 1 if words[0] == "subgraph" else -1
        elif node := _MERMAID_NODE.fullmatch(line.strip()):
            nodes.add(node[1])
        elif edge := _MERMAID_EDGE.fullmatch(line.strip()):
            edges += 1
            _known(number, nodes, edge.groups())
        elif words[:1] == ["style"] and len(words) == 3:
            _known(number, nodes, [words[1]])
        elif words[:1] == ["linkStyle"] and len(words) == 3:
            if not words[1].isdigit() or int(words[1]) >= edges:
                raise DataError(f"line {number}: there is no link {words[1]}")
        elif words:
            raise DataError(f"line {number}: {line.strip()[:40]!r} is no node, edge or style")
        if depth < 0:
            raise DataError(f"line {number}: end closes no subgraph")
    if depth:
        raise DataError("the file ends before a subgraph is closed")


def _known(line: int, nodes: set[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in nodes:
            raise DataError(f"line {line}: {name!r} is no node of the chart")

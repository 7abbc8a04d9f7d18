"""Validation of exported files, of this package and of other tools.

JSON is held to its schema. GraphML and GEXF are read with networkx; beyond it, ids are unique,
every edge ends in nodes of the file, and numbers are finite. Files with a document type are
refused: their entities can fill any memory.
"""

import csv
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from circuits.circuit.circuit import EDGE_KINDS, NODE_KINDS, VIAS, Edge, Node
from circuits.errors import CircuitError, DataError
from circuits.export.eap_ig import check_eap_ig
from circuits.export.neuronpedia import check_neuronpedia
from circuits.export.node_link import circuit_from_json
from circuits.files import read_json, read_text

__all__ = ["check_file"]

_RULED_TEXTS: Final = ("emotion", "id", "source", "target", "kind", "via", "causal")
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


def _check_csv(text: str) -> None:
    """Check a table of nodes or of edges."""
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
        named = dict(zip(rows[0], row, strict=True))
        for column, cell in named.items():
            _check_cell(table, column, cell, number)
        name = tuple(named.get(key, "") for key in ("emotion", "id", "source", "target", "via"))
        if name in seen:
            raise DataError(f"line {number} names a {table} that another line names")
        seen.add(name)


def _check_cell(table: str, column: str, cell: str, line: int) -> None:
    allowed: Iterable[str] | None = _ALLOWED.get((table, column))
    if allowed is not None and cell not in allowed:
        raise DataError(f"line {line}, {column}: {cell!r} is none of {', '.join(allowed)}")
    if cell and column not in _RULED_TEXTS:
        with suppress(ValueError):
            if math.isfinite(float(cell)):
                return
        raise DataError(f"line {line}, {column}: {cell!r} is not a finite number")


_DOT: Final = re.compile(
    r'\s+|//[^\n]*|/\*.*?\*/|#[^\n]*|"(?:[^"\\]|\\.)*"|->|--|[{}\[\];,=:]|[^\s{}\[\];,=:"]+', re.S
)
_PAIRS: Final = {"}": "{", "]": "["}


def _check_dot(text: str) -> None:
    """Check that a DOT file is one whole graph: texts and brackets closed, one kind of edge."""
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


def _check_mermaid(text: str) -> None:
    """Check a Mermaid flowchart as this package writes it."""
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


def _check_xml(text: str, form: str) -> None:
    import networkx as nx

    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError("has a document type, which is not read; remove it")
    read = nx.read_graphml if form == "graphml" else nx.read_gexf
    try:
        root = ElementTree.fromstring(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph: Any = read(BytesIO(text.encode()))
    except ElementTree.ParseError as error:
        raise DataError(f"not XML ({error})") from error
    except (nx.NetworkXException, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"not {form} ({type(error).__name__}: {str(error)[:200]})") from error
    nodes = Counter(node.get("id") for node in root.iterfind(".//{*}node"))
    edges = list(root.iterfind(".//{*}edge"))
    named = Counter(edge.get("id") for edge in edges if edge.get("id") is not None)
    for kind, names in (("node", nodes), ("edge", named)):
        for name, times in names.items():
            if times > 1:
                raise DataError(f"{times} {kind}s have the id {name!r}; make it unique")
    for number, edge in enumerate(edges):
        for end in ("source", "target"):
            if edge.get(end) not in nodes:
                raise DataError(
                    f"edge[{number}]/@{end} is {edge.get(end)!r}, which no node has as id"
                )
    owners = [("the graph", graph.graph)]
    owners += [(f"node {name!r}", data) for name, data in graph.nodes(data=True)]
    owners += [(f"edge {a!r} -> {b!r}", data) for a, b, data in graph.edges(data=True)]
    for owner, data in owners:
        for name, value in data.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DataError(f"{owner}: {name} is {value}, not a finite number")


_TEXTS: Final[Mapping[str, tuple[str, Callable[[str], None]]]] = {
    ".graphml": ("graphml", partial(_check_xml, form="graphml")),
    ".gexf": ("gexf", partial(_check_xml, form="gexf")),
    ".dot": ("dot", _check_dot),
    ".gv": ("dot", _check_dot),
    ".mmd": ("mermaid", _check_mermaid),
    ".csv": ("csv", _check_csv),
}


def check_file(path: Path) -> str:
    """Check one file; its name's ending says the format, and of JSON its fields do.

    Returns:
        The format, as ``export --format`` calls it.

    Raises:
        DataError: the file is missing, of no known format, or what is wrong and where: a JSON
            path, an element or a line.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            values = read_json(path)
            name, check = _json_form(values)
            check(values)
        elif suffix in _TEXTS:
            name, check = _TEXTS[suffix]
            check(read_text(path))
        else:
            raise DataError(
                f"no format has files that end in {suffix!r}; known are .json, {', '.join(_TEXTS)}"
            )
    except (DataError, CircuitError) as error:
        text = str(error)
        raise DataError(text if text.count(str(path)) else f"{path}: {text}") from error
    return name


def _json_form(values: Any) -> tuple[str, Callable[[Any], object]]:
    if isinstance(values, dict):
        if "format" in values:
            return "json", circuit_from_json
        if values.keys() & {"metadata", "qParams", "links"}:
            return "neuronpedia", check_neuronpedia
        if "cfg" in values:
            return "eap-ig", check_eap_ig
    raise DataError(
        "this JSON is no circuit (which has 'format'), attribution graph of Neuronpedia "
        "('metadata', 'qParams') or graph of EAP-IG ('cfg')"
    )

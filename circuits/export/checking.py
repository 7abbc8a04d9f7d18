"""Is a file what its format asks for? For files of this package and of other tools.

Is a GraphML or GEXF file one that networkx, Gephi and Cytoscape can read?

Ids are unique, every edge ends in nodes of the file, and every attribute is declared and a scalar
of its declared type. Files with a document type are refused: their entities can fill any memory.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from circuits.circuit.circuit import EDGE_KINDS, NODE_KINDS, VIAS, Edge, Node
from circuits.errors import CircuitError, DataError
from circuits.export.eap_ig import check_eap_ig
from circuits.export.neuronpedia import check_neuronpedia
from circuits.export.node_link import circuit_from_json
from circuits.files import read_json, read_text

__all__ = [
    "check_csv",
    "check_dot",
    "check_file",
    "check_gexf",
    "check_graphml",
    "check_mermaid",
]

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
    if column in _RULED_TEXTS or not cell:
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


Element = ElementTree.Element

_BOOLEANS: Final = ("true", "false", "1", "0")


def check_graphml(text: str) -> None:
    """Check a GraphML file.

    Raises:
        DataError: what is wrong, and at which element.
    """
    root = _root(text, "graphml")
    declared: dict[str, dict[str, str]] = {"node": {}, "edge": {}, "graph": {}}
    for path, key in _children(root, "key"):
        for part in declared if key.get("for") in (None, "all") else (str(key.get("for")),):
            declared.setdefault(part, {})[_needed(path, key, "id")] = key.get("attr.type", "string")
    for path, graph in _found(root, "graph"):
        _check_graph(path, graph, graph)
        for part, elements in (
            ("graph", [(path, graph)]),
            ("node", list(_children(graph, "node", path))),
            ("edge", list(_children(graph, "edge", path))),
        ):
            for where, element in elements:
                for at, data in _children(element, "data", where):
                    name = _needed(at, data, "key")
                    _check_value(at, name, data.text or "", declared[part])


def check_gexf(text: str) -> None:
    """Check a GEXF file.

    Raises:
        DataError: what is wrong, and at which element.
    """
    root = _root(text, "gexf")
    for path, graph in _found(root, "graph"):
        declared: dict[str, dict[str, str]] = {"node": {}, "edge": {}}
        for where, group in _children(graph, "attributes", path):
            own = declared.setdefault(str(group.get("class")), {})
            for at, attribute in _children(group, "attribute", where):
                own[_needed(at, attribute, "id")] = attribute.get("type", "string")
        groups = {part: graph.find(f"{{*}}{part}s") for part in ("node", "edge")}
        if groups["node"] is None:
            raise DataError(f"{path} has no nodes")
        _check_graph(path, groups["node"], groups["edge"])
        for part, group in groups.items():
            for where, element in _children(group, part, path) if group is not None else ():
                values = element.find("{*}attvalues")
                for at, value in _children(values, "attvalue", where) if values is not None else ():
                    name = _needed(at, value, "for")
                    _check_value(at, name, value.get("value", ""), declared[part])


def _root(text: str, name: str) -> Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError("has a document type, which is not read; remove it")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"not XML ({error})") from error
    if _tag(root) != name:
        raise DataError(f"the outermost element is {_tag(root)!r}, not {name!r}")
    return root


def _found(root: Element, name: str) -> list[tuple[str, Element]]:
    found = list(_children(root, name))
    if not found:
        raise DataError(f"holds no {name}")
    return found


def _check_graph(path: str, nodes: Element, edges: Element | None) -> None:
    ids = _unique(_children(nodes, "node", path), needed=True)
    inside = list(_children(edges, "edge", path)) if edges is not None else []
    _unique(iter(inside), needed=False)
    for where, edge in inside:
        for end in ("source", "target"):
            name = _needed(where, edge, end)
            if name not in ids:
                raise DataError(f"{where}/@{end} is {name!r}, which no node has as id")


def _unique(elements: Iterator[tuple[str, Element]], *, needed: bool) -> set[str]:
    found: set[str] = set()
    for where, element in elements:
        name = _needed(where, element, "id") if needed else element.get("id")
        if name in found:
            raise DataError(f"{where}/@id is {name!r}, as is that of another; make it unique")
        if name is not None:
            found.add(name)
    return found


def _check_value(where: str, name: str, text: str, declared: Mapping[str, str]) -> None:
    if name not in declared:
        raise DataError(f"{where} is of the attribute {name!r}, which is not declared")
    read = _READ.get(declared[name])
    if read is None:
        raise DataError(
            f"{where} is declared as {declared[name]!r}, which is no scalar; write one of "
            f"{', '.join(_READ)}"
        )
    try:
        read(text)
    except ValueError as error:
        raise DataError(f"{where} is {text!r}, not a {declared[name]}") from error


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _boolean(text: str) -> bool:
    if text.strip().lower() not in _BOOLEANS:
        raise ValueError(text)
    return text.strip().lower() in ("true", "1")


_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "string": str,
    "int": int,
    "integer": int,
    "long": int,
    "float": _finite,
    "double": _finite,
    "boolean": _boolean,
}


def _needed(where: str, element: Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise DataError(f"{where} lacks the attribute {name!r}; add it")
    return value


def _children(parent: Element, name: str, above: str = "") -> Iterator[tuple[str, Element]]:
    base = above or f"/{_tag(parent)}"
    for number, child in enumerate(parent.iterfind(f"{{*}}{name}")):
        yield f"{base}/{name}[{number}]", child


def _tag(element: Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


_TEXTS: Final[Mapping[str, tuple[str, Callable[[str], None]]]] = {
    ".graphml": ("graphml", check_graphml),
    ".gexf": ("gexf", check_gexf),
    ".dot": ("dot", check_dot),
    ".gv": ("dot", check_dot),
    ".mmd": ("mermaid", check_mermaid),
    ".csv": ("csv", check_csv),
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

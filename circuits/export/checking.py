"""Validation of exported files, of this package and of other tools.

JSON is held to its schema, and so are the rows of CSV tables. GraphML and GEXF are read with
networkx; beyond it, ids are unique, every edge ends in nodes of the file, and numbers are finite.
Files with a document type are refused: their entities can fill any memory.
"""

import csv
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError, DataError
from circuits.export.eap_ig import check_eap_ig
from circuits.export.neuronpedia import check_neuronpedia
from circuits.export.node_link import check_form, check_values, circuit_from_json, circuit_to_json
from circuits.files import read_json, read_text, unguarded

__all__ = ["check_file"]

_HEADERS: Final = {
    part: ["emotion", *(field.name for field in fields(kind))]
    for part, kind in (("nodes", Node), ("edges", Edge))
}
_TEXTS: Final = ("id", "source", "target", "kind", "via")


def _check_csv(text: str) -> None:
    """Check a table of nodes or of edges."""
    try:
        header, *rows = csv.reader(StringIO(text, newline=""), strict=True)
    except (csv.Error, ValueError) as error:
        raise DataError(f"not CSV ({error})") from error
    part = next((part for part, own in _HEADERS.items() if header == own), None)
    if part is None:
        either = " or ".join(",".join(own) for own in _HEADERS.values())
        raise DataError(f"line 1 is not the header of a table of nodes or edges: {either}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"line {number} has {len(row)} cells; the header has {len(header)}")
    named = [dict(zip(header, row, strict=True)) for row in rows]
    known = [
        {name: _cell(name, cell) for name, cell in own.items() if cell and name != "emotion"}
        for own in named
    ]
    check_form({**circuit_to_json(Circuit("any", (), ())), part: known})
    names = Counter(tuple(map(own.get, ("emotion", "via", *_TEXTS[:3]))) for own in named)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise DataError(f"two lines are of the same {part[:-1]}: {twice[0]}")


def _cell(name: str, cell: str) -> str | float | bool:
    if name in _TEXTS:
        return unguarded(cell)
    if name == "causal":
        return {"True": True, "False": False}.get(cell, cell)
    with suppress(ValueError):
        return float(cell)
    return cell


_DOT: Final = re.compile(
    r'\s+|//[^\n]*|/\*.*?\*/|#[^\n]*|"(?:[^"\\]|\\.)*"|->|--|[^\s{}\[\];,=:"]+|.', re.S
)


def _check_dot(text: str) -> None:
    """Check that a DOT file is one whole graph: texts and brackets closed, one kind of edge."""
    start = re.match(r'\s*(?:strict\s+)?(graph|digraph)\b[^{"]*(?:"[^"]*"\s*)?\{', text, re.I)
    if start is None:
        raise DataError("line 1 begins no graph; DOT begins with graph or digraph")
    arrow = "--" if start[1].lower() == "digraph" else "->"
    brackets, closed = list[str](), False
    for found in _DOT.finditer(text):
        word, wrong = found[0], ""
        if word.isspace() or word.startswith(("//", "/*")):
            continue
        if word == '"':
            wrong = "a text is not closed"
        elif closed:
            wrong = f"{word[:20]!r} stands behind the graph"
        elif word == arrow:
            wrong = f"{word} is no edge of a {start[1]}"
        elif word in ("{", "["):
            brackets.append(word)
        elif word in ("}", "]"):
            if not brackets or brackets.pop() + word not in ("{}", "[]"):
                wrong = f"{word} closes nothing"
            closed = not brackets
        if wrong:
            line = text.count("\n", 0, found.start()) + 1
            raise DataError(f"line {line}: {wrong}")
    if not closed:
        raise DataError(f"the file ends before {brackets[-1]!r} is closed")


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
        words, named = line.split(), list[str]()
        if words[:1] in (["subgraph"], ["end"]):
            depth += 1 if words[0] == "subgraph" else -1
        elif node := _MERMAID_NODE.fullmatch(line.strip()):
            nodes.add(node[1])
        elif edge := _MERMAID_EDGE.fullmatch(line.strip()):
            edges, named = edges + 1, list(edge.groups())
        elif words[:1] == ["style"] and len(words) == 3:
            named = words[1:2]
        elif words[:1] == ["linkStyle"] and len(words) == 3:
            if not words[1].isdigit() or int(words[1]) >= edges:
                raise DataError(f"line {number}: there is no link {words[1]}")
        elif words:
            raise DataError(f"line {number}: {line.strip()[:40]!r} is no node, edge or style")
        for name in named:
            if name not in nodes:
                raise DataError(f"line {number}: {name!r} is no node of the chart")
        if depth < 0:
            raise DataError(f"line {number}: end closes no subgraph")
    if depth:
        raise DataError("the file ends before a subgraph is closed")


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
    nodes, edges = ([own.attrib for own in root.iterfind(f".//{{*}}{n}")] for n in ("node", "edge"))
    for own in (nodes, edges):
        for name, times in Counter(attributes.get("id") for attributes in own).items():
            if times > 1 and name is not None:
                raise DataError(f"{times} elements have the id {name!r}; make it unique")
    names = {node.get("id") for node in nodes}
    for number, edge in enumerate(edges):
        for end in ("source", "target"):
            if edge.get(end) not in names:
                raise DataError(
                    f"edge[{number}]/@{end} is {edge.get(end)!r}, which no node has as id"
                )
    check_values(json.loads(json.dumps(nx.node_link_data(graph, edges="edges"), default=str)))


_CHECKS: Final[Mapping[str, tuple[str, Callable[[str], None]]]] = {
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
    if suffix != ".json" and suffix not in _CHECKS:
        known = ", ".join([".json", *_CHECKS])
        raise DataError(f"{path}: no format has files that end in {suffix!r}; known are {known}")
    values: Any = read_json(path) if suffix == ".json" else read_text(path)
    name, check = _json_form(values) if suffix == ".json" else _CHECKS[suffix]
    try:
        check(values)
    except (DataError, CircuitError) as error:
        raise DataError(f"{path}: {error}") from error
    return name


def _json_form(values: Any) -> tuple[str, Callable[[Any], object]]:
    if isinstance(values, dict):
        if values.keys() & {"metadata", "qParams", "links"} and "format" not in values:
            return "neuronpedia", check_neuronpedia
        if "cfg" in values and "format" not in values:
            return "eap-ig", check_eap_ig
    return "json", circuit_from_json

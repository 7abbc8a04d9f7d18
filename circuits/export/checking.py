"""Validation of exported files, of this package and of other tools.

JSON is held to its schema, and so are the rows of CSV tables. GraphML and GEXF are read with
networkx; beyond it, ids are unique, every edge ends in nodes of the file, and numbers are finite.
Files with a document type are refused: their entities can fill any memory.
"""

import csv
import json
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import fields
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


def check_file(path: Path) -> str:
    """Check one file; its name's ending says the format, and of JSON its fields do.

    Returns:
        The format, as ``export --format`` calls it.

    Raises:
        DataError: the file is missing, of no known format, or what is wrong and where: a JSON
            path, an element or a line.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("json", "graphml", "gexf", "csv"):
        raise DataError(
            f"{path}: no format that is checked has files that end in {path.suffix!r}; known are "
            ".json, .graphml, .gexf, .csv"
        )
    values: Any = read_json(path) if form == "json" else read_text(path)
    try:
        if form == "csv":
            _check_csv(values)
        elif form != "json":
            _check_xml(values, form)
        elif isinstance(values, dict) and "format" not in values and "cfg" in values:
            form = "eap-ig"
            check_eap_ig(values)
        elif (
            isinstance(values, dict)
            and "format" not in values
            and values.keys() & {"metadata", "qParams", "links"}
        ):
            form = "neuronpedia"
            check_neuronpedia(values)
        else:
            circuit_from_json(values)
    except (DataError, CircuitError) as error:
        raise DataError(f"{path}: {error}") from error
    return form


def _check_csv(text: str) -> None:
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
    for name, times in names.items():
        if times > 1:
            raise DataError(f"two lines are of the same {part[:-1]}: {name}")


def _cell(name: str, cell: str) -> str | float | bool:
    if name in _TEXTS:
        return unguarded(cell)
    if name == "causal":
        return {"True": True, "False": False}.get(cell, cell)
    with suppress(ValueError):
        return float(cell)
    return cell


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

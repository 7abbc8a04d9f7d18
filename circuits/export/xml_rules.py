"""Is a GraphML or GEXF file one that networkx, Gephi and Cytoscape can read?

Ids are unique, every edge ends in nodes of the file, and every attribute is declared and a scalar
of its declared type. Files with a document type are refused: their entities can fill any memory.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from xml.etree import ElementTree

from circuits.errors import DataError

__all__ = ["check_gexf", "check_graphml"]

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

"""A circuit as a networkx graph, and back, without loss.

Every attribute is a scalar, so that networkx writes the graph in any of its formats. Provenance is
JSON text; so is the order of the edges, which networkx sorts by their sources.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import networkx as nx

from circuits.errors import CircuitError, DataError
from circuits.graph.circuit import FORMAT, Circuit, Edge, Node
from circuits.provenance import Provenance

__all__ = ["circuit_of", "graph_attributes", "network_of"]

T = TypeVar("T", Node, Edge)

_SCORE = "score_"

# What networkx's readers of GraphML add: names of edges, and defaults of attributes.
_ADDED = ("id",)


def network_of(circuit: Circuit) -> "nx.DiGraph[str]":
    """A networkx graph with every score that was measured as an attribute.

    With paths it is a ``MultiDiGraph``, whose keys are the inputs of the paths and the kinds of
    the other edges; without, two nodes have at most one edge and there are no keys.
    """
    graph: nx.DiGraph[str] = nx.MultiDiGraph() if circuit.paths else nx.DiGraph()
    graph.graph.update(graph_attributes(circuit))
    for node in circuit.nodes:
        graph.add_node(node.id, **_known(node, "id"))
    for edge in circuit.edges:
        key = {"key": edge.key} if circuit.paths else {}
        graph.add_edge(edge.source, edge.target, **key, **_known(edge, "source", "target"))
    return graph


def graph_attributes(circuit: Circuit) -> dict[str, Any]:
    """What is said of a circuit as a whole, as scalars."""
    place = {node.id: i for i, node in enumerate(circuit.nodes)}
    # networkx goes through nodes in their order, and through the targets of each as first met.
    met: dict[tuple[str, str], int] = {}
    for i, edge in enumerate(circuit.edges):
        met.setdefault((edge.source, edge.target), i)
    numbers = sorted(
        range(len(circuit.edges)),
        key=lambda i: (
            place[circuit.edges[i].source],
            met[circuit.edges[i].source, circuit.edges[i].target],
            i,
        ),
    )
    return {
        "format": FORMAT,
        "emotion": circuit.emotion,
        **{f"{_SCORE}{name}": value for name, value in circuit.scores.items()},
        "provenance": json.dumps(circuit.provenance.to_json(), default=float),
        "edge_order": json.dumps(numbers, separators=(",", ":")),
    }


def circuit_of(graph: "nx.DiGraph[str]") -> Circuit:
    """The circuit of a graph that :func:`network_of` made, edited or not.

    Nodes and edges may have been taken away or added: provenance and scores stay as they are,
    and edges then stand in networkx's order.

    Raises:
        CircuitError: the graph is undirected or of another kind, an attribute is missing or not
            one of a circuit's, or it is no valid circuit.
    """
    if not graph.is_directed():
        raise CircuitError("the graph is undirected; a circuit's edges have a direction")
    said = graph.graph
    if said.get("format") != FORMAT:
        raise CircuitError(
            f"the graph's attribute 'format' is {said.get('format')!r}, not {FORMAT!r}; "
            "give a graph that Circuit.to_networkx made"
        )
    if not isinstance(said.get("emotion"), str):
        raise CircuitError("the graph lacks the attribute 'emotion'; add it")
    nodes = tuple(_made(Node, {"id": id, **own}, id) for id, own in graph.nodes(data=True))
    edges = [
        _made(Edge, {"source": start, "target": end, **own}, f"{start} -> {end}")
        for start, end, own in graph.edges(data=True)
    ]
    numbers = _numbers(said, len(edges))
    ordered = tuple(edge for _, edge in sorted(zip(numbers, edges, strict=True), key=_first))
    scores = {
        name.removeprefix(_SCORE): value
        for name, value in said.items()
        if isinstance(name, str) and name.startswith(_SCORE)
    }
    return Circuit(said["emotion"], nodes, ordered, scores, _provenance(said))


def _first(pair: tuple[int, Edge]) -> int:
    return pair[0]


def _numbers(said: Mapping[str, Any], count: int) -> list[int]:
    """Place of every edge; networkx's own order for a graph that was edited."""
    found = _loaded(said, "edge_order", [])
    whole = isinstance(found, list) and sorted(map(repr, found)) == sorted(map(repr, range(count)))
    return found if whole else list(range(count))


def _provenance(said: Mapping[str, Any]) -> Provenance:
    values = _loaded(said, "provenance", None)
    if values is None:
        return Provenance()
    try:
        return Provenance.from_json(values)
    except DataError as error:
        raise CircuitError(f"the graph's attribute 'provenance' is {error}") from error


def _loaded(said: Mapping[str, Any], name: str, default: object) -> Any:
    text = said.get(name)
    if text is None:
        return default
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise CircuitError(f"the graph's attribute {name!r} is no JSON text; remove it") from error


def _made(kind: type[T], values: Mapping[str, Any], name: str) -> T:
    known = {own.name: own.default for own in fields(kind)}
    given = {key: value for key, value in values.items() if key not in _ADDED or key in known}
    _refuse(name, (key for key in given if key not in known), "is none of a circuit's")
    required = (key for key, default in known.items() if default is MISSING)
    _refuse(name, (key for key in required if key not in given), "is missing")
    return kind(**given)


def _refuse(name: str, wrong: Iterable[str], what: str) -> None:
    for key in wrong:
        raise CircuitError(f"attribute {key!r} of {name} {what}")


def _known(value: Node | Edge, *without: str) -> dict[str, Any]:
    named = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in without}
    return {name: known for name, known in named.items() if known is not None}

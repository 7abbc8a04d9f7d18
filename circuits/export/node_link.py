"""A circuit as node-link JSON, which ``networkx.node_link_graph`` and d3 read as it is.

The form is described field by field in the JSON Schema ``circuit.schema.json`` that ships with
the package. What was not measured is left out, the order of nodes and edges is the circuit's,
and no number is NaN or infinite. This is the one form from which a circuit is read back; the
other formats are views of it.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from circuits.errors import CircuitError, DataError
from circuits.export.form import check_form, check_values
from circuits.files import read_json, write_json
from circuits.graph.circuit import FORMAT, Circuit, Edge, Node
from circuits.provenance import Provenance

__all__ = [
    "circuit_from_json",
    "circuit_to_json",
    "finite_json",
    "plain_values",
    "read_circuit",
    "write_circuit",
]


def write_circuit(circuit: Circuit, path: Path) -> None:
    """Write a circuit as JSON, whole or not at all.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
        DataError: the folder cannot be written to.
    """
    write_json(path, circuit_to_json(circuit))


def read_circuit(path: Path) -> Circuit:
    """Read a circuit that :func:`write_circuit` wrote.

    Raises:
        DataError: the file is missing, is not JSON, has another version or not the form of a
            circuit; names the file and the JSON path.
        CircuitError: the form is right, but it is no valid circuit, such as an edge to nowhere.
    """
    values = read_json(path)
    try:
        return circuit_from_json(values)
    except (DataError, CircuitError) as error:
        raise type(error)(f"{path}: {error}") from error


def circuit_to_json(circuit: Circuit) -> dict[str, Any]:
    """The circuit as plain JSON values in the order in which they are written.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    values = plain_values(circuit)
    try:
        # What could not be read again is not written.
        check_form(values)
    except DataError as error:
        raise CircuitError(f"cannot write the circuit of {circuit.emotion!r}: {error}") from error
    return values


def plain_values(circuit: Circuit) -> dict[str, Any]:
    """What :func:`circuit_to_json` gives, without the schema's look at every node and edge.

    Enough for a view of the circuit, and faster where there are thousands of neurons.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    keyed = bool(circuit.paths)
    values = {
        "format": FORMAT,
        "directed": True,
        "multigraph": keyed,
        "graph": {
            "emotion": circuit.emotion,
            "model": _plain(circuit.provenance.model),
            "scores": _plain(circuit.scores),
        },
        "nodes": [_known(node) for node in circuit.nodes],
        "edges": [_edge_values(edge, keyed) for edge in circuit.edges],
        "scores": _plain(circuit.scores),
        "provenance": _plain(circuit.provenance.to_json()),
    }
    try:
        check_values(values)
        check_form({**values, "nodes": [], "edges": []})
    except DataError as error:
        raise CircuitError(f"cannot write the circuit of {circuit.emotion!r}: {error}") from error
    return values


def finite_json(values: Any, circuit: Circuit) -> str:
    """A view of a circuit as JSON text on one line.

    Raises:
        CircuitError: a number that was made from the circuit's, such as a sum, is not finite.
    """
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise CircuitError(
            f"cannot write the circuit of {circuit.emotion!r}: a sum of its numbers is too large"
        ) from error


def circuit_from_json(values: Any) -> Circuit:
    """The circuit that :func:`circuit_to_json` gave.

    Raises:
        DataError: another version, or not the form of a circuit; names the JSON path.
        CircuitError: the form is right, but it is no valid circuit; names the JSON path.
    """
    check_form(values)
    for name, kept in (("model", values["provenance"]["model"]), ("scores", values["scores"])):
        if values["graph"][name] != kept:
            first = "provenance.model" if name == "model" else "scores"
            raise DataError(f"{first} and graph.{name} say different things; make them equal")
    nodes = tuple(_node(node) for node in values["nodes"])
    edges = tuple(_edge(edge) for edge in values["edges"])
    _check_keys(values, edges)
    scores = {name: float(score) for name, score in values["scores"].items()}
    provenance = Provenance.from_json(values["provenance"])
    try:
        return Circuit(values["graph"]["emotion"], nodes, edges, scores, provenance)
    except CircuitError as error:
        where = _culprit(nodes, edges, provenance)
        raise CircuitError(f"{where}: {error}; correct it or export the circuit again") from error


def _plain(value: Any) -> Any:
    # numpy's numbers are Integral and Real, but json does not know them.
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _known(value: Node | Edge) -> dict[str, Any]:
    named = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: _plain(known) for name, known in named.items() if known is not None}


def _edge_values(edge: Edge, keyed: bool) -> dict[str, Any]:
    # networkx tells edges between the same nodes apart by this field.
    return {**_known(edge), **({"key": edge.key} if keyed else {})}


def _node(values: Mapping[str, Any]) -> Node:
    named = {name: value for name, value in values.items() if name not in ("id", "kind", "layer")}
    layer = values.get("layer")
    return Node(
        values["id"],
        values["kind"],
        None if layer is None else int(layer),
        **{name: float(value) for name, value in named.items()},
    )


def _edge(values: Mapping[str, Any]) -> Edge:
    texts = ("source", "target", "kind", "via", "key", "causal")
    return Edge(
        values["source"],
        values["target"],
        values["kind"],
        via=values.get("via"),
        causal=values.get("causal"),
        **{name: float(value) for name, value in values.items() if name not in texts},
    )


def _check_keys(values: Any, edges: tuple[Edge, ...]) -> None:
    keyed = any(edge.kind == "path" for edge in edges)
    if values["multigraph"] != keyed:
        raise DataError(
            f"multigraph is {str(not keyed).lower()}; write {str(keyed).lower()}, "
            f"since the circuit has {'paths' if keyed else 'no paths'}"
        )
    for number, (own, edge) in enumerate(zip(values["edges"], edges, strict=True)):
        wanted = edge.key if keyed else None
        if own.get("key") != wanted:
            raise DataError(
                f"edges[{number}].key is {own.get('key')!r}; "
                + (f"write {wanted!r}" if wanted else "remove it")
                + ". With paths, every edge's key is its via, or else its kind"
            )


def _culprit(nodes: tuple[Node, ...], edges: tuple[Edge, ...], provenance: Provenance) -> str:
    """JSON path of the first node, or else edge, with which the circuit stops being valid."""

    def fails(n_nodes: int, n_edges: int) -> bool:
        try:
            Circuit("", nodes[:n_nodes], edges[:n_edges], provenance=provenance)
        except CircuitError:
            return True
        return False

    # A circuit that fails goes on failing when more is added, so halving finds the first.
    valid_nodes = bisect_left(range(len(nodes)), True, key=lambda i: fails(i + 1, 0))
    if valid_nodes < len(nodes):
        return f"nodes[{valid_nodes}]"
    valid_edges = bisect_left(range(len(edges)), True, key=lambda i: fails(len(nodes), i + 1))
    return f"edges[{valid_edges}]"

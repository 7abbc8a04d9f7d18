"""A circuit as node-link JSON, which ``networkx.node_link_graph`` and d3 read as it is.

The form is described field by field in the JSON Schema ``circuit.schema.json`` that ships with the
package. What a schema cannot say, such as that every edge ends in a node,
:class:`~circuits.circuit.circuit.Circuit` checks. What was not measured is left out, the order of
nodes and edges is the circuit's, and no number is NaN or infinite. This is the one form from which
a circuit is read back; the other formats are views of it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from numbers import Integral, Real
from typing import Any, TypeVar

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from circuits.circuit.circuit import FORMAT, FORMAT_1, Circuit, Edge, Node, from_format_1
from circuits.errors import CircuitError, DataError
from circuits.files import PathLike, read_json, resolved, shipped, write_json
from circuits.provenance import Provenance

__all__ = [
    "check_form",
    "check_values",
    "circuit_from_json",
    "circuit_to_json",
    "finite_json",
    "plain_values",
    "read_circuit",
    "write_circuit",
]

T = TypeVar("T", Node, Edge)


def check_form(values: Any, schema: str = "circuit.schema.json") -> None:
    """Check the single values, and the schema that ships with the package under this name.

    Raises:
        DataError: the first thing that is wrong, with its JSON path (``nodes[3].layer``).
    """
    check_values(values)
    error = best_match(_validator(schema).iter_errors(values))
    if error is not None:
        # What is wrong stands at the end; a long value before it is cut.
        said = error.message if len(error.message) < 160 else f"...{error.message[-100:]}"
        meaning = error.schema.get("description") if isinstance(error.schema, dict) else None
        raise DataError(f"{_spell(error.absolute_path, values)}: {said}. {meaning or ''}".strip())


def check_values(values: Any) -> None:
    """Check that every number is finite and every value one that JSON can hold.

    Raises:
        DataError: the first value that is not, with its JSON path.
    """
    # A stack instead of recursion: the options of a provenance may be nested to any depth.
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), values)]
    while waiting:
        path, value = waiting.pop()
        wrong = ""
        if isinstance(value, dict):
            waiting += [((*path, key), inner) for key, inner in reversed(value.items())]
            waiting += [(path, key) for key in value]
        elif isinstance(value, list):
            waiting += [((*path, i), value[i]) for i in reversed(range(len(value)))]
        elif isinstance(value, str):
            if not value.isascii() and value.encode(errors="ignore").decode() != value:
                wrong = f"{value!r}, which UTF-8 cannot hold; remove the lone surrogate"
        elif isinstance(value, int | float):
            # The largest that a float can hold; a whole number may be larger.
            if not abs(value) <= 1.7976931348623157e308:
                shown = value if isinstance(value, float) else "too large"
                wrong = f"{shown}, not a finite number; leave out what was not measured"
        elif value is not None:
            wrong = f"a {type(value).__name__}, which JSON cannot hold; make it a number or a text"
        if wrong:
            raise DataError(f"{_spell(path, values)} is {wrong}")


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(read_json(shipped(schema)))


def _spell(steps: Iterable[str | int], values: Any) -> str:
    """``nodes[3].layer (node 'L3H5')``: a JSON path and the node or edge that it lies in."""
    path = list(steps)
    parts = (f".{p}" if isinstance(p, str) and p.isidentifier() else f"[{p!r}]" for p in path)
    text = "".join(parts).removeprefix(".") or "the file"
    if len(path) > 1 and path[0] in ("nodes", "edges") and isinstance(path[1], int):
        own = values[path[0]][path[1]]
        if isinstance(own, dict) and path[0] == "nodes":
            return f"{text} (node {str(own.get('id'))[:60]!r})"
        if isinstance(own, dict):
            return f"{text} (edge {str(own.get('source'))[:60]} -> {str(own.get('target'))[:60]})"
    return text


def write_circuit(circuit: Circuit, path: PathLike) -> None:
    """Write a circuit as JSON, whole or not at all.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
        DataError: the folder cannot be written to.
    """
    write_json(resolved(path), circuit_to_json(circuit))


def read_circuit(path: PathLike) -> Circuit:
    """Read a circuit that :func:`write_circuit` wrote.

    Raises:
        DataError: the file is missing, is not JSON, has another version or not the form of a
            circuit; names the file and the JSON path.
        CircuitError: the form is right, but it is no valid circuit, such as an edge to nowhere.
    """
    values = read_json(resolved(path))
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
    with _refused(circuit):
        # What could not be read again is not written.
        check_form(values)
    return values


def plain_values(circuit: Circuit) -> dict[str, Any]:
    """What :func:`circuit_to_json` gives, without the schema's look at every node and edge.

    Enough for a view of the circuit, and faster where there are thousands of neurons.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    keyed, provenance = bool(circuit.paths), circuit.provenance.to_json()
    # networkx tells edges between the same nodes apart by their key.
    keys = [{"key": edge.key} if keyed else {} for edge in circuit.edges]
    edges = [_known(edge) | key for edge, key in zip(circuit.edges, keys, strict=True)]
    scores = dict(circuit.scores)
    values = {
        "format": FORMAT,
        "directed": True,
        "multigraph": keyed,
        "graph": {"emotion": circuit.emotion, "model": provenance["model"], "scores": scores},
        "nodes": [_known(node) for node in circuit.nodes],
        "edges": edges,
        "scores": scores,
        "provenance": provenance,
    }
    with _refused(circuit):
        values = _plain(values)
        check_values(values)
        check_form({**values, "nodes": [], "edges": []})
    return values


@contextmanager
def _refused(circuit: Circuit) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise CircuitError(f"cannot write the circuit of {circuit.emotion!r}: {error}") from error


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
        CircuitError: the form is right, but it is no valid circuit; names the node or edge.
    """
    values = _in_format_2(values)
    check_form(values)
    for name, kept in (("model", values["provenance"]["model"]), ("scores", values["scores"])):
        if values["graph"][name] != kept:
            first = "provenance.model" if name == "model" else "scores"
            raise DataError(f"{first} and graph.{name} say different things; make them equal")
    nodes = tuple(_made(Node, node) for node in values["nodes"])
    edges = tuple(_made(Edge, edge) for edge in values["edges"])
    keyed = any(edge.kind == "path" for edge in edges)
    if values["multigraph"] != keyed:
        raise DataError(f"multigraph must be {str(keyed).lower()}: it says whether there are paths")
    for number, (own, edge) in enumerate(zip(values["edges"], edges, strict=True)):
        wanted = edge.key if keyed else None
        if own.get("key") != wanted:
            raise DataError(
                f"edges[{number}].key is {own.get('key')!r}, not {wanted!r}: with paths, every "
                "edge's key is its via, or else its kind; without, there is none"
            )
    scores = {name: float(score) for name, score in values["scores"].items()}
    provenance = Provenance.from_json(values["provenance"])
    try:
        return Circuit(values["graph"]["emotion"], nodes, edges, scores, provenance)
    except CircuitError as error:
        raise CircuitError(f"{error}; correct it or export the circuit again") from error


def _in_format_2(values: Any) -> Any:
    """What was read from a file, with its fields under the names that they have now."""
    found = values.get("format") if isinstance(values, dict) else None
    if found == FORMAT_1:
        graph = values.get("graph")
        if isinstance(graph, dict):
            values = {**values, "graph": {**graph, "scores": _renamed(graph.get("scores"))}}
        parts = {n: _renamed(values[n]) for n in ("nodes", "edges", "scores") if n in values}
        return {**values, **parts, "format": FORMAT}
    if found != FORMAT:
        raise DataError(
            f"format is {str(found)[:60]!r}, not {FORMAT!r}: this is no saved circuit, or one that "
            "another version of emotion-circuits wrote; read it with that version"
        )
    return values


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(inner) for inner in value]
    return from_format_1(value) if isinstance(value, dict) else value


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
    return {name: known for name, known in asdict(value).items() if known is not None}


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    def typed(name: str, value: Any) -> Any:
        if isinstance(value, str | bool):
            return value
        return int(value) if name == "layer" else float(value)

    return kind(**{name: typed(name, own) for name, own in values.items() if name != "key"})

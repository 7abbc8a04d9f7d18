"""A circuit as node-link JSON, which ``networkx.node_link_graph`` and d3 read as it is.

The form is described field by field in the JSON Schema ``circuit.schema.json`` that ships with the
package. What a schema cannot say, such as that every edge ends in a node,
:class:`~circuits.circuit.circuit.Circuit` checks. What was not measured is left out, the order of
nodes and edges is the circuit's, and no number is NaN or infinite. This is the one form from which
a circuit is read back; the other formats are views of it.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from circuits.circuit.circuit import FORMAT, FORMAT_1, Circuit, Edge, Node, from_format_1
from circuits.errors import CircuitError, DataError
from circuits.files import PathLike, read_json, resolved, shipped, write_json
from circuits.provenance import Provenance

__all__ = [
    "check_form",
    "check_form_of",
    "check_values",
    "circuit_from_json",
    "circuit_to_json",
    "finite_json",
    "plain_values",
    "read_circuit",
    "write_circuit",
]

Steps = Sequence[str | int]


def check_form(values: Any) -> None:
    """Check the format's version, the single values, and the schema.

    Raises:
        DataError: the first thing that is wrong, with its JSON path (``nodes[3].layer``).
    """
    _check_version(values)
    check_form_of(values, "circuit.schema.json")


def check_form_of(values: Any, schema: str) -> None:
    """Check the single values, and the schema that ships with the package under this name.

    Raises:
        DataError: the first thing that is wrong, with its JSON path.
    """
    check_values(values)
    error = best_match(_validator(schema).iter_errors(values))
    if error is not None:
        raise DataError(_explain(error, values))


def check_values(values: Any) -> None:
    """Check that every number is finite and every value one that JSON can hold.

    Raises:
        DataError: the first value that is not, with its JSON path.
    """
    for path, value in _leaves(values):
        wrong = _wrong(value)
        if wrong is not None:
            raise DataError(f"{_spell(path, values)} is {wrong}")


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(read_json(shipped(schema)))


def _check_version(values: Any) -> None:
    if not isinstance(values, dict):
        raise DataError(f"expected a circuit, found {_found(values)}; give a file in {FORMAT} form")
    found = values.get("format")
    if found == FORMAT:
        return
    name = FORMAT.split("/")[0]
    if isinstance(found, str) and found.startswith(f"{name}/"):
        raise DataError(
            f"format {found!r} is not the version that is read here, {FORMAT!r}; read it with "
            "the version of emotion-circuits that wrote it, or update this one"
        )
    raise DataError(
        f"format is {_found(found)}, not {FORMAT!r}; this is no saved circuit"
        if "format" in values
        else f"'format' is missing; this is no saved circuit, which says {FORMAT!r} there"
    )


def _leaves(values: Any) -> Iterator[tuple[Steps, Any]]:
    # A stack instead of recursion: the options of a provenance may be nested to any depth.
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), values)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [((*path, key), inner) for key, inner in reversed(value.items())]
            yield from ((path, key) for key in value)
        elif isinstance(value, list):
            waiting += [((*path, i), value[i]) for i in reversed(range(len(value)))]
        else:
            yield path, value


def _wrong(value: Any) -> str | None:
    """What keeps a value out of a file that every JSON reader accepts."""
    if isinstance(value, str):
        # Only an unpaired surrogate cannot be encoded.
        whole = value.isascii() or value.encode(errors="ignore").decode() == value
        return None if whole else f"{value!r}, which UTF-8 cannot hold; remove the lone surrogate"
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int | float):
        return f"a {type(value).__name__}, which JSON cannot hold; make it a number or a text"
    try:
        finite = math.isfinite(value)
    except OverflowError:
        return "too large a number; write one below 1e308"
    return None if finite else f"{value}, not a finite number; leave out what was not measured"


def _explain(error: ValidationError, values: Any) -> str:
    instance: Any = error.instance
    where, found = _spell(list(error.absolute_path), values), _found(instance)
    rule: Any = error.validator_value
    schema: Any = error.schema
    meaning = schema.get("description") if isinstance(schema, dict) else None
    match error.validator:
        case "required":
            text = f"lacks {_listed(name for name in rule if name not in instance)}; add it"
            meaning = None
        case "additionalProperties":
            known = schema["properties"]
            extra = _listed(name for name in instance if name not in known)
            text = f"has {extra}, which the form lacks; remove it. Fields are {_listed(known)}"
            meaning = None
        case "enum":
            text = f"is {found}; write one of {_listed(rule)}"
        case "const":
            text = f"is {found}; write {json.dumps(rule)}"
        case "type":
            text = f"is {found}; write {_article(rule)}"
        case "minimum" | "maximum":
            bound = "least" if error.validator == "minimum" else "most"
            text = f"is {found}; write a number of at {bound} {rule}"
        case "pattern":
            text = f"is {found}, which does not have the right form"
        case "not":
            # In this schema: a field that the kind of the node or edge rules out.
            text = f"is {found} but must be absent; remove it"
        case _:
            text = error.message
    return f"{where} {text}" + (f". {meaning}" if meaning else "")


def _spell(path: Steps, values: Any) -> str:
    """``nodes[3].layer (node 'L3H5')``: a JSON path and the node or edge that it lies in."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.isidentifier():
            text += f".{part}"
        else:
            text += f"[{part!r}]"
    text = text.removeprefix(".") or "the circuit"
    if len(path) < 2 or path[0] not in ("nodes", "edges") or not isinstance(path[1], int):
        return text
    own = values[path[0]][path[1]]
    if not isinstance(own, dict):
        return text
    if path[0] == "nodes":
        return f"{text} (node {_found(own.get('id'))})"
    return f"{text} (edge {_found(own.get('source'))} -> {_found(own.get('target'))})"


def _found(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def _article(kind: str) -> str:
    return f"an {kind}" if re.match("[aeiou]", kind) else f"a {kind}"


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
        # networkx tells edges between the same nodes apart by their key.
        "edges": [
            {**_known(edge), **({"key": edge.key} if keyed else {})} for edge in circuit.edges
        ],
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
        CircuitError: the form is right, but it is no valid circuit; names the node or edge.
    """
    values = _in_format_2(values)
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
        raise CircuitError(f"{error}; correct it or export the circuit again") from error


def _in_format_2(values: Any) -> Any:
    """What was read from a file, with its fields under the names that they have now."""
    if not isinstance(values, dict) or values.get("format") != FORMAT_1:
        return values
    graph = values.get("graph")
    if isinstance(graph, dict):
        graph = {**graph, "scores": _renamed(graph.get("scores"))}
    return {
        **values,
        "format": FORMAT,
        **{name: _renamed(values[name]) for name in _RENAMED if name in values},
        **({"graph": graph} if "graph" in values else {}),
    }


_RENAMED = ("nodes", "edges", "scores")


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
    named = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: _plain(known) for name, known in named.items() if known is not None}


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

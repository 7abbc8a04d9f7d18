"""Circuits out of EAP-IG's graph JSON.

A node's score becomes its total effect, an edge becomes a path with the score as weight, in units
of the metric that the scores were made with. What is not in the graph is left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuits.errors import CircuitError, DataError
from circuits.export.eap_ig import eap_ig_edges, eap_ig_nodes
from circuits.export.form import check_form_of
from circuits.export.kept import counted
from circuits.files import digest, read_json
from circuits.graph.circuit import Circuit, Edge, Node, Via
from circuits.losses import Loss
from circuits.names import component, head_name, sublayer_name
from circuits.provenance import Provenance, versions

__all__ = ["check_eap_ig", "read_eap_ig"]

_HEAD = re.compile(r"a(\d+)\.h(\d+)")


def read_eap_ig(path: Path, emotion: str, model: str = "") -> tuple[Circuit, list[Loss]]:
    """The circuit in a file of EAP-IG, and what a circuit does not keep of the file.

    Args:
        path: Graph JSON.
        emotion: Whose circuit it is; the file does not say.
        model: Name of the model, which the file does not say either.

    Raises:
        DataError: the file is missing, or not of the form; names the file and the JSON path.
    """
    values = read_json(path)
    try:
        check_eap_ig(values)
        circuit = _circuit(values, emotion, {"name": model} if model else {}, digest(path))
    except (DataError, CircuitError) as error:
        raise type(error)(f"{path}: {error}") from error
    return circuit, _losses(values)


def check_eap_ig(values: Any) -> None:
    """Check graph JSON: its schema, and that the graph of such a model has its nodes and edges.

    Raises:
        DataError: what is wrong, with its JSON path.
    """
    check_form_of(values, "eap-ig.schema.json")
    cfg = values["cfg"]
    known = (("nodes", set(eap_ig_nodes(cfg))), ("edges", set(eap_ig_edges(cfg))))
    for part, names in known:
        for name in values[part]:
            if name not in names:
                raise DataError(
                    f"{part}[{name!r}] is not in the graph of a model with {cfg['n_layers']} "
                    f"layers and {cfg['n_heads']} heads; correct the name or cfg"
                )


def _circuit(
    values: Mapping[str, Any], emotion: str, named: Mapping[str, str], data: str
) -> Circuit:
    cfg = values["cfg"]
    inside = _inside(values)
    nodes = [
        _node(name, values["nodes"].get(name, {})) for name in eap_ig_nodes(cfg) if name in inside
    ]
    edges = [
        _edge(name, values["edges"][name]["score"])
        for name in eap_ig_edges(cfg)
        if _kept(name, values, inside)
    ]
    model = {**named, **{name: cfg[name] for name in ("n_layers", "n_heads", "d_model")}}
    if cfg["parallel_attn_mlp"]:
        model["parallel_attn_mlp"] = True
    provenance = Provenance(model, "", {"read_from": "EAP-IG", "file": data}, versions())
    return Circuit(emotion, tuple(nodes), tuple(edges), {}, provenance)


def _inside(values: Mapping[str, Any]) -> set[str]:
    # Its loader does not read what is said of logits.
    return {name for name, node in values["nodes"].items() if node["in_graph"]} | {"logits"}


def _kept(name: str, values: Mapping[str, Any], inside: set[str]) -> bool:
    """Is an edge in the graph, with both its ends?"""
    start, end = re.split(r"->|<", name)[:2]
    return {start, end} <= inside and bool(values["edges"].get(name, {}).get("in_graph"))


def _id(name: str) -> str:
    if name in ("input", "logits"):
        return {"input": "embed", "logits": "readout"}[name]
    head = _HEAD.fullmatch(name)
    return head_name(int(head[1]), int(head[2])) if head else sublayer_name(int(name[1:]), "mlp")


def _node(name: str, values: Mapping[str, Any]) -> Node:
    part = component(_id(name))
    score = None if name == "logits" else values.get("score")
    return Node(part.name, part.kind, part.layer, total=None if score is None else float(score))


def _edge(name: str, score: float) -> Edge:
    start, end, *entry = re.split(r"->|<|>", name)
    via: Via = "readout" if end == "logits" else "mlp"
    if entry:
        via = entry[0]  # type: ignore[assignment]
    return Edge(_id(start), _id(end), "path", float(score), via)


def _losses(values: Mapping[str, Any]) -> list[Loss]:
    nodes, inside = values["nodes"].values(), _inside(values)
    outside = [e for name, e in values["edges"].items() if not _kept(name, values, inside)]
    return [
        *counted("edges of outer nodes", sum(edge["in_graph"] for edge in outside),
                 "edges in the circuit that end in a node outside it"),
        *counted("edges", sum(edge["score"] != 0 for edge in outside),
                 "scores of edges outside the circuit"),
        *counted("nodes", sum("score" in node and not node["in_graph"] for node in nodes),
                 "scores of nodes outside the circuit"),
        *counted("output dimensions", sum("neurons" in n or "neurons_scores" in n for n in nodes),
                 "nodes of which single output dimensions are in the circuit or have scores"),
    ]  # fmt: skip

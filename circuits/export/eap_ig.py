"""A circuit as graph JSON of EAP-IG, which the benchmark MIB reads too, and back.

The format (Hanna et al. 2024, arXiv 2403.17806; Mueller et al. 2025, arXiv 2504.13151) knows one
graph per model size: ``input``, heads ``a0.h3``, MLPs ``m2``, ``logits``, and every edge that can
be between them, into q, k and v of a head. Each edge has a score and says whether it is in the
circuit. There the readout stands for ``logits``.

Scores are ours, positive towards the emotion, as is EAP-IG's convention where the metric is given
as a loss. With paths, an edge's score is the path's weight; without, the edges into ``logits`` have
the direct effects. A node's score is its total effect. What stands outside the circuit was not
measured and has score 0. Neurons have no place: an MLP has what its neurons in the circuit have
together, unless the circuit has it measured as a whole.

Circuits out of EAP-IG's graph JSON.

A node's score becomes its total effect, an edge becomes a path with the score as weight, in units
of the metric that the scores were made with. What is not in the graph is left out.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from circuits.circuit.circuit import Circuit, Edge, Node, Via
from circuits.errors import CircuitError, DataError
from circuits.export.node_link import check_form_of, finite_json, plain_values
from circuits.export.tables import counted, fields_lost, kinds_lost, whole_lost
from circuits.files import Loss, digest, read_json
from circuits.names import component, head_name, sublayer_name
from circuits.provenance import Provenance, versions

__all__ = [
    "check_eap_ig",
    "eap_ig",
    "eap_ig_edges",
    "eap_ig_losses",
    "eap_ig_name",
    "eap_ig_nodes",
    "read_eap_ig",
]

_SIZES = ("n_layers", "n_heads", "d_model")


def eap_ig(circuit: Circuit) -> str:
    """The circuit as EAP-IG's graph JSON, every edge of the model's graph in it.

    Raises:
        CircuitError: a value cannot be written, such as NaN, or the provenance does not say how
            large the model is.
    """
    plain_values(circuit)
    cfg = _cfg(circuit)
    chosen = _chosen(circuit)
    scores, own = _edge_scores(circuit, chosen), _node_scores(circuit)
    nodes: dict[str, dict[str, Any]] = {}
    for name in eap_ig_nodes(cfg):
        score = {"score": own[name]} if name in own else {}
        nodes[name] = {"in_graph": name in chosen or name == "logits", **score}
    edges = {
        name: {"score": scores.get(name, 0.0), "in_graph": name in scores}
        for name in eap_ig_edges(cfg)
    }
    astray = sorted(set(scores) - set(edges))
    if astray:
        raise CircuitError(
            f"the circuit has the edge {astray[0]}, which the graph of its model lacks: attention "
            "and MLP of a layer run side by side there"
        )
    return finite_json({"cfg": cfg, "nodes": nodes, "edges": edges}, circuit)


def eap_ig_losses(circuit: Circuit) -> list[Loss]:
    """What the graph JSON does not keep."""
    attention = sum(node.id.endswith(".attn") for node in circuit.nodes)
    neurons = len(circuit.of_kind("neuron"))
    keyed = [edge for edge in circuit.paths if edge.via in ("k", "v")]
    model = circuit.provenance.model
    grouped = model.get("n_key_value_heads", model.get("n_heads")) != model.get("n_heads")
    merged = sum(any(_by_neurons(edge)) for edge in circuit.paths)
    unheard = (
        kinds_lost(circuit, "direct")
        if circuit.paths
        else counted(
            "edges.attention",
            sum(e.kind == "direct" and e.source.endswith(".attn") for e in circuit.edges),
            "direct edges of whole attentions",
        )
    )
    return [
        *counted("neurons", neurons, "neurons, which become part of their MLP's node"),
        *counted("attentions", attention, "whole attentions; only heads are nodes"),
        *fields_lost(
            circuit,
            nodes=("effect", "stderr", "random_baseline", "importance", "direct"),
            edges=("stderr", "random_baseline", "exact", "exact_stderr", "causal"),
        ),
        *kinds_lost(circuit, "residual", "part"),
        *unheard,
        *counted(
            "paths.neurons",
            merged,
            "paths from or into neurons, which become part of their MLP's edges",
        ),
        *counted(
            "paths.groups",
            len(keyed) if grouped else 0,
            "paths into keys or values of a key-value group, written at each head of the "
            "circuit that reads them",
        ),
        *whole_lost(circuit, emotion=True),
    ]


def eap_ig_nodes(cfg: Mapping[str, Any]) -> list[str]:
    """Every node of the graph of a model, in the order of EAP-IG."""
    names = ["input"]
    for layer in range(cfg["n_layers"]):
        names += [f"a{layer}.h{head}" for head in range(cfg["n_heads"])]
        names.append(f"m{layer}")
    return [*names, "logits"]


def eap_ig_edges(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Every edge of the graph of a model: 32,491 for GPT-2."""
    before = ["input"]
    for layer in range(cfg["n_layers"]):
        heads = [f"a{layer}.h{head}" for head in range(cfg["n_heads"])]
        for head in heads:
            yield from (f"{source}->{head}<{via}>" for source in before for via in "qkv")
        seen = before if cfg["parallel_attn_mlp"] else before + heads
        yield from (f"{source}->m{layer}" for source in seen)
        before = [*before, *heads, f"m{layer}"]
    yield from (f"{source}->logits" for source in before)


def eap_ig_name(id: str) -> str:
    """The node of the graph in which a component is; empty for a whole attention.

    >>> eap_ig_name("L0H3"), eap_ig_name("L2N7"), eap_ig_name("readout")
    ('a0.h3', 'm2', 'logits')
    """
    part = component(id)
    if part.kind in ("embed", "readout"):
        return {"embed": "input", "readout": "logits"}[part.kind]
    if part.kind == "head":
        return f"a{part.layer}.h{part.index}"
    return "" if part.sublayer == "attn" else f"m{part.layer}"


def _cfg(circuit: Circuit) -> dict[str, Any]:
    model = circuit.provenance.model
    lacking = [name for name in _SIZES if name not in model]
    if lacking:
        raise CircuitError(
            f"the circuit's provenance does not say {', '.join(lacking)} of its model, which "
            "EAP-IG's graph JSON needs; add it under provenance.model"
        )
    return {
        "n_layers": int(model["n_layers"]),
        "n_heads": int(model["n_heads"]),
        "parallel_attn_mlp": bool(model.get("parallel_attn_mlp", False)),
        "d_model": int(model["d_model"]),
    }


def _chosen(circuit: Circuit) -> set[str]:
    """Nodes that are in the circuit as more than a station of the residual stream."""
    ends = {end for edge in circuit.paths for end in (edge.source, edge.target)}
    stream = [edge for edge in circuit.edges if edge.kind == "residual"]
    stations = {end for edge in stream for end in (edge.source, edge.target)}
    return {
        eap_ig_name(node.id)
        for node in circuit.nodes
        if node.kind != "sublayer" or node.id in ends or node.id not in stations
    } - {""}


def _edge_scores(circuit: Circuit, chosen: set[str]) -> dict[str, float]:
    kind = "path" if circuit.paths else "direct"
    found: dict[str, dict[tuple[bool, bool], list[float]]] = defaultdict(lambda: defaultdict(list))
    for edge in circuit.edges:
        start, end = eap_ig_name(edge.source), eap_ig_name(edge.target)
        if edge.kind != kind or start not in chosen or (kind == "direct" and end != "logits"):
            continue
        name = f"{start}->{end}" + (f"<{edge.via}>" if edge.via in ("q", "k", "v") else "")
        found[name][_by_neurons(edge)].append(edge.weight or 0.0)
    # A whole MLP holds its neurons, so what was measured of it is not added to theirs.
    return {name: float(sum(weights[min(weights)])) for name, weights in found.items()}


def _by_neurons(edge: Edge) -> tuple[bool, bool]:
    start, end = (component(name).kind == "neuron" for name in (edge.source, edge.target))
    return start, end


def _node_scores(circuit: Circuit) -> dict[str, float]:
    found: dict[str, dict[bool, list[float]]] = defaultdict(lambda: defaultdict(list))
    for node in circuit.nodes:
        name = eap_ig_name(node.id)
        if name and node.total is not None and node.kind != "readout":
            found[name][node.kind == "neuron"].append(node.total)
    return {name: float(sum(totals[min(totals)])) for name, totals in found.items()}


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
    inside, scored = _inside(values), values["nodes"]
    nodes = [_node(name, scored.get(name, {})) for name in eap_ig_nodes(cfg) if name in inside]
    kept = [name for name in eap_ig_edges(cfg) if _kept(name, values, inside)]
    edges = [_edge(name, values["edges"][name]["score"]) for name in kept]
    model = {**named, **{name: cfg[name] for name in _SIZES}}
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
    ended = sum(edge["in_graph"] for edge in outside)
    scored = sum(edge["score"] != 0 for edge in outside)
    alone = sum("score" in node and not node["in_graph"] for node in nodes)
    single = sum("neurons" in node or "neurons_scores" in node for node in nodes)
    meaning = "nodes of which single output dimensions are in the circuit or have scores"
    return [
        *counted(
            "edges of outer nodes", ended, "edges in the circuit that end in a node outside it"
        ),
        *counted("edges", scored, "scores of edges outside the circuit"),
        *counted("nodes", alone, "scores of nodes outside the circuit"),
        *counted("output dimensions", single, meaning),
    ]

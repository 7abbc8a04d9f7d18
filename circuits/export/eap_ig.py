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

Read back, a node's score becomes its total effect, an edge becomes a path with the score as weight,
in units of the metric that the scores were made with. What is not in the graph is left out.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError, DataError
from circuits.export.node_link import check_form, finite_json, plain_values
from circuits.export.tables import counted, lost
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
    model = circuit.provenance.model
    if lacking := [name for name in _SIZES if name not in model]:
        raise CircuitError(
            f"the circuit's provenance does not say {', '.join(lacking)} of its model, which "
            "EAP-IG's graph JSON needs; add it under provenance.model"
        )
    parallel = {"parallel_attn_mlp": bool(model.get("parallel_attn_mlp", False))}
    cfg: dict[str, Any] = {name: int(model[name]) for name in ("n_layers", "n_heads")}
    cfg |= parallel | {"d_model": int(model["d_model"])}
    # What is in the circuit as more than a station of the residual stream.
    paths, stream = (
        {end for e in circuit.edges if e.kind == kind for end in (e.source, e.target)}
        for kind in ("path", "residual")
    )
    inside = [n for n in circuit.nodes if n.kind != "sublayer" or n.id not in stream - paths]
    chosen = {eap_ig_name(node.id) for node in inside} - {""}
    own = _summed(
        (eap_ig_name(node.id), node.kind == "neuron", node.total)
        for node in circuit.nodes
        if node.total is not None and node.kind != "readout"
    )
    scores = _summed(_scored(circuit, chosen))
    nodes = {
        name: {"in_graph": name in chosen or name == "logits"}
        | ({"score": own[name]} if name in own else {})
        for name in eap_ig_nodes(cfg)
    }
    edges = {
        name: {"score": scores.get(name, 0.0), "in_graph": name in scores}
        for name in eap_ig_edges(cfg)
    }
    if astray := sorted(set(scores) - set(edges)):
        raise CircuitError(
            f"the circuit has the edge {astray[0]}, which the graph of its model lacks: attention "
            "and MLP of a layer run side by side there"
        )
    return finite_json({"cfg": cfg, "nodes": nodes, "edges": edges}, circuit)


def _scored(circuit: Circuit, chosen: set[str]) -> Iterator[tuple[str, Any, float]]:
    """Edge of the graph, which of its ends are neurons, and the weight."""
    for edge in circuit.paths or [edge for edge in circuit.edges if edge.kind == "direct"]:
        start, end = eap_ig_name(edge.source), eap_ig_name(edge.target)
        if start in chosen and (edge.kind == "path" or end == "logits"):
            entry = f"<{edge.via}>" if edge.via in ("q", "k", "v") else ""
            yield f"{start}->{end}{entry}", _by_neurons(edge), edge.weight or 0.0


def _summed(rows: Iterable[tuple[str, Any, float]]) -> dict[str, float]:
    """Name -> sum of its values; a whole MLP holds its neurons, so theirs are not added to it."""
    found: dict[str, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, by_neurons, value in rows:
        found[name][by_neurons].append(value)
    return {name: float(sum(values[min(values)])) for name, values in found.items()}


def _by_neurons(edge: Edge) -> tuple[bool, bool]:
    start, end = (component(name).kind == "neuron" for name in (edge.source, edge.target))
    return start, end


def eap_ig_losses(circuit: Circuit) -> list[Loss]:
    """What the graph JSON does not keep."""
    attention = [node.id for node in circuit.nodes if node.id.endswith(".attn")]
    model = circuit.provenance.model
    grouped = model.get("n_key_value_heads", model.get("n_heads")) != model.get("n_heads")
    direct = sum(e.kind == "direct" and e.source in attention for e in circuit.edges)
    return [
        *counted("neurons", len(circuit.neurons), "neurons, which become part of their MLP's node"),
        *counted("attentions", len(attention), "whole attentions; only heads are nodes"),
        *lost(
            circuit,
            "nodes.effect nodes.stderr nodes.random_baseline nodes.importance nodes.direct "
            "edges.stderr edges.random_baseline edges.exact edges.exact_stderr edges.causal "
            "edges.residual edges.part",
        ),
        *(
            lost(circuit, "edges.direct")
            if circuit.paths
            else counted("edges.attention", direct, "direct edges of whole attentions")
        ),
        *counted(
            "paths.neurons",
            sum(any(_by_neurons(edge)) for edge in circuit.paths),
            "paths from or into neurons, which become part of their MLP's edges",
        ),
        *counted(
            "paths.groups",
            sum(grouped and edge.via in ("k", "v") for edge in circuit.paths),
            "paths into keys or values of a key-value group, written at each head of the "
            "circuit that reads them",
        ),
        *lost(circuit, "scores provenance emotion"),
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
        named = {"name": model} if model else {}
        return _circuit(values, emotion, named, digest(path))
    except (DataError, CircuitError) as error:
        raise type(error)(f"{path}: {error}") from error


def check_eap_ig(values: Any) -> None:
    """Check graph JSON: its schema, and that the graph of such a model has its nodes and edges.

    Raises:
        DataError: what is wrong, with its JSON path.
    """
    check_form(values, "eap-ig.schema.json")
    cfg = values["cfg"]
    for part, names in (("nodes", eap_ig_nodes(cfg)), ("edges", eap_ig_edges(cfg))):
        if wrong := sorted(values[part].keys() - set(names)):
            raise DataError(
                f"{part}[{wrong[0]!r}] is not in the graph of a model with {cfg['n_layers']} "
                f"layers and {cfg['n_heads']} heads; correct the name or cfg"
            )


def _circuit(
    values: Mapping[str, Any], emotion: str, named: Mapping[str, str], data: str
) -> tuple[Circuit, list[Loss]]:
    cfg, scored, written = values["cfg"], values["nodes"], values["edges"]
    # Its loader does not read what is said of logits.
    inside = {name for name, node in scored.items() if node["in_graph"]} | {"logits"}
    nodes, edges = [], []
    for name in (name for name in eap_ig_nodes(cfg) if name in inside):
        part = component(_id(name))
        score = None if name == "logits" else scored.get(name, {}).get("score")
        total = None if score is None else float(score)
        nodes.append(Node(part.name, part.kind, part.layer, total=total))
    kept = set[str]()
    for name in eap_ig_edges(cfg):
        start, end, *entry = re.split(r"->|<|>", name)
        # In the graph, with both its ends.
        if {start, end} <= inside and written.get(name, {}).get("in_graph"):
            kept.add(name)
            via: Any = entry[0] if entry else "readout" if end == "logits" else "mlp"
            score = float(written[name]["score"])
            edges.append(Edge(_id(start), _id(end), "path", score, via))
    model = {**named, **{name: cfg[name] for name in _SIZES}}
    if cfg["parallel_attn_mlp"]:
        model["parallel_attn_mlp"] = True
    provenance = Provenance(model, "", {"read_from": "EAP-IG", "file": data}, versions())
    circuit = Circuit(emotion, tuple(nodes), tuple(edges), {}, provenance)
    outside = [edge for name, edge in written.items() if name not in kept]
    left = {
        "edges of outer nodes": (
            sum(edge["in_graph"] for edge in outside),
            "edges in the circuit that end in a node outside it",
        ),
        "edges": (
            sum(edge["score"] != 0 for edge in outside),
            "scores of edges outside the circuit",
        ),
        "nodes": (
            sum("score" in node and not node["in_graph"] for node in scored.values()),
            "scores of nodes outside the circuit",
        ),
        "output dimensions": (
            sum("neurons" in node or "neurons_scores" in node for node in scored.values()),
            "nodes of which single output dimensions are in the circuit or have scores",
        ),
    }
    return circuit, [Loss(what, float(size), said) for what, (size, said) in left.items() if size]


def _id(name: str) -> str:
    if name in ("input", "logits"):
        return {"input": "embed", "logits": "readout"}[name]
    layer, *head = map(int, re.findall(r"\d+", name))
    return head_name(layer, head[0]) if head else sublayer_name(layer, "mlp")

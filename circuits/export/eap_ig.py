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
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from circuits.errors import CircuitError
from circuits.export.kept import counted, fields_lost, kinds_lost, whole_lost
from circuits.export.node_link import finite_json, plain_values
from circuits.graph.circuit import Circuit, Edge, Node
from circuits.losses import Loss
from circuits.names import component

__all__ = ["eap_ig", "eap_ig_edges", "eap_ig_losses", "eap_ig_name", "eap_ig_nodes"]

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
            nodes=("effect", "stderr", "control", "importance", "direct"),
            edges=("stderr", "control", "exact", "exact_stderr", "causal"),
        ),
        *kinds_lost(circuit, "residual", "part"),
        *unheard,
        *counted("paths.neurons", merged,
                 "paths from or into neurons, which become part of their MLP's edges"),
        *counted("paths.groups", len(keyed) if grouped else 0,
                 "paths into keys or values of a key-value group, written at each head of the "
                 "circuit that reads them"),
        *whole_lost(circuit, emotion=True),
    ]  # fmt: skip


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
    stations = {
        end
        for edge in circuit.edges
        if edge.kind == "residual"
        for end in (edge.source, edge.target)
    }
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
            found[name][_is_neuron(node)].append(node.total)
    return {name: float(sum(totals[min(totals)])) for name, totals in found.items()}


def _is_neuron(node: Node) -> bool:
    return node.kind == "neuron"

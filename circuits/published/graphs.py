"""A published circuit as a circuit of ours: nodes and edges, with the scores that are known."""

from collections.abc import Mapping
from typing import Any

import torch

from circuits.errors import DataError
from circuits.graph.circuit import Circuit, Edge, Node
from circuits.names import head_name, neuron_name, sublayer_name
from circuits.provenance import Provenance, versions
from circuits.published.contents import Contents

__all__ = ["as_graph"]


def as_graph(circuit: Mapping[str, Any], contents: Contents) -> Circuit:
    """The graph of a published circuit.

    Members stand in rank order within their layer. Effects are the published importances and
    contributions where they are there; what a part adds to the readout is not known, so no part
    has an edge to it. Neurons whose ids are not known are left out.

    Raises:
        DataError: the circuit has more layers than the tables, or an id that they lack.
    """
    emotion = str(circuit["emotion"])
    nodes, edges, previous = [Node("embed", "embed")], [], "embed"
    scores = _Scores(contents, emotion)
    for entry in circuit["layers"]:
        layer = int(entry["layer"])
        heads = [scores.head(layer, i) for i in entry["attention"]["heads"] or ()]
        neurons = [scores.neuron(layer, i) for i in entry["mlp"]["neurons"] or ()]
        for sublayer, members in (("attn", heads), ("mlp", neurons)):
            site = scores.sublayer(layer, sublayer)
            nodes += [*members, site]
            edges.append(Edge(previous, site.id, "residual"))
            edges += [Edge(node.id, site.id, "part", node.effect) for node in members]
            previous = site.id
    nodes.append(Node("readout", "readout"))
    edges.append(Edge(previous, "readout", "residual"))
    kinds = [node.kind for node in nodes]
    return Circuit(
        emotion,
        tuple(nodes),
        tuple(edges),
        {"n_heads": float(kinds.count("head")), "n_neurons": float(kinds.count("neuron"))},
        Provenance(
            model={"name": contents.model},
            options={"published": {key: circuit[key] for key in circuit if key != "layers"}},
            versions=versions(),
        ),
    )


class _Scores:
    """Nodes of one emotion, with what the tables say of them."""

    def __init__(self, contents: Contents, emotion: str) -> None:
        self._heads, self._neurons = contents.heads(emotion), contents.contributions(emotion)
        known = contents.has_weights(emotion)
        self._weights = contents.weights(emotion) if known else None

    def head(self, layer: int, index: int) -> Node:
        own, name = self._heads, head_name(layer, index)
        if own is None:
            return Node(name, "head", layer)
        _check(own.mean, layer, index, name)
        samples = float(own.samples[0, layer, index])
        spread = float(own.std[0, layer, index])
        # The published spread divides by n; an error of the mean needs two samples.
        error = spread / (samples - 1) ** 0.5 if samples > 1 else None
        return Node(name, "head", layer, effect=float(own.mean[0, layer, index]), stderr=error)

    def neuron(self, layer: int, index: int) -> Node:
        own, name = self._neurons, neuron_name(layer, index)
        if own is None:
            return Node(name, "neuron", layer)
        _check(own.mean, layer, index, name)
        return Node(name, "neuron", layer, effect=float(own.mean[0, layer, index]))

    def sublayer(self, layer: int, sublayer: str) -> Node:
        name, own = sublayer_name(layer, sublayer), self._weights
        if own is None:
            return Node(name, "sublayer", layer)
        if layer >= own.shape[1]:
            raise DataError(f"the importance table has no layer {layer}, which a circuit names")
        place = (0 if sublayer == "attn" else 1, layer)
        return Node(name, "sublayer", layer, importance=float(own[place]))


def _check(table: torch.Tensor, layer: int, index: int, name: str) -> None:
    if layer >= table.shape[1] or index >= table.shape[2]:
        raise DataError(f"a circuit names {name}, which the tables do not have")

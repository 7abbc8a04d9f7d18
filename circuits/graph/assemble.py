"""From measurements to circuits: which heads and neurons, and how they hang together.

By default all heads, and all neurons, are ranked together by their estimated total effect (see
:mod:`circuits.measure.totals`). As published (Wang et al. 2025, arXiv 2510.11328, stage 6.5),
importance first deals places out to layers, and within a layer the components with the largest
direct effect are taken. Either way a component that does not push towards the emotion is not
taken, whatever room is left, unless signs are ignored, as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.graph.budget import Budget, allocate
from circuits.graph.circuit import Circuit, Edge, Node
from circuits.measure.direct import DirectEffects
from circuits.measure.heads import HeadEffects
from circuits.measure.importance import Importance
from circuits.measure.neurons import NeuronEffects
from circuits.measure.totals import TotalEstimates
from circuits.names import head_name, neuron_name, sublayer_name
from circuits.provenance import Provenance

__all__ = ["Measurements", "RankBy", "assemble", "select", "select_by_layer"]

RankBy = Literal["total", "centred", "mean"]
"""``total``: estimated total effect, over all layers. ``centred``: direct effect relative to the
other emotions, layer by layer; ``mean``: the same of the emotion alone, as published."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """Everything that circuits are made from."""

    importance: Importance
    heads: HeadEffects
    neurons: NeuronEffects
    direct: DirectEffects
    totals: TotalEstimates


def assemble(
    measured: Measurements,
    emotion: str,
    provenance: Provenance,
    *,
    budget: Budget | None = None,
    rank_by: RankBy = "total",
    signed: bool = False,
) -> Circuit:
    """The circuit of one emotion.

    Args:
        measured: Importance, effects and direct effects of the same model.
        emotion: One of the measured emotions.
        provenance: Where the measurements come from.
        budget: How many heads and neurons.
        rank_by: What decides which components are taken; see :data:`RankBy`.
        signed: Fill every place, with negative effects too where positive ones run out.

    Raises:
        AxisError: the emotion was not measured.
        CircuitError: the budget is no share.
    """
    e = measured.importance.index("emotion", emotion)
    share, effect = budget or Budget(), "mean" if rank_by == "mean" else "centred"
    direct = (getattr(measured.heads, effect)[e], getattr(measured.neurons, effect)[e])
    counts = share.counts(direct[0].numel(), direct[1].numel())
    if rank_by == "total":
        totals = (measured.totals.head_effect[e], measured.totals.neuron_effect[e])
        chosen = [
            select(total, count, signed=signed) for total, count in zip(totals, counts, strict=True)
        ]
    else:
        slope = measured.importance.slope[e]
        chosen = [
            select_by_layer(own, weights, count, minimum=share.min_per_layer, signed=signed)
            for own, weights, count in zip(direct, slope, counts, strict=True)
        ]
    members = [
        *(_member(measured, "head", e, place, effect) for place in chosen[0]),
        *(_member(measured, "neuron", e, place, effect) for place in chosen[1]),
    ]
    return _graph(measured, e, emotion, members, provenance)


def select(
    effects: Float[Tensor, "layer component"], count: int, *, signed: bool = False
) -> list[tuple[int, int]]:
    """(layer, index) of the ``count`` largest effects of all layers; if not ``signed`` positive.

    Sorted by layer, within a layer by effect; ties go to the earlier component.
    """
    width = effects.shape[1]
    order = effects.flatten().argsort(descending=True, stable=True)[:count].tolist()
    taken = [divmod(place, width) for place in order if signed or effects.flatten()[place] > 0]
    return sorted(taken, key=lambda place: place[0])


def select_by_layer(
    effects: Float[Tensor, "layer component"],
    weights: Float[Tensor, " layer"],
    count: int,
    *,
    minimum: int = 0,
    signed: bool = False,
) -> list[tuple[int, int]]:
    """(layer, index) of ``count`` components: layers by weight, within a layer by effect.

    Only components with a positive effect are taken, unless effects are ``signed``.
    """
    available = (effects > (-torch.inf if signed else 0)).sum(1).tolist()
    places = allocate(weights.tolist(), available, count, minimum)
    order = effects.argsort(dim=1, descending=True, stable=True)
    return [(layer, index) for layer, k in enumerate(places) for index in order[layer, :k].tolist()]


def _member(
    measured: Measurements,
    kind: Literal["head", "neuron"],
    e: int,
    place: tuple[int, int],
    effect: str,
) -> Node:
    own = measured.heads if kind == "head" else measured.neurons
    name = head_name if kind == "head" else neuron_name
    error = "stderr" if effect == "mean" else f"{effect}_stderr"
    return Node(
        name(*place),
        kind,
        place[0],
        effect=float(getattr(own, effect)[e][place]),
        stderr=_number(getattr(own, error)[e][place]),
        control=float(own.control[e, place[0]]),
        direct=float(getattr(measured.direct, f"{kind}_effect")[e][place]),
        total=float(getattr(measured.totals, f"{kind}_effect")[e][place]),
    )


def _graph(
    measured: Measurements, e: int, emotion: str, members: Sequence[Node], provenance: Provenance
) -> Circuit:
    nodes = [Node("embed", "embed")]
    edges: list[Edge] = []
    previous = "embed"
    for layer in measured.importance.layer:
        for s, sublayer in enumerate(measured.importance.sublayer):
            site = _sublayer(measured, e, s, layer, sublayer)
            kind = "head" if sublayer == "attn" else "neuron"
            own = [node for node in members if node.layer == layer and node.kind == kind]
            nodes += [*own, site]
            edges.append(Edge(previous, site.id, "residual"))
            edges += [Edge(node.id, site.id, "part", node.effect) for node in own]
            edges += [Edge(node.id, "readout", "direct", node.direct) for node in own]
            edges.append(Edge(site.id, "readout", "direct", site.direct))
            previous = site.id
    nodes.append(Node("readout", "readout"))
    return Circuit(emotion, tuple(nodes), tuple(edges), _scores(measured, e, members), provenance)


def _sublayer(measured: Measurements, e: int, s: int, layer: int, sublayer: str) -> Node:
    own = measured.importance
    return Node(
        sublayer_name(layer, sublayer),
        "sublayer",
        layer,
        stderr=_number(own.stderr[e, s, layer]),
        control=float(own.control[e, s, layer]) if own.n_random else None,
        importance=float(own.slope[e, s, layer]),
        direct=float(measured.direct.sublayer_effect[e, s, layer]),
    )


def _scores(measured: Measurements, e: int, members: Sequence[Node]) -> dict[str, float]:
    heads = [node for node in members if node.kind == "head"]
    neurons = [node for node in members if node.kind == "neuron"]
    total = float(measured.direct.total[e])
    direct = sum(node.direct or 0.0 for node in members)
    return {
        "n_heads": float(len(heads)),
        "n_neurons": float(len(neurons)),
        "heads_fraction": len(heads) / measured.heads.mean[e].numel(),
        "neurons_fraction": len(neurons) / max(1, measured.neurons.mean[e].numel()),
        "readout_difference": total,
        "direct_share": direct / total if total else 0.0,
    }


def _number(value: Tensor) -> float | None:
    # A standard error over one context is not a number.
    return float(value) if bool(torch.isfinite(value)) else None

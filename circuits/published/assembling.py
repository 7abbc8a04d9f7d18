"""Circuits from published tables alone, without a model, by the released rule.

Wang et al. 2025 (arXiv 2510.11328, stage 6.5): importance deals places out to layers, and a layer
takes the first of its ranking, whatever their sign. Unlike :func:`circuits.circuit.find.allocate`
this keeps the rule as it is: the cap does not count a layer's minimum, and the remainder is dealt
out in two rounds at most. Where no contributions are there, the number of neurons is known but not
which; then the ids are ``None``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError, DataError
from circuits.names import SUBLAYERS, head_name, neuron_name, sublayer_name
from circuits.provenance import Provenance, versions
from circuits.published.folder import Contents
from circuits.published.tables import AllocationLog

__all__ = ["Assembled", "Settings", "as_graph", "assemble_published", "deal_out", "published_form"]

# Neurons and heads: their shares, and what every layer gets; and the share of all places that a
# layer never gets more than beyond its minimum.
_RATIO, _MINIMA, _CAP_RATIO = (0.7, 0.3), (4, 2), 0.4


@dataclass(frozen=True)
class Settings:
    """What of the published rule can be set."""

    total: int | None = None
    """Components of a circuit; by default ten per sublayer, as in the published 560."""
    ratio_mode: Literal["fixed", "auto"] = "fixed"
    """Shares of neurons and heads: 0.7 and 0.3, or those of the sublayers' importance."""

    def __post_init__(self) -> None:
        if self.total is not None and self.total < 1:
            raise CircuitError(f"total: {self.total} is too few components; give 1 or more")

    def split(self, n_sublayers: int, mlp: float, attention: float) -> tuple[int, int]:
        """Neurons and heads of a circuit, by the importance of all its MLPs and attentions.

        >>> Settings().split(56, 1.0, 1.0)
        (392, 168)
        """
        total = 10 * n_sublayers if self.total is None else self.total
        auto = self.ratio_mode == "auto" and mlp + attention > 1e-12
        neurons = round(total * (mlp / (mlp + attention) if auto else _RATIO[0]))
        return neurons, total - neurons


class Layers(NamedTuple):
    """Places of one kind of component, layer by layer."""

    weight: tuple[float, ...]
    share: tuple[float, ...]
    base: tuple[int, ...]
    added: tuple[int, ...]
    assigned: tuple[int, ...]
    """Before a layer's lack of components counts."""
    available: tuple[int | None, ...]
    """``None`` where it is not known how many components there are."""
    used: tuple[int, ...]


def deal_out(
    scores: Sequence[float],
    available: Sequence[int | None],
    count: int,
    *,
    minimum: int,
    cap_ratio: float,
) -> Layers:
    """Deal ``count`` places out to layers with these scores; negative ones weigh nothing.

    Raises:
        CircuitError: a score is not finite.

    >>> deal_out([3.0, 1.0, -1.0], [9, 9, 9], 9, minimum=1, cap_ratio=0.4).assigned
    (4, 3, 2)
    """
    if not all(map(math.isfinite, scores)):
        raise CircuitError("a layer's importance is not finite; look at the importance table")
    weights = [max(score, 0.0) for score in scores]
    mass, n = sum(weights), len(weights)
    shares = [weight / mass for weight in weights] if mass > 1e-12 else [1 / n] * n
    if count < minimum * n:
        minimum = 1 if count >= n else 0
    rest, cap = count - minimum * n, math.floor(cap_ratio * count)
    raw = [share * rest for share in shares]
    added = [min(math.floor(value), cap) for value in raw]
    left = rest - sum(added)
    # Two rounds; the largest fraction first, ties to the earlier layer.
    for i in sorted(range(n), key=lambda i: math.floor(raw[i]) - raw[i]) * 2:
        if left > 0 and added[i] < cap:
            added[i] += 1
            left -= 1
    # What a layer lacks goes to those with most places.
    planned = [minimum + more for more in added]
    room = [math.inf if most is None else most for most in available]
    used = [int(min(k, most)) for k, most in zip(planned, room, strict=True)]
    missing = sum(planned) - sum(used)
    for i in sorted(range(n), key=lambda i: -planned[i]):
        more = int(min(missing, room[i] - used[i]))
        used[i] += more
        missing -= more
    base, places = (minimum,) * n, tuple(planned)
    return Layers(
        tuple(weights), tuple(shares), base, tuple(added), places, tuple(available), tuple(used)
    )


@dataclass(frozen=True)
class Assembled:
    """The published circuit of one emotion, with how its places were dealt out."""

    emotion: str
    settings: Settings
    split: tuple[int, int]
    """Neurons and heads that were asked for."""
    neurons: Layers
    heads: Layers
    neuron_ids: tuple[tuple[int, ...], ...] | None
    """Per layer in rank order; ``None`` if there are no contributions to rank by."""
    head_ids: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The circuit in its published form."""
        ids = self.neuron_ids or [None] * len(self.head_ids)
        constants = {
            "ratio_mode": self.settings.ratio_mode,
            "ratio_fixed": ",".join(map(str, _RATIO)),
            "min_per_layer": {"mlp": self.neurons.base[0], "attention": self.heads.base[0]},
            "cap_ratio": _CAP_RATIO,
        }
        return published_form(
            self.emotion,
            [(k, own and list(own)) for k, own in zip(self.neurons.used, ids, strict=True)],
            [(k, list(own)) for k, own in zip(self.heads.used, self.head_ids, strict=True)],
            self.split,
            (sum(self.neurons.assigned), sum(self.heads.assigned)),
            constants,
        )

    def log(self) -> AllocationLog:
        """How places were dealt out, attention first."""
        names = {name: name for name in Layers._fields} | {"cap": "available"}
        # The published logs say as cap how many there are, not what a layer may get at most.
        grids = {
            name: torch.tensor(
                [
                    [
                        [math.nan if value is None else value for value in getattr(kind, own)]
                        for kind in (self.heads, self.neurons)
                    ]
                ],
                dtype=torch.float64,
            )
            for name, own in names.items()
        }
        known = {
            "provenance": Provenance(options={"assembled": "published"}, versions=versions()),
            "emotion": (self.emotion,),
            "sublayer": SUBLAYERS,
            "layer": tuple(range(len(self.head_ids))),
        }
        return AllocationLog.of(known, **grids)


def published_form(
    emotion: str,
    neurons: Sequence[tuple[int, Any]],
    heads: Sequence[tuple[int, Any]],
    split: tuple[int, int],
    planned: tuple[int, int],
    constants: Mapping[str, Any],
) -> dict[str, Any]:
    """A circuit with the published keys in their order.

    Args:
        emotion: Whose circuit it is.
        neurons: Their number and ids, layer by layer.
        heads: Likewise.
        split: Neurons and heads that were asked for.
        planned: Neurons and heads that were dealt out, before a lack of components counts.
        constants: Of the published rule; ``None`` where a circuit was made by another.
    """
    asked, places = (dict(zip(("mlp", "attention"), own, strict=True)) for own in (split, planned))
    used = {"mlp": sum(k for k, _ in neurons), "attention": sum(k for k, _ in heads)}
    return {
        "emotion": emotion,
        "K_total": sum(split),
        "ratio_mode": constants.get("ratio_mode"),
        "ratio_fixed": constants.get("ratio_fixed"),
        "K_alloc": asked,
        "min_per_layer": constants.get("min_per_layer", {"mlp": None, "attention": None}),
        "cap_ratio": constants.get("cap_ratio"),
        "summary": {
            own: {"planned": k, "used": used[own], "final_deficit": k - used[own]}
            for own, k in places.items()
        },
        "layers": [
            {"layer": i, "mlp": {"k": n, "neurons": mlp}, "attention": {"k": h, "heads": attention}}
            for i, ((n, mlp), (h, attention)) in enumerate(zip(neurons, heads, strict=True))
        ],
    }


def assemble_published(
    contents: Contents, emotion: str, settings: Settings | None = None
) -> Assembled:
    """The circuit of one emotion by the published rule.

    Raises:
        DataError: head importances or importance tables lack, or their layers differ.
        CircuitError: an importance is not finite.
    """
    given = settings or Settings()
    heads, neurons = contents.heads(emotion), contents.contributions(emotion)
    if heads is None:
        raise DataError(f"there are no head importances of {emotion!r}; import them")
    weights = contents.weights(emotion)
    n_layers = weights.shape[1]
    for found in (heads, neurons):
        if found is not None and len(found.layer) != n_layers:
            raise DataError(
                f"{emotion}: the importance table has {n_layers} layers, "
                f"{type(found).__name__} has {len(found.layer)}"
            )
    attention, mlp = weights.tolist()
    positive = [sum(own) for own in weights.clamp_min(0.0).tolist()]
    split = given.split(2 * n_layers, mlp=positive[1], attention=positive[0])
    there = [contents.n_neurons(emotion)] * n_layers, [len(heads.head)] * n_layers
    of_mlp, of_heads = (
        deal_out(scores, there[i], split[i], minimum=_MINIMA[i], cap_ratio=_CAP_RATIO)
        for i, scores in enumerate((mlp, attention))
    )
    ids = None if neurons is None else _first(neurons.mean[0], of_mlp.used)
    return Assembled(
        emotion, given, split, of_mlp, of_heads, ids, _first(heads.mean[0], of_heads.used)
    )


def _first(
    scores: Float[Tensor, "layer component"], counts: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    order = scores.argsort(dim=1, descending=True, stable=True)
    return tuple(tuple(order[i, :k].tolist()) for i, k in enumerate(counts))


def as_graph(circuit: Mapping[str, Any], contents: Contents) -> Circuit:
    """The graph of a published circuit.

    Members stand in rank order within their layer. Effects are the published importances and
    contributions where they are there; what a part adds to the readout is not known, so no part
    has an edge to it. Neurons whose ids are not known are left out.

    Raises:
        DataError: the circuit has more layers than the tables, or an id that they lack.
    """
    emotion = str(circuit["emotion"])
    weights = contents.weights(emotion) if contents.has_weights(emotion) else None
    tables = {"head": contents.heads(emotion), "neuron": contents.contributions(emotion)}

    def member(kind: Literal["head", "neuron"], layer: int, index: int) -> Node:
        name = (head_name if kind == "head" else neuron_name)(layer, index)
        own: Any = tables[kind]
        if own is None:
            return Node(name, kind, layer)
        if layer >= own.mean.shape[1] or index >= own.mean.shape[2]:
            raise DataError(f"a circuit names {name}, which the tables do not have")
        effect, error = float(own.mean[0, layer, index]), None
        if kind == "head" and (samples := float(own.samples[0, layer, index])) > 1:
            # The published spread divides by n; an error of the mean needs two samples.
            error = float(own.std[0, layer, index]) / (samples - 1) ** 0.5
        return Node(name, kind, layer, effect=effect, stderr=error)

    def site(layer: int, sublayer: str) -> Node:
        name = sublayer_name(layer, sublayer)
        if weights is None:
            return Node(name, "sublayer", layer)
        if layer >= weights.shape[1]:
            raise DataError(f"the importance table has no layer {layer}, which a circuit names")
        value = float(weights[SUBLAYERS.index(sublayer), layer])
        return Node(name, "sublayer", layer, importance=value)

    nodes, edges, previous = [Node("embed", "embed")], [], "embed"
    for entry in circuit["layers"]:
        layer = int(entry["layer"])
        heads = [member("head", layer, i) for i in entry["attention"]["heads"] or ()]
        neurons = [member("neuron", layer, i) for i in entry["mlp"]["neurons"] or ()]
        for sublayer, members in (("attn", heads), ("mlp", neurons)):
            end = site(layer, sublayer)
            nodes += [*members, end]
            edges.append(Edge(previous, end.id, "residual"))
            edges += [Edge(node.id, end.id, "part", node.effect) for node in members]
            previous = end.id
    nodes.append(Node("readout", "readout"))
    edges.append(Edge(previous, "readout", "residual"))
    kinds = [node.kind for node in nodes]
    scores = {f"n_{kind}s": float(kinds.count(kind)) for kind in ("head", "neuron")}
    options = {"published": {key: circuit[key] for key in circuit if key != "layers"}}
    origin = Provenance({"name": contents.model}, options=options, versions=versions())
    return Circuit(emotion, tuple(nodes), tuple(edges), scores, origin)

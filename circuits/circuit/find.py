"""From measurements to a circuit: heads and neurons within a budget, and paths between them.

By default all heads, and all neurons, are ranked together by their estimated total effect (see
:mod:`circuits.patching.totals`). As published (Wang et al. 2025, arXiv 2510.11328, stage 6.5),
importance first deals places out to layers, and within a layer the components with the largest
direct effect are taken. Either way a component that does not push towards the emotion is not
taken, whatever room is left, unless signs are ignored, as published.

Attribution chooses the strongest paths between the components, patching confirms them. A path whose
95% interval holds zero, or does not lie beyond the random baseline (a sender that changes by as
much in a random direction), is kept and marked as not causal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from math import isfinite
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit.circuit import Circuit, Edge, Node, NodeKind, Via, with_scores
from circuits.circuit.score import check_held_out, score_circuits
from circuits.effects.activations import (
    component_means,
    differences,
    group_by_context,
    read_activations,
)
from circuits.effects.directions import emotion_directions, stable_layers
from circuits.effects.heads import HeadEffects, head_effects
from circuits.effects.importance import Importance, sublayer_importance
from circuits.effects.neurons import (
    DirectEffects,
    NeuronEffects,
    direct_effects,
    neuron_effects,
    without_neurons,
)
from circuits.errors import CircuitError, DataError
from circuits.judges.judge import Judge
from circuits.judges.lexicon import LexiconJudge
from circuits.judges.replies import judge_replies
from circuits.models.generate import elicit
from circuits.models.load import describe_model
from circuits.models.protocol import Model
from circuits.names import (
    EMOTIONS,
    VALENCES,
    component,
    head_name,
    neuron_name,
    receiver,
    sublayer_name,
)
from circuits.patching.pairs import Projection
from circuits.patching.paths import ExactPaths, PathEffects, edge_name
from circuits.patching.totals import TotalEstimates, total_estimates
from circuits.prompts.sev import Context, sev
from circuits.prompts.templates import Template, emotion_prompts, template_of
from circuits.provenance import Provenance, recorded, versions
from circuits.running import in_force

__all__ = [
    "Budget",
    "Measurements",
    "RankBy",
    "allocate",
    "assemble",
    "connect",
    "find_circuit",
    "find_circuits",
    "select",
    "select_by_layer",
    "strongest_paths",
]


@dataclass(frozen=True)
class Budget:
    """Components of a circuit, as shares of the model's.

    Wang et al. 2025 (arXiv 2510.11328) take ten components per sublayer, three tenths of them
    heads, which is a quarter of the heads of a 3B model and all heads of a small one. Shares
    mean the same at every size.
    """

    heads: float = 0.20
    """Share of all attention heads."""
    neurons: float = 0.05
    """Share of all MLP neurons."""
    min_per_layer: int = 0
    """Components that every layer gets of either kind before importance counts."""

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            if not 0 < getattr(self, name) <= 1:
                raise CircuitError(
                    f"budget: {name} is a share and must lie above 0 and at most 1, "
                    f"found {getattr(self, name)}"
                )
        if self.min_per_layer < 0:
            raise CircuitError(f"budget: min_per_layer is {self.min_per_layer}; give 0 or more")

    def counts(self, n_heads: int, n_neurons: int) -> tuple[int, int]:
        """Heads and neurons allowed in a model with so many; at least one of each.

        >>> Budget().counts(36, 3072)
        (7, 153)
        """
        # 0.29 of 100 is 29, although 0.29 * 100 is 28.999999999999996.
        shares = (self.heads, n_heads), (self.neurons, n_neurons)
        heads, neurons = (max(1, int(share * total + 1e-9)) for share, total in shares)
        return heads, neurons


def allocate(
    weights: Sequence[float], available: Sequence[int], total: int, minimum: int = 0
) -> list[int]:
    """Deal ``total`` places out to layers in proportion to ``weights``.

    Every layer gets ``minimum`` first; the rest goes by largest remainder. A layer never gets
    more than it has ``available``; what it cannot use is dealt out again, so the sum is ``total``
    unless fewer are available. Ties go to the earlier layer.

    Raises:
        CircuitError: a weight is not finite.

    >>> allocate([3.0, 1.0, 0.0], [8, 8, 8], 6)
    [5, 1, 0]
    """
    if not all(map(isfinite, weights)):
        raise CircuitError("a layer's weight is not finite; measure the importance again")
    given = [min(minimum, most) for most in available]
    if sum(given) > total:
        given = [0] * len(available)
    room = {i: most - given[i] for i, most in enumerate(available) if most > given[i]}
    left = min(total, sum(available)) - sum(given)

    def shares() -> dict[int, float]:
        # Layers without weight share evenly what layers with weight cannot use.
        mass = {i: max(weights[i], 0.0) for i in room}
        whole = sum(mass.values())
        return {i: left * mass[i] / whole if whole > 0 else left / len(room) for i in room}

    while full := [i for i, share in shares().items() if share >= room[i]]:
        for i in full:
            given[i] += room[i]
            left -= room.pop(i)
    own = shares()
    for i, share in own.items():
        given[i] += int(share)
    rest = left - sum(map(int, own.values()))
    for i in sorted(own, key=lambda i: (int(own[i]) - own[i], i))[:rest]:
        given[i] += 1
    return given


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
    *,
    budget: Budget | None = None,
    rank_by: RankBy = "total",
    signed: bool = False,
) -> Circuit:
    """The circuit of one emotion.

    Args:
        measured: Importance, effects and direct effects of the same model.
        emotion: One of the measured emotions.
        budget: How many heads and neurons.
        rank_by: What decides which components are taken; see :data:`RankBy`.
        signed: Fill every place, with negative effects too where positive ones run out.

    Raises:
        AxisError: the emotion was not measured.
        CircuitError: the budget is no share.
    """
    e = measured.importance.index("emotion", emotion)
    share, effect = budget or Budget(), "mean" if rank_by == "mean" else "centred"
    error = "stderr" if effect == "mean" else f"{effect}_stderr"
    direct, totals, importance = measured.direct, measured.totals, measured.importance
    kinds: tuple[tuple[NodeKind, Any, Any, Tensor, Tensor], ...] = (
        ("head", head_name, measured.heads, direct.head_effect[e], totals.head_effect[e]),
        ("neuron", neuron_name, measured.neurons, direct.neuron_effect[e], totals.neuron_effect[e]),
    )
    counts = share.counts(totals.head_effect[e].numel(), totals.neuron_effect[e].numel())
    members: list[Node] = []
    for (kind, name, own, direct_of, total_of), count, weights in zip(
        kinds, counts, importance.slope[e], strict=True
    ):
        effects, errors = getattr(own, effect)[e], getattr(own, error)[e]
        if rank_by == "total":
            chosen = select(total_of, count, signed=signed)
        else:
            chosen = select_by_layer(
                effects, weights, count, minimum=share.min_per_layer, signed=signed
            )
        members += [
            Node(
                name(*place),
                kind,
                place[0],
                effect=float(effects[place]),
                stderr=_finite(errors[place]),
                random_baseline=float(own.random_baseline[e, place[0]]),
                direct=float(direct_of[place]),
                total=float(total_of[place]),
            )
            for place in chosen
        ]
    nodes, edges, previous = [Node("embed", "embed")], list[Edge](), "embed"
    for layer, (s, sublayer) in product(importance.layer, enumerate(importance.sublayer)):
        random = importance.random_baseline[e, s, layer] if importance.n_random else None
        site = Node(
            sublayer_name(layer, sublayer),
            "sublayer",
            layer,
            stderr=_finite(importance.stderr[e, s, layer]),
            random_baseline=None if random is None else float(random),
            importance=float(importance.slope[e, s, layer]),
            direct=float(direct.sublayer_effect[e, s, layer]),
        )
        inside_of = "head" if sublayer == "attn" else "neuron"
        inside = [node for node in members if node.layer == layer and node.kind == inside_of]
        nodes += [*inside, site]
        edges.append(Edge(previous, site.id, "residual"))
        edges += [Edge(node.id, site.id, "part", node.effect) for node in inside]
        edges += [Edge(node.id, "readout", "direct", node.direct) for node in (*inside, site)]
        previous = site.id
    nodes.append(Node("readout", "readout"))
    total, shown = float(direct.total[e]), sum(node.direct or 0.0 for node in members)
    n_heads = sum(node.kind == "head" for node in members)
    n_neurons = len(members) - n_heads
    scores = {
        "n_heads": float(n_heads),
        "n_neurons": float(n_neurons),
        "heads_fraction": n_heads / totals.head_effect[e].numel(),
        "neurons_fraction": n_neurons / max(1, totals.neuron_effect[e].numel()),
        "readout_difference": total,
        "direct_share": shown / total if total else 0.0,
    }
    return Circuit(emotion, tuple(nodes), tuple(edges), scores)


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


def _finite(value: float | Tensor | None) -> float | None:
    # A standard error over one context is not a number.
    return None if value is None or not isfinite(value) else float(value)


def strongest_paths(circuit: Circuit, effects: PathEffects, keep: int) -> list[tuple[str, str]]:
    """(sender, receiver) of the ``keep`` largest |attributions| among the circuit's own nodes.

    Raises:
        CircuitError: the attributions are another emotion's.
    """
    own = dict.fromkeys((sender, reader) for sender, reader, _ in _own(circuit, effects))
    size = {
        (sender, reader): abs(effects.at("mean", sender=sender, receiver=reader))
        for sender, reader in own
    }
    return sorted(size, key=lambda path: -size[path])[:keep]


def connect(
    circuit: Circuit, effects: PathEffects, exact: ExactPaths | None = None, *, keep: int = 100
) -> Circuit:
    """The circuit with its strongest paths as edges, in place of any paths that it had.

    A path into the keys or values of a key-value group becomes an edge to each head of the group
    that the circuit holds, since each of them reads the group. Weights of paths from or to a
    neuron are part of those of its MLP.

    Args:
        circuit: Its nodes are joined.
        effects: Attributions, of the same emotion.
        exact: Patched paths, where they were patched; of the same emotion and mode.
        keep: How many paths.

    Raises:
        CircuitError: attributions or patched paths are another emotion's, or of other runs.
    """
    chosen = set(strongest_paths(circuit, effects, keep))
    measured: dict[str, tuple[float, float]] = {}
    if exact is not None:
        _check(circuit, exact)
        if any(getattr(exact, name) != getattr(effects, name) for name in _SAME_RUNS):
            apart = (
                f"{own.mode} against {own.other or 'neutral'} ({own.readout})"
                for own in (effects, exact)
            )
            raise CircuitError(
                f"attributions and patched paths are of other runs: {', and '.join(apart)}"
            )
        pairs = zip(exact.mean.tolist(), exact.stderr.tolist(), strict=True)
        measured = dict(zip(exact.edge, pairs, strict=True))
    edges = []
    for sender, reader, node in _own(circuit, effects):
        if (sender, reader) not in chosen:
            continue
        weight, stderr, baseline = (
            effects.at(name, sender=sender, receiver=reader)
            for name in ("mean", "stderr", "random_baseline")
        )
        name = edge_name(sender, reader)
        patched, error = measured.get(name, (None, None))
        # Exact is what counts; where a path was not patched, attribution is all there is.
        value, spread = measured.get(name, (weight, stderr))
        via: Via = receiver(reader).via  # type: ignore[assignment]
        edges.append(
            Edge(
                sender,
                node.id,
                "path",
                weight,
                via,
                _finite(stderr),
                baseline,
                patched,
                _finite(error),
                # Not known from one context.
                abs(value) - 1.96 * spread > baseline if isfinite(spread) else None,
            )
        )
    others = [edge for edge in circuit.edges if edge.kind != "path"]
    return replace(circuit, edges=(*others, *edges))


_SAME_RUNS = ("mode", "other", "readout")


def _check(circuit: Circuit, paths: PathEffects | ExactPaths) -> None:
    if paths.emotion != circuit.emotion:
        raise CircuitError(
            f"the paths are those of {paths.emotion!r}, the circuit is that of {circuit.emotion!r}"
        )


def _own(circuit: Circuit, effects: PathEffects) -> Iterator[tuple[str, str, Node]]:
    """Sender, receiver and the receiver's node, for every path between nodes of the circuit."""
    _check(circuit, effects)
    senders = {name: i for i, name in enumerate(effects.sender)}
    receivers = {name: i for i, name in enumerate(effects.receiver)}
    ends = [receiver(name) for name in effects.receiver]
    heads, groups = (sum(end.via == via and end.layer == 0 for end in ends) for via in "qk")
    starts = [node.id for node in circuit.nodes if node.id in senders]
    for node in circuit.nodes:
        part, inputs = component(node.id), (node.id,)
        if part.kind == "head" and part.index is not None:
            group = f"L{part.layer}G{part.index // (heads // groups)}"
            inputs = f"{node.id}.q", f"{group}.k", f"{group}.v"
        for reader, sender in product(inputs, starts):
            if reader in receivers and effects.exists[senders[sender], receivers[reader]]:
                yield sender, reader, node


_GRADIENT_CONTEXTS = 24


def find_circuit(
    model: Model,
    emotion: str,
    *,
    contexts: Sequence[Context],
    held_out: Sequence[Context] | None = None,
    template: str | Template = "published",
    emotions: Sequence[str] = EMOTIONS,
    judge: Judge | None = None,
    budget: Budget | None = None,
    max_new_tokens: int = 100,
) -> Circuit:
    """The circuit of one emotion; see :func:`find_circuits`, which takes as long for all of them.

    Raises:
        DataError: the emotion is none of ``emotions``.
    """
    if emotion not in emotions:
        raise DataError(
            f"{emotion!r} is none of the emotions that are contrasted, {', '.join(emotions)}; "
            "give emotions=(...), two or more"
        )
    found = find_circuits(
        model,
        contexts=contexts,
        held_out=held_out,
        template=template,
        emotions=emotions,
        judge=judge,
        budget=budget,
        max_new_tokens=max_new_tokens,
    )
    return found[emotion]


def find_circuits(
    model: Model,
    *,
    contexts: Sequence[Context],
    held_out: Sequence[Context] | None = None,
    template: str | Template = "published",
    emotions: Sequence[str] = EMOTIONS,
    judge: Judge | None = None,
    budget: Budget | None = None,
    max_new_tokens: int = 100,
) -> dict[str, Circuit]:
    """The circuits of several emotions, found, measured and scored.

    The model replies to every context with every emotion; replies that the judge finds the emotion
    in are kept, and from their prompts come directions, effects, importances and total effects, as
    in a run with default options. Circuits are then scored on held-out contexts beside random
    circuits of their size. How many replies were accepted stands in a circuit's ``evidence``, and
    the seed of all draws in its provenance (:func:`~circuits.running.execution`).

    Args:
        model: The model.
        contexts: What circuits are made from, such as ``sev("train", 24)``.
        held_out: What they are scored on; 12 test contexts of SEV by default, none if empty.
        template: How contexts become prompts.
        emotions: The emotions that are contrasted, two or more.
        judge: Decides which replies express their emotion; the lexicon by default.
        budget: How many heads and neurons.
        max_new_tokens: Longest reply.

    Raises:
        CircuitError: in no context was every emotion elicited; says how often each was, shows a
            reply and what to do.
        DataError: there are no contexts, or fewer than two emotions, or held-out contexts are among
            them.
    """
    wording, budget = template_of(template), budget or Budget()
    judge = LexiconJudge() if judge is None else judge
    held_out = sev("test", 12) if held_out is None else held_out
    if not contexts or len(emotions) < 2:
        raise DataError(
            f"a circuit needs contexts and two or more emotions to contrast; found "
            f"{len(contexts)} contexts and {len(emotions)} emotions"
        )
    if held_out:
        check_held_out(held_out, contexts)
    prompts = emotion_prompts(contexts, emotions, wording)
    replies = elicit(model, prompts, max_new_tokens=max_new_tokens)
    judged = judge_replies(replies, judge)
    elicited = {emotion: [0, 0] for emotion in emotions}
    for row in judged:
        elicited[row.reply.emotion][0] += row.verdict.match
        elicited[row.reply.emotion][1] += 1
    accepted = [row.reply for row in judged if row.verdict.match]
    if not accepted or not bool(group_by_context(accepted, emotions).complete.any()):
        worst = min(emotions, key=lambda emotion: elicited[emotion][0])
        sample = next(row.reply.text for row in judged if row.reply.emotion == worst)
        said = ", ".join(f"{emotion} {own} of {of}" for emotion, (own, of) in elicited.items())
        raise CircuitError(
            "no context has an accepted reply in every emotion, so there is no circuit to find. "
            f"Accepted by {judge.name}: {said}. A reply that should express {worst}: "
            f"{sample[:120]!r}. Use a chat-tuned or larger model, more contexts, another judge, or "
            "fewer emotions"
        )
    groups = group_by_context(accepted, emotions)
    evidence = {
        "template": wording.name,
        "judge": judge.name,
        "contexts": len(contexts),
        "complete_contexts": int(groups.complete.sum()),
        "elicited": elicited,
    }
    options = {"evidence": evidence, "seed": in_force().seed}
    text = "\n".join(f"{own.id}\t{own.situation}\t{own.event}" for own in contexts)
    data = f"sha256:{sha256(text.encode()).hexdigest()}"
    made = Provenance(describe_model(model), data, options, versions())
    with recorded(made):
        activations = read_activations(model, groups)
        found = emotion_directions(activations)
        heads = head_effects(model, activations, found)
        neurons = (
            neuron_effects(model, activations, found)
            if model.cfg.d_mlp
            else without_neurons(activations, found)
        )
        stable = stable_layers(len(found.layer))
        importance, neutral_means = sublayer_importance(
            model, groups, found, stable=stable, template=wording
        )
        between = differences(component_means(activations))
        direct = direct_effects(model, between, found, importance.reference)
        counts = budget.counts(heads.mean[0].numel(), neurons.mean[0].numel())
        # Evenly over them; the valences alternate and are all met.
        step = max(1, len(contexts) // _GRADIENT_CONTEXTS)
        part = contexts[:: step + (step % len(VALENCES) == 0)][:_GRADIENT_CONTEXTS]
        totals = total_estimates(model, part, importance, counts, template=wording)
        measured = Measurements(importance, heads, neurons, direct, totals)
        circuits = {e: assemble(measured, e, budget=budget) for e in emotions}
    if not held_out:
        return circuits
    readouts = {
        emotion: Projection(importance.reference[e], site=importance.read_at)
        for e, emotion in enumerate(importance.emotion)
    }
    scores = score_circuits(
        model, circuits, held_out, readouts, totals, means=neutral_means, template=wording
    )
    return {emotion: with_scores(own, scores[emotion]) for emotion, own in circuits.items()}

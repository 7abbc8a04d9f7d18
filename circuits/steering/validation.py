"""Whether components are needed and enough: readouts and replies under ablation and addition.

Ablated: a prompt asks for the emotion, and at its last position, where the reply begins, the
chosen heads' ``z`` or neurons' ``post`` are set to zero, to their mean over neutral prompts, or to
their mean over prompts that ask for the emotions. Added: the prompt is neutral, and what they give
more when the emotion is asked for is added there. For sets by rank this is the validation of local
components of Wang et al. 2025 (arXiv 2510.11328), with baselines: the components ranked last, and
random ones with as many in every layer. For whole circuits it is said how many points of judged
expression their ablation takes, and that of random sets of their size.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit.ablate import (
    ORDERS,
    Masks,
    PartKind,
    begin_neutral,
    random_masks,
    ranked_sets,
    run_added,
    run_circuits,
    sizes_to,
    stand,
)
from circuits.circuit.circuit import Circuit
from circuits.circuit.score import bootstrap_means
from circuits.effects.activations import ComponentMeans, Differences, NeutralMeans
from circuits.errors import CircuitError, DataError
from circuits.judges.replies import Judged, wilson
from circuits.models.edits import Edit, Replace
from circuits.models.protocol import Model
from circuits.patching.pairs import Projection, make_pairs
from circuits.patching.totals import TotalEstimates
from circuits.prompts.sev import Context
from circuits.provenance import current
from circuits.records import Record
from circuits.running import advance, in_force
from circuits.steering.evaluate import Evaluator
from circuits.steering.interventions import Modulation, component_edits

__all__ = [
    "CHANGES",
    "REPLY_CHANGES",
    "REPLY_ORDERS",
    "Known",
    "ReplyValidation",
    "Validation",
    "ablated",
    "ablation_drop",
    "emotion_mean",
    "random_sets",
    "replies_needed",
    "validate_components",
    "validate_replies",
]

_INTERVAL = (0.025, 0.975)


def ablated(evaluator: Evaluator, sets: Masks, means: NeutralMeans) -> list[Judged]:
    """Judged replies to prompts that ask, each emotion's set at its mean over neutral prompts.

    Every context with every emotion, a context's emotions together.
    """

    def of_batch(chosen: Sequence[int]) -> Sequence[Edit]:
        own = sets[[place % len(sets) for place in chosen]]
        return [
            Replace(site, layer, values[layer], inside[:, layer], when="prompt")
            for layer in range(len(means.z))
            for site, inside, values in (
                ("z", own.heads[..., None], means.z),
                ("post", own.neurons, means.post),
            )
            if bool(inside[:, layer].any())
        ]

    return evaluator.prompted(of_batch)


def ablation_drop(
    evaluator: Evaluator, circuits: Mapping[str, Circuit], means: NeutralMeans, *, draws: int = 30
) -> dict[str, Any]:
    """How many points of judged expression the circuits carry, and random sets of their size.

    The seed in force (:func:`~circuits.running.execution`) is that of draws and bootstrap.

    Args:
        evaluator: Model, contexts and judge; nothing else was made from its contexts.
        circuits: Emotion -> circuit; one of each of the evaluator's emotions.
        means: Over neutral prompts: what stands for what is ablated, at the prompt's end.
        draws: Random sets per emotion; all contexts are replied to for each.

    Returns:
        ``circuit_drop`` with its 95% interval ``low`` to ``high`` over contexts, ``random_drop``
        (mean over draws) and ``random_max`` (the largest of a draw), all in percentage points of
        judged expression, as it is minus without; the same ``by_emotion``; ``asked`` and
        ``without``, the percentages themselves; ``labels``, which label how many of the replies
        without the circuit got; and what was ablated.

    Raises:
        CircuitError: an emotion has no circuit, or a circuit is another model's.
        DataError: no draw, or no context.
    """
    missing = [emotion for emotion in evaluator.emotions if emotion not in circuits]
    if missing:
        raise CircuitError(f"no circuit of {missing[0]!r}; there are {', '.join(circuits)}")
    if draws < 1 or not evaluator.contexts:
        raise DataError(
            f"found {draws} draws and {len(evaluator.contexts)} contexts; give one or more of each"
        )
    own = Masks.of(evaluator.model, [circuits[emotion] for emotion in evaluator.emotions])
    asked = _matches(evaluator, evaluator.prompted())
    replies = ablated(evaluator, own, means)
    drop = asked - _matches(evaluator, replies)
    sets = random_sets(own, draws, torch.Generator().manual_seed(in_force().seed))
    random = torch.stack([asked - _matches(evaluator, ablated(evaluator, s, means)) for s in sets])
    return {
        **_summary(drop, random),
        "by_emotion": {
            emotion: _summary(drop[:, [e]], random[..., [e]])
            for e, emotion in enumerate(evaluator.emotions)
        },
        "asked": _percent(asked.mean()),
        "without": _percent((asked - drop).mean()),
        "labels": dict(Counter(row.verdict.label or "-" for row in replies).most_common()),
        "n": len(replies),
        "draws": draws,
        "heads_share": float(own.heads.double().mean()),
        "neurons_share": float(own.neurons.double().mean()),
        "when": "prompt",
    }


def random_sets(own: Masks, draws: int, random: torch.Generator) -> list[Masks]:
    """Draws of one random set per row of ``own``, matched in every layer."""
    drawn = [random_masks(own[[row]], draws, random).flat for row in range(len(own))]
    return [own.like(torch.stack([flat[draw] for flat in drawn])) for draw in range(draws)]


def _summary(
    drop: Float[Tensor, "context emotion"], random: Float[Tensor, "draw context emotion"]
) -> dict[str, float]:
    again = bootstrap_means(drop.mean(1)[None])[:, 0]
    low, high = again.quantile(torch.tensor([0.025, 0.975], dtype=again.dtype)).tolist()
    by_draw = random.mean((1, 2))
    return {
        "circuit_drop": _percent(drop.mean()),
        "low": _percent(low),
        "high": _percent(high),
        "random_drop": _percent(by_draw.mean()),
        "random_max": _percent(by_draw.max()),
    }


def _percent(share: Tensor | float) -> float:
    return round(100 * float(share), 2)


def _matches(evaluator: Evaluator, judged: Sequence[Judged]) -> Float[Tensor, "context emotion"]:
    found: Bool[Tensor, " row"] = torch.tensor([row.verdict.match for row in judged])
    return found.double().reshape(len(evaluator.contexts), len(evaluator.emotions))


CHANGES = ("zero", "neutral mean", "emotion mean", "add")
"""Three ablations in prompts that ask for the emotion, and addition in neutral ones."""


@dataclass(frozen=True, eq=False)
class Validation(Record):
    """Effects of sets of heads, or of neurons, on the readouts of all emotions.

    Effect: the readout with the set at work minus the readout without, so that positive pushes
    towards the readout's emotion. Ablation takes it away from prompts that ask for ``emotion``,
    addition adds it to neutral ones. Unit: length in the residual stream. The readout of emotion
    ``other_emotion`` is the projection on its reference direction at the last prompt position.
    """

    effect: Float[Tensor, "emotion method order size other_emotion"]
    """Mean over contexts."""
    low: Float[Tensor, "emotion method order size other_emotion"]
    """Lower end of its 95% interval (bootstrap over contexts)."""
    high: Float[Tensor, "emotion method order size other_emotion"]
    random_baseline: Float[Tensor, "emotion method draw size other_emotion"]
    """Of random sets with as many components in every layer as the top set, mean over contexts."""
    random_baseline_low: Float[Tensor, "emotion method size other_emotion"]
    """2.5th percentile of the random sets."""
    random_baseline_high: Float[Tensor, "emotion method size other_emotion"]
    asked: Float[Tensor, "emotion other_emotion"]
    """What asking for ``emotion`` adds to the readouts of the neutral prompt."""

    emotion: tuple[str, ...]
    other_emotion: tuple[str, ...]
    method: tuple[str, ...]
    order: tuple[str, ...]
    """``top``: the k ranked first by estimated total effect on the readout of ``emotion``;
    ``bottom``: the k ranked last; ``single``: the one at rank k alone."""
    size: tuple[int, ...]
    """k."""
    draw: tuple[int, ...]
    kind: str
    """``head`` or ``neuron``."""
    n_contexts: int


@dataclass(frozen=True, eq=False)
class Known:
    """What was measured of the components on train contexts."""

    totals: TotalEstimates
    """Rank the components."""
    readouts: Mapping[str, Projection]
    plain: NeutralMeans
    asked: ComponentMeans
    differences: Differences
    """What addition adds."""

    def effects(self, emotion: str, kind: PartKind) -> Float[Tensor, "layer component"]:
        """The estimated total effects of all components of a kind.

        Raises:
            AxisError: the emotion was not measured.
        """
        place = self.totals.index("emotion", emotion)
        return {"head": self.totals.head_effect, "neuron": self.totals.neuron_effect}[kind][place]


def validate_components(
    model: Model,
    contexts: Sequence[Context],
    known: Known,
    kind: PartKind,
    *,
    draws: int = 30,
    steps: int = 12,
) -> Validation:
    """Ablate and add to sets of ``kind``, from one component to all; progress counts emotions.

    Args:
        model: The model.
        contexts: Held out from all that is known; two or more.
        known: Ranking, readouts, and what stands for a component.
        kind: Heads or neurons; the others stay as they are.
        draws: Random sets of every size.
        steps: About how many sizes.

    Raises:
        DataError: fewer than two contexts or steps, or no draw.
        AxisError: an emotion with a readout was not measured.
    """
    if len(contexts) < 2:
        raise DataError(f"intervals need two contexts or more, found {len(contexts)}")
    for name, given, least in (("draws", draws, 1), ("steps", steps, 2)):
        if given < least:
            raise DataError(f"{name}: {given} is too few; give {least} or more")
    emotions, readouts = tuple(known.readouts), tuple(known.readouts.values())
    sizes = sizes_to(known.effects(emotions[0], kind).numel(), steps)
    random = torch.Generator().manual_seed(in_force().seed)
    neutral, add = begin_neutral(model, contexts), known.differences
    instead = (None, known.plain, emotion_mean(known.asked))
    found: list[dict[str, Tensor]] = []
    for emotion in emotions:
        sets = ranked_sets(model, known.effects(emotion, kind), kind, sizes, draws, random)
        # An empty set changes nothing: the run that all others are compared with.
        sets = sets.like(torch.cat([torch.zeros_like(sets.flat[:1]), sets.flat]))
        pairs, rest = make_pairs(model, contexts, emotion), sets.like(~sets.flat)
        runs = []
        for means in instead:
            on = stand(model, pairs, ablation="mean" if means else "zero", means=means)
            runs.append(run_circuits(on, rest, readouts))
        e = add.index("emotion", emotion)
        runs.append(run_added(model, neutral, sets, add.z[e], add.post[e], readouts))
        # Axes: method, set, context, readout.
        m = torch.stack(runs).double()
        sign = torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=m.dtype)[:, None, None, None]
        change = (sign * (m[:, 1:] - m[:, :1])).unflatten(1, (-1, len(sizes)))
        mean, before = change.mean(3), m[:, 0].mean(1)
        own, drawn = mean.split([len(ORDERS), draws], dim=1)
        rows = change[:, : len(ORDERS)].movedim(3, -1)
        again = bootstrap_means(rows.flatten(0, -2))
        ends = torch.tensor(_INTERVAL, dtype=m.dtype)
        low, high = again.quantile(ends, dim=0).reshape(2, *own.shape)
        drawn_low, drawn_high = drawn.quantile(ends, dim=1)
        found.append(
            {
                "effect": own,
                "low": low,
                "high": high,
                "random_baseline": drawn,
                "random_baseline_low": drawn_low,
                "random_baseline_high": drawn_high,
                "asked": before[0] - before[-1],
            }
        )
        advance(1)
    return Validation(
        provenance=current(),
        **{name: torch.stack([one[name] for one in found]).float() for name in found[0]},
        emotion=emotions,
        other_emotion=emotions,
        method=CHANGES,
        order=ORDERS,
        size=sizes,
        draw=tuple(range(draws)),
        kind=kind,
        n_contexts=len(contexts),
    )


def emotion_mean(means: ComponentMeans) -> NeutralMeans:
    """The mean over the emotions, in the form in which ablation takes means."""
    return NeutralMeans(
        provenance=means.provenance,
        z=means.z.mean(0),
        post=means.post.mean(0),
        layer=means.layer,
        head=means.head,
        neuron=means.neuron,
        n_contexts=means.n_contexts,
    )


REPLY_CHANGES = ("neutral mean", "add")
REPLY_ORDERS = ("top", "bottom", "random")


@dataclass(frozen=True, eq=False)
class ReplyValidation(Record):
    """Replies in which the judge finds the emotion, by the set that is ablated or added to.

    ``neutral mean``: the prompt asks for the emotion, and the set is set to its mean over plain
    prompts. ``add``: the prompt is neutral, and the set gets the emotion's differences. Both
    once, at the last position of the prompt.
    """

    judged: Float[Tensor, "emotion method order size"]
    """Percent of the replies."""
    low: Float[Tensor, "emotion method order size"]
    """Lower end of Wilson's 95% interval."""
    high: Float[Tensor, "emotion method order size"]

    emotion: tuple[str, ...]
    method: tuple[str, ...]
    order: tuple[str, ...]
    """``top`` and ``bottom`` as in :class:`Validation`; ``random``:
    sets with as many components in every layer as the top set, all draws together."""
    size: tuple[int, ...]
    kind: str
    """``head`` or ``neuron``."""
    n_contexts: int
    n_draws: int


def replies_needed(evaluator: Evaluator, sizes: Sequence[int], draws: int) -> int:
    """How many replies :func:`validate_replies` makes."""
    sets = len(REPLY_CHANGES) * len(sizes) * (2 + draws)
    return sets * len(evaluator.contexts) * len(evaluator.emotions)


def validate_replies(
    evaluator: Evaluator, known: Known, kind: PartKind, sizes: tuple[int, ...], *, draws: int = 2
) -> ReplyValidation:
    """Reply under sets of a few sizes, and judge the replies.

    Args:
        evaluator: Model, contexts and judge.
        known: Ranking, means and differences.
        kind: Heads or neurons; the others stay as they are.
        sizes: How many components the sets have.
        draws: Random sets of every size.

    Raises:
        DataError: a size is not between one and the number of components.
    """
    emotions, add = evaluator.emotions, known.differences
    random = torch.Generator().manual_seed(in_force().seed)
    each = [
        ranked_sets(evaluator.model, known.effects(emotion, kind), kind, sizes, draws, random)
        for emotion in emotions
    ]
    # Rows: order by size, without those of single components.
    rows = torch.stack([sets.flat for sets in each], dim=1).unflatten(0, (-1, len(sizes)))
    rows = torch.cat([rows[:2], rows[len(ORDERS) :]])
    counts = torch.zeros(len(REPLY_CHANGES), len(REPLY_ORDERS), len(sizes), len(emotions))
    for place in range(rows.shape[0] * len(sizes)):
        order, size = divmod(place, len(sizes))
        own = each[0].like(rows[order, size])
        edits = []
        for row, emotion in enumerate(emotions):
            e = add.index("emotion", emotion)
            z, post = own.heads[row][..., None] * add.z[e], own.neurons[row] * add.post[e]
            edits.append(component_edits(z, post, Modulation()))
        said = ablated(evaluator, own, known.plain), evaluator.changed("circuit", edits)
        for method, judged in enumerate(said):
            counts[method, min(order, 2), size] += _matches(evaluator, judged).sum(0)
    totals = torch.tensor([1, 1, draws])[:, None, None] * len(evaluator.contexts)
    pairs = zip(counts.flatten().tolist(), totals.expand_as(counts).flatten().tolist(), strict=True)
    limits = torch.tensor([wilson(round(matches), total) for matches, total in pairs])
    found = torch.stack([100 * counts / totals, *limits.T.reshape(2, *counts.shape)])
    judged, low, high = found.movedim(-1, 1)
    return ReplyValidation(
        judged=judged,
        low=low,
        high=high,
        emotion=emotions,
        method=REPLY_CHANGES,
        order=REPLY_ORDERS,
        size=sizes,
        kind=kind,
        n_contexts=len(evaluator.contexts),
        n_draws=draws,
    )

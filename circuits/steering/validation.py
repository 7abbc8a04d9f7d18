"""Whether components are needed and enough: readouts and replies under ablation and addition.

Does the model need a circuit to express an emotion that the prompt asks for?

The prompt asks for the emotion; the circuit's heads (z) and neurons (post) are replaced, and the
replies are judged. As baselines random sets are replaced that have as many heads and neurons in
every layer, none of them the circuit's where the layer has enough others.

What the readouts lose and gain when the components ranked first are ablated or added to.

Ablated: a prompt asks for the emotion, and at its last position, where the reply begins, the
chosen heads' ``z`` or neurons' ``post`` are set to zero, to their mean over neutral prompts, or to
their mean over prompts that ask for the emotions. Added: the prompt is neutral, and what they give
more when the emotion is asked for is added there. This is the validation of local components of
Wang et al. 2025 (arXiv 2510.11328), with baselines: the components ranked last, and random ones
with as many in every layer.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit.ablate import (
    ORDERS,
    Ablation,
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
from circuits.models.edits import Add, Edit, Replace, When
from circuits.models.memory import halving_tables
from circuits.models.protocol import Model, device_of
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.patching.pairs import Projection, make_pairs
from circuits.patching.totals import TotalEstimates
from circuits.prompts.prompt import Prompt
from circuits.prompts.sev import Context
from circuits.prompts.templates import neutral_prompts
from circuits.provenance import current
from circuits.records import Record
from circuits.running import advance, in_force
from circuits.steering.evaluate import Evaluator

__all__ = [
    "CHANGES",
    "REPLY_CHANGES",
    "REPLY_ORDERS",
    "AblationValues",
    "Known",
    "ReplyValidation",
    "Runs",
    "SetEffects",
    "Validating",
    "Validation",
    "ablated",
    "ablation_drop",
    "ablation_values",
    "emotion_mean",
    "random_sets",
    "replies_needed",
    "set_effects",
    "validate_components",
    "validate_replies",
]


@dataclass(frozen=True, eq=False)
class AblationValues:
    """What stands for a component that is ablated, and when."""

    z: Float[Tensor, "context layer head d_head"]
    """One row for all contexts if it is the same for all."""
    post: Float[Tensor, "context layer neuron"]
    when: When = "prompt"

    def edits(self, inside: Masks, contexts: Sequence[int]) -> list[Edit]:
        """Edits of a batch: each row's set, and its context."""
        rows = list(contexts) if len(self.z) > 1 else [0] * len(contexts)
        chosen = {"z": inside.heads[..., None], "post": inside.neurons}
        return [
            Replace(site, layer, values[rows, layer], chosen[site][:, layer], when=self.when)
            for layer in range(self.z.shape[1])
            for site, values in (("z", self.z), ("post", self.post))
            if bool(chosen[site][:, layer].any())
        ]


def ablation_values(
    evaluator: Evaluator,
    ablation: Ablation,
    means: NeutralMeans | None = None,
    *,
    when: When = "prompt",
) -> AblationValues:
    """What stands for an ablated component in the evaluator's contexts.

    Args:
        evaluator: Its model and contexts.
        ablation: ``mean``: the mean over neutral prompts. ``resample``: the value in the same
            context's neutral prompt. ``zero``: nothing.
        means: Of neutral prompts of train contexts, for ``mean``.
        when: At the last prompt position alone, or at every position of the reply as well (where
            the same value stands).

    Raises:
        DataError: there are no means where they are needed.
    """
    if ablation == "resample":
        found = _neutral_values(evaluator)
        return AblationValues(found["z"], found["post"], when)
    if ablation == "mean":
        if means is None:
            raise DataError("mean ablation needs the means of the neutral prompts; give them")
        return AblationValues(means.z[None], means.post[None], when)
    cfg = evaluator.model.cfg
    z = torch.zeros(1, cfg.n_layers, cfg.n_heads, cfg.d_head)
    return AblationValues(z, torch.zeros(1, cfg.n_layers, cfg.d_mlp), when)


def ablated(evaluator: Evaluator, sets: Masks, instead: AblationValues) -> list[Judged]:
    """Judged replies to prompts that ask, without one set per emotion.

    Every context with every emotion, a context's emotions together.
    """
    n_emotions = len(evaluator.emotions)

    def of_batch(chosen: Sequence[int]) -> Sequence[Edit]:
        own = sets[[place % n_emotions for place in chosen]]
        return instead.edits(own, [place // n_emotions for place in chosen])

    return evaluator.replies_under(of_batch)


def ablation_drop(
    evaluator: Evaluator,
    circuits: Mapping[str, Circuit],
    instead: AblationValues,
    *,
    draws: int = 30,
) -> dict[str, Any]:
    """How many points of judged expression the circuits carry, and random sets of their size.

    The seed in force (:func:`~circuits.running.execution`) is that of draws and bootstrap.

    Args:
        evaluator: Model, contexts and judge; nothing else was made from its contexts.
        circuits: Emotion -> circuit; one of each of the evaluator's emotions.
        instead: What stands for them, see :func:`ablation_values`.
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
    replies = ablated(evaluator, own, instead)
    drop = asked - _matches(evaluator, replies)
    random = torch.stack(
        [
            asked - _matches(evaluator, ablated(evaluator, sets, instead))
            for sets in random_sets(own, draws, torch.Generator().manual_seed(in_force().seed))
        ]
    )
    by_emotion = {
        emotion: _summary(drop[:, [e]], random[..., [e]])
        for e, emotion in enumerate(evaluator.emotions)
    }
    return {
        **_summary(drop, random),
        "by_emotion": by_emotion,
        "asked": _percent(asked.mean()),
        "without": _percent((asked - drop).mean()),
        "labels": dict(Counter(row.verdict.label or "-" for row in replies).most_common()),
        "n": len(replies),
        "draws": draws,
        "heads_share": float(own.heads.double().mean()),
        "neurons_share": float(own.neurons.double().mean()),
        "when": instead.when,
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


def _neutral_values(evaluator: Evaluator) -> dict[str, Float[Tensor, "context layer ..."]]:
    model: Model = evaluator.model
    prompts, picks = neutral_prompts(evaluator.contexts), {"z": _at_end, "post": _at_end}

    def read(some: Sequence[Prompt]) -> dict[str, Tensor]:
        rows = [encode(model, prompt) for prompt in some]
        return capture(model, pad_left(rows, device_of(model)), picks)

    size = in_force().rows()
    together = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    parts = [halving_tables(read, some, lambda prompt: prompt.key) for some in together]
    return {site: torch.cat([part[site] for part in parts]) for site in picks}


def _at_end(activation: Tensor) -> Tensor:
    return activation[:, -1].cpu()


Runs = Callable[[Masks], Float[Tensor, "row context readout"]]
"""Readouts under a change of what the masks have."""

_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class SetEffects:
    """Effects of one emotion's sets under several changes of the model."""

    effect: Float[Tensor, "method order size other_emotion"]
    low: Float[Tensor, "method order size other_emotion"]
    high: Float[Tensor, "method order size other_emotion"]
    random_baseline: Float[Tensor, "method draw size other_emotion"]
    random_baseline_low: Float[Tensor, "method size other_emotion"]
    random_baseline_high: Float[Tensor, "method size other_emotion"]
    asked: Float[Tensor, " other_emotion"]


def set_effects(sets: Masks, ablated: Sequence[Runs], added: Runs, n_sizes: int) -> SetEffects:
    """Run the sets of :func:`~circuits.circuit.ablate.ranked_sets` under every change.

    Args:
        sets: Three orders, then random draws, each by size.
        ablated: Runs of prompts that ask for the emotion, without what a set has.
        added: Runs of neutral prompts, with more of what a set has.
        n_sizes: How many sizes there are.
    """
    # An empty set changes nothing: the run that all others are compared with.
    with_none = sets.like(torch.cat([torch.zeros_like(sets.flat[:1]), sets.flat]))
    before, parts, intervals = [], [], []
    for runs, sign in [*((own, -1) for own in ablated), (added, 1)]:
        m = runs(with_none).double()
        effects = (sign * (m[1:] - m[:1])).unflatten(0, (-1, n_sizes))
        before.append(m[0].mean(0))
        parts.append(effects.mean(2))
        intervals.append(_interval(effects[: len(ORDERS)]))
    found, (low, high) = torch.stack(parts), torch.stack(intervals, dim=1)
    random_baseline = found[:, len(ORDERS) :]
    limits = random_baseline.quantile(torch.tensor(_INTERVAL, dtype=random_baseline.dtype), dim=1)
    return SetEffects(
        effect=found[:, : len(ORDERS)].float(),
        low=low.float(),
        high=high.float(),
        random_baseline=random_baseline.float(),
        random_baseline_low=limits[0].float(),
        random_baseline_high=limits[1].float(),
        asked=(before[0] - before[-1]).float(),
    )


def _interval(
    effects: Float[Tensor, "order size context readout"],
) -> Float[Tensor, "2 order size readout"]:
    """95% interval of the mean over contexts."""
    rows = effects.movedim(2, -1)
    drawn = bootstrap_means(rows.flatten(0, -2))
    limits = drawn.quantile(torch.tensor(_INTERVAL, dtype=drawn.dtype), dim=0)
    return limits.reshape(2, *rows.shape[:-1])


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


@dataclass(frozen=True)
class Validating:
    """How components are validated."""

    draws: int = 30
    """Random sets of every size."""
    steps: int = 12
    """About how many sizes, from one component to all."""

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("steps", 2)):
            if getattr(self, name) < least:
                raise DataError(f"{name}: {getattr(self, name)} is too few; give {least} or more")


def validate_components(
    model: Model,
    contexts: Sequence[Context],
    known: Known,
    kind: PartKind,
    *,
    how: Validating | None = None,
) -> Validation:
    """Ablate and add to sets of ``kind``, from one component to all; progress counts emotions.

    Args:
        model: The model.
        contexts: Held out from all that is known; two or more.
        known: Ranking, readouts, and what stands for a component.
        kind: Heads or neurons; the others stay as they are.
        how: Sizes, random sets.

    Raises:
        DataError: fewer than two contexts.
        AxisError: an emotion with a readout was not measured.
    """
    if len(contexts) < 2:
        raise DataError(f"intervals need two contexts or more, found {len(contexts)}")
    how, emotions = how or Validating(), tuple(known.readouts)
    sizes = sizes_to(known.effects(emotions[0], kind).numel(), how.steps)
    plain = _neutral_runs(model, contexts, known, emotions)
    random = torch.Generator().manual_seed(in_force().seed)
    found = []
    for emotion in emotions:
        effects = known.effects(emotion, kind)
        sets = ranked_sets(model, effects, kind, sizes, how.draws, random)
        asked = _emotion_runs(model, contexts, known, emotion)
        found.append(set_effects(sets, asked, plain[emotion], len(sizes)))
        advance(1)
    return Validation(
        provenance=current(),
        **{
            own.name: torch.stack([getattr(one, own.name) for one in found])
            for own in fields(SetEffects)
        },
        emotion=emotions,
        other_emotion=emotions,
        method=CHANGES,
        order=ORDERS,
        size=sizes,
        draw=tuple(range(how.draws)),
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


def _emotion_runs(
    model: Model, contexts: Sequence[Context], known: Known, emotion: str
) -> list[Runs]:
    """Of every ablation: runs of the prompts that ask for the emotion without what a set has."""
    pairs, readouts = make_pairs(model, contexts, emotion), tuple(known.readouts.values())
    ablations: tuple[tuple[Ablation, NeutralMeans | None], ...] = (
        ("zero", None),
        ("mean", known.plain),
        ("mean", emotion_mean(known.asked)),
    )

    def runs(ablation: Ablation, means: NeutralMeans | None) -> Runs:
        on = stand(model, pairs, ablation=ablation, means=means)
        return lambda masks: run_circuits(on, masks.like(~masks.flat), readouts)

    return [runs(*ablation) for ablation in ablations]


def _neutral_runs(
    model: Model, contexts: Sequence[Context], known: Known, emotions: Sequence[str]
) -> dict[str, Runs]:
    """Emotion -> runs of the neutral prompts with its differences at what the masks have."""
    begun, readouts = begin_neutral(model, contexts), tuple(known.readouts.values())

    def runs(emotion: str) -> Runs:
        e = known.differences.index("emotion", emotion)
        z, post = known.differences.z[e], known.differences.post[e]
        return lambda masks: run_added(model, begun, masks, z, post, readouts)

    return {emotion: runs(emotion) for emotion in emotions}


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
    sets = _by_emotion(evaluator, known, kind, sizes, draws)
    shape = (len(sizes), len(evaluator.emotions))
    counts = torch.zeros(len(REPLY_CHANGES), len(REPLY_ORDERS), *shape)
    for place, own in enumerate(sets):
        order, size = divmod(place, len(sizes))
        order = min(order, REPLY_ORDERS.index("random"))
        for method, judged in enumerate(_replies(evaluator, known, own)):
            matches = torch.tensor([float(row.verdict.match) for row in judged])
            by_emotion = matches.reshape(-1, len(evaluator.emotions)).sum(0)
            counts[method, order, size] += by_emotion
    totals = torch.tensor([1, 1, draws])[:, None, None] * len(evaluator.contexts)
    found = torch.stack([100 * counts / totals, *_intervals(counts, totals)])
    judged, low, high = found.movedim(-1, 1)
    return ReplyValidation(
        judged=judged,
        low=low,
        high=high,
        emotion=evaluator.emotions,
        method=REPLY_CHANGES,
        order=REPLY_ORDERS,
        size=sizes,
        kind=kind,
        n_contexts=len(evaluator.contexts),
        n_draws=draws,
    )


def _by_emotion(
    evaluator: Evaluator, known: Known, kind: PartKind, sizes: tuple[int, ...], draws: int
) -> Iterator[Masks]:
    """Top, bottom, then random sets, by size; in each the rows are the emotions."""
    random = torch.Generator().manual_seed(in_force().seed)
    found = [
        ranked_sets(evaluator.model, known.effects(emotion, kind), kind, sizes, draws, random)
        for emotion in evaluator.emotions
    ]
    single = ORDERS.index("single") * len(sizes)
    for row in range(len(found[0])):
        if not single <= row < single + len(sizes):
            yield found[0].like(torch.stack([own.flat[row] for own in found]))


def _replies(evaluator: Evaluator, known: Known, sets: Masks) -> tuple[list[Judged], list[Judged]]:
    """Under ablation, and with what is added; every context with every emotion."""
    asked = ablated(evaluator, sets, ablation_values(evaluator, "mean", known.plain))
    edits = [_more(sets, known.differences, e, evaluator.emotions[e]) for e in range(len(sets))]
    return asked, evaluator.changed("circuit", edits)


def _more(sets: Masks, differences: Differences, row: int, emotion: str) -> list[Add]:
    e = differences.index("emotion", emotion)
    z = sets.heads[row][..., None] * differences.z[e]
    post = sets.neurons[row] * differences.post[e]
    return [
        Add(site, layer, value, when="prompt")
        for site, values in (("z", z), ("post", post))
        for layer, value in enumerate(values)
        if bool(value.any())
    ]


def _intervals(counts: Tensor, totals: Tensor) -> Tensor:
    pairs = zip(counts.flatten().tolist(), totals.expand_as(counts).flatten().tolist(), strict=True)
    limits = torch.tensor([wilson(round(matches), total) for matches, total in pairs])
    return limits.T.reshape(2, *counts.shape)

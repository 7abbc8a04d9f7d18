"""What the readouts lose and gain when the components ranked first are ablated or enhanced.

Ablated: a prompt asks for the emotion, and at its last position, where the reply begins, the
chosen heads' ``z`` or neurons' ``post`` are set to zero, to their mean over plain prompts, or to
their mean over prompts that ask for the emotions. Enhanced: the prompt is plain, and what they give
more when the emotion is asked for is added there. This is the validation of local components of
Wang et al. 2025 (arXiv 2510.11328), with controls: the components ranked last, and random ones with
as many in every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.control.validation_statistics import Runs, SetEffects, set_effects
from circuits.data.sev import Context
from circuits.errors import DataError
from circuits.graph.ablation import Ablation, run_circuits, stand
from circuits.graph.enhancement import begin_plain, run_enhanced
from circuits.graph.ranked_sets import ORDERS, PartKind, ranked_sets, sizes_to
from circuits.measure.means import ComponentMeans, Differences, PlainMeans
from circuits.measure.pairs import make_pairs
from circuits.measure.readouts import Projection
from circuits.measure.totals import TotalEstimates
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["CHANGES", "Known", "Validation", "Validating", "emotion_mean", "validate_components"]

CHANGES = ("zero", "plain mean", "emotion mean", "enhance")
"""Three ablations in prompts that ask for the emotion, and enhancement in plain ones."""


@dataclass(frozen=True, eq=False)
class Validation(Record):
    """Effects of sets of heads, or of neurons, on the readouts of all emotions.

    Effect: the readout with the set at work minus the readout without, so that positive pushes
    towards the readout's emotion. Ablation takes it away from prompts that ask for ``emotion``,
    enhancement adds it to plain ones. Unit: length in the residual stream. The readout of emotion
    ``other_emotion`` is the projection on its reference direction at the last prompt position.
    """

    effect: Float[Tensor, "emotion method order size other_emotion"]
    """Mean over contexts."""
    low: Float[Tensor, "emotion method order size other_emotion"]
    """Lower end of its 95% interval (bootstrap over contexts)."""
    high: Float[Tensor, "emotion method order size other_emotion"]
    control: Float[Tensor, "emotion method draw size other_emotion"]
    """Of random sets with as many components in every layer as the top set, mean over contexts."""
    control_low: Float[Tensor, "emotion method size other_emotion"]
    """2.5th percentile of the random sets."""
    control_high: Float[Tensor, "emotion method size other_emotion"]
    asked: Float[Tensor, "emotion other_emotion"]
    """What asking for ``emotion`` adds to the readouts of the plain prompt."""

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
    plain: PlainMeans
    asked: ComponentMeans
    differences: Differences
    """What enhancement adds."""

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
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("steps", 2)):
            if getattr(self, name) < least:
                raise DataError(f"{name}: {getattr(self, name)} is too few; give {least} or more")


def validate_components(
    model: Model,
    contexts: Sequence[Context],
    known: Known,
    kind: PartKind,
    provenance: Provenance,
    *,
    how: Validating | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Ablate and enhance sets of ``kind``, from one component to all.

    Args:
        model: The model.
        contexts: Held out from all that is known; two or more.
        known: Ranking, readouts, and what stands for a component.
        kind: Heads or neurons; the others stay as they are.
        provenance: Of the result.
        how: Sizes, random sets.
        progress: Told after every emotion.

    Raises:
        DataError: fewer than two contexts.
        AxisError: an emotion with a readout was not measured.
    """
    if len(contexts) < 2:
        raise DataError(f"intervals need two contexts or more, found {len(contexts)}")
    how, emotions = how or Validating(), tuple(known.readouts)
    sizes = sizes_to(known.effects(emotions[0], kind).numel(), how.steps)
    plain = _plain_runs(model, contexts, known, emotions)
    random = torch.Generator().manual_seed(how.seed)
    found = []
    for emotion in emotions:
        effects = known.effects(emotion, kind)
        sets = ranked_sets(model, effects, kind, sizes, how.draws, random)
        asked = _asked_runs(model, contexts, known, emotion)
        found.append(set_effects(sets, asked, plain[emotion], len(sizes), how.seed))
        if progress:
            progress(1)
    return Validation(
        provenance=provenance,
        **{own.name: _stacked(found, own.name) for own in fields(SetEffects)},
        emotion=emotions, other_emotion=emotions, method=CHANGES, order=ORDERS, size=sizes,
        draw=tuple(range(how.draws)), kind=kind, n_contexts=len(contexts),
    )  # fmt: skip


def emotion_mean(means: ComponentMeans) -> PlainMeans:
    """The mean over the emotions, in the form in which ablation takes means."""
    return PlainMeans(
        provenance=means.provenance,
        z=means.z.mean(0), post=means.post.mean(0), layer=means.layer, head=means.head,
        neuron=means.neuron, n_contexts=means.n_contexts,
    )  # fmt: skip


def _asked_runs(
    model: Model, contexts: Sequence[Context], known: Known, emotion: str
) -> list[Runs]:
    """Of every ablation: runs of the prompts that ask for the emotion without what a set has."""
    pairs, readouts = make_pairs(model, contexts, emotion), tuple(known.readouts.values())
    ablations: tuple[tuple[Ablation, PlainMeans | None], ...] = (
        ("zero", None), ("mean", known.plain), ("mean", emotion_mean(known.asked)),
    )  # fmt: skip

    def runs(ablation: Ablation, means: PlainMeans | None) -> Runs:
        on = stand(model, pairs, ablation=ablation, means=means)
        return lambda masks: run_circuits(on, masks.like(~masks.flat), readouts)

    return [runs(*ablation) for ablation in ablations]


def _plain_runs(
    model: Model, contexts: Sequence[Context], known: Known, emotions: Sequence[str]
) -> dict[str, Runs]:
    """Emotion -> runs of the plain prompts with its differences at what the masks have."""
    begun, readouts = begin_plain(model, contexts), tuple(known.readouts.values())

    def runs(emotion: str) -> Runs:
        e = known.differences.index("emotion", emotion)
        z, post = known.differences.z[e], known.differences.post[e]
        return lambda masks: run_enhanced(model, begun, masks, z, post, readouts)

    return {emotion: runs(emotion) for emotion in emotions}


def _stacked(found: Sequence[SetEffects], name: str) -> Tensor:
    return torch.stack([getattr(own, name) for own in found])

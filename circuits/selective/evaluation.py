"""What a mask on a class's neurons does to the recognition of every class.

Matrix of masked class by true class, on held-out texts, beside random neurons of the same layers
(Lee et al., Findings of ACL 2025, report the matrix; the random sets, intervals and corrected
p-values are added here). A *functional effect* is a drop on the own class that random neurons do
not reach and that is larger than on any other class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.data.replies import Reply
from circuits.data.texts import LabelledSet
from circuits.errors import DataError
from circuits.model.edits import Edit, edited
from circuits.model.generation import Progress
from circuits.model.likelihood import reply_losses
from circuits.model.protocol import Model
from circuits.provenance import Provenance
from circuits.records import Record
from circuits.selective.asking import (
    Answers,
    Asking,
    ask_masked,
    asker,
    places_of,
    random_sets,
    taken,
)
from circuits.selective.masks import Mask, edits_of, masking
from circuits.selective.profile import Profile
from circuits.selective.selection import Selection
from circuits.selective.statistics import below, by_class, corrected, counts, intervals

__all__ = ["MaskEffects", "effects_of", "mask_effects"]

_READ_UNDER = 5
"""Random sets under which neutral replies are read."""


@dataclass(frozen=True, eq=False)
class MaskEffects(Record):
    """Changes under masks, test texts only. Changes are masked minus unmasked."""

    label: tuple[str, ...]
    """The class whose neurons are masked."""
    other_label: tuple[str, ...]
    """The true class of the texts."""
    judged: tuple[str, ...]
    """The class that the model names."""
    change: Float[Tensor, "label other_label"]
    """Change of accuracy, in percentage points; negative is a drop."""
    low: Float[Tensor, "label other_label"]
    """Lower end of its 95% interval: paired bootstrap over texts."""
    high: Float[Tensor, "label other_label"]
    """Upper end."""
    log_change: Float[Tensor, "label other_label"]
    """Mean change of the true label's log-probability, in nats."""
    base: Float[Tensor, " other_label"]
    """Accuracy without a mask, in percent."""
    n_texts: Int[Tensor, " other_label"]
    """Texts of every true class."""
    base_predicted: Int[Tensor, "other_label judged"]
    """How often each class is named without a mask."""
    predicted: Int[Tensor, "label other_label judged"]
    """How often under each mask."""
    n_neurons: Int[Tensor, " label"]
    """Neurons that are masked, and in each random set."""
    random_change: Float[Tensor, "draw label"]
    """Change of accuracy on the own class with random neurons of the same layers masked instead, in
    percentage points."""
    random_p: Float[Tensor, " label"]
    """(1 + random sets whose change is at least as low) / (1 + random sets)."""
    corrected_p: Float[Tensor, " label"]
    """The same corrected for the number of classes (Benjamini and Hochberg 1995)."""
    perplexity_ratio: Float[Tensor, " label"]
    """Perplexity of replies to plain prompts with the mask, divided by that without; NaN for
    ``resample``, whose donors answer another request."""
    random_perplexity_ratio: Float[Tensor, " label"]
    """The same with random neurons, a mean over the first five random sets."""
    mask: str = "zero"
    strength: float = 1.0

    @property
    def own(self) -> Float[Tensor, " label"]:
        """Change on the class whose neurons are masked, in percentage points."""
        places = [self.index("other_label", label) for label in self.label]
        return self.change[range(len(self.label)), places]

    @property
    def largest_other(self) -> Float[Tensor, " label"]:
        """The lowest change on another class, in percentage points."""
        return self.change.masked_fill(self._is_own, torch.inf).amin(1)

    @property
    def selectivity(self) -> Float[Tensor, " label"]:
        """Mean change on the other classes minus the own one; positive: hits its own class most."""
        others = self.change.masked_fill(self._is_own, 0.0).sum(1)
        return others / (len(self.other_label) - 1) - self.own

    @property
    def supported(self) -> Bool[Tensor, " label"]:
        """Does the own drop beat 95% of the random sets, and exceed that on every other class?"""
        beaten = (self.random_change > self.own).double().mean(0) > 0.95
        return beaten & (self.own < 0) & (self.own < self.largest_other)

    @property
    def _is_own(self) -> Bool[Tensor, "label other_label"]:
        own = [[masked == true for true in self.other_label] for masked in self.label]
        return torch.tensor(own)


def mask_effects(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    mask: Mask,
    neutral: Sequence[Reply],
    *,
    how: Asking | None = None,
    progress: Progress | None = None,
) -> MaskEffects:
    """Mask the neurons of every class in turn, and random neurons of the same layers.

    Random sets are only asked about texts of the class that they stand in for.

    Args:
        model: The model.
        texts: Test texts are asked about.
        selection: The neurons of every class.
        profile: What the mask takes means and largest activations from.
        mask: What is done to the neurons.
        neutral: Replies to plain prompts, whose perplexity tells whether the model is broken.
        how: How many texts of a class, and how many random sets.
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts, or there are no neutral replies.
        ModelError: a layer has too few other neurons for random sets.
    """
    how = how or Asking()
    if not neutral:
        raise DataError("there are no neutral replies; give some replies to plain prompts")

    asked = taken(texts.test, "test", how.per_label)
    ask = asker(model, texts.request, how, progress)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    answers = ask_masked(
        ask, asked, selection, edits_on, how, beside=lambda label: places_of(asked, label)
    )
    ratios = _perplexity_ratios(model, neutral, selection, profile, mask, how)
    provenance = selection.provenance.child(
        mask=mask.kind, strength=mask.strength, texts=texts.name, per_label=how.per_label,
        draws=how.draws, seed=how.seed, normalised=how.normalised,
    )  # fmt: skip
    return effects_of(answers, ratios, mask, how.seed, provenance)


def effects_of(
    answers: Answers,
    perplexity_ratios: tuple[Float[Tensor, " label"], Float[Tensor, " label"]],
    mask: Mask,
    seed: int,
    provenance: Provenance,
) -> MaskEffects:
    """The matrix of changes, given what was answered; ``perplexity_ratios``: masked, random."""
    truth, classes = answers.truth, len(answers.texts.label)
    low, high = intervals(answers.differences, truth, classes, seed)
    change, random = answers.change, answers.random_change
    logs = torch.stack([answers.base, *answers.masked])[..., range(len(truth)), truth]
    p = below(change[range(len(answers.own)), answers.own], random)
    return MaskEffects(
        provenance=provenance,
        label=answers.label,
        other_label=answers.texts.label,
        judged=answers.texts.label,
        change=change,
        low=low,
        high=high,
        log_change=by_class(logs[1:].double() - logs[0], truth, classes),
        base=answers.accuracy,
        n_texts=torch.bincount(truth, minlength=classes),
        base_predicted=counts(answers.base, truth),
        predicted=torch.stack([counts(masked, truth) for masked in answers.masked]),
        n_neurons=answers.n_neurons,
        random_change=random,
        random_p=p,
        corrected_p=corrected(p),
        perplexity_ratio=perplexity_ratios[0],
        random_perplexity_ratio=perplexity_ratios[1],
        mask=mask.kind,
        strength=mask.strength,
    )


def _perplexity_ratios(
    model: Model,
    neutral: Sequence[Reply],
    selection: Selection,
    profile: Profile,
    mask: Mask,
    how: Asking,
) -> tuple[Float[Tensor, " label"], Float[Tensor, " label"]]:
    if mask.kind == "resample":
        unknown = torch.full((len(selection.label),), torch.nan)
        return unknown, unknown
    prompts, texts = [reply.prompt for reply in neutral], [reply.text for reply in neutral]

    def loss(edits: Sequence[Edit]) -> float:
        with edited(model, edits):
            losses = reply_losses(model, prompts, texts, batch_size=how.batch_size)
        return float(losses.double().nanmean())

    base, own, others = loss(()), [], []
    drawn = random_sets(selection, how)[:, :_READ_UNDER]
    for place, label in enumerate(selection.label):
        own.append(loss(edits_of(mask, selection.chosen[place], profile, label)))
        others.append([loss(edits_of(mask, other, profile, label)) for other in drawn[place]])
    ratios = (torch.tensor(own) - base).exp(), (torch.tensor(others) - base).exp().mean(1)
    return ratios[0], ratios[1]

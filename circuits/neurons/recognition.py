"""What masking a class's neurons does to the recognition of every class, beside random masks.

What a mask on a class's neurons does to the recognition of every class.

Matrix of masked class by true class, on held-out texts, beside random neurons of the same layers
(Lee et al., Findings of ACL 2025, report the matrix; the random sets, intervals and corrected
p-values are added here). A *functional effect* is a drop on the own class that random neurons do
not reach and that is larger than on any other class.

A device against its own literal paraphrase: a choice between two labels, on paired texts.

The right comparison for a rhetorical device is a text that says the same without it; a change of
the accuracy among all labels may only be a change of which device is named.

Masks on the lower, middle and upper third of the layers, and on more or fewer neurons.

Lee et al. (Findings of ACL 2025) mask 1 to 5 percent in {bottom, middle, top, all}. Their shares
can be read as shares of all neurons of the model or of the class's set; both are offered.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.models.edits import Edit, edited
from circuits.models.generate import Progress, reply_losses
from circuits.models.protocol import Model
from circuits.neurons.mask import (
    Answers,
    Asking,
    Mask,
    ask_masked,
    asker,
    at,
    below,
    by_class,
    corrected,
    counts,
    edits_of,
    interval,
    intervals,
    masking,
    places_of,
    random_sets,
    taken,
)
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection, how_many
from circuits.prompts.prompt import LabelledSet, Texts
from circuits.provenance import Provenance
from circuits.records import Record
from circuits.running import execution

__all__ = [
    "DepthProfile",
    "MaskEffects",
    "PairedEffects",
    "RangeSweep",
    "Ranges",
    "Sets",
    "depth_profile",
    "effects_of",
    "layers_of",
    "mask_effects",
    "paired_effects",
    "paired_of",
    "paired_texts",
    "range_sweep",
]

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
    """Perplexity of replies to neutral prompts with the mask, divided by that without; NaN for
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
        neutral: Replies to neutral prompts, whose perplexity tells whether the model is broken.
        how: How many texts of a class, and how many random sets.
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts, or there are no neutral replies.
        ModelError: a layer has too few other neurons for random sets.
    """
    how = how or Asking()
    if not neutral:
        raise DataError("there are no neutral replies; give some replies to neutral prompts")

    asked = taken(texts.test, "test", how.per_label)
    ask = asker(model, texts.request, how, progress)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    answers = ask_masked(
        ask, asked, selection, edits_on, how, beside=lambda label: places_of(asked, label)
    )
    ratios = _perplexity_ratios(model, neutral, selection, profile, mask, how)
    provenance = selection.provenance.child(
        mask=mask.kind,
        strength=mask.strength,
        texts=texts.name,
        per_label=how.per_label,
        draws=how.draws,
        seed=how.seed,
        normalised=how.normalised,
    )
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
        # What is counted are texts that the model was asked about.
        with edited(model, edits), execution(batch_size=how.batch_size, progress=None):
            losses = reply_losses(model, prompts, texts)
        return float(losses.double().nanmean())

    base, own, others = loss(()), [], []
    drawn = random_sets(selection, how)[:, :_READ_UNDER]
    for place, label in enumerate(selection.label):
        own.append(loss(edits_of(mask, selection.chosen[place], profile, label)))
        others.append([loss(edits_of(mask, other, profile, label)) for other in drawn[place]])
    ratios = (torch.tensor(own) - base).exp(), (torch.tensor(others) - base).exp().mean(1)
    return ratios[0], ratios[1]


@dataclass(frozen=True, eq=False)
class PairedEffects(Record):
    """Accuracy of device or literal, over texts and their paraphrases; masked minus unmasked."""

    label: tuple[str, ...]
    """The device whose neurons are masked."""
    other_label: tuple[str, ...]
    """The device that is told from its literal paraphrases."""
    change: Float[Tensor, "label other_label"]
    """Change of accuracy, in percentage points."""
    low: Float[Tensor, "label other_label"]
    """Lower end of its 95% interval: paired bootstrap over pairs."""
    high: Float[Tensor, "label other_label"]
    """Upper end."""
    base: Float[Tensor, " other_label"]
    """Accuracy without a mask, in percent; chance is 50."""
    n_pairs: Int[Tensor, " other_label"]
    """Pairs of a text and its paraphrase."""
    random_change: Float[Tensor, "draw label"]
    """Change on the device itself with random neurons of the same layers masked instead, in
    percentage points."""
    random_p: Float[Tensor, " label"]
    """(1 + random sets whose change is at least as low) / (1 + random sets)."""
    corrected_p: Float[Tensor, " label"]
    """The same corrected for the number of devices (Benjamini and Hochberg 1995)."""
    literal: str
    """The label of the paraphrases."""


def paired_effects(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    mask: Mask,
    *,
    literal: str = "literal",
    how: Asking | None = None,
    progress: Progress | None = None,
) -> PairedEffects:
    """Mask the neurons of every class, and ask: the device, or literal?

    Args:
        model: The model.
        texts: Test texts with a paraphrase in the same split are asked about.
        selection: The neurons of the devices; those of ``literal`` are not masked.
        profile: What the mask takes means and largest activations from.
        mask: What is done to the neurons.
        literal: The label of the paraphrases.
        how: How many pairs of a device, and how many random sets.
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a device has no pair among the test texts.
        ModelError: a layer has too few other neurons for random sets.
    """
    how = how or Asking()
    devices = tuple(label for label in selection.label if label != literal)
    asked = paired_texts(texts.test.only("test"), devices, literal, how.per_label)

    def beside(label: str) -> list[int]:
        return [place for pair in _pairs(asked, label, literal) for place in pair]

    ask = asker(model, texts.request, how, progress)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    chosen = selection.sel(label=devices)
    answers = ask_masked(ask, asked, chosen, edits_on, how, beside=beside)
    provenance = selection.provenance.child(
        mask=mask.kind,
        strength=mask.strength,
        texts=texts.name,
        paired=literal,
        per_label=how.per_label,
        draws=how.draws,
        seed=how.seed,
        normalised=how.normalised,
    )
    return paired_of(answers, literal, how.seed, provenance)


def paired_texts(texts: Texts, devices: Sequence[str], literal: str, per_label: int) -> Texts:
    """The first texts of every device that have a literal paraphrase, and these paraphrases.

    Raises:
        DataError: a device has none.
    """
    kept: set[int] = set()
    for device in devices:
        pairs = _pairs(texts, device, literal)[:per_label]
        if not pairs:
            raise DataError(
                f"no {texts.split} text of class {device!r} has a paraphrase of class "
                f"{literal!r}; give both the same pair"
            )
        kept |= {place for pair in pairs for place in pair}
    return at(texts, sorted(kept))


def paired_of(answers: Answers, literal: str, seed: int, provenance: Provenance) -> PairedEffects:
    """Changes of the choice between two labels, given what was answered among all.

    A label's log-probability does not depend on which other labels may be named, so the choice
    between two can be read from the answers among all.
    """
    generator = torch.Generator().manual_seed(seed)
    before = [_right(answers.base, answers.texts, own, literal) for own in answers.label]
    after = [_right(answers.masked, answers.texts, own, literal) for own in answers.label]
    changes = [masked - base for masked, base in zip(after, before, strict=True)]
    ends = [torch.stack(interval(change, generator)) for change in changes]
    change = torch.stack([own.mean(-1) for own in changes], 1)
    random = [
        (_right(answers.random[:, place], answers.texts, own, literal) - before[place]).mean(-1)
        for place, own in enumerate(answers.label)
    ]
    p = below(change.diagonal(), torch.stack(random, 1))
    return PairedEffects(
        provenance=provenance,
        label=answers.label,
        other_label=answers.label,
        change=change,
        low=torch.stack([own[0] for own in ends], 1),
        high=torch.stack([own[1] for own in ends], 1),
        base=torch.stack([own.mean() for own in before]),
        n_pairs=torch.tensor([len(own) for own in before]),
        random_change=torch.stack(random, 1),
        random_p=p,
        corrected_p=corrected(p),
        literal=literal,
    )


def _right(
    logs: Float[Tensor, "*rest text judged"], texts: Texts, device: str, literal: str
) -> Float[Tensor, "*rest pair"]:
    """Percent of the two texts of every pair for which the right one of two labels is likelier."""
    two = logs[..., [texts.label.index(device), texts.label.index(literal)]]
    first, second = torch.tensor(_pairs(texts, device, literal)).T
    named = two[..., 0] >= two[..., 1]
    return 50.0 * (named[..., first].double() + (~named[..., second]).double())


def _pairs(texts: Texts, device: str, literal: str) -> list[tuple[int, int]]:
    """Places of every text of the device and of its first literal paraphrase."""
    plain: dict[str, int] = {}
    for place, row in enumerate(texts.rows):
        if row.label == literal and row.pair is not None:
            plain.setdefault(row.pair, place)
    return [
        (place, plain[row.pair])
        for place, row in enumerate(texts.rows)
        if row.label == device and row.pair in plain
    ]


@dataclass(frozen=True, eq=False)
class RangeSweep(Record):
    """Changes of accuracy on test texts, in percentage points, by layer range and share."""

    label: tuple[str, ...]
    """The class whose neurons are masked."""
    place: tuple[str, ...]
    """``bottom``, ``middle``, ``top``: thirds of the layers; ``all``."""
    dose: tuple[float, ...]
    """Shares."""
    own: Float[Tensor, "label place dose"]
    """Change on the class itself."""
    largest_other: Float[Tensor, "label place dose"]
    """The lowest change on another class."""
    random_own: Float[Tensor, "label place dose"]
    """Change on the class itself with random neurons of the same layers, a mean over draws."""
    n_neurons: Int[Tensor, "label place dose"]
    """Masked neurons."""
    base: Float[Tensor, " label"]
    """Accuracy without a mask, in percent."""
    ratio_of: str
    """``all_neurons``: the dose is a share of the model's neurons. ``emotion_set``: of the class's
    set."""
    match_counts: bool
    """Were as many neurons masked in every range?"""
    mask: str = "zero"
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class DepthProfile(Record):
    """How many of every class's neurons lie in each layer."""

    label: tuple[str, ...]
    layer: tuple[int, ...]
    count: Int[Tensor, "label layer"]


Sets = Selection | Callable[[float], Selection]
"""A selection, of whose sets shares are masked (``emotion_set``), or what gives the selection of a
share of all neurons (``all_neurons``)."""


@dataclass(frozen=True)
class Ranges:
    """What is swept."""

    shares: tuple[float, ...] = (0.01, 0.02, 0.03, 0.04, 0.05)
    places: tuple[str, ...] = ("bottom", "middle", "top", "all")
    match_counts: bool = False
    """Mask as many neurons in every range, the best of that range, whether or not the class's set
    has so many there. Else the part of the set that lies in the range."""

    def __post_init__(self) -> None:
        """Refuse shares and ranges that do not exist."""
        known = ("bottom", "middle", "top", "all")
        if not self.places or not set(self.places) <= set(known):
            raise AxisError(f"ranges are {', '.join(known)}, found {', '.join(self.places)}")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise DataError(f"shares lie above 0 and are at most 1, found {self.shares}")


def range_sweep(
    model: Model,
    texts: LabelledSet,
    sets: Sets,
    profile: Profile,
    mask: Mask,
    *,
    ranges: Ranges | None = None,
    how: Asking | None = None,
    progress: Progress | None = None,
) -> RangeSweep:
    """Mask every class's neurons range by range and share by share.

    Args:
        model: The model.
        texts: Test texts are asked about.
        sets: The neurons: shares of a selection's sets, or selections of shares of all neurons.
        profile: What the mask takes means and largest activations from.
        mask: What is done to the neurons.
        ranges: Ranges of layers and shares.
        how: How many texts of a class (by default 30), and how many random sets (5).
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts.
        ModelError: a layer has too few other neurons for random sets.
    """
    how, ranges = how or Asking(per_label=30, draws=5), ranges or Ranges()
    asked = taken(texts.test, "test", how.per_label)
    ask = asker(model, texts.request, how, progress)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    base = ask(asked, ())

    def cell(place: str, share: float) -> Answers:
        part = _part(sets, share, place, ranges.match_counts)
        return ask_masked(
            ask, asked, part, edits_on, how, beside=lambda label: places_of(asked, label), base=base
        )

    cells = [[cell(place, share) for share in ranges.shares] for place in ranges.places]
    return _record(cells, sets, mask, ranges, how, texts.name)


def _record(
    cells: Sequence[Sequence[Answers]],
    sets: Sets,
    mask: Mask,
    ranges: Ranges,
    how: Asking,
    name: str,
) -> RangeSweep:
    def stacked(value: Callable[[Answers], Tensor]) -> Tensor:
        return torch.stack([torch.stack([value(c) for c in row], -1) for row in cells], 1)

    first = cells[0][0]
    source = sets if isinstance(sets, Selection) else sets(ranges.shares[0])
    ratio_of = "emotion_set" if isinstance(sets, Selection) else "all_neurons"
    return RangeSweep(
        provenance=source.provenance.child(
            **asdict(ranges),
            ratio_of=ratio_of,
            mask=mask.kind,
            strength=mask.strength,
            texts=name,
            per_label=how.per_label,
            draws=how.draws,
            seed=how.seed,
            normalised=how.normalised,
        ),
        label=first.label,
        place=ranges.places,
        dose=ranges.shares,
        own=stacked(lambda c: c.change[range(len(c.own)), c.own]),
        largest_other=stacked(_largest_other),
        random_own=stacked(lambda c: c.random_change.mean(0)),
        n_neurons=stacked(lambda c: c.n_neurons),
        base=first.accuracy[first.own],
        ratio_of=ratio_of,
        match_counts=ranges.match_counts,
        mask=mask.kind,
        strength=mask.strength,
    )


def _largest_other(answers: Answers) -> Float[Tensor, " label"]:
    change = answers.change
    change[range(len(answers.own)), answers.own] = torch.inf
    return change.amin(1)


def _part(sets: Sets, share: float, place: str, match_counts: bool) -> Selection:
    """The neurons of every class that are masked in one cell."""
    if isinstance(sets, Selection):
        sizes = [how_many(share, int(own.sum())) if own.any() else 0 for own in sets.chosen]
        selection, chosen = sets, _best(sets.score, sets.chosen, sizes)
    else:
        selection = sets(share)
        chosen = selection.chosen
    here = torch.zeros_like(chosen)
    here[:, layers_of(place, chosen.shape[1])] = True
    if match_counts:
        allowed = here & (selection.score > -torch.inf)
        return replace(
            selection, chosen=_best(selection.score, allowed, chosen.sum((1, 2)).tolist())
        )
    return replace(selection, chosen=chosen & here)


def _best(
    score: Float[Tensor, "label layer neuron"],
    allowed: Bool[Tensor, "label layer neuron"],
    sizes: Sequence[int],
) -> Bool[Tensor, "label layer neuron"]:
    """The highest-scoring of the allowed neurons; of equal ones the first."""
    order = score.masked_fill(~allowed, -torch.inf).flatten(1)
    ranks = order.argsort(dim=1, descending=True, stable=True).argsort(1)
    kept = ranks < torch.tensor(sizes)[:, None]
    return kept.reshape(score.shape) & allowed


def layers_of(place: str, n_layers: int) -> slice:
    """Layers of a third of the model, or all: ``[0, L // 3)``, ``[L // 3, 2 L // 3)``, the rest.

    >>> layers_of("middle", 32)
    slice(10, 21, None)
    """
    first, second = n_layers // 3, 2 * n_layers // 3
    ends = {"bottom": (0, first), "middle": (first, second), "top": (second, n_layers)}
    return slice(*ends.get(place, (0, n_layers)))


def depth_profile(selection: Selection) -> DepthProfile:
    """Count every class's neurons layer by layer."""
    return DepthProfile(
        provenance=selection.provenance.child(counted="layer"),
        label=selection.label,
        layer=selection.layer,
        count=selection.chosen.sum(2),
    )

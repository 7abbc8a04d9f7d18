"""Masks on class-selective neurons, and the class that a model recognises under them.

All masks change ``post``, the activation that a neuron's output weights are multiplied by, at all
positions of the prompt and of the reply. ``static`` and ``attenuate`` are those of Zheng et al.
(ACL 2026, arXiv 2604.17255), with the ratio clipped so that neither ever amplifies or flips a sign.

A text is classified by the log-probability of every label as the reply. Changes are differences of
the same texts with and without a mask, held against random sets of neurons in the same layers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from torch import Tensor

from circuits.circuit.score import bootstrap_counts
from circuits.errors import AxisError, DataError, ModelError
from circuits.models.edits import Attenuate, Edit, Replace, Scale, attenuation
from circuits.models.generate import EditsOf, batches, choice_logs
from circuits.models.memory import halving, name_of_row
from circuits.models.protocol import Model, device_of
from circuits.models.run import watch
from circuits.models.tokens import encode, pad_left
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection, best_of
from circuits.prompts.prompt import Prompt, Split, Texts, questions
from circuits.provenance import Provenance
from circuits.running import advance, execution, in_force

__all__ = [
    "Classified",
    "KINDS",
    "Mask",
    "classify_masked",
    "donor_values",
    "edits_of",
    "masking",
    "random_sets",
]

KINDS = ("zero", "mean", "gain", "attenuate", "static", "resample")
"""``zero``: 0. ``mean``: the mean over the classes of the identification texts. ``gain``: times
1 + strength. ``attenuate``: times 1 - strength * |a| / largest |a|, token by token. ``static``: the
same with the mean of the class in place of a. ``resample``: what it is on another text."""

Edits = Sequence[Edit] | EditsOf
"""The same edits for all texts, or a function of the places of a batch."""

EditsOn = Callable[[Bool[Tensor, "layer neuron"], str, Sequence[int]], Edits]
"""Edits that do to some neurons what is done on behalf of a class, while the texts at some places
are classified."""

Classify = Callable[[Texts, Edits], Float[Tensor, "text label"]]
"""Log-probability (nats) of every label as the reply, under edits; in the order of the texts."""

_TEXTS = 256


@dataclass(frozen=True)
class Mask:
    """What is done to the chosen neurons."""

    kind: str = "zero"
    strength: float = 1.0
    """Of ``gain`` (gamma), ``attenuate`` and ``static`` (alpha)."""

    def __post_init__(self) -> None:
        """Refuse unknown kinds and strengths that would flip a sign."""
        if self.kind not in KINDS:
            raise AxisError(f"no mask is called {self.kind!r}; masks are {', '.join(KINDS)}")
        lowest, highest = (-1.0, 1e6) if self.kind == "gain" else (0.0, 1.0)
        if not lowest <= self.strength <= highest:
            raise ModelError(
                f"a mask of kind {self.kind} and strength {self.strength} was asked for; "
                f"give {lowest:g} to {highest:g}, so that no activation changes its sign"
            )


def edits_of(
    mask: Mask, chosen: Bool[Tensor, "layer neuron"], profile: Profile, label: str
) -> list[Edit]:
    """Edits that put the mask on the chosen neurons; layers without one get no edit.

    Args:
        profile: Gives the means and the largest activations.
        label: The class whose mean ``static`` takes.

    Raises:
        AxisError: the label was not profiled.
        ModelError: the mask needs other texts (``resample``), which edits alone do not have.
    """
    if mask.kind == "resample":
        raise ModelError("a resample mask takes activations from other texts; use masking()")
    mean, largest, by = profile.mean, profile.largest.amax(0), mask.strength
    own, middle = mean[profile.index("label", label)], mean.mean(0)

    def edit(layer: int) -> Edit:
        here = chosen[layer]
        if mask.kind in ("zero", "mean"):
            value = middle[layer] if mask.kind == "mean" else torch.zeros(len(here))
            return Replace("post", layer, value, here, "all")
        if mask.kind == "attenuate":
            return Attenuate("post", layer, by, largest[layer], here, "all")
        factor = torch.full_like(own[layer], 1 + by)
        if mask.kind == "static":
            factor = attenuation(own[layer], by, largest[layer])
        return Scale("post", layer, factor.where(here, 1.0), "all")

    return [edit(layer) for layer in chosen.any(1).nonzero()[:, 0].tolist()]


def masking(model: Model, mask: Mask, profile: Profile, texts: Texts, request: str) -> EditsOn:
    """Puts ``mask`` on neurons while some of ``texts`` are classified.

    For ``resample`` every text has another one of them as its donor, whichever are classified.
    """
    prompts = questions(texts.rows, request)
    donors = draw_donors(len(prompts))

    def edits_on(chosen: Tensor, label: str, places: Sequence[int]) -> Edits:
        if mask.kind != "resample":
            return edits_of(mask, chosen, profile, label)
        own = [prompts[donors[place]] for place in places]
        with execution(progress=None):
            return resampling(donor_values(model, own, chosen), chosen)

    return edits_on


def donor_values(
    model: Model, prompts: Sequence[Prompt], chosen: Bool[Tensor, "layer neuron"]
) -> list[Float[Tensor, "_ chosen"]]:
    """Activations of the chosen neurons (layer by layer) at every position of each prompt."""
    rows = [encode(model, prompt) for prompt in prompts]
    found = [torch.zeros(0, 0)] * len(rows)

    def give(places: Sequence[int]) -> None:
        kept: list[Tensor] = []

        def keep(layer: int, activation: Tensor) -> None:
            kept.append(activation[..., chosen[layer].to(activation.device)].float().cpu())

        watch(model, pad_left([rows[i] for i in places], device_of(model)), {"post": keep})
        for place, value in zip(places, torch.cat(kept, dim=-1), strict=True):
            found[place] = value[-len(rows[place]) :].clone()

    for places in batches(rows, in_force().rows(_TEXTS)) if chosen.any() else ():
        halving(give, places, lambda place: name_of_row(model, rows[place]))
        advance(len(places))
    return found


def draw_donors(n_prompts: int) -> list[int]:
    """A random donor for every prompt: another one (if there is one), and each is a donor once."""
    order = torch.randperm(n_prompts, generator=_generator())
    donors = torch.empty_like(order)
    donors[order] = order.roll(-1)
    return donors.tolist()


def resampling(
    values: Sequence[Float[Tensor, "_ chosen"]], chosen: Bool[Tensor, "layer neuron"]
) -> EditsOf:
    """The mask "resample": prompt ``i`` gets the chosen activations ``values[i]`` of its donor.

    Prompt and donor are aligned at the right end; what a shorter donor does not reach is kept.
    A batch's edits hold ``[row pos neuron]`` tables of every layer with a chosen neuron. They
    are due while the prompt is read: a label's tokens have no counterpart in a donor's prompt.
    """
    counts = chosen.sum(1).tolist()

    def edits(places: Sequence[int]) -> list[Edit]:
        own = [values[place] for place in places]
        width = max(map(len, own))
        table = torch.zeros(len(own), width, int(chosen.sum()))
        there = torch.zeros(len(own), width, 1, dtype=torch.bool)
        for row, value in enumerate(own):
            table[row, width - len(value) :] = value
            there[row, width - len(value) :] = True
        made: list[Edit] = []
        for layer, part in enumerate(table.split(counts, dim=-1)):
            if counts[layer]:
                value = torch.zeros(*part.shape[:2], chosen.shape[1])
                value[..., chosen[layer]] = part
                where = there & chosen[layer]
                made.append(Replace("post", layer, value, where, "all", when="prompt"))
        return made

    return edits


def gaps(profile: Profile, label: str) -> Float[Tensor, "layer neuron"]:
    """How far the mean activation on a class is from that on the others, by its mean size.

    Zheng et al.'s statistic of dynamic filtering. The divisor is the mean of the absolute value: a
    signed mean may be near zero or negative where activations have both signs.
    """
    own, mean = profile.index("label", label), profile.mean
    others = torch.arange(len(mean)) != own
    return (mean[own] - mean[others].mean(0)).abs() / (profile.mean_size.mean(0) + 1e-6)


def core(
    gap: Float[Tensor, "layer neuron"], pool: Bool[Tensor, "layer neuron"], share: float
) -> Bool[Tensor, "layer neuron"]:
    """The share of the pool with the largest gaps, rounded up; of equal ones the first."""
    # A product such as 0.15 * 20 may lie just above the whole number that it is.
    count = math.ceil(round(share * int(pool.sum()), 9))
    return best_of(gap[None], pool[None], [count])[0]


def random_sets(selection: Selection, draws: int) -> Bool[Tensor, "label draw layer neuron"]:
    """For every class random sets with as many neurons in every layer, none of them its own.

    They are the same ones whenever they are drawn with the seed in force.

    Raises:
        DataError: fewer than one is to be drawn.
        ModelError: a layer has fewer other neurons than are chosen there.
    """
    if draws < 1:
        raise DataError(f"{draws} random sets of neurons were asked for; give at least 1")
    random, found = _generator(), []
    for chosen in selection.chosen:
        wanted, left = chosen.sum(1), (~chosen).sum(1)
        for layer in (wanted > left).nonzero()[:, 0].tolist():
            raise ModelError(
                f"layer {layer} has {int(wanted[layer])} chosen neurons and only "
                f"{int(left[layer])} others, so no random set of that size can be drawn there; "
                "choose fewer neurons"
            )
        # Chosen neurons sort last, and there are enough others.
        keys = torch.rand(draws, *chosen.shape, generator=random).masked_fill(chosen, 2.0)
        found.append(keys.argsort(-1).argsort(-1) < wanted[:, None])
    return torch.stack(found)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(in_force().seed)


# Statistics.


def hits(logs: Float[Tensor, "*rest text label"], truth: Int[Tensor, " text"]) -> Tensor:
    """``[*rest text]``: is the true label the most likely one? Of equal ones the first is named."""
    return logs.argmax(-1) == truth


def by_class(
    values: Float[Tensor, "*rest text"], truth: Int[Tensor, " text"], classes: int
) -> Float[Tensor, "*rest label"]:
    """Means over the texts of every class, in float64; NaN for a class without texts."""
    member = torch.nn.functional.one_hot(truth, classes).double()
    return values.double() @ member / member.sum(0)


def gains(
    masked: Float[Tensor, "*rest text label"],
    base: Float[Tensor, "text label"],
    truth: Int[Tensor, " text"],
) -> Float[Tensor, "*rest text"]:
    """100 where only the masked model names the true label, -100 where only the other does."""
    return 100.0 * (hits(masked, truth).double() - hits(base, truth).double())


def interval(
    values: Float[Tensor, "*rest text"], truth: Int[Tensor, " text"] | None = None, classes: int = 1
) -> tuple[Float[Tensor, "*ends"], Float[Tensor, "*ends"]]:
    """95% interval of the mean over texts drawn with replacement, with the seed in force.

    For a change the values are differences of the same text with and without a mask, so that what
    makes a text hard cancels (paired bootstrap). With ``truth`` the mean is that of every class by
    itself, and the ends have one axis more, ``label``.
    """
    random, ends = _generator(), torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = []
    for place in range(classes):
        own = (values if truth is None else values[..., truth == place]).double()
        count = own.shape[-1]
        means = own @ bootstrap_counts(count, random).T / count
        found.append(means.quantile(ends, dim=-1))
    low, high = found[0] if truth is None else torch.stack(found, -1)
    return low, high


def below(observed: Float[Tensor, "*rest"], random: Float[Tensor, "draw *rest"]) -> Tensor:
    """``[*rest]``: (1 + draws that are at least as low) / (1 + draws), which is never 0."""
    return (1.0 + (random <= observed + 1e-6).sum(0)) / (1.0 + len(random))


def above(observed: Float[Tensor, "*rest"], random: Float[Tensor, "draw *rest"]) -> Tensor:
    """``[*rest]``: (1 + draws that are at least as high) / (1 + draws)."""
    return below(-observed, -random)


def corrected(p: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """p-values corrected for their number; the shape stays.

    Benjamini and Hochberg 1995: of the claims with a value below q, an expected share of at most q
    is wrong. With few random sets no p is small enough for a correction by their number alone.
    """
    found = false_discovery_control(p.flatten().double().numpy())
    return torch.from_numpy(found).to(p).reshape(p.shape)


# Texts and how they are classified.


def taken(texts: Texts, split: Split, per_label: int, selection: Selection) -> Texts:
    """At most so many texts of every class."""
    if per_label < 1:
        raise DataError(f"{per_label} texts of every class were asked for; give at least 1")
    for label in selection.label:
        if label not in texts.label:
            raise AxisError(
                f"neurons of {label!r} were selected; the texts can only be named "
                f"{', '.join(texts.label)}"
            )
    found = texts.only(split).first(per_label)
    for label in found.label:
        if not places_of(found, label):
            raise DataError(
                f"there are no {split} texts of class {label!r}; give texts of every class, "
                "or leave the class out of the labels"
            )
    return found


def at(texts: Texts, places: Sequence[int]) -> Texts:
    """The texts at these places, in this order."""
    return replace(texts, rows=tuple(texts.rows[place] for place in places))


def places_of(texts: Texts, label: str) -> list[int]:
    """Where the texts of a class stand."""
    return [place for place, row in enumerate(texts.rows) if row.label == label]


def classifier(model: Model, request: str) -> Classify:
    """Classifies texts by what ``model`` replies to ``request``."""

    def classify(texts: Texts, edits: Edits) -> Tensor:
        prompts = questions(texts.rows, request)
        return choice_logs(model, prompts, texts.label, edits=edits).float().cpu()

    return classify


@dataclass(frozen=True, eq=False)
class Classified:
    """How texts are classified, by the model as it is and with each class's neurons masked."""

    texts: Texts
    label: tuple[str, ...]
    """Classes whose neurons were masked."""
    base: Float[Tensor, "text judged"]
    masked: Float[Tensor, "label text judged"]
    random: Float[Tensor, "draw label text judged"]
    """With random sets masked; NaN for texts that these do not stand for."""
    n_neurons: Int[Tensor, " label"]

    @property
    def truth(self) -> Int[Tensor, " text"]:
        """Place of every text's class."""
        return torch.tensor(self.texts.truth)

    @property
    def own(self) -> list[int]:
        """Place of every masked class among those that can be named."""
        return [self.texts.label.index(label) for label in self.label]

    @property
    def accuracy(self) -> Float[Tensor, " judged"]:
        """Accuracy on every class without a mask, in percent."""
        return by_class(100.0 * hits(self.base, self.truth), self.truth, self.base.shape[1])

    @property
    def differences(self) -> Float[Tensor, "label text"]:
        """100 for a text that only the masked model names rightly, -100 for one that it loses."""
        return gains(self.masked, self.base, self.truth)

    @property
    def change(self) -> Float[Tensor, "label judged"]:
        """Change of accuracy on every class, in percentage points."""
        return by_class(self.differences, self.truth, self.base.shape[1])

    @property
    def random_change(self) -> Float[Tensor, "draw label"]:
        """Change under random sets, on texts of the class that each stands in for."""
        changes = by_class(
            gains(self.random, self.base, self.truth), self.truth, self.base.shape[1]
        )
        return changes[:, range(len(self.own)), self.own]


def classify_masked(
    classify: Classify,
    texts: Texts,
    selection: Selection,
    edits_on: EditsOn,
    draws: int,
    *,
    rows_of: Callable[[str], Sequence[int]] | None = None,
    base: Float[Tensor, "text judged"] | None = None,
) -> Classified:
    """Classify all texts with each class masked, and some with random sets masked.

    A class without selected neurons is masked by nothing: its texts are classified as before.

    Args:
        draws: Random sets of every class.
        rows_of: Places of the texts that are classified under the random sets of a class; by
            default its own texts.
        base: What they are without a mask, if it is known.

    Raises:
        ModelError: a layer has too few other neurons for random sets.
    """
    drawn = random_sets(selection, draws)
    base = classify(texts, ()) if base is None else base
    masked = base.repeat(len(selection.label), 1, 1)
    random = torch.full((draws, *masked.shape), torch.nan)
    for place, (label, chosen) in enumerate(zip(selection.label, selection.chosen, strict=True)):
        rows = list(rows_of(label)) if rows_of else places_of(texts, label)
        if not chosen.any():
            random[:, place, rows] = base[rows]
            continue
        masked[place] = classify(texts, edits_on(chosen, label, range(len(texts))))
        some = at(texts, rows)
        for draw, other in enumerate(drawn[place]):
            random[draw, place, rows] = classify(some, edits_on(other, label, rows))
    count = selection.chosen.sum((1, 2))
    return Classified(texts, selection.label, base, masked, random, count)


def studied(
    selection: Selection, texts: str, per_label: int, draws: int | None = None, **options: Any
) -> Provenance:
    """The provenance of what a study finds: the selection's, and everything that decides it."""
    options |= {} if draws is None else {"draws": draws}
    return selection.provenance.child(
        **options, texts=texts, per_label=per_label, seed=in_force().seed
    )

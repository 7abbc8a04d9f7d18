"""Masks on class-selective neurons, and the class that a model names under them.

Masks on chosen neurons, and random sets of neurons to compare them with.

All masks change ``post``, the activation that a neuron's output weights are multiplied by, at all
positions of the prompt and of the reply. ``static`` and ``attenuate`` are those of Zheng et al.
(ACL 2026, arXiv 2604.17255), with the ratio clipped so that neither ever amplifies or flips a sign.

The class as the model writes it: greedy replies, in which the first label word counts.

A restricted choice always names some class. A reply may name none; how often that happens under a
mask says whether recognition changed or the model stopped answering.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from torch import Tensor

from circuits.circuit.score import bootstrap_counts
from circuits.errors import AxisError, DataError, ModelError
from circuits.models.edits import Attenuate, Edit, Replace, Scale, attenuation
from circuits.models.generate import EditsOf, Progress, batches, choice_logs, named
from circuits.models.memory import halving, name_of_row
from circuits.models.protocol import Hook, Model, device_of
from circuits.models.run import check_values, read
from circuits.models.tokens import encode, pad_left
from circuits.names import hook as hook_name
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection
from circuits.prompts.prompt import LabelledSet, Prompt, Split, Texts, questions
from circuits.records import Record
from circuits.running import execution

__all__ = [
    "Answers",
    "Ask",
    "Asking",
    "Edits",
    "EditsOn",
    "KINDS",
    "Mask",
    "Naming",
    "above",
    "ask_masked",
    "asker",
    "at",
    "below",
    "by_class",
    "check_labels",
    "core",
    "corrected",
    "counts",
    "donor_values",
    "draw_donors",
    "edits_of",
    "gains",
    "gaps",
    "hits",
    "interval",
    "intervals",
    "masking",
    "matched_sets",
    "naming",
    "places_of",
    "random_sets",
    "resampling",
    "taken",
]


@torch.no_grad()
def donor_values(
    model: Model,
    prompts: Sequence[Prompt],
    chosen: Bool[Tensor, "layer neuron"],
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> list[Float[Tensor, "_ chosen"]]:
    """Activations of the chosen neurons (layer by layer) at every position of each prompt."""
    rows = [encode(model, prompt) for prompt in prompts]
    layers = chosen.any(1).nonzero()[:, 0].tolist()
    found: dict[int, Tensor] = {}
    kept: dict[int, Tensor] = {}

    def keeper(layer: int) -> Hook:
        places = chosen[layer].nonzero()[:, 0]

        def keep(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
            kept[layer] = activation[..., places.to(activation.device)].float().cpu()

        return hook_name("post", layer), keep

    def give(places: Sequence[int]) -> None:
        read(model, pad_left([rows[i] for i in places], device_of(model)))
        values = torch.cat([kept[layer] for layer in layers], dim=-1)
        check_values(model, values, "post of a chosen neuron", [rows[i] for i in places])
        for place, value in zip(places, values, strict=True):
            found[place] = value[-len(rows[place]) :].clone()

    with model.hooks(fwd_hooks=[keeper(layer) for layer in layers]):
        for places in batches(rows, batch_size) if layers else ():
            halving(give, places, lambda place: name_of_row(model, rows[place]))
            if progress:
                progress(len(places))
    nothing = torch.zeros(0, 0)
    return [found.get(place, nothing) for place in range(len(rows))]


def draw_donors(n_prompts: int, seed: int = 0) -> list[int]:
    """A random donor for every prompt: another one, and each is a donor once.

    One prompt alone is its own donor.
    """
    order = torch.randperm(n_prompts, generator=torch.Generator().manual_seed(seed)).tolist()
    donors = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [donors[place] for place in range(n_prompts)]


def resampling(
    values: Sequence[Float[Tensor, "_ chosen"]],
    donors: Sequence[int],
    chosen: Bool[Tensor, "layer neuron"],
) -> EditsOf:
    """The mask "resample": prompt ``i`` gets the chosen activations of donor ``donors[i]``.

    Prompt and donor are aligned at the right end; what a shorter donor does not reach is kept.
    A batch's edits hold ``[row pos neuron]`` tables of every layer with a chosen neuron. They
    are due while the prompt is read: a label's tokens have no counterpart in a donor's prompt.

    Args:
        values: What :func:`donor_values` returns.
        donors: Place in ``values`` of each prompt's donor, such as :func:`draw_donors` gives.
        chosen: The neurons, the same as in :func:`donor_values`.
    """
    counts = chosen.sum(1).tolist()

    def edits(places: Sequence[int]) -> list[Edit]:
        own = [values[donors[place]] for place in places]
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
                made.append(
                    Replace("post", layer, value, there & chosen[layer], "all", when="prompt")
                )
        return made

    return edits


KINDS = ("zero", "mean", "gain", "attenuate", "static", "resample")
"""``zero``: 0. ``mean``: the mean over the classes of the identification texts. ``gain``: times
1 + strength. ``attenuate``: times 1 - strength * |a| / largest |a|, token by token. ``static``: the
same with the mean of the class in place of a. ``resample``: what it is on another text."""

Edits = Sequence[Edit] | EditsOf
"""The same edits for all texts, or a function of the places of a batch."""

EditsOn = Callable[[Bool[Tensor, "layer neuron"], str, Sequence[int]], Edits]
"""Edits that do to some neurons what is done on behalf of a class, while the texts at some places
are asked about."""

_EPS = 1e-6


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


def masking(
    model: Model, mask: Mask, profile: Profile, texts: Texts, request: str, seed: int
) -> EditsOn:
    """Puts ``mask`` on neurons while some of ``texts`` are asked about.

    For ``resample`` every text has another one of them as its donor, whichever are asked about.
    """
    prompts = questions(texts.rows, request)
    donors = draw_donors(len(prompts), seed)

    def edits_on(chosen: Tensor, label: str, places: Sequence[int]) -> Edits:
        if mask.kind != "resample":
            return edits_of(mask, chosen, profile, label)
        own = [prompts[donors[place]] for place in places]
        return resampling(donor_values(model, own, chosen), range(len(own)), chosen)

    return edits_on


def edits_of(
    mask: Mask, chosen: Bool[Tensor, "layer neuron"], profile: Profile, label: str
) -> list[Edit]:
    """Edits that put the mask on the chosen neurons; layers without one get no edit.

    Args:
        mask: What is done.
        chosen: The neurons.
        profile: Gives the means and the largest activations.
        label: The class whose mean ``static`` takes.

    Raises:
        AxisError: the label was not profiled.
        ModelError: the mask needs other texts (``resample``), which edits alone do not have.
    """
    own = profile.mean[profile.index("label", label)]
    if mask.kind == "resample":
        raise ModelError("a resample mask takes activations from other texts; use masking()")
    middle, largest = profile.mean.mean(0), profile.largest.amax(0)
    edits: list[Edit] = []
    for layer in chosen.any(1).nonzero()[:, 0].tolist():
        here = chosen[layer]
        if mask.kind == "zero":
            edit = Replace("post", layer, torch.zeros(len(here)), here, "all")
        elif mask.kind == "mean":
            edit = Replace("post", layer, middle[layer], here, "all")
        elif mask.kind == "attenuate":
            edit = Attenuate("post", layer, mask.strength, largest[layer], here, "all")
        else:
            factor = _factor(mask, own[layer], largest[layer])
            edit = Scale("post", layer, factor.where(here, 1.0), "all")
        edits.append(edit)
    return edits


def _factor(mask: Mask, own: Tensor, largest: Tensor) -> Tensor:
    if mask.kind == "gain":
        return torch.full_like(own, 1 + mask.strength)
    return attenuation(own, mask.strength, largest)


def gaps(profile: Profile, label: str) -> Float[Tensor, "layer neuron"]:
    """How far the mean activation on a class is from that on the others, by its mean size.

    Zheng et al.'s statistic of dynamic filtering. The divisor is the mean of the absolute value: a
    signed mean may be near zero or negative where activations have both signs.

    Raises:
        AxisError: the label was not profiled.
    """
    own = profile.index("label", label)
    rest = [place for place in range(len(profile.label)) if place != own]
    apart = profile.mean[own] - profile.mean[rest].mean(0)
    return apart.abs() / (profile.mean_size.mean(0) + _EPS)


def core(
    gap: Float[Tensor, "layer neuron"], pool: Bool[Tensor, "layer neuron"], share: float
) -> Bool[Tensor, "layer neuron"]:
    """The share of the pool with the largest gaps, rounded up; of equal ones the first."""
    # A product such as 0.15 * 20 may lie just above the whole number that it is.
    count = math.ceil(round(share * int(pool.sum()), 9))
    order = gap.masked_fill(~pool, -torch.inf).flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(pool.numel(), dtype=torch.bool)
    kept[order[:count]] = True
    return kept.reshape(pool.shape)


def matched_sets(
    chosen: Bool[Tensor, "layer neuron"],
    draws: int,
    random: torch.Generator,
) -> Bool[Tensor, "draw layer neuron"]:
    """Random sets with as many neurons in every layer as ``chosen``, none of them chosen.

    Args:
        chosen: The set to match.
        draws: How many random sets.
        random: Decides the draws.

    Raises:
        ModelError: a layer has fewer other neurons than are chosen there.
    """
    wanted, left = chosen.sum(1), (~chosen).sum(1)
    for layer in (wanted > left).nonzero()[:, 0].tolist():
        raise ModelError(
            f"layer {layer} has {int(wanted[layer])} chosen neurons and only {int(left[layer])} "
            "others, so no random set of that size can be drawn there; choose fewer neurons"
        )
    # Chosen neurons sort last, and there are enough others.
    keys = torch.rand(draws, *chosen.shape, generator=random).masked_fill(chosen, 2.0)
    return keys.argsort(-1).argsort(-1) < wanted[:, None]


_ROUNDING = 1e-6


def hits(logs: Float[Tensor, "*rest text label"], truth: Int[Tensor, " text"]) -> Tensor:
    """``[*rest text]``: is the true label the most likely one? Of equal ones the first is named."""
    return logs.argmax(-1) == truth


def counts(
    logs: Float[Tensor, "text label"], truth: Int[Tensor, " text"]
) -> Int[Tensor, "true label"]:
    """How often each label is named, for texts of every class."""
    n = logs.shape[1]
    return torch.bincount(truth * n + logs.argmax(-1), minlength=n * n).reshape(n, n)


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
    values: Float[Tensor, "*rest text"], random: torch.Generator
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """95% interval of the mean over texts drawn with replacement.

    For a change the values are differences of the same text with and without a mask, so that what
    makes a text hard cancels (paired bootstrap).
    """
    count = values.shape[-1]
    means = values.double() @ bootstrap_counts(count, random).T / count
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = means.quantile(ends, dim=-1)
    return low, high


def intervals(
    values: Float[Tensor, "*rest text"], truth: Int[Tensor, " text"], classes: int, seed: int
) -> tuple[Float[Tensor, "*rest label"], Float[Tensor, "*rest label"]]:
    """:func:`interval` for the texts of every class by itself."""
    random = torch.Generator().manual_seed(seed)
    ends = [interval(values[..., truth == place], random) for place in range(classes)]
    low, high = zip(*ends, strict=True)
    return torch.stack(low, -1), torch.stack(high, -1)


def below(observed: Float[Tensor, "*rest"], random: Float[Tensor, "draw *rest"]) -> Tensor:
    """``[*rest]``: (1 + draws that are at least as low) / (1 + draws), which is never 0."""
    return (1.0 + (random <= observed + _ROUNDING).sum(0)) / (1.0 + len(random))


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


Ask = Callable[[Texts, Edits], Float[Tensor, "text label"]]
"""Log-probability (nats) of every label as the reply, under edits; in the order of the texts."""


@dataclass(frozen=True)
class Asking:
    """How much is asked, and how."""

    per_label: int = 200
    """Texts of every class, at most."""
    draws: int = 40
    """Random sets of neurons for every class."""
    seed: int = 0
    """Of random sets and of the bootstrap."""
    normalised: bool = False
    """Mean log-probability of a label's tokens in place of their sum."""
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to compare."""
        if self.per_label < 1 or self.draws < 1:
            raise DataError(
                f"{self.per_label} texts per class and {self.draws} random sets were asked for; "
                "give at least 1 of each"
            )


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answered about texts, as it is and with the neurons of each class masked."""

    texts: Texts
    label: tuple[str, ...]
    """Classes whose neurons were masked."""
    base: Float[Tensor, "text judged"]
    masked: Float[Tensor, "label text judged"]
    random: Float[Tensor, "draw label text judged"]
    """With random sets masked; NaN for texts that these were not asked about."""
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
        truth, found = self.truth, []
        for place, own in enumerate(self.own):
            rows = truth == own
            found.append(gains(self.random[:, place, rows], self.base[rows], truth[rows]).mean(-1))
        return torch.stack(found, 1)


def asker(model: Model, request: str, how: Asking, progress: Progress | None = None) -> Ask:
    """Asks ``model`` by ``request``; ``progress`` is told how many texts were asked about."""

    def ask(texts: Texts, edits: Edits) -> Tensor:
        with execution(batch_size=how.batch_size, progress=progress):
            found = choice_logs(
                model,
                questions(texts.rows, request),
                texts.label,
                edits=edits,
                normalised=how.normalised,
            )
        return found.float().cpu()

    return ask


def taken(texts: Texts, split: Split, per_label: int) -> Texts:
    """At most so many texts of every class.

    Raises:
        DataError: the texts are of another split, or a class has none.
    """
    found = texts.only(split).first(per_label)
    for label in found.label:
        if not len(found.of(label)):
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


def ask_masked(
    ask: Ask,
    texts: Texts,
    selection: Selection,
    edits_on: EditsOn,
    how: Asking,
    *,
    beside: Callable[[str], Sequence[int]],
    base: Float[Tensor, "text judged"] | None = None,
) -> Answers:
    """Ask about all texts with each class masked, and about some with random sets masked.

    A class without selected neurons is masked by nothing: what the model answers stays.

    Args:
        ask: Asks the model.
        texts: What is asked about.
        selection: The neurons of every class.
        edits_on: The mask.
        how: Gives the number of random sets and the seed.
        beside: Places of the texts that are asked about under random sets of a class.
        base: What the model answers without a mask, if it is known.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        ModelError: a layer has too few other neurons for random sets.
    """
    check_labels(selection, texts)
    drawn = random_sets(selection, how)
    base = ask(texts, ()) if base is None else base
    masked = base.repeat(len(selection.label), 1, 1)
    others = torch.full((how.draws, *masked.shape), torch.nan)
    for place, label in enumerate(selection.label):
        chosen, rows = selection.chosen[place], list(beside(label))
        if not chosen.any():
            others[:, place, rows] = base[rows]
            continue
        masked[place] = ask(texts, edits_on(chosen, label, range(len(texts))))
        some = at(texts, rows)
        for draw, other in enumerate(drawn[place]):
            others[draw, place, rows] = ask(some, edits_on(other, label, rows))
    count = selection.chosen.sum((1, 2))
    return Answers(texts, selection.label, base, masked, others, count)


def random_sets(selection: Selection, how: Asking) -> Bool[Tensor, "label draw layer neuron"]:
    """Random neurons for those of every class, the same ones whenever they are asked for.

    Raises:
        ModelError: a layer has too few other neurons.
    """
    random = torch.Generator().manual_seed(how.seed)
    return torch.stack([matched_sets(own, how.draws, random) for own in selection.chosen])


def check_labels(selection: Selection, texts: Texts) -> None:
    """Refuse neurons of classes that the texts do not have.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
    """
    for label in selection.label:
        if label not in texts.label:
            raise AxisError(
                f"neurons of {label!r} were selected; the texts can only be named "
                f"{', '.join(texts.label)}"
            )


@dataclass(frozen=True, eq=False)
class Naming(Record):
    """Greedy replies to test texts of every class, without a mask and under the class's own."""

    label: tuple[str, ...]
    """The class of the texts, whose neurons are masked."""
    base: Float[Tensor, " label"]
    """Texts whose class is written without a mask, in percent."""
    masked: Float[Tensor, " label"]
    """The same with the class's neurons masked."""
    base_silent: Float[Tensor, " label"]
    """Replies that name no class without a mask, in percent."""
    masked_silent: Float[Tensor, " label"]
    """The same with the class's neurons masked."""
    n_texts: Int[Tensor, " label"]
    mask: str = "zero"
    strength: float = 1.0


def naming(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    mask: Mask,
    *,
    how: Asking | None = None,
    progress: Progress | None = None,
) -> Naming:
    """Let the model write the class of test texts, as it is and with the class's neurons masked.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts.
    """
    how = how or Asking(per_label=40)
    asked = taken(texts.test, "test", how.per_label)
    check_labels(selection, asked)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    shares: list[list[float]] = []
    for place, label in enumerate(selection.label):
        rows = places_of(asked, label)
        prompts, own = questions(at(asked, rows).rows, texts.request), selection.chosen[place]
        with execution(batch_size=how.batch_size, progress=progress):
            both = [
                named(model, prompts, asked.label, edits=edits)
                for edits in ((), edits_on(own, label, rows))
            ]
        shares.append([_share(written, wanted) for wanted in (label, None) for written in both])
    base, masked, base_silent, masked_silent = torch.tensor(shares).T
    return Naming(
        provenance=selection.provenance.child(
            named=texts.name, mask=mask.kind, strength=mask.strength, per_label=how.per_label
        ),
        label=selection.label,
        base=base,
        masked=masked,
        base_silent=base_silent,
        masked_silent=masked_silent,
        n_texts=torch.tensor([len(asked.of(label)) for label in selection.label]),
        mask=mask.kind,
        strength=mask.strength,
    )


def _share(written: Sequence[str | None], wanted: str | None) -> float:
    return 100.0 * sum(word == wanted for word in written) / len(written)

"""What masks on a class's neurons do to the recognition of every class.

**Mask effects.** Matrix of masked class by true class, on held-out texts, compared with random
neurons of the same layers (Lee et al., Findings of ACL 2025, report the matrix; the random sets,
intervals and corrected p-values are added here). A *functional effect* is a drop on the own class
that random neurons do not reach and that is larger than on any other class.

**Naming.** A restricted choice always names some class. A greedy reply may name none; how often
that happens under a mask says whether recognition changed or the model stopped answering.

**Paired effects.** The right comparison for a rhetorical device is a text that says the same
without it: a choice between two labels, on paired texts. A change of the accuracy among all labels
may only be a change of which device is named.

**Range sweep.** Lee et al. mask 1 to 5 percent in {bottom, middle, top, all}. Their shares can be
read as shares of all neurons of the model or of the class's set; both are offered.

**Adaptive attenuation** (Zheng et al., ACL 2026, arXiv 2604.17255). The neurons of a class that
tell it best from the others are attenuated; while the accuracy on dev texts has not fallen, more of
them are attenuated, and more strongly. Nearly any set of neurons ends in a fall on the texts that
it was tuned on. Hence the same loop, with the same budget, runs on random pools of the same layers,
and what is reported is the difference on test texts that no loop has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.models.edits import Edit, edited
from circuits.models.generate import named, reply_losses
from circuits.models.protocol import Model
from circuits.names import LITERAL
from circuits.neurons.mask import (
    Classified,
    Classify,
    Mask,
    at,
    below,
    by_class,
    classifier,
    classify_masked,
    core,
    corrected,
    edits_of,
    gains,
    gaps,
    interval,
    masking,
    places_of,
    random_sets,
    studied,
    taken,
)
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection, best_of, how_many
from circuits.prompts.prompt import LabelledSet, Texts, questions
from circuits.provenance import recorded
from circuits.records import Record
from circuits.running import execution, in_force

__all__ = [
    "Adaptive",
    "Effects",
    "MaskEffects",
    "Naming",
    "PairedEffects",
    "RangeSweep",
    "Schedule",
    "adaptive_masking",
    "mask_effects",
    "naming",
    "paired_effects",
    "range_sweep",
]


@dataclass(frozen=True, eq=False)
class Effects(Record):
    """Changes of accuracy on test texts in percentage points, masked minus unmasked."""

    label: tuple[str, ...]
    """The class whose neurons are masked."""
    other_label: tuple[str, ...]
    """The true class of the texts; of pairs, the device that is told from its paraphrases."""
    change: Float[Tensor, "label other_label"]
    """Negative is a drop."""
    low: Float[Tensor, "label other_label"]
    """``low`` to ``high`` is the 95% interval: paired bootstrap over texts, or over pairs."""
    high: Float[Tensor, "label other_label"]
    base: Float[Tensor, " other_label"]
    """Accuracy without a mask, in percent."""
    corrected_p: Float[Tensor, " label"]
    """p corrected for the number of classes (Benjamini and Hochberg 1995)."""

    @property
    def own(self) -> Float[Tensor, " label"]:
        """Change on the class whose neurons are masked."""
        return self.on_own(self.change)

    @property
    def largest_other(self) -> Float[Tensor, " label"]:
        """The lowest change on another class."""
        return self.change.masked_fill(self._is_own, torch.inf).amin(1)

    def on_own(self, values: Float[Tensor, "label other_label"]) -> Float[Tensor, " label"]:
        """What a table says of the class whose neurons are masked."""
        return values[self._is_own]

    @property
    def _is_own(self) -> Bool[Tensor, "label other_label"]:
        for label in self.label:
            self.index("other_label", label)  # refuses a class that the texts lack
        return torch.tensor([[one == other for other in self.other_label] for one in self.label])


@dataclass(frozen=True, eq=False)
class MaskEffects(Effects):
    """Changes under masks."""

    judged: tuple[str, ...]
    """The class that the model names."""
    log_change: Float[Tensor, "label other_label"]
    """Mean change of the true label's log-probability, in nats."""
    n_texts: Int[Tensor, " other_label"]
    base_predicted: Int[Tensor, "other_label judged"]
    """How often each class is named without a mask."""
    predicted: Int[Tensor, "label other_label judged"]
    n_neurons: Int[Tensor, " label"]
    """Neurons that are masked, and in each random set."""
    random_change: Float[Tensor, "draw label"]
    """Change on the own class with random neurons of the same layers masked instead."""
    random_p: Float[Tensor, " label"]
    """(1 + random sets whose change is at least as low) / (1 + random sets)."""
    perplexity_ratio: Float[Tensor, " label"]
    """Perplexity of replies to neutral prompts with the mask, divided by that without; NaN for
    ``resample``, whose donors answer another request."""
    random_perplexity_ratio: Float[Tensor, " label"]
    """The same with random neurons, a mean over the first five random sets."""
    mask: str = "zero"
    strength: float = 1.0

    @property
    def supported(self) -> Bool[Tensor, " label"]:
        """Is the own drop below 95% of the random sets' changes and those on every other class?"""
        beaten = (self.random_change > self.own).double().mean(0) > 0.95
        return beaten & (self.own < 0) & (self.own < self.largest_other)


def mask_effects(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    mask: Mask,
    neutral: Sequence[Reply],
    *,
    per_label: int = 200,
    draws: int = 40,
) -> MaskEffects:
    """Mask the neurons of every class in turn, and random neurons of the same layers.

    Under random sets only texts of the class that they stand in for are classified.

    Args:
        texts: Test texts are classified.
        profile: What the mask takes means and largest activations from.
        neutral: Replies to neutral prompts, whose perplexity tells whether the model is broken.
        per_label: Texts of every class, at most.
        draws: Random sets of neurons for every class.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts, or there are no neutral replies.
        ModelError: a layer has too few other neurons for random sets.
    """
    if not neutral:
        raise DataError("there are no neutral replies; give some replies to neutral prompts")
    test = taken(texts.test, "test", per_label, selection)
    edits_on = masking(model, mask, profile, test, texts.request)
    found = classify_masked(classifier(model, texts.request), test, selection, edits_on, draws)
    prompts, replies = [reply.prompt for reply in neutral], [reply.text for reply in neutral]

    def loss(edits: Sequence[Edit]) -> float:
        # What is counted are texts that were classified.
        with edited(model, edits), execution(progress=None):
            return float(reply_losses(model, prompts, replies).double().nanmean())

    ratios = torch.full((len(selection.label), 2), torch.nan)
    if mask.kind != "resample":
        base, drawn = loss(()), random_sets(selection, draws)[:, :_READ_UNDER]
        sets = torch.cat([selection.chosen[:, None], drawn], 1)
        for place, (label, own) in enumerate(zip(selection.label, sets, strict=True)):
            losses = torch.tensor([loss(edits_of(mask, one, profile, label)) for one in own])
            each = (losses - base).exp()
            ratios[place] = torch.stack([each[0], each[1:].mean()])
    with recorded(studied(selection, texts.name, per_label, draws, **_of_mask(mask))):
        return effects_of(found, ratios, mask)


_READ_UNDER = 5
"""Random sets under which neutral replies are read."""


def _of_mask(mask: Mask) -> dict[str, Any]:
    return {"mask": mask.kind, "strength": mask.strength}


def effects_of(found: Classified, ratios: Float[Tensor, "label 2"], mask: Mask) -> MaskEffects:
    """The matrix of changes, given classifications and ratios of perplexity (masked, random)."""
    truth, n = found.truth, len(found.texts.label)
    logs = torch.stack([found.base, *found.masked])
    own_logs = logs[..., range(len(truth)), truth]
    predicted = one_hot(truth, n).T @ one_hot(logs.argmax(-1), n)
    p, tables = _tested(found)
    return MaskEffects(
        **tables,
        judged=found.texts.label,
        log_change=by_class(own_logs[1:].double() - own_logs[0], truth, n),
        n_texts=torch.bincount(truth, minlength=n),
        base_predicted=predicted[0],
        predicted=predicted[1:],
        n_neurons=found.n_neurons,
        random_change=found.random_change,
        random_p=p,
        perplexity_ratio=ratios[:, 0],
        random_perplexity_ratio=ratios[:, 1],
        **_of_mask(mask),
    )


def _tested(found: Classified) -> tuple[Float[Tensor, " label"], dict[str, Any]]:
    """The p against random sets, and the fields of :class:`Effects`."""
    low, high = interval(found.differences, found.truth, len(found.texts.label))
    change = found.change
    p = below(change[range(len(found.own)), found.own], found.random_change)
    return p, {
        "label": found.label,
        "other_label": found.texts.label,
        "change": change,
        "low": low,
        "high": high,
        "base": found.accuracy,
        "corrected_p": corrected(p),
    }


@dataclass(frozen=True, eq=False)
class Naming(Record):
    """Greedy replies to test texts of every class, without a mask and under the class's own."""

    label: tuple[str, ...]
    """The class of the texts, whose neurons are masked."""
    base: Float[Tensor, " label"]
    """Texts whose class is written, in percent, without (``base``) and with the mask."""
    masked: Float[Tensor, " label"]
    base_silent: Float[Tensor, " label"]
    """Replies that name no class, in percent."""
    masked_silent: Float[Tensor, " label"]
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
    per_label: int = 40,
) -> Naming:
    """Let the model write the class of test texts, as it is and with the class's neurons masked.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts.
    """
    test = taken(texts.test, "test", per_label, selection)
    edits_on = masking(model, mask, profile, test, texts.request)
    places = [places_of(test, label) for label in selection.label]
    shares: list[list[float]] = []
    for label, chosen, rows in zip(selection.label, selection.chosen, places, strict=True):
        prompts = questions(at(test, rows).rows, texts.request)
        written = [
            named(model, prompts, test.label, edits=edits)
            for edits in ((), edits_on(chosen, label, rows))
        ]
        shares.append(
            [100.0 * own.count(wanted) / len(own) for wanted in (label, None) for own in written]
        )
    base, masked, base_silent, masked_silent = torch.tensor(shares).T
    return Naming(
        provenance=studied(selection, texts.name, per_label, **_of_mask(mask)),
        label=selection.label,
        base=base,
        masked=masked,
        base_silent=base_silent,
        masked_silent=masked_silent,
        n_texts=torch.tensor([len(rows) for rows in places]),
        **_of_mask(mask),
    )


@dataclass(frozen=True, eq=False)
class PairedEffects(Effects):
    """Accuracy of device or literal, over texts and their paraphrases; chance is 50 percent."""

    n_pairs: Int[Tensor, " other_label"]
    random_change: Float[Tensor, "draw label"]
    """Change on the device itself with random neurons of the same layers masked instead."""
    random_p: Float[Tensor, " label"]
    """(1 + random sets whose change is at least as low) / (1 + random sets)."""
    literal: str
    """The label of the paraphrases."""


def paired_effects(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    mask: Mask,
    *,
    literal: str = LITERAL,
    per_label: int = 200,
    draws: int = 40,
) -> PairedEffects:
    """Mask the neurons of every device, and choose between the device and literal.

    Of the texts those with a paraphrase in the same split are classified, ``per_label`` pairs of
    every device at most. The other arguments are those of :func:`mask_effects`; the neurons of
    ``literal``, the label of the paraphrases, are not masked.

    Raises:
        DataError: a device has no pair among the test texts.
        ModelError: a layer has too few other neurons for random sets.
    """
    devices = tuple(label for label in selection.label if label != literal)
    test = paired_texts(texts.test.only("test"), devices, literal, per_label)
    found = classify_masked(
        classifier(model, texts.request),
        test,
        selection.sel(label=devices),
        masking(model, mask, profile, test, texts.request),
        draws,
        rows_of=lambda label: [place for pair in _pairs(test, label, literal) for place in pair],
    )
    options = {**_of_mask(mask), "paired": literal}
    with recorded(studied(selection, texts.name, per_label, draws, **options)):
        return paired_of(found, literal)


def paired_texts(texts: Texts, devices: Sequence[str], literal: str, per_label: int) -> Texts:
    """The first texts of every device that have a literal paraphrase, and these paraphrases."""
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


def paired_of(found: Classified, literal: str) -> PairedEffects:
    """Changes of the choice between two labels, given the classifications among all.

    A label's log-probability does not depend on which other labels may be named, so the choice
    between two can be read from that among all.
    """
    label = found.texts.label
    base, changes, random = [], [], []
    for place, device in enumerate(found.label):
        first, second = torch.tensor(_pairs(found.texts, device, literal)).T
        logs = torch.cat([found.base[None], found.masked, found.random[:, place]])
        named = logs[..., label.index(device)] >= logs[..., label.index(literal)]
        # Percent of the two texts of every pair for which the right one of both is likelier.
        right = 50.0 * (named[:, first].double() + (~named[:, second]).double())
        base.append(right[0])
        own, others = (right[1:] - right[0]).split([len(found.label), len(found.random)])
        changes.append(own)
        random.append(others.mean(-1))
    n_pairs = torch.tensor([len(own) for own in base])
    pair_of = torch.arange(len(base)).repeat_interleave(n_pairs)
    low, high = interval(torch.cat(changes, -1), pair_of, len(base))
    change, random_change = (
        torch.stack([own.mean(-1) for own in changes], 1),
        torch.stack(random, 1),
    )
    p = below(change.diagonal(), random_change)
    return PairedEffects(
        label=found.label,
        other_label=found.label,
        change=change,
        low=low,
        high=high,
        base=torch.stack([own.mean() for own in base]),
        n_pairs=n_pairs,
        random_change=random_change,
        random_p=p,
        corrected_p=corrected(p),
        literal=literal,
    )


def _pairs(texts: Texts, device: str, literal: str) -> list[tuple[int, int]]:
    """Places of every text of the device and of its first literal paraphrase."""
    plain: dict[str, int] = {}
    for place in places_of(texts, literal):
        plain.setdefault(texts.rows[place].pair or "", place)
    places = [(place, texts.rows[place].pair) for place in places_of(texts, device)]
    return [(place, plain[pair]) for place, pair in places if pair and pair in plain]


@dataclass(frozen=True, eq=False)
class RangeSweep(Record):
    """Changes of accuracy on test texts, in percentage points, by layer range and share."""

    label: tuple[str, ...]
    """The class whose neurons are masked."""
    place: tuple[str, ...]
    """``bottom``, ``middle``, ``top``: thirds of the layers; ``all``."""
    dose: tuple[float, ...]
    own: Float[Tensor, "label place dose"]
    """Change on the class itself."""
    largest_other: Float[Tensor, "label place dose"]
    random_own: Float[Tensor, "label place dose"]
    """Change on the class itself with random neurons of the same layers, a mean over draws."""
    n_neurons: Int[Tensor, "label place dose"]
    base: Float[Tensor, " label"]
    """Accuracy without a mask, in percent."""
    ratio_of: str
    """``all_neurons``: the dose is a share of the model's neurons. ``emotion_set``: of the class's
    set."""
    mask: str = "zero"
    strength: float = 1.0
    match_counts: bool = False
    """Kept for files that say so: were as many neurons masked in every range?"""


Sets = Selection | Callable[[float], Selection]
"""A selection, of whose sets shares are masked (``emotion_set``), or what gives the selection of a
share of all neurons (``all_neurons``)."""


def range_sweep(
    model: Model,
    texts: LabelledSet,
    sets: Sets,
    profile: Profile,
    mask: Mask,
    *,
    shares: Sequence[float] = (0.01, 0.02, 0.03, 0.04, 0.05),
    per_label: int = 30,
    draws: int = 5,
) -> RangeSweep:
    """Mask every class's neurons range by range and share by share.

    The other arguments and errors are those of :func:`mask_effects`.

    Args:
        sets: The neurons: shares of a selection's sets, or selections of shares of all neurons.
        shares: What is masked.

    Raises:
        DataError: a share does not lie above 0, or is above 1.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise DataError(f"shares lie above 0 and are at most 1, found {shares}")
    places = ("bottom", "middle", "top", "all")
    source = sets if isinstance(sets, Selection) else sets(shares[0])
    test = taken(texts.test, "test", per_label, source)
    classify = classifier(model, texts.request)
    edits_on = masking(model, mask, profile, test, texts.request)
    base = classify(test, ())
    cells = []
    for place, share in product(places, shares):
        part = _part(sets, share, place)
        cells.append(classify_masked(classify, test, part, edits_on, draws, base=base))
    own, every = cells[0].own, range(len(cells[0].own))
    change = torch.stack([cell.change for cell in cells], -1)
    others = change.clone()
    others[every, own] = torch.inf
    tables = {
        "own": change[every, own],
        "largest_other": others.amin(1),
        "random_own": torch.stack([cell.random_change.mean(0) for cell in cells], -1),
        "n_neurons": torch.stack([cell.n_neurons for cell in cells], -1),
    }
    ratio_of = "emotion_set" if isinstance(sets, Selection) else "all_neurons"
    options = {"shares": list(shares), "ratio_of": ratio_of}
    return RangeSweep(
        provenance=studied(source, texts.name, per_label, draws, **options, **_of_mask(mask)),
        label=source.label,
        place=places,
        dose=tuple(shares),
        **{name: own.unflatten(1, (len(places), -1)) for name, own in tables.items()},
        base=cells[0].accuracy[own],
        ratio_of=ratio_of,
        **_of_mask(mask),
    )


def _part(sets: Sets, share: float, place: str) -> Selection:
    """The neurons of every class that are masked in one cell: those of its set in this range."""
    if isinstance(sets, Selection):
        sizes = [how_many(share, int(own.sum())) if own.any() else 0 for own in sets.chosen]
        selection = replace(sets, chosen=best_of(sets.score, sets.chosen, sizes))
    else:
        selection = sets(share)
    here = torch.zeros_like(selection.chosen)
    here[:, layers_of(place, here.shape[1])] = True
    return replace(selection, chosen=selection.chosen & here)


def layers_of(place: str, n_layers: int) -> slice:
    """Layers of a third of the model, or all: ``[0, L // 3)``, ``[L // 3, 2 L // 3)``, the rest.

    >>> layers_of("middle", 32)
    slice(10, 21, None)
    """
    first, second = n_layers // 3, 2 * n_layers // 3
    ends = {"bottom": (0, first), "middle": (first, second), "top": (second, n_layers)}
    return slice(*ends.get(place, (0, n_layers)))


@dataclass(frozen=True)
class Schedule:
    """How the attenuation grows. Share and strength are at most 1."""

    alpha: float = 0.3
    alpha_step: float = 0.1
    tau: float = 0.1
    """The share of the pool, so that raising it makes the mask stronger."""
    tau_step: float = 0.05
    steps: int = 10
    """Trials at most."""
    per_label: int = 40
    """Dev texts of the class on which every step is tried, at most."""
    fall: float = 2.0
    """The fall of accuracy on dev texts that ends the loop, in percentage points."""

    def __post_init__(self) -> None:
        """Refuse schedules that do not grow or mask nothing."""
        if not (0 < self.alpha <= 1 and 0 < self.tau <= 1 and self.steps >= 1):
            raise DataError(
                f"alpha {self.alpha}, tau {self.tau} and {self.steps} steps were asked for; give "
                "alpha and tau above 0 and at most 1, and at least one step"
            )
        if min(self.alpha_step, self.tau_step, self.fall) < 0:
            raise DataError("steps of alpha and tau and the wanted fall must not be negative")

    @property
    def trials(self) -> list[tuple[float, float]]:
        """Strength and share of the pool at every step."""
        return [
            (min(1.0, self.alpha + i * self.alpha_step), min(1.0, self.tau + i * self.tau_step))
            for i in range(self.steps)
        ]


class Course(NamedTuple):
    """One loop."""

    changes: tuple[float, ...]
    """Change of the accuracy on dev texts at every step, in percentage points."""
    success: bool
    edits: Sequence[Edit]


def attenuate_until(
    classify: Classify,
    dev: Texts,
    attenuation: Callable[[float, float], Sequence[Edit]],
    schedule: Schedule,
    base: Tensor | None = None,
) -> Course:
    """Attenuate more until accuracy on dev texts of a class has fallen, or the steps are used up.

    ``attenuation`` makes the edits for a strength and a share of the pool; none change nothing.
    """
    truth = torch.tensor(dev.only("dev").truth)
    base = classify(dev, ()) if base is None else base
    changes: list[float] = []
    edits: Sequence[Edit] = ()
    for trial in schedule.trials:
        edits = attenuation(*trial)
        masked = classify(dev, edits) if edits else base
        changes.append(float(gains(masked, base, truth).mean()))
        if changes[-1] <= -schedule.fall:
            return Course(tuple(changes), True, edits)
    return Course(tuple(changes), False, edits)


@dataclass(frozen=True, eq=False)
class Adaptive(Effects):
    """The end of every loop on test texts, and its course on dev texts."""

    dose: tuple[int, ...]
    """Steps of the loop."""
    random: Float[Tensor, "draw label"]
    """Change on test texts of the own class after the same loop on a random pool."""
    p: Float[Tensor, " label"]
    """(1 + random pools whose change is at least as low) / (1 + random pools)."""
    success: Bool[Tensor, " label"]
    """Did the accuracy on dev texts fall by the wanted amount?"""
    random_success: Bool[Tensor, "draw label"]
    alpha: Float[Tensor, " label"]
    """Attenuation at the end of the loop, at most 1."""
    tau: Float[Tensor, " label"]
    """Share of the pool that is attenuated at the end."""
    n_core: Int[Tensor, " label"]
    """Neurons attenuated at the end."""
    trajectory: Float[Tensor, "label dose"]
    """Change on dev texts of the own class at every step; NaN after the end."""
    random_trajectory: Float[Tensor, "draw label dose"]
    alphas: Float[Tensor, " dose"]
    taus: Float[Tensor, " dose"]

    @property
    def beyond_random(self) -> Float[Tensor, " label"]:
        """The reported statistic: own change minus the mean of the random pools."""
        return self.own - self.random.mean(0)

    def random_band(self, label: str) -> tuple[Float[Tensor, " dose"], Float[Tensor, " dose"]]:
        """What 95% of the random pools lie between, step by step; one that ended stays there."""
        pools = self.random_trajectory[:, self.index("label", label)].clone()
        for step in range(1, pools.shape[1]):
            pools[:, step] = pools[:, step].where(~pools[:, step].isnan(), pools[:, step - 1])
        low, high = pools.quantile(torch.tensor([0.025, 0.975], dtype=pools.dtype), dim=0)
        return low, high

    @property
    def success_rate(self) -> Float[Tensor, " label"]:
        """Share of the random pools on which the loop succeeded as well."""
        return self.random_success.double().mean(0).float()


def adaptive_masking(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    *,
    schedule: Schedule | None = None,
    kind: str = "attenuate",
    per_label: int = 200,
    draws: int = 20,
) -> Adaptive:
    """Run the loop for every class and for random pools, then look at test texts once.

    The pool of a class are its selected neurons; random pools have as many in every layer, none of
    them selected for the class, and are ranked by the same statistic.

    Args:
        texts: The loops are given dev texts; test texts are read after the last loop has ended.
        profile: Gives the statistic by which a pool is ranked, and the largest activations.
        kind: By the activation at hand (``attenuate``), or by the class's mean (``static``).
        per_label: Test texts of every class, at most.
        draws: Random pools.

    Raises:
        AxisError: a class of the selection is none of the texts' labels, or the kind is unknown.
        DataError: a class has no dev or no test texts.
        ModelError: a layer has too few other neurons for random pools.
    """
    if kind not in ("attenuate", "static"):
        raise AxisError(f"masks that grow are attenuate and static, not {kind!r}")
    schedule, classify = schedule or Schedule(), classifier(model, texts.request)
    dev = taken(texts.dev, "dev", schedule.per_label, selection)
    pools = torch.cat([selection.chosen[:, None], random_sets(selection, draws)], 1)
    loops: list[list[Course]] = []
    for label, own in zip(selection.label, pools, strict=True):
        some, attenuation = dev.of(label), partial(_attenuation, kind, profile, label)
        base = classify(some, ())
        loops.append(
            [
                attenuate_until(classify, some, partial(attenuation, pool), schedule, base)
                for pool in own
            ]
        )

    test = taken(texts.test, "test", per_label, selection)
    base = classify(test, ())
    masked = base.repeat(len(loops), 1, 1)
    random = torch.full((draws, *masked.shape), torch.nan)
    course = torch.full((1 + draws, len(loops), schedule.steps), torch.nan)
    n_core = torch.zeros(len(loops), dtype=torch.long)
    trials, ends = torch.tensor(schedule.trials), [len(own[0].changes) - 1 for own in loops]
    for place, (label, own) in enumerate(zip(selection.label, loops, strict=True)):
        rows = places_of(test, label)
        if own[0].edits:
            masked[place] = classify(test, own[0].edits)
        for draw, each in enumerate(own[1:]):
            after = classify(at(test, rows), each.edits) if each.edits else base[rows]
            random[draw, place, rows] = after
        for pool, each in enumerate(own):
            course[pool, place, : len(each.changes)] = torch.tensor(each.changes)
        share = schedule.trials[ends[place]][1]
        n_core[place] = core(gaps(profile, label), selection.chosen[place], share).sum()

    found = Classified(test, selection.label, base, masked, random, n_core)
    p, tables = _tested(found)
    success = torch.tensor([[each.success for each in own] for own in loops]).T
    options = {**asdict(schedule), "kind": kind, "test_per_label": per_label, "draws": draws}
    return Adaptive(
        provenance=selection.provenance.child(**options, texts=texts.name, seed=in_force().seed),
        **tables,
        dose=tuple(range(schedule.steps)),
        random=found.random_change,
        p=p,
        success=success[0],
        random_success=success[1:],
        alpha=trials[ends, 0],
        tau=trials[ends, 1],
        n_core=n_core,
        trajectory=course[0],
        random_trajectory=course[1:],
        alphas=trials[:, 0].clone(),
        taus=trials[:, 1].clone(),
    )


def _attenuation(
    kind: str, profile: Profile, label: str, pool: Tensor, alpha: float, tau: float
) -> list[Edit]:
    return edits_of(Mask(kind, alpha), core(gaps(profile, label), pool, tau), profile, label)

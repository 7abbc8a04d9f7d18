"""The neurons that are selective for each class, and whether they are more than chance.

Selectors: how selective every neuron is for every class, and which may be chosen at all.

``lape``          minus the entropy of the rates at which a neuron is active, normalised over
                  classes (Tang et al. 2024, arXiv 2402.16438; for emotions Lee et al., Findings of
                  ACL 2025, and Zheng et al., ACL 2026, arXiv 2604.17255)
``lap``           the rate itself
``mad``           mean activation on the class minus that on the others
``cas``           mean activation on the class minus the largest mean on another class
``z``             ``mad`` over the pooled standard deviation within classes
``contribution``  mean activation at the last prompt position, minus its mean over classes, times
                  the output weights along the class's direction (after Wang et al. 2025,
                  arXiv 2510.11328)
``attribution``   activation times gradient of the own label's margin on the class's texts, minus
                  its mean positive part on the others' (:mod:`~circuits.neurons.profile`)
``random``        drawn numbers

The names ``lap``, ``mad`` and ``cas`` are those of Zhao et al. 2026 (arXiv 2601.03115), the
formulas of the last two a reading of "mean deviation" and "contrast". A neuron that is active on
fewer than ``least_active`` tokens has a rate that is mostly chance, and an entropy near zero for
that reason alone: no selector that reads activity may choose it.

Neurons with the lowest entropies exist in any data. Two checks: are those of one half of the texts
those of the other half, more often than random sets are; and is the entropy of the last neuron
that is chosen lower than where the labels are permuted over the texts?
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.names import neuron_name
from circuits.neurons.profile import LabelAttribution, Profile, check_word
from circuits.records import Record
from circuits.running import execution, in_force

__all__ = [
    "Admission",
    "Association",
    "DepthProfile",
    "EntropyNull",
    "SELECTORS",
    "Selection",
    "depth_profile",
    "entropy",
    "entropy_null",
    "select_neurons",
    "split_half",
]

SELECTORS: Final = ("lape", "lap", "mad", "cas", "z", "contribution", "attribution", "random")

Per = Literal["model", "label"]

_Scores = Float[Tensor, "label layer neuron"]


@dataclass(frozen=True)
class Admission:
    """Which neurons may be chosen."""

    quantile: float | None = 0.95
    """``lape``: a class's rate must exceed this quantile of all rates; ``None``: any rate will
    do."""
    least_active: int | None = None
    """Fewest tokens on which a neuron must be active; five per class by default."""
    normalised: bool = True
    """``lape``: entropy of rates normalised over classes. Without it never-active and
    always-active neurons come first, as in the formula that Zheng et al. print."""

    def __post_init__(self) -> None:
        """Refuse a quantile that is none."""
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise DataError(f"a quantile lies between 0 and 1, found {self.quantile:g}")

    def active_enough(self, active: Int[Tensor, "label layer neuron"]) -> Tensor:
        """``[layer neuron]``: is it active on as many tokens as it must be?"""
        least = 5 * len(active) if self.least_active is None else self.least_active
        return active.sum(0) >= max(1, least)


def entropy(
    rate: Float[Tensor, "label layer neuron"], *, normalised: bool = True
) -> Float[Tensor, "layer neuron"]:
    """Entropy over classes, in nats; NaN for a neuron that is never active.

    Normalised, it lies between 0 (active for one class only) and the log of the number of classes
    (as active for all).
    """
    whole = rate.sum(0)
    share = rate / whole if normalised else rate
    return torch.where(whole > 0, torch.special.entr(share).sum(0), torch.nan)


def lape_scores(
    active: Int[Tensor, "label layer neuron"], tokens: Int[Tensor, " label"], admission: Admission
) -> _Scores:
    """Minus the entropy of each neuron, the same for all classes that it may be chosen for."""
    rate = active.double() / tokens[:, None, None]
    allowed = admission.active_enough(active).expand_as(rate)
    if admission.quantile is not None:
        # torch.quantile refuses more than 16 million values; LAPE counts the place like this too.
        place = min(max(1, round(admission.quantile * rate.numel())), rate.numel())
        allowed = allowed & (rate > rate.flatten().kthvalue(place).values)
    score = -entropy(rate, normalised=admission.normalised).expand_as(rate)
    return torch.where(allowed, score, -torch.inf)


def _of_activity(selector: str, profile: Profile) -> _Scores:
    mean, each = profile.mean, profile.tokens.sum(0)[:, None, None]
    if selector == "lap":
        return profile.rate
    if selector == "cas":
        # The best of the others is the best of all, or, for the best, the second best.
        first, second = mean.topk(2, dim=0).values
        return mean - torch.where(mean == first, second, first)
    total = profile.total.sum(0)
    apart = mean - (total.sum(0) - total) / (each.sum(0) - each)
    if selector == "mad":
        return apart
    pooled = (profile.variance * each).sum(0) / each.sum(0)
    # The deviation is zero for a neuron that never changes.
    return apart / (pooled.sqrt() + 1e-6)


def _scores(
    selector: str, profile: Profile, attribution: LabelAttribution | None, admission: Admission
) -> _Scores:
    active = profile.active.sum(0)
    if selector == "lape":
        return lape_scores(active, profile.tokens.sum(0), admission)
    if selector == "contribution":
        return (profile.last - profile.last.mean(0)) * profile.weight
    if selector == "random":
        generator = torch.Generator().manual_seed(in_force().seed)
        return torch.rand(active.shape, generator=generator, dtype=torch.float64)
    if selector != "attribution":
        score = _of_activity(selector, profile)
        return torch.where(admission.active_enough(active), score, -torch.inf)
    if attribution is None:
        raise DataError(
            "selector 'attribution' needs attribution; give what label_attribution returns"
        )
    if (attribution.label, attribution.split) != (profile.label, profile.split):
        raise AxisError(
            f"the attribution is of {', '.join(attribution.label)} (halves {attribution.split}), "
            f"the profile of {', '.join(profile.label)} (halves {profile.split})"
        )
    return attribution.own - attribution.others


@dataclass(frozen=True, eq=False)
class Association(Record):
    """How far the neurons of one class are those of another."""

    jaccard: Float[Tensor, "label other_label"]
    """Neurons in both sets over neurons in either; NaN if both are empty."""
    expected: Float[Tensor, "label other_label"]
    """For random sets of these sizes: their expected intersection over their expected union, which
    is k / (2 N - k) for sets of k among N neurons."""
    shared: Int[Tensor, "label other_label"]
    """Neurons in both sets."""

    label: tuple[str, ...]
    other_label: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Selection(Record):
    """Neurons that are selective for each class."""

    score: Float[Tensor, "label layer neuron"]
    """Higher is more selective, minus infinity where the neuron may not be chosen; see
    the module's text for units."""
    chosen: Bool[Tensor, "label layer neuron"]

    label: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]
    selector: str
    share: float
    per: str
    assign: str
    """``argmax``: a neuron is of one class only; ``multi``: it may be of several."""

    def neurons_of(self, label: str) -> tuple[str, ...]:
        """Names of the class's neurons, the most selective first.

        Raises:
            AxisError: there is no such class.
        """
        place = self.index("label", label)
        where = self.chosen[place].nonzero()
        order = self.score[place][self.chosen[place]].argsort(descending=True, stable=True)
        found = where[order].tolist()
        return tuple(neuron_name(self.layer[i], self.neuron[j]) for i, j in found)

    def jaccard(self, other: "Selection | None" = None) -> Association:
        """Overlap of every class's neurons with those of every class, or of every class of another.

        Raises:
            AxisError: the other selection is of a model of another size.
        """
        other = self if other is None else other
        if (self.layer, self.neuron) != (other.layer, other.neuron):
            raise AxisError("two selections can be compared if they have the same layers, neurons")
        mine, theirs = (own.chosen.flatten(1).double() for own in (self, other))
        both = mine @ theirs.T
        size = mine.sum(1)[:, None] + theirs.sum(1)
        chance = mine.sum(1)[:, None] * theirs.sum(1) / mine.shape[1]
        return Association(
            provenance=self.provenance.child(other=other.provenance.fingerprint()),
            jaccard=both / (size - both),
            expected=chance / (size - chance),
            shared=both.round().long(),
            label=self.label,
            other_label=other.label,
        )


@dataclass(frozen=True, eq=False)
class DepthProfile(Record):
    """How many of every class's neurons lie in each layer."""

    label: tuple[str, ...]
    layer: tuple[int, ...]
    count: Int[Tensor, "label layer"]


def depth_profile(selection: Selection) -> DepthProfile:
    """Count every class's neurons layer by layer."""
    return DepthProfile(
        provenance=selection.provenance.child(counted="layer"),
        label=selection.label,
        layer=selection.layer,
        count=selection.chosen.sum(2),
    )


def select_neurons(
    profile: Profile,
    selector: str = "lape",
    *,
    share: float = 0.01,
    per: Per | None = None,
    admission: Admission | None = None,
    attribution: LabelAttribution | None = None,
) -> Selection:
    """Choose neurons; ties are broken by the higher rate, then by layer and index.

    Fewer are chosen than wanted if fewer may be. The seed in force is that of the selector
    ``random``.

    Args:
        profile: Activity on train texts.
        selector: How; see the module's text.
        share: Of all neurons of the model, to be chosen; their number is rounded up.
        per: ``model``: so many of the model, each of the class for which it scores highest, or, of
            ``lape``, is most often active (default of ``lape``). ``label``: so many of every
            class, of which a neuron may be in several (default of the others).
        attribution: For the selector ``attribution``.

    Raises:
        AxisError: the selector or a way of choosing is unknown.
        DataError: the share is not above 0 and at most 1, the attribution is missing, or ``lape``
            without a quantile is to choose for every class.
    """
    way = per or ("model" if selector == "lape" else "label")
    check_word("selector", selector, SELECTORS)
    check_word("per", way, get_args(Per))
    admission = admission or Admission()
    count = how_many(share, len(profile.layer) * len(profile.neuron))
    if selector == "lape" and way == "label" and admission.quantile is None:
        raise DataError(
            "lape gives a neuron to every class whose rate exceeds the quantile; give a quantile, "
            "or per='model'"
        )
    score = _scores(selector, profile, attribution, admission)
    assign = "argmax" if way == "model" else "multi"
    options = {"selector": selector, "share": share, "per": way, "assign": assign}
    return Selection(
        provenance=profile.provenance.child(**options, **asdict(admission), seed=in_force().seed),
        score=score,
        chosen=_choose(score, profile.rate, count, way),
        label=profile.label,
        layer=profile.layer,
        neuron=profile.neuron,
        **options,
    )


def how_many(share: float, of: int) -> int:
    """Number of neurons that a share is, rounded up.

    >>> how_many(0.01, 458_752)
    4588
    """
    if not 0 < share <= 1:
        raise DataError(f"a share lies above 0 and is at most 1, found {share:g}")
    # A share such as 3 / 7 times 7 may come out a hair above 3.
    return max(1, math.ceil(share * of * (1 - 1e-12)))


def _choose(score: _Scores, rate: _Scores, count: int, per: str) -> Bool[Tensor, "_ layer neuron"]:
    flat, tie = score.flatten(1), rate.flatten(1)
    if per == "model":
        # Each neuron is a candidate for its best class only.
        first = _ranks(flat, tie).argmin(0)[None]
        top, tie_of_top = (each.gather(0, first) for each in (flat, tie))
        taken = (_ranks(top, tie_of_top, dim=1) < count) & (top > -torch.inf)
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter(0, first, taken)
    else:
        chosen = (_ranks(flat, tie, dim=1) < count) & (flat > -torch.inf)
    return chosen.reshape(score.shape)


def _ranks(score: Tensor, tie: Tensor, dim: int = 0) -> Int[Tensor, "label unit"]:
    """Place of each entry along ``dim``: by falling score, falling ``tie``, rising index."""
    first = tie.argsort(dim=dim, descending=True, stable=True)
    second = score.gather(dim, first).argsort(dim=dim, descending=True, stable=True)
    return first.gather(dim, second).argsort(dim=dim)


def best_of(
    score: Float[Tensor, "label layer neuron"],
    allowed: Bool[Tensor, "label layer neuron"],
    sizes: Sequence[int],
) -> Bool[Tensor, "label layer neuron"]:
    """So many of the allowed neurons of each class, by score; of equal ones the first."""
    order = score.masked_fill(~allowed, -torch.inf).flatten(1)
    ranks = order.argsort(dim=1, descending=True, stable=True).argsort(1)
    kept = ranks < torch.tensor(sizes)[:, None]
    return kept.reshape(score.shape) & allowed


@dataclass(frozen=True, eq=False)
class EntropyNull(Record):
    """The k-th lowest entropy of the neurons that may be chosen, against permuted labels."""

    null: Float[Tensor, " draw"]
    """In nats, for each permutation of the labels over the texts; infinite where fewer than k
    neurons may be chosen."""
    draw: tuple[int, ...]
    observed: float
    """In nats, with the labels as they are; infinite if no neuron may be chosen."""
    rank: int
    """The k of the neuron that is compared: as many as are wanted, or as may be chosen."""
    share: float

    @property
    def p(self) -> float:
        """Share of the permutations with an entropy as low, the labels as they are among them."""
        # Equal rates of other classes are summed in another order.
        as_low = int((self.null <= self.observed + 1e-9).sum())
        return (1 + as_low) / (1 + len(self.draw))


def split_half(
    profile: Profile,
    selector: str = "lape",
    *,
    attribution: LabelAttribution | None = None,
    **how: Any,
) -> Association:
    """Overlap of the neurons selected on either half of the texts by itself.

    The diagonal compares a class with itself. Options are those of :func:`select_neurons`.

    Raises:
        AxisError: the selector or a way of choosing is unknown.
        DataError: the profile is that of one half, or see :func:`select_neurons`.
    """
    if len(profile.split) != 2:
        raise DataError(
            f"a comparison of two halves was asked for, the profile has {len(profile.split)}; "
            "give the whole profile"
        )
    found, seed = [], in_force().seed
    for half in profile.split:
        own = None if attribution is None else attribution.sel(split=half)
        with execution(seed=seed + half):
            found.append(select_neurons(profile.sel(split=half), selector, attribution=own, **how))
    return found[0].jaccard(found[1])


def entropy_null(
    profile: Profile, *, share: float = 0.01, admission: Admission | None = None
) -> EntropyNull:
    """Compare the k-th lowest entropy with what the same rule finds under permuted labels.

    Raises:
        DataError: the labels were never permuted, or the share is not above 0 and at most 1.
    """
    admission = admission or Admission()
    if not profile.draw:
        raise DataError("the profile has no permuted labels; make it with n_shuffles above 0")

    def entropies(active: Tensor, tokens: Tensor) -> Float[Tensor, " unit"]:
        """From low to high, infinite where a neuron may not be chosen."""
        return (-lape_scores(active, tokens, admission).amax(0)).flatten().sort().values

    observed = entropies(profile.active.sum(0), profile.tokens.sum(0))
    count = how_many(share, len(profile.layer) * len(profile.neuron))
    rank = max(1, min(count, int(observed.isfinite().sum())))
    shuffled = zip(profile.shuffled_active, profile.shuffled_tokens, strict=True)
    return EntropyNull(
        provenance=profile.provenance.child(share=share, **asdict(admission)),
        null=torch.stack([entropies(active, tokens)[rank - 1] for active, tokens in shuffled]),
        draw=profile.draw,
        observed=float(observed[rank - 1]),
        rank=rank,
        share=share,
    )

"""The neurons that are selective for each class, and how the sets of two classes overlap."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.names import neuron_name
from circuits.records import Record
from circuits.selective.attribution import LabelAttribution
from circuits.selective.counting import check_word
from circuits.selective.profile import Profile
from circuits.selective.selectors import SELECTORS, Admission, Assign, Evidence, Per

__all__ = ["Association", "Rounding", "Selection", "how_many", "select_neurons"]

Rounding = Literal["ceil", "round"]


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
    :mod:`~circuits.selective.selectors` for units."""
    chosen: Bool[Tensor, "label layer neuron"]

    label: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]
    selector: str
    share: float
    per: str
    assign: str

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


def select_neurons(
    profile: Profile,
    selector: str = "lape",
    *,
    share: float = 0.01,
    per: Per | None = None,
    assign: Assign | None = None,
    rounding: Rounding = "ceil",
    admission: Admission | None = None,
    attribution: LabelAttribution | None = None,
    seed: int = 0,
) -> Selection:
    """Choose neurons; ties are broken by the higher rate, then by layer and index.

    Fewer are chosen than asked for if fewer may be.

    Args:
        profile: Activity on train texts.
        selector: See :mod:`~circuits.selective.selectors`.
        share: Of all neurons of the model, to be chosen.
        per: ``model``: so many of the model, each then assigned (default of ``lape``); ``label``:
            so many of every class (default of the others).
        assign: ``argmax``: a neuron belongs to the class for which it scores highest (default of
            ``lape``: for which it is most often active). ``multi``: to every class for which it
            is good enough to be chosen; of ``lape``, whose rate exceeds the quantile.
        rounding: Of the number of neurons.
        admission: Which neurons may be chosen.
        attribution: For the selector ``attribution``.
        seed: Of the selector ``random``.

    Raises:
        AxisError: the selector or a way of choosing is unknown.
        DataError: the share is not above 0 and at most 1, the attribution is missing, or ``lape``
            without a quantile is to assign a neuron to several classes.
    """
    check_word("selector", selector, tuple(SELECTORS))
    how = SELECTORS[selector]
    per, assign, admission = per or how.per, assign or how.assign, admission or Admission()
    for option, found, words in (("per", per, Per), ("assign", assign, Assign)):
        check_word(option, found, get_args(words))
    count = how_many(share, len(profile.layer) * len(profile.neuron), rounding)
    if selector == "lape" and assign == "multi" and admission.quantile is None:
        raise DataError(
            "lape assigns a neuron to every class whose rate exceeds the quantile; give a "
            "quantile, or assign='argmax'"
        )
    score = how.score(Evidence(profile, attribution, admission, seed))
    return Selection(
        provenance=profile.provenance.child(
            selector=selector, share=share, per=per, assign=assign, rounding=rounding,
            quantile=admission.quantile, least_active=admission.least_active,
            normalised=admission.normalised, seed=seed,
        ),
        score=score,
        chosen=_choose(score, profile.rate, count, per, assign),
        label=profile.label,
        layer=profile.layer,
        neuron=profile.neuron,
        selector=selector,
        share=share,
        per=per,
        assign=assign,
    )  # fmt: skip


def how_many(share: float, of: int, rounding: Rounding = "ceil") -> int:
    """Number of neurons that a share is.

    Raises:
        AxisError: the rounding is unknown.
        DataError: the share is not above 0 and at most 1.

    >>> how_many(0.01, 458_752), how_many(0.01, 458_752, "round")
    (4588, 4588)
    """
    if not 0 < share <= 1:
        raise DataError(f"a share lies above 0 and is at most 1, found {share:g}")
    check_word("rounding", rounding, get_args(Rounding))
    # A share such as 3 / 7 times 7 may come out a hair above 3.
    exact = share * of
    return max(1, round(exact) if rounding == "round" else math.ceil(exact * (1 - 1e-12)))


def _choose(
    score: Float[Tensor, "label layer neuron"],
    rate: Float[Tensor, "label layer neuron"],
    count: int,
    per: Per,
    assign: Assign,
) -> Bool[Tensor, "label layer neuron"]:
    flat, tie = score.flatten(1), rate.flatten(1)
    rank = _ranks(flat, tie)
    best = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, rank.argmin(0)[None], True)
    if per == "label":
        allowed = flat if assign == "multi" else flat.where(best, -torch.inf)
        chosen = (_ranks(allowed, tie, dim=1) < count) & (allowed > -torch.inf)
        return chosen.reshape(score.shape)
    top, tie_of_top = (each.gather(0, rank.argmin(0)[None]) for each in (flat, tie))
    of_model = (_ranks(top, tie_of_top, dim=1) < count) & (top > -torch.inf)
    if assign == "argmax":
        return (of_model & best).reshape(score.shape)
    bar = top[of_model].min() if bool(of_model.any()) else torch.inf
    return (of_model & (flat >= bar) & (flat > -torch.inf)).reshape(score.shape)


def _ranks(score: Tensor, tie: Tensor, dim: int = 0) -> Int[Tensor, "label unit"]:
    """Place of each entry along ``dim``: by falling score, falling ``tie``, rising index."""
    first = tie.argsort(dim=dim, descending=True, stable=True)
    second = score.gather(dim, first).argsort(dim=dim, descending=True, stable=True)
    return first.gather(dim, second).argsort(dim=dim)

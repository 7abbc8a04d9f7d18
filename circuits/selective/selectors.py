"""Selectors: how selective every neuron is for every class, and which may be chosen at all.

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
                  its mean positive part on the others' (:mod:`~circuits.selective.attribution`)
``random``        drawn numbers

The names ``lap``, ``mad`` and ``cas`` are those of Zhao et al. 2026 (arXiv 2601.03115), the
formulas of the last two a reading of "mean deviation" and "contrast". A neuron that is active on
fewer than ``least_active`` tokens has a rate that is mostly chance, and an entropy near zero for
that reason alone: no selector that reads activity may choose it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.selective.attribution import LabelAttribution
from circuits.selective.profile import Profile

__all__ = ["SELECTORS", "Evidence", "Admission", "Selector", "entropy", "lape_scores"]

Per = Literal["model", "label"]
Assign = Literal["argmax", "multi"]

_EPSILON = 1e-6
"""Added to a standard deviation, which is zero for a neuron that never changes."""


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


@dataclass(frozen=True, eq=False)
class Evidence:
    """What selectors go by."""

    profile: Profile
    attribution: LabelAttribution | None = None
    """Needed by ``attribution`` only."""
    admission: Admission = Admission()
    seed: int = 0
    """Of ``random``."""


Scores = Float[Tensor, "label layer neuron"]


@runtime_checkable
class Selector(Protocol):
    """Scores neurons; higher is more selective, minus infinity where one may not be chosen."""

    def __call__(self, evidence: Evidence) -> Scores:
        """The score of every neuron for every class."""
        ...


@dataclass(frozen=True)
class _Choice:
    """A selector, and how what it scores is chosen from by default."""

    score: Selector
    per: Per = "label"
    assign: Assign = "multi"


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
) -> Scores:
    """Minus the entropy of each neuron, the same for all classes that it may be chosen for."""
    rate = active.double() / tokens[:, None, None]
    allowed = _active_enough(active, admission)
    if admission.quantile is not None:
        allowed = allowed & (rate > _quantile(rate, admission.quantile))
    score = -entropy(rate, normalised=admission.normalised).expand_as(rate)
    return torch.where(allowed, score, -torch.inf)


def _active_enough(
    active: Int[Tensor, "label layer neuron"], admission: Admission
) -> Bool[Tensor, "label layer neuron"]:
    least = 5 * len(active) if admission.least_active is None else admission.least_active
    return (active.sum(0) >= max(1, least)).expand_as(active)


def _quantile(rate: Scores, quantile: float) -> float:
    # torch.quantile refuses more than 16 million values; LAPE counts the place in this way too.
    place = min(max(1, round(quantile * rate.numel())), rate.numel())
    return float(rate.flatten().kthvalue(place).values)


def _lape(evidence: Evidence) -> Scores:
    profile = evidence.profile
    return lape_scores(profile.active.sum(0), profile.tokens.sum(0), evidence.admission)


def _of_activity(score: Callable[[Profile], Scores]) -> Selector:
    def scored(evidence: Evidence) -> Scores:
        allowed = _active_enough(evidence.profile.active.sum(0), evidence.admission)
        return torch.where(allowed, score(evidence.profile), -torch.inf)

    return scored


def _mad(profile: Profile) -> Scores:
    total, tokens = profile.total.sum(0), profile.tokens.sum(0)[:, None, None]
    return profile.mean - (total.sum(0) - total) / (tokens.sum(0) - tokens)


def _z(profile: Profile) -> Scores:
    tokens = profile.tokens.sum(0)[:, None, None]
    pooled = (profile.variance * tokens).sum(0) / tokens.sum(0)
    return _mad(profile) / (pooled.sqrt() + _EPSILON)


def _cas(profile: Profile) -> Scores:
    mean = profile.mean
    first, second = mean.topk(2, dim=0).values
    # The best of the others is the best of all, or, for the best, the second best.
    return mean - torch.where(mean == first, second, first)


def _contribution(evidence: Evidence) -> Scores:
    last = evidence.profile.last
    return (last - last.mean(0)) * evidence.profile.weight


def _attribution(evidence: Evidence) -> Scores:
    found = evidence.attribution
    if found is None:
        raise DataError(
            "selector 'attribution' needs attribution; give what label_attribution returns"
        )
    if found.label != evidence.profile.label or found.split != evidence.profile.split:
        raise AxisError(
            f"the attribution is of {', '.join(found.label)} (halves {found.split}), the profile "
            f"of {', '.join(evidence.profile.label)} (halves {evidence.profile.split})"
        )
    return found.own - found.others


def _random(evidence: Evidence) -> Scores:
    generator = torch.Generator().manual_seed(evidence.seed)
    return torch.rand(evidence.profile.rate.shape, generator=generator, dtype=torch.float64)


SELECTORS: Final[dict[str, _Choice]] = {
    "lape": _Choice(_lape, "model", "argmax"),
    "lap": _Choice(_of_activity(lambda profile: profile.rate)),
    "mad": _Choice(_of_activity(_mad)),
    "cas": _Choice(_of_activity(_cas)),
    "z": _Choice(_of_activity(_z)),
    "contribution": _Choice(_contribution),
    "attribution": _Choice(_attribution),
    "random": _Choice(_random),
}
"""Name -> selector."""

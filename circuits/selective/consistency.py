"""Whether a selection is more than chance: the same neurons from other texts, and a null.

Neurons with the lowest entropies exist in any data. Two checks: are those of one half of the texts
those of the other half, more often than random sets are; and is the entropy of the last neuron
that is chosen lower than where the labels are permuted over the texts?
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import DataError
from circuits.records import Record
from circuits.selective.attribution import LabelAttribution
from circuits.selective.profile import Profile
from circuits.selective.selection import how_many, select_neurons
from circuits.selective.selectors import Admission, lape_scores

__all__ = ["EntropyNull", "SplitHalf", "entropy_null", "split_half"]


@dataclass(frozen=True, eq=False)
class SplitHalf(Record):
    """Overlap of the neurons selected on either half of the texts."""

    jaccard: Float[Tensor, " label"]
    """Neurons selected on both halves over those selected on either; NaN if there are none."""
    expected: Float[Tensor, " label"]
    """For random sets of the same sizes; k / (2 N - k) for sets of k among N neurons."""
    n_neurons: Int[Tensor, "split label"]
    """Neurons selected on each half."""

    split: tuple[int, ...]
    label: tuple[str, ...]
    selector: str
    share: float


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
    """The k of the neuron that is compared: as many as are asked for, or as may be chosen."""
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
    share: float = 0.01,
    attribution: LabelAttribution | None = None,
    admission: Admission | None = None,
    seed: int = 0,
    **how: Any,
) -> SplitHalf:
    """Select on each half of the texts by itself; options as of :func:`select_neurons`.

    Raises:
        AxisError: the selector or a way of choosing is unknown.
        DataError: the profile is that of one half, or see :func:`select_neurons`.
    """
    if len(profile.split) != 2:
        raise DataError(
            f"a comparison of two halves was asked for, the profile has {len(profile.split)}; "
            "give the whole profile"
        )
    first, second = (
        select_neurons(
            profile.sel(split=half), selector, share=share, admission=admission,
            attribution=None if attribution is None else attribution.sel(split=half),
            seed=seed + half, **how,
        )
        for half in profile.split
    )  # fmt: skip
    between = first.jaccard(second)
    return SplitHalf(
        provenance=first.provenance.child(halves=True),
        jaccard=between.jaccard.diagonal().clone(),
        expected=between.expected.diagonal().clone(),
        n_neurons=torch.stack([own.chosen.flatten(1).sum(1) for own in (first, second)]),
        split=profile.split,
        label=profile.label,
        selector=selector,
        share=share,
    )


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
    observed = _entropies(profile.active.sum(0), profile.tokens.sum(0), admission)
    count = how_many(share, len(profile.layer) * len(profile.neuron))
    rank = max(1, min(count, int(observed.isfinite().sum())))
    shuffled = zip(profile.shuffled_active, profile.shuffled_tokens, strict=True)
    null = [_entropies(active, tokens, admission)[rank - 1] for active, tokens in shuffled]
    return EntropyNull(
        provenance=profile.provenance.child(
            share=share, quantile=admission.quantile, least_active=admission.least_active,
            normalised=admission.normalised,
        ),
        null=torch.stack(null),
        draw=profile.draw,
        observed=float(observed[rank - 1]),
        rank=rank,
        share=share,
    )  # fmt: skip


def _entropies(active: Tensor, tokens: Tensor, admission: Admission) -> Float[Tensor, " unit"]:
    """Entropies from low to high, infinite where a neuron may not be chosen."""
    return (-lape_scores(active, tokens, admission).amax(0)).flatten().sort().values

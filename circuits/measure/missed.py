"""A bound on the largest effect among components that were not patched one by one.

After the subset diagnostic of Kramár et al. (2024, arXiv 2403.00745, section 3.2). The components
are split at random into two halves, each half is patched at once, and the difference D of the two
effects is taken, many times. If effects add, D is the sum of all effects with random signs. Take
the component with the largest effect, of size m: whatever the other signs are, |D| is at least m
for one of its two signs, so |D| >= m with probability 1/2 or more. Hence m is at most the j-th
largest of n values of |D|, with confidence 1 - P(Binomial(n, 1/2) < j).

Assumption: effects of components that are patched together add. Where they do not, the bound may
fail: a component that others make up for when they are patched with it (or that acts only when
another one is *not* patched) shows in few halves or in none. Effects that cancel in sum are no
problem, since signs are drawn at random. That effects add can be seen from the halves
themselves: both halves' effects then sum to the same number in every split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import DataError

__all__ = ["Groups", "Missed", "halves", "missed", "order"]

Groups = Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Missed:
    """What random halves say about the components in them."""

    bound: float
    """Upper bound of the largest single |effect|, if effects add."""
    first: Float[Tensor, " draw"]
    """Effect of each split's first half."""
    second: Float[Tensor, " draw"]

    @property
    def departure(self) -> float:
        """Spread of the halves' sums over spread of their differences; 0 where effects add.

        Near 1 or above, interactions are as large as what is bounded, and the bound means nothing.
        """
        apart = (self.first - self.second).square().mean().sqrt()
        spread = (self.first + self.second).std(correction=0)
        return float(spread / apart) if apart > 0 else 0.0


def missed(
    effects: Callable[[Groups], Float[Tensor, " group"]],
    names: Sequence[str],
    *,
    draws: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> Missed:
    """Bound the largest effect among ``names`` from joint effects of random halves.

    Args:
        effects: The effect of each group when all of it is patched at once.
        names: Components whose effects are not known.
        draws: Splits into halves; two patched groups each.
        confidence: Of the bound.
        seed: Of the splits.

    Raises:
        DataError: too few draws for the confidence (five for 95%), or fewer than two names.
    """
    place = order(draws, confidence)
    groups = halves(names, draws, seed)
    found = effects(groups).double()
    first, second = found[0::2], found[1::2]
    apart = (first - second).abs().sort(descending=True).values
    return Missed(float(apart[place - 1]), first, second)


def halves(names: Sequence[str], draws: int, seed: int = 0) -> list[list[str]]:
    """Random splits, one half after the other; every name goes by the toss of a coin.

    Raises:
        DataError: fewer than two names.
    """
    if len(names) < 2:
        raise DataError(f"random halves need two components or more, found {len(names)}")
    random = torch.Generator().manual_seed(seed)
    found: list[list[str]] = []
    while len(found) < 2 * draws:
        side = (torch.rand(len(names), generator=random) < 0.5).tolist()
        split = [[n for n, own in zip(names, side, strict=True) if own is b] for b in (True, False)]
        if all(split):  # an empty half cannot be patched; rare unless there are very few names
            found += split
    return found


def order(draws: int, confidence: float) -> int:
    """The largest ``j`` with P(Binomial(draws, 1/2) < j) <= 1 - confidence.

    Raises:
        DataError: there is none, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise DataError(f"a confidence lies between 0 and 1, found {confidence}")
    below, place = 0.0, 0
    while place < draws:
        below += comb(draws, place) * 0.5**draws
        if below > 1 - confidence:
            break
        place += 1
    if place == 0:
        raise DataError(f"{draws} random halves are too few for confidence {confidence:g}")
    return place

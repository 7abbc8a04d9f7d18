"""How many heads and neurons every layer gets, as published.

Wang et al. 2025 (arXiv 2510.11328, stage 6.5). Unlike :func:`circuits.graph.budget.allocate`
this keeps the released rule as it is: the cap does not count a layer's minimum, the remainder is
dealt out in two rounds at most, and components with a negative score may be taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from circuits.errors import CircuitError

__all__ = ["Layers", "Settings", "deal_out"]

_ROUNDS = 2


@dataclass(frozen=True)
class Settings:
    """Constants of the published circuits."""

    total: int | None = None
    """Components of a circuit; by default ten per sublayer, as in the published 560."""
    ratio_mode: Literal["fixed", "auto"] = "fixed"
    ratio: tuple[float, float] = (0.7, 0.3)
    """Shares of neurons and of heads; ``auto`` takes those of the sublayers' importance."""
    min_mlp: int = 4
    min_attention: int = 2
    cap_ratio: float = 0.4
    """A layer never gets more than this share beyond its minimum."""

    def __post_init__(self) -> None:
        if self.total is not None and self.total < 1:
            raise CircuitError(f"total: {self.total} is too few components; give 1 or more")
        if min(self.ratio) < 0 or abs(sum(self.ratio) - 1) > 1e-9:
            raise CircuitError(f"ratio: {self.ratio} must be two shares that sum to 1")
        if min(self.min_mlp, self.min_attention) < 0 or not 0 <= self.cap_ratio <= 1:
            raise CircuitError("minima must be 0 or more, and cap_ratio a share")

    def split(
        self, n_sublayers: int, mlp: Sequence[float], attention: Sequence[float]
    ) -> tuple[int, int]:
        """Neurons and heads of a circuit whose sublayers have these weights.

        >>> Settings().split(56, [1.0], [1.0])
        (392, 168)
        """
        total = 10 * n_sublayers if self.total is None else self.total
        share, both = self.ratio[0], sum(mlp) + sum(attention)
        if self.ratio_mode == "auto" and both > 1e-12:
            share = sum(mlp) / both
        neurons = round(total * share)
        return neurons, total - neurons


@dataclass(frozen=True)
class Layers:
    """Places of one kind of component, layer by layer."""

    weights: tuple[float, ...]
    shares: tuple[float, ...]
    base: tuple[int, ...]
    added: tuple[int, ...]
    available: tuple[int | None, ...]
    """``None`` where it is not known how many components there are."""
    used: tuple[int, ...]

    @property
    def planned(self) -> tuple[int, ...]:
        """Places before a layer's lack of components counts."""
        return tuple(base + added for base, added in zip(self.base, self.added, strict=True))


def deal_out(
    scores: Sequence[float],
    available: Sequence[int | None],
    count: int,
    *,
    minimum: int,
    cap_ratio: float,
) -> Layers:
    """Deal ``count`` places out to layers with these scores; negative ones weigh nothing.

    Raises:
        CircuitError: a score is not finite.

    >>> deal_out([3.0, 1.0, -1.0], [9, 9, 9], 9, minimum=1, cap_ratio=0.4).planned
    (4, 3, 2)
    """
    if not all(map(math.isfinite, scores)):
        raise CircuitError("a layer's importance is not finite; look at the importance table")
    weights = [max(score, 0.0) for score in scores]
    mass, n = sum(weights), len(weights)
    shares = [weight / mass for weight in weights] if mass > 1e-12 else [1 / n] * n
    if count < minimum * n:
        minimum = 1 if count >= n else 0
    added = _added(shares, count - minimum * n, math.floor(cap_ratio * count))
    planned = [minimum + more for more in added]
    return Layers(
        tuple(weights), tuple(shares), (minimum,) * n, tuple(added), tuple(available),
        tuple(_backfilled(planned, available)),
    )  # fmt: skip


def _added(shares: Sequence[float], rest: int, cap: int) -> list[int]:
    raw = [share * rest for share in shares]
    added = [min(math.floor(value), cap) for value in raw]
    left = rest - sum(added)
    # Largest fraction first, ties to the earlier layer.
    order = sorted(range(len(raw)), key=lambda i: (math.floor(raw[i]) - raw[i], i))
    for i in order * _ROUNDS:
        if left > 0 and added[i] < cap:
            added[i] += 1
            left -= 1
    return added


def _backfilled(planned: Sequence[int], available: Sequence[int | None]) -> list[int]:
    room = [math.inf if most is None else most for most in available]
    used = [int(min(k, most)) for k, most in zip(planned, room, strict=True)]
    missing = sum(planned) - sum(used)
    for i in sorted(range(len(used)), key=lambda i: (-planned[i], i)):
        more = int(min(missing, room[i] - used[i]))
        used[i] += more
        missing -= more
    return used

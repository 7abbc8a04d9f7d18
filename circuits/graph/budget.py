"""How many heads and neurons a circuit may have, and how they are dealt out to layers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.errors import CircuitError

__all__ = ["Budget", "allocate"]


@dataclass(frozen=True)
class Budget:
    """Components of a circuit, as shares of the model's.

    Wang et al. 2025 (arXiv 2510.11328) take ten components per sublayer, three tenths of them
    heads, which is a quarter of the heads of a 3B model and all heads of a small one. Shares
    mean the same at every size.
    """

    heads: float = 0.20
    """Share of all attention heads."""
    neurons: float = 0.05
    """Share of all MLP neurons."""
    min_per_layer: int = 0
    """Components that every layer gets of either kind before importance counts."""

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            if not 0 < getattr(self, name) <= 1:
                raise CircuitError(
                    f"budget: {name} is a share and must lie above 0 and at most 1, "
                    f"found {getattr(self, name)}"
                )
        if self.min_per_layer < 0:
            raise CircuitError(f"budget: min_per_layer is {self.min_per_layer}; give 0 or more")

    def counts(self, n_heads: int, n_neurons: int) -> tuple[int, int]:
        """Heads and neurons allowed in a model with so many; at least one of each.

        >>> Budget().counts(36, 3072)
        (7, 153)
        """
        return _share(self.heads, n_heads), _share(self.neurons, n_neurons)


def allocate(
    weights: Sequence[float], available: Sequence[int], total: int, minimum: int = 0
) -> list[int]:
    """Deal ``total`` places out to layers in proportion to ``weights``.

    Every layer gets ``minimum`` first; the rest goes by largest remainder. A layer never gets
    more than it has ``available``; what it cannot use is dealt out again, so the sum is ``total``
    unless fewer are available. Ties go to the earlier layer.

    Raises:
        CircuitError: a weight is not finite.

    >>> allocate([3.0, 1.0, 0.0], [8, 8, 8], 6)
    [5, 1, 0]
    """
    if not all(map(math.isfinite, weights)):
        raise CircuitError("a layer's weight is not finite; measure the importance again")
    given = [min(minimum, most) for most in available]
    if sum(given) > total:
        given = [0] * len(available)
    room = {i: most - given[i] for i, most in enumerate(available) if most > given[i]}
    left = min(total, sum(available)) - sum(given)
    while full := [i for i, share in _shares(weights, room, left).items() if share >= room[i]]:
        for i in full:
            given[i] += room[i]
            left -= room.pop(i)
    shares = _shares(weights, room, left)
    for i, share in shares.items():
        given[i] += int(share)
    rest = left - sum(int(share) for share in shares.values())
    for i in sorted(shares, key=lambda i: (int(shares[i]) - shares[i], i))[:rest]:
        given[i] += 1
    return given


def _share(share: float, total: int) -> int:
    # 0.29 of 100 is 29, although 0.29 * 100 is 28.999999999999996.
    return max(1, int(share * total + 1e-9))


def _shares(weights: Sequence[float], room: Mapping[int, int], left: int) -> dict[int, float]:
    # Layers without weight share evenly what layers with weight cannot use.
    mass = {i: max(weights[i], 0.0) for i in room}
    total = sum(mass.values())
    if total <= 0:
        return {i: left / len(room) for i in room}
    return {i: left * mass[i] / total for i in room}

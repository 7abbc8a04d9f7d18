"""From readouts under many sets to effects, their intervals and the band of random sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.graph.masks import Masks
from circuits.graph.ranked_sets import ORDERS
from circuits.graph.score_statistics import bootstrap_means

__all__ = ["Runs", "SetEffects", "set_effects"]

Runs = Callable[[Masks], Float[Tensor, "row context readout"]]
"""Readouts under a change of what the masks have."""

_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class SetEffects:
    """Effects of one emotion's sets under several changes of the model."""

    effect: Float[Tensor, "method order size other_emotion"]
    low: Float[Tensor, "method order size other_emotion"]
    high: Float[Tensor, "method order size other_emotion"]
    control: Float[Tensor, "method draw size other_emotion"]
    control_low: Float[Tensor, "method size other_emotion"]
    control_high: Float[Tensor, "method size other_emotion"]
    asked: Float[Tensor, " other_emotion"]


def set_effects(
    sets: Masks, ablated: Sequence[Runs], enhanced: Runs, n_sizes: int, seed: int
) -> SetEffects:
    """Run the sets of :func:`~circuits.graph.ranked_sets.ranked_sets` under every change.

    Args:
        sets: Three orders, then random draws, each by size.
        ablated: Runs of prompts that ask for the emotion, without what a set has.
        enhanced: Runs of plain prompts, with more of what a set has.
        n_sizes: How many sizes there are.
        seed: Of the bootstrap.
    """
    # An empty set changes nothing: the run that all others are compared with.
    with_none = sets.like(torch.cat([torch.zeros_like(sets.flat[:1]), sets.flat]))
    before, parts, intervals = [], [], []
    for runs, sign in [*((own, -1) for own in ablated), (enhanced, 1)]:
        m = runs(with_none).double()
        effects = (sign * (m[1:] - m[:1])).unflatten(0, (-1, n_sizes))
        before.append(m[0].mean(0))
        parts.append(effects.mean(2))
        intervals.append(_interval(effects[: len(ORDERS)], seed))
    found, (low, high) = torch.stack(parts), torch.stack(intervals, dim=1)
    control = found[:, len(ORDERS) :]
    limits = control.quantile(torch.tensor(_INTERVAL, dtype=control.dtype), dim=1)
    return SetEffects(
        effect=found[:, : len(ORDERS)].float(),
        low=low.float(),
        high=high.float(),
        control=control.float(),
        control_low=limits[0].float(),
        control_high=limits[1].float(),
        asked=(before[0] - before[-1]).float(),
    )


def _interval(
    effects: Float[Tensor, "order size context readout"], seed: int
) -> Float[Tensor, "2 order size readout"]:
    """95% interval of the mean over contexts."""
    rows = effects.movedim(2, -1)
    drawn = bootstrap_means(rows.flatten(0, -2), seed)
    limits = drawn.quantile(torch.tensor(_INTERVAL, dtype=drawn.dtype), dim=0)
    return limits.reshape(2, *rows.shape[:-1])

"""Which circuits must be run to score one: every one of them a row of the same batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.graph.areas import SIZES, nested
from circuits.graph.masks import Masks, random_masks, shuffled

__all__ = ["SUBSETS", "Rows", "count_rows", "greedy_rows", "rows_of"]

SUBSETS = 8
"""Random subsets K for completeness."""

_CURVE = len(SIZES) - 1
"""Sizes that are run: the last is the whole model."""

_GREEDY = (8, 4, 2)
"""Greedy subsets are an eighth, a quarter and half of the nodes."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Circuits to run, and where each group of them is."""

    masks: Masks
    at: dict[str, slice]


def rows_of(
    own: Masks,
    others: Masks,
    ranking: Float[Tensor, " component"],
    draws: int,
    random: torch.Generator,
) -> Rows:
    """The rows for one emotion.

    Args:
        own: Its circuit, one row.
        others: The circuits of the other emotions.
        ranking: Estimated effect of every component, heads then neurons, in flat form.
        draws: Random circuits.
        random: Decides everything random.
    """
    groups = dict(_groups(own, others, ranking, draws, random))
    at, first = {}, 0
    for name, flat in groups.items():
        at[name] = slice(first, first + len(flat))
        first += len(flat)
    return Rows(own.like(torch.cat(list(groups.values()))), at)


def greedy_rows(own: Masks, gaps: Float[Tensor, " node"]) -> Masks:
    """The circuit, then the model, without the nodes whose single gaps are largest."""
    flat = own.flat[0]
    order = flat.nonzero()[:, 0][gaps.argsort(descending=True, stable=True)]
    inside = flat.repeat(len(_GREEDY), 1)
    for row, part in enumerate(_GREEDY):
        inside[row, order[: max(1, len(order) // part)]] = False
    removed = flat & ~inside
    return own.like(torch.cat([inside, ~removed]))


def count_rows(n_nodes: int, n_others: int, draws: int) -> int:
    """How many circuits are run in all, greedy subsets included."""
    plain = 3 + n_others + 2 * n_nodes + 2 * SUBSETS + 2 * _CURVE
    return plain + draws * (3 + _CURVE) + 2 * len(_GREEDY)


def _groups(
    own: Masks,
    others: Masks,
    ranking: Float[Tensor, " component"],
    draws: int,
    random: torch.Generator,
) -> Iterator[tuple[str, Bool[Tensor, "row component"]]]:
    flat = own.flat
    nodes = torch.nn.functional.one_hot(flat[0].nonzero()[:, 0], flat.shape[1]).bool()
    yield "model", torch.ones_like(flat)
    yield "empty", torch.zeros_like(flat)
    yield "own", flat
    yield "others", others.flat
    yield "without_node", flat & ~nodes
    yield "model_without_node", ~nodes
    subsets = _halves(flat.expand(SUBSETS, -1), random)
    yield "without_subset", flat & ~subsets
    yield "model_without_subset", ~subsets
    signed = nested(ranking)[:_CURVE]
    yield "curve", signed
    yield "absolute_curve", nested(ranking.abs())[:_CURVE]
    controls = random_masks(own, draws, random).flat
    yield "controls", controls
    half = _halves(controls, random)
    yield "controls_without_subset", controls & ~half
    yield "model_without_controls_subset", ~half
    yield "control_curves", shuffled(own.like(signed), draws, random).flatten(0, 1)


def _halves(
    masks: Bool[Tensor, "row component"], random: torch.Generator
) -> Bool[Tensor, "row component"]:
    """Half of every row's members at random, rounded up: never none."""
    order = torch.rand(masks.shape, generator=random).masked_fill(~masks, 2.0)
    place = order.argsort(dim=1).argsort(dim=1)
    return place < (masks.sum(1, keepdim=True) + 1) // 2

"""Sets of heads or of neurons of growing size: the first, the last, single ones, random ones."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DataError
from circuits.graph.masks import Masks, random_masks
from circuits.model.protocol import Model

__all__ = ["ORDERS", "PartKind", "ranked_sets", "sizes_to"]

PartKind = Literal["head", "neuron"]

ORDERS = ("top", "bottom", "single")
"""The k ranked first; the k ranked last; the one at rank k alone."""


def sizes_to(count: int, steps: int = 12) -> tuple[int, ...]:
    """Numbers from 1 to ``count``, about ``steps`` of them, each about the same factor larger.

    >>> sizes_to(36, 8)
    (1, 2, 3, 5, 8, 13, 22, 36)
    """
    powers = (count ** (i / max(1, steps - 1)) for i in range(steps))
    return tuple(sorted({1, count, *(round(power) for power in powers)}))


def ranked_sets(
    model: Model,
    effects: Float[Tensor, "layer component"],
    kind: PartKind,
    sizes: tuple[int, ...],
    draws: int,
    random: torch.Generator,
) -> Masks:
    """All sets as rows: ``top`` by size, ``bottom`` by size, ``single`` by size, then the draws.

    A draw has, for every size, as many components in every layer as the top set of that size,
    from those it has not; where a layer has too few others, some of its own. Sets of all
    components are therefore all the same.

    Args:
        model: Gives the numbers of layers, heads and neurons.
        effects: Largest first; ties go to the earlier component.
        kind: What ``effects`` are of.
        sizes: How many components the sets have.
        draws: Random sets of every size.
        random: Decides the draws.

    Raises:
        DataError: a size is not between one and the number of components.
    """
    count = effects.numel()
    if not sizes or min(sizes) < 1 or max(sizes) > count:
        raise DataError(f"sets of {', '.join(map(str, sizes)) or 'no'} {kind}s; give 1 to {count}")
    place = effects.flatten().argsort(descending=True, stable=True).argsort()
    size = torch.tensor(sizes)[:, None]
    top = _masks(model, kind, place < size)
    bottom = _masks(model, kind, place >= count - size)
    single = _masks(model, kind, place == size - 1)
    drawn = [random_masks(top[[row]], draws, random).flat for row in range(len(sizes))]
    chosen = torch.stack(drawn, dim=1).flatten(0, 1)
    return top.like(torch.cat([top.flat, bottom.flat, single.flat, chosen]))


def _masks(model: Model, kind: PartKind, chosen: Bool[Tensor, "row component"]) -> Masks:
    cfg, rows = model.cfg, len(chosen)
    heads = torch.zeros(rows, cfg.n_layers, cfg.n_heads, dtype=torch.bool)
    neurons = torch.zeros(rows, cfg.n_layers, cfg.d_mlp, dtype=torch.bool)
    if kind == "head":
        return Masks(chosen.reshape(heads.shape), neurons)
    return Masks(heads, chosen.reshape(neurons.shape))

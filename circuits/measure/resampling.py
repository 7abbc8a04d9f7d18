"""Drawing with replacement, for intervals over contexts or texts (bootstrap, Efron 1979)."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["bootstrap_counts"]

_DRAWS = 2000


def bootstrap_counts(
    count: int, random: torch.Generator, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "draw context"]:
    """How often each of ``count`` contexts is in every draw of ``count``.

    >>> bootstrap_counts(3, torch.Generator().manual_seed(0)).shape
    torch.Size([2000, 3])
    """
    drawn = torch.randint(count, (_DRAWS, count), generator=random)
    counts = torch.zeros(_DRAWS, count, dtype=dtype)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))

"""Random directions, matched in size and place, against which every effect is held."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["QUANTILE", "random_directions"]

QUANTILE = 0.99
"""A control is this quantile of |effect| along random directions, over components and draws."""


def random_directions(count: int, d_model: int, *, seed: int = 0) -> Float[Tensor, "draw d_model"]:
    """Unit vectors, uniform on the sphere."""
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, d_model, generator=random)
    return drawn / drawn.norm(dim=-1, keepdim=True)

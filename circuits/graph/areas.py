"""Areas under the curve of faithfulness over circuit size.

CPR and CMD are those of MIB's code (Mueller et al. 2025, arXiv 2504.13151): sizes are nominal
shares of all components, the integral is the trapezoid rule on these shares. Nearly all of its
weight lies at circuits of a fifth of the model and more, so the same mean over the logarithm of
the size is given too, and the smallest size that is faithful enough.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["SIZES", "area", "log_area", "nested", "size_at"]

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Nominal shares of all components (MIB's)."""


def nested(scores: Float[Tensor, " component"]) -> Bool[Tensor, "size component"]:
    """The ``int(k N)`` components with the largest scores, for every size k.

    Ties go to the earlier component. For CPR give signed scores, for CMD absolute ones.
    """
    place = scores.argsort(descending=True, stable=True).argsort()
    counts = torch.tensor([int(size * len(scores)) for size in SIZES])
    return place < counts[:, None]


def area(curve: Float[Tensor, "*rest size"]) -> Float[Tensor, "*rest"]:
    """Trapezoid integral over the nominal sizes.

    Of faithfulness it is CPR (higher is better), of ``|1 - faithfulness|`` CMD (lower is better).
    """
    return torch.trapezoid(curve, torch.tensor(SIZES, dtype=curve.dtype))


def log_area(curve: Float[Tensor, "*rest size"]) -> Float[Tensor, "*rest"]:
    """Mean height over the logarithm of the size, from the smallest to the whole model."""
    logs = torch.tensor([math.log(size) for size in SIZES], dtype=curve.dtype)
    return torch.trapezoid(curve, logs) / (logs[-1] - logs[0])


def size_at(curve: Float[Tensor, "*rest size"], level: float = 0.8) -> Float[Tensor, "*rest"]:
    """The smallest of the sizes from which on the curve stays at ``level`` or above."""
    below = (curve < level).flip(-1).cummax(-1).values.flip(-1)
    sizes = torch.tensor(SIZES, dtype=curve.dtype)
    # The whole model is the last size, and it is faithful by definition.
    first = (~below).to(torch.long).argmax(-1).where(~below.all(-1), len(SIZES) - 1)
    return sizes[first]

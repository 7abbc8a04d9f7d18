"""How near two computations of one value must come: by the scale of what was added.

Kernels add in an order of their own, which depends on the processor, on the number of threads and
on the shape of the batch. So a value comes out again within some units of its number type's
precision, taken at the size of what it was added from. Its own size is no measure of that: where
large terms cancel, what is left may be all rounding.
"""

import torch
from torch import Tensor

__all__ = ["assert_near", "rounding"]

UNITS = 32
"""What a few layers of tens to hundreds of dimensions may lose; 2 to 6 is what is seen."""


def rounding(
    scale: float | Tensor, terms: int = 1, *, dtype: torch.dtype = torch.float32, units: int = UNITS
) -> float:
    """What a sum of ``terms`` values of this size may be off by.

    Args:
        scale: The largest of the values, or a tensor that has it.
        terms: How many of them are added.
        dtype: The type they were computed in, whatever they are kept in.
        units: Of the type's precision, for each of them.
    """
    largest = float(scale.abs().max()) if isinstance(scale, Tensor) else scale
    return units * terms * torch.finfo(dtype).eps * largest


def assert_near(
    found: Tensor,
    expected: Tensor,
    *,
    scale: float | Tensor | None = None,
    terms: int = 1,
    dtype: torch.dtype = torch.float32,
    units: int = UNITS,
) -> None:
    """Fail unless all values agree up to :func:`rounding`; ``scale`` is the largest of them."""
    near = rounding(expected if scale is None else scale, terms, dtype=dtype, units=units)
    torch.testing.assert_close(found, expected, rtol=0, atol=near, check_dtype=False)

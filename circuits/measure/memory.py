"""What a memory budget allows: how many prompts in one pass, and whether their values are kept.

Half of the budget is for the activations of one pass, half for values at the position that is
read. Sums over prompts come on top; their size does not depend on the number of prompts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from circuits.errors import DataError
from circuits.model.protocol import Model, dtype_of

__all__ = ["GB", "MEMORY", "Keeping", "fits_in", "keeping"]

GB = 10**9
"""Bytes in a gigabyte."""

MEMORY = 1.0
"""Default budget in gigabytes."""

_FLOAT = 4


@dataclass(frozen=True)
class Keeping:
    """Whether values are kept for a second look, or made again by running the prompts again."""

    kept: bool
    reason: str


def keeping(model: Model, n_cells: int, memory: float) -> Keeping:
    """Keep the values of ``n_cells`` prompts if they take no more than half of ``memory`` GB.

    Raises:
        DataError: the budget is not positive.
    """
    if not memory > 0:
        raise DataError(f"a memory budget of {memory:g} GB holds nothing; give more than 0")
    size, share = n_cells * _bytes_kept(model), memory * GB / 2
    found = f"values of {n_cells} prompts at the position that is read take {_in_mb(size)}"
    kept = size <= share
    does = "kept" if kept else "made again by a second pass"
    bound = "at most" if kept else "more than"
    return Keeping(
        kept, f"{does}: {found}, {bound} {_in_mb(share)}, half of the budget of {memory:g} GB"
    )


def fits_in(model: Model, memory: float, times: int) -> Callable[[int, int], bool]:
    """Whether ``times * count`` rows of a width may be run at once within half of ``memory`` GB."""
    share = memory * GB / 2

    def fits(count: int, width: int) -> bool:
        return count * times * _bytes_of_row(model, width) <= share

    return fits


def _bytes_kept(model: Model) -> int:
    """resid_mid, resid_post and z of one prompt, in float32."""
    cfg = model.cfg
    return _FLOAT * cfg.n_layers * (2 * cfg.d_model + cfg.n_heads * cfg.d_head)


def _bytes_of_row(model: Model, width: int) -> int:
    """An upper estimate of what a prompt of ``width`` tokens holds while it is run.

    One layer is at work at a time: its streams, projections and neurons, some of them twice or
    in float32, and its attention scores. Besides, all layers' values at the position that is
    read, neurons included, are held in float32, and copied while they are summed.
    """
    cfg, size = model.cfg, dtype_of(model).itemsize
    attention = cfg.n_heads * cfg.d_head
    token = (8 * size + 2 * _FLOAT) * cfg.d_model + 6 * size * attention + 6 * size * cfg.d_mlp
    scores = cfg.n_heads * width * (3 * size + _FLOAT)
    values = 3 * _bytes_kept(model) + 3 * _FLOAT * cfg.n_layers * cfg.d_mlp
    return width * (token + scores) + values


def _in_mb(size: int | float) -> str:
    return f"{size / 1e6:,.1f} MB"

"""Work that runs out of memory is done again in halves, down to one item at a time.

What fails leaves nothing behind: neither tensors, nor passes on a receipt. Work must therefore
return what it finds, or write it to places of its own; sums are added to when it has ended.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Generic, TypeVar

import torch
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.receipts import provisional
from circuits.model.rows import named_rows

__all__ = ["MemoryShortError", "halving", "halving_tables"]

T = TypeVar("T")
R = TypeVar("R")

_SAYS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""What errors of allocators say; CPU and older CUDA ones have no class of their own."""


class MemoryShortError(ModelError):
    """One item alone does not fit into memory."""

    says = ""
    """What the allocator said."""


class _Done(Generic[R]):
    def __init__(self, result: R) -> None:
        self.result = result


def halving(
    work: Callable[[Sequence[T]], R],
    items: Sequence[T],
    name: Callable[[T], str],
    *,
    rows: bool = True,
) -> list[R]:
    """``[work(items)]``, or the results of parts of ``items`` in order, where memory is short.

    Args:
        work: Done on some of the items; may itself be halved.
        items: What it is done on.
        name: What an item is called in errors.
        rows: Items are the rows of a batch, which errors may name.

    Raises:
        MemoryShortError: one item alone does not fit.
    """
    found: list[R] = []
    waiting = [items]
    while waiting:
        part = waiting.pop()
        done = _tried(work, part, name if rows else None)
        if isinstance(done, _Done):
            found.append(done.result)
            continue
        if len(part) < 2:
            raise _too_large(name(part[0]), done)
        middle = len(part) // 2
        waiting += [part[middle:], part[:middle]]
    return found


def halving_tables(
    work: Callable[[Sequence[T]], Mapping[str, Tensor]],
    items: Sequence[T],
    name: Callable[[T], str],
) -> dict[str, Tensor]:
    """The tables that ``work`` gives, their rows one under the other; see :func:`halving`."""
    parts = halving(work, items, name)
    if len(parts) == 1:
        return dict(parts[0])
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _tried(
    work: Callable[[Sequence[T]], R], part: Sequence[T], name: Callable[[T], str] | None
) -> _Done[R] | str:
    """The result, or what the allocator says."""
    try:
        with provisional(), named_rows(part, name) if name else nullcontext():
            return _Done(work(part))
    except (RuntimeError, MemoryError, MemoryShortError) as error:
        if not _is_memory(error):
            raise
        # Of work within work, what the allocator said inside.
        says = getattr(error, "says", str(error))
    # Here the error is gone, and with its traceback the tensors of the frames that it held.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return says


def _is_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | MemoryShortError | torch.OutOfMemoryError):
        return True
    return any(says in str(error).lower() for says in _SAYS)


def _too_large(name: str, says: str) -> MemoryShortError:
    error = MemoryShortError(
        f"{name} alone does not fit into memory ({' '.join(says.split())[:160]}); give a smaller "
        "--memory or batch size, load the model in bfloat16, or use shorter prompts and replies"
    )
    error.says = says
    return error

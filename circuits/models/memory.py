"""Passes counted, batches cut, and halved where memory runs out.

Work that runs out of memory is done again in halves, down to one item at a time.

What fails leaves nothing behind: neither tensors, nor passes on a receipt. Work must therefore
return what it finds, or write it to places of its own; sums are added to when it has ended.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.errors import ModelError
from circuits.models.protocol import Model, dtype_of

__all__ = [
    "Receipt",
    "charge",
    "charge_backward",
    "charge_receipt",
    "counted",
    "halving",
    "halving_tables",
    "name_of_row",
    "not_finite",
    "spoilt_rows",
    "uncounted",
]


@dataclass
class Receipt:
    """Running totals; filled by every forward pass made inside :func:`counted`."""

    passes: int = 0
    """Sequences put through the model from their first token (a batch of 8 counts 8)."""
    steps: int = 0
    """Sequences continued by cached keys and values (decoding, or a changed last token)."""
    token_layers: int = 0
    """Tokens times layers of both, padding included."""
    backward_passes: int = 0
    """Sequences whose gradients were computed."""
    backward_token_layers: int = 0
    """Tokens times layers of those."""

    def to_json(self) -> dict[str, int]:
        """The totals as plain JSON values."""
        return asdict(self)


_OPEN: ContextVar[tuple[Receipt, ...]] = ContextVar("open receipts", default=())


@contextmanager
def counted() -> Iterator[Receipt]:
    """Count what is run inside the block; blocks may nest."""
    receipt = Receipt()
    with _opened(*_OPEN.get(), receipt):
        yield receipt


def uncounted() -> AbstractContextManager[None]:
    """Passes that find out what a model can do, once, and belong to no piece of work."""
    return _opened()


def charge(rows: int, positions: int, layers: int, *, cached: bool, extra: int = 0) -> None:
    """Add one batched forward call to every open receipt; ``extra`` counts single token-layers."""
    for receipt in _OPEN.get():
        receipt.token_layers += rows * positions * layers + extra
        if cached:
            receipt.steps += rows
        else:
            receipt.passes += rows


def charge_backward(rows: int, positions: int, layers: int) -> None:
    """Add one batched backward call to every open receipt."""
    for receipt in _OPEN.get():
        receipt.backward_passes += rows
        receipt.backward_token_layers += rows * positions * layers


def charge_receipt(receipt: Receipt) -> None:
    """Add what was counted elsewhere, such as by a worker, to every open receipt."""
    for own in _OPEN.get():
        for count in fields(Receipt):
            setattr(own, count.name, getattr(own, count.name) + getattr(receipt, count.name))


@contextmanager
def _opened(*receipts: Receipt) -> Iterator[None]:
    token = _OPEN.set(receipts)
    try:
        yield
    finally:
        _OPEN.reset(token)


@contextmanager
def _provisional() -> Iterator[None]:
    """Passes that count if the block ends, and not at all if it is left by an error."""
    receipt = Receipt()
    with _opened(receipt):
        yield
    charge_receipt(receipt)


T = TypeVar("T")

_SHOWN = 3
_LETTERS = 70
_NAMES: ContextVar[tuple[Callable[[], str], ...]] = ContextVar("names of rows", default=())


@contextmanager
def _named_rows(items: Sequence[T], name: Callable[[T], str]) -> Iterator[None]:
    """Say what the rows are that are run inside the block, in their order."""
    token = _NAMES.set(tuple(partial(name, item) for item in items))
    try:
        yield
    finally:
        _NAMES.reset(token)


def name_of_row(model: Model, ids: Sequence[int]) -> str:
    """How many tokens a row has, and its beginning and end as text."""
    tokenizer = model.tokenizer
    text = tokenizer.decode(list(ids), skip_special_tokens=True) if tokenizer else str(list(ids))
    words = " ".join(text.split())
    if len(words) > 2 * _LETTERS:
        words = f"{words[:_LETTERS]} ... {words[-_LETTERS:]}"
    return f"a prompt of {len(ids)} tokens, {words!r}"


def spoilt_rows(values: Tensor) -> Bool[Tensor, " row"]:
    """Rows in which a value is NaN or infinite."""
    return ~torch.isfinite(values).flatten(1).all(1)


def not_finite(
    model: Model, where: str, bad: Bool[Tensor, " row"], rows: Sequence[Sequence[int]] | None
) -> ModelError:
    """The error for rows that hold NaN or infinity: where, in which prompts, and what to do.

    Args:
        model: Its number type decides what is advised.
        where: Site, layer and hook.
        bad: Which rows.
        rows: Their token ids, without padding; for rows that nobody gave a name.
    """
    places, names = bad.nonzero()[:, 0].tolist(), _NAMES.get()
    if len(names) == len(bad):
        shown = [names[place]() for place in places[:_SHOWN]]
    else:
        shown = [name_of_row(model, rows[place]) for place in places[:_SHOWN]] if rows else []
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    whose = f" for {'; '.join(shown)}{more}" if shown else ""
    return ModelError(
        f"{where} holds NaN or infinity{whose} ({len(places)} of {len(bad)} prompts of the "
        f"batch); {_advice(model)}"
    )


def _advice(model: Model) -> str:
    dtype = dtype_of(model)
    if dtype == torch.float16:
        return "numbers above 65504 do not fit into float16: load the model in float32 or bfloat16"
    if dtype == torch.bfloat16:
        return "load the model in float32"
    return "the weights or the changes made to the model hold such a number: check them"


R = TypeVar("R")

_SAYS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""What errors of allocators say; CPU and older CUDA ones have no class of their own."""


class MemoryShortError(ModelError):
    """One item alone does not fit into memory."""

    says = ""
    """What the allocator said."""


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
        try:
            with _provisional(), _named_rows(part, name) if rows else nullcontext():
                found.append(work(part))
            continue
        except (RuntimeError, MemoryError, MemoryShortError) as error:
            if not _is_memory(error):
                raise
            # Of work within work, what the allocator said inside.
            says = getattr(error, "says", str(error))
        # Here the error is gone, and with its traceback the tensors of the frames that it held.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(part) < 2:
            raise _too_large(name(part[0]), says)
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

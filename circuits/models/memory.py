"""Passes counted, and work done again in halves where memory runs out, down to one item at a time.

What fails leaves nothing behind: neither tensors, nor passes on a receipt. Work must therefore
return what it finds, or write it to places of its own; sums are added to when it has ended.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.errors import ModelError
from circuits.models.protocol import Model, dtype_of

__all__ = [
    "Receipt",
    "charge",
    "charge_receipt",
    "counted",
    "halving",
    "halving_tables",
    "name_of_row",
    "not_finite",
    "setting",
    "uncounted",
]

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable another value inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


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
    with setting(_OPEN, (*_OPEN.get(), receipt)):
        yield receipt


def uncounted() -> AbstractContextManager[None]:
    """For passes that find out what a model can do, and belong to no piece of work."""
    return setting(_OPEN, ())


def charge(rows: int, positions: int, layers: int, *, cached: bool, extra: int = 0) -> None:
    """Add one batched forward call to every open receipt; ``extra`` counts single token-layers."""
    own = {"steps" if cached else "passes": rows}
    charge_receipt(Receipt(token_layers=rows * positions * layers + extra, **own))


def charge_receipt(receipt: Receipt) -> None:
    """Add what was counted elsewhere, such as by a worker, to every open receipt."""
    for own in _OPEN.get():
        for count in fields(Receipt):
            setattr(own, count.name, getattr(own, count.name) + getattr(receipt, count.name))


_NAMES: ContextVar[tuple[Callable[[Any], str], Sequence[Any]] | None] = ContextVar(
    "what the rows of a batch are", default=None
)


def name_of_row(model: Model, ids: Sequence[int]) -> str:
    """How many tokens a row has, and its beginning and end as text."""
    tokenizer = model.tokenizer
    text = tokenizer.decode(list(ids), skip_special_tokens=True) if tokenizer else str(list(ids))
    words = " ".join(text.split())
    if len(words) > 140:
        words = f"{words[:70]} ... {words[-70:]}"
    return f"a prompt of {len(ids)} tokens, {words!r}"


def not_finite(
    model: Model, where: str, bad: Bool[Tensor, " row"], rows: Sequence[Sequence[int]] | None
) -> ModelError:
    """The error for ``bad`` rows that hold NaN or infinity: where, in which prompts, what to do.

    The token ids of ``rows`` are for those that nobody gave a name.
    """
    places, (name, items) = bad.nonzero()[:, 0].tolist(), _NAMES.get() or (str, ())
    if len(items) == len(bad):
        shown = [name(items[place]) for place in places[:3]]
    else:
        shown = [name_of_row(model, rows[place]) for place in places[:3]] if rows else []
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    whose = f" for {'; '.join(shown)}{more}" if shown else ""
    advice = {
        torch.float16: "numbers above 65504 do not fit into float16: load the model in float32 or "
        "bfloat16",
        torch.bfloat16: "load the model in float32",
    }.get(dtype_of(model), "the weights or the changes made to the model hold such a number")
    return ModelError(
        f"{where} holds NaN or infinity{whose} ({len(places)} of {len(bad)} prompts of the "
        f"batch); {advice}"
    )


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

    ``work`` may itself be halved. Errors give an item its ``name``; where items are the ``rows``
    of a batch, those of numbers that are not finite do too.

    Raises:
        MemoryShortError: one item alone does not fit.
    """
    found: list[R] = []
    waiting = [items]
    while waiting:
        part, receipt = waiting.pop(), Receipt()
        try:
            # Passes count if the work ends, and not at all if it is left by an error.
            names = (name, part) if rows else _NAMES.get()
            with setting(_OPEN, (receipt,)), setting(_NAMES, names):
                found.append(work(part))
            charge_receipt(receipt)
            continue
        except (RuntimeError, MemoryError, MemoryShortError) as error:
            short = isinstance(error, MemoryError | MemoryShortError | torch.OutOfMemoryError)
            if not short and not any(says in str(error).lower() for says in _SAYS):
                raise
            # Of work within work, what the allocator said inside.
            says = getattr(error, "says", str(error))
        # Here the error is gone, and with its traceback the tensors of the frames that it held.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(part) < 2:
            error = MemoryShortError(
                f"{name(part[0])} alone does not fit into memory ({' '.join(says.split())[:160]}); "
                "give a smaller --memory or batch size, load the model in bfloat16, or use shorter "
                "prompts and replies"
            )
            error.says = says
            raise error
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

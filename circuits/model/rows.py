"""Which prompt a row of a batch is, so that an error can say it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.protocol import Model, dtype_of

__all__ = ["name_of_row", "named_rows", "not_finite", "spoilt_rows"]

T = TypeVar("T")

_SHOWN = 3
_LETTERS = 70
_NAMES: ContextVar[tuple[Callable[[], str], ...]] = ContextVar("names of rows", default=())


@contextmanager
def named_rows(items: Sequence[T], name: Callable[[T], str]) -> Iterator[None]:
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

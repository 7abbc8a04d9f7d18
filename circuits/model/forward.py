"""The one place where a model is run: plain passes, and passes over cached keys and values.

Keys and values are kept in Hugging Face's cache object; the rest of the package sees a
:class:`Prefix`.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens, pad_left
from circuits.model.hooked import Hooked
from circuits.model.protocol import Model, device_of, dtype_of
from circuits.model.receipts import charge

__all__ = [
    "Phase",
    "Prefix",
    "branch",
    "can_share",
    "check_window",
    "during",
    "extend",
    "extend_padded",
    "last_logits",
    "phase",
    "prefill",
    "prefill_prefix",
    "prefill_shared",
    "read",
    "read_on",
    "run",
]

Phase = Literal["prefix", "prompt", "decode"]
"""What the model reads: a prompt without its last token, a prompt to its end, or its own reply.

The last position of a prefix is not the last of the prompt, so edits of the last position are not
due there.
"""

_PHASE: ContextVar[Phase] = ContextVar("phase", default="prompt")


@dataclass(frozen=True)
class Prefix:
    """Keys and values of tokens that a model has read."""

    cache: Any
    mask: Bool[Tensor, "prompt pos"]

    def fork(self) -> "Prefix":
        """A prefix that can be read on from while this one stays as it is.

        Only the containers are copied: reading on makes new tensors, it never writes into old.
        """
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        return Prefix(cache, self.mask)

    def select(self, rows: Sequence[int]) -> "Prefix":
        """These rows, in this order and as often as they are named; this prefix stays as it is."""
        # On the CPU: layers of a model that is spread over devices have theirs elsewhere.
        cache, index = self.fork().cache, torch.tensor(rows)
        cache.batch_select_indices(index)
        return Prefix(cache, self.mask[index])


@contextmanager
def during(now: Phase) -> Iterator[None]:
    """Say what the model is doing, so that edits know whether they are due."""
    token = _PHASE.set(now)
    try:
        yield
    finally:
        _PHASE.reset(token)


def phase() -> Phase:
    """What the model is doing; a forward pass outside generation reads a prompt."""
    return _PHASE.get()


def run(model: Model, tokens: Tokens) -> Float[Tensor, "prompt pos vocab"]:
    """Logits of a plain forward pass."""
    rows, width = tokens.ids.shape
    charge(rows, width, model.cfg.n_layers, cached=False)
    return model(tokens.ids, attention_mask=tokens.mask.long(), return_type="logits")


def read(model: Model, tokens: Tokens) -> None:
    """A plain forward pass whose logits nobody wants: what is wanted is read with hooks."""
    rows, width = tokens.ids.shape
    charge(rows, width, model.cfg.n_layers, cached=False)
    model(
        tokens.ids,
        attention_mask=tokens.mask.long(),
        return_type="logits",
        **last_logits(model),
        **_without_cache(model),
    )


def prefill(model: Model, tokens: Tokens) -> tuple[Float[Tensor, "prompt 1 vocab"], Prefix]:
    """Logits of the last position, and the keys and values to go on from."""
    rows, width = tokens.ids.shape
    charge(rows, width, model.cfg.n_layers, cached=False)
    logits, cache = model(
        tokens.ids,
        attention_mask=tokens.mask.long(),
        use_cache=True,
        return_type="logits_and_cache",
        **last_logits(model),
    )
    return logits[:, -1:], Prefix(cache, tokens.mask)


def prefill_shared(
    model: Model, rows: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "prompt 1"], Prefix]:
    """Read all but the last token of every row, equal rows once; the last tokens are returned."""
    places = {row: place for place, row in enumerate(dict.fromkeys(map(tuple, rows)))}
    last, prefix = prefill_prefix(model, pad_left(list(places), device_of(model)))
    order = [places[tuple(row)] for row in rows]
    return last[order], prefix.select(order)


def prefill_prefix(model: Model, tokens: Tokens) -> tuple[Int[Tensor, "prompt 1"], Prefix]:
    """Read all but the last token of every row; the last tokens are returned."""
    with during("prefix"):
        _, prefix = prefill(model, Tokens(tokens.ids[:, :-1], tokens.mask[:, :-1]))
    return tokens.ids[:, -1:], prefix


def extend(
    model: Model, ids: Int[Tensor, "prompt pos"], prefix: Prefix
) -> tuple[Float[Tensor, "prompt pos vocab"], Prefix]:
    """Read ``ids`` after ``prefix``, using its cache up: fork or select from it to keep it."""
    return _read_on(model, Tokens(ids, prefix.mask.new_ones(ids.shape)), prefix)


def extend_padded(
    model: Model, tokens: Tokens, prefix: Prefix
) -> tuple[Float[Tensor, "prompt 1 vocab"], Prefix]:
    """Read tails of different length after ``prefix``; the logits are those of the last position.

    The padding lies between the prefix and the tail: see :func:`can_share`.
    """
    logits, prefix = _read_on(model, tokens, prefix, **last_logits(model))
    return logits[:, -1:], prefix


def can_share(model: Model, width: int) -> bool:
    """May rows of ``width`` positions be padded between a prefix that they share and their tails?

    They may where attention alone carries what was read, and sees only the mask and the
    positions. A window counts places in the cache, padding included; recurrent layers read the
    padding; a model that takes no positions counts them itself.
    """
    if isinstance(model, Hooked):
        return model.counts_positions_by_mask and _window(model) is None
    config, window = _config(model), _window(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    attends = kinds <= {"full_attention", "sliding_attention"}
    return attends and _takes(model, "position_ids") and (window is None or width <= window)


def _read_on(
    model: Model, tokens: Tokens, prefix: Prefix, **options: int
) -> tuple[Float[Tensor, "prompt pos vocab"], Prefix]:
    ids = tokens.ids
    rows, width = ids.shape
    charge(rows, width, model.cfg.n_layers, cached=True)
    mask = torch.cat([prefix.mask, tokens.mask], dim=1)
    logits, cache = model(
        ids,
        attention_mask=mask.long(),
        return_type="logits_and_cache",
        **read_on(model, prefix.cache),
        **options,
    )
    return logits, Prefix(cache, mask)


def branch(model: Model, ids: Int[Tensor, "prompt 1"], prefix: Prefix, times: int) -> None:
    """Read each row's token after its prefix, ``times`` times side by side.

    The copies see the prefix and themselves, not each other, so every one is a run of its own:
    edits at ``positions="variant"`` tell them apart. They stand along the position axis, where
    they share the prefix's keys and values; a HookedTransformer, which takes no such mask, runs
    them as rows, and hooks see them along the position axis all the same. Nothing is returned:
    read what is wanted with hooks. The prefix stays as it is.
    """
    rows, width = prefix.mask.shape
    if isinstance(model, Hooked):
        rows_of = [row for row in range(rows) for _ in range(times)]
        with model.side_by_side(times):
            extend(model, ids.repeat_interleave(times, dim=0), prefix.select(rows_of))
        return
    check_window(model, width)
    charge(rows * times, 1, model.cfg.n_layers, cached=True)
    seen = torch.zeros(rows, 1, times, width + times, dtype=torch.bool, device=ids.device)
    seen[..., :width] = prefix.mask[:, None, None]
    seen[..., width:] = torch.eye(times, dtype=torch.bool, device=ids.device)
    dtype = dtype_of(model)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=ids.device)
    model(
        ids.expand(-1, times),
        attention_mask=hidden.masked_fill_(~seen, torch.finfo(dtype).min),
        position_ids=prefix.mask.sum(1, keepdim=True).expand(-1, times),
        return_type="logits_and_cache",
        **read_on(model, prefix.fork().cache),
        **last_logits(model),
    )


def _config(model: Model) -> Any:
    return getattr(getattr(model, "original_model", None), "config", None)


def _window(model: Model) -> int | None:
    if isinstance(model, Hooked):
        return model.cfg.window_size if model.cfg.use_local_attn else None
    config = _config(model)
    window = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def check_window(model: Model, width: int) -> None:
    """Refuse tokens that do not fit into the model's attention window together with one more.

    Raises:
        ModelError: they are too many.
    """
    # The cache of a HookedTransformer keeps all keys, inside its window or not.
    window = None if isinstance(model, Hooked) else _window(model)
    if window is not None and width >= window:
        raise ModelError(
            f"a prompt of {width + 1} tokens is longer than the model's attention window of "
            f"{window}, inside which its tokens can be run again; use shorter contexts"
        )


def last_logits(model: Model, count: int = 1) -> dict[str, int]:
    """The argument that asks for the logits of the last ``count`` positions only."""
    # A vocabulary times many copies is more memory than all the rest.
    return {"logits_to_keep": count} if _takes(model, "logits_to_keep") else {}


def read_on(model: Model, cache: Any) -> dict[str, Any]:
    """The arguments that have the model read on from kept keys and values."""
    # transformers 5.24 renamed `past_key_values`, and warns of the old name.
    if _takes(model, "cache"):
        return {"cache": cache, "use_cache": True}
    return {"past_key_values": cache}


def _without_cache(model: Model) -> dict[str, bool]:
    # Models keep keys and values of all layers unless they are told not to.
    return {"use_cache": False} if _takes(model, "use_cache") else {}


def _takes(model: Model, option: str) -> bool:
    inner = model if isinstance(model, Hooked) else getattr(model, "original_model", None)
    return inner is not None and option in signature(inner.forward).parameters

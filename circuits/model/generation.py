"""Replies: batched greedy decoding with cached keys and values, plain or under edits."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.data.prompts import Prompt
from circuits.data.replies import Reply
from circuits.model.chat import encode_prompt, pad_left, stop_tokens
from circuits.model.decoding import Choose, Decoding, chooser
from circuits.model.edits import Edit, edited, of_rows
from circuits.model.finite import check_logits
from circuits.model.forward import Prefix, during, extend, prefill, prefill_shared
from circuits.model.halving import halving
from circuits.model.protocol import Model, device_of
from circuits.model.resuming import resumed
from circuits.model.rows import name_of_row
from circuits.names import NEUTRAL

__all__ = ["EditsOf", "Progress", "batches", "continuations", "elicit"]

EditsOf = Callable[[Sequence[int]], Sequence[Edit]]
"""The edits for a batch, given the places of its prompts."""

Progress = Callable[[int], None]
"""Told how many items have just been finished."""


def elicit(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    emotions: Sequence[str] | None = None,
    edits: EditsOf | None = None,
    decoding: Decoding | None = None,
    max_new_tokens: int = 100,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> list[Reply]:
    """Greedy replies to ``prompts``, in their order.

    Args:
        model: The model that replies.
        prompts: What it replies to.
        emotions: What each reply should express; by default what its prompt asks for
            (``neutral`` for a plain one).
        edits: Changes made to the model while it reads and writes: a function of the places in
            ``prompts`` that are in the batch, so that rows may be changed differently.
        decoding: Penalties; none by default.
        max_new_tokens: Longest reply.
        batch_size: Prompts at once.
        progress: Told after every batch how many replies it made.

    Raises:
        ModelError: a prompt cannot be rendered, or an edit does not fit the model.
    """
    wanted = emotions or [prompt.emotion or NEUTRAL for prompt in prompts]
    written = continuations(
        model,
        [encode_prompt(model, prompt) for prompt in prompts],
        edits=edits,
        decoding=decoding,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    return [
        Reply(prompt, text, n_tokens, emotion=emotion)
        for prompt, (text, n_tokens), emotion in zip(prompts, written, wanted, strict=True)
    ]


def continuations(
    model: Model,
    rows: Sequence[Sequence[int]],
    *,
    edits: EditsOf | None = None,
    decoding: Decoding | None = None,
    max_new_tokens: int = 100,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> list[tuple[str, int]]:
    """What the model writes after token sequences, with its number of tokens.

    The options are those of :func:`elicit`.
    """
    texts: dict[int, tuple[str, int]] = {}
    together = list(batches(rows, batch_size))
    asked = (
        _Asked(
            tuple(tuple(rows[place]) for place in chosen),
            tuple(edits(chosen)) if edits else (),
            decoding or Decoding(),
            max_new_tokens,
        )
        for chosen in together
    )
    for batch, written in resumed(model, _written, asked):
        own = ((text, n_tokens) for text, n_tokens in written)
        texts |= zip(together[batch], own, strict=True)
        if progress:
            progress(len(written))
    return [texts[place] for place in range(len(rows))]


def batches(
    rows: Sequence[Sequence[int]], size: int, fits: Callable[[int, int], bool] | None = None
) -> Iterator[list[int]]:
    """Places of ``rows`` in batches of rows of like length, so that little is padded.

    Args:
        rows: Token sequences.
        size: Most rows of a batch.
        fits: Whether so many rows of such a width may be in a batch; one row always may.
    """
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        full = len(batch) == size or (fits and not fits(len(batch) + 1, len(rows[place])))
        if batch and full:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


@dataclass(frozen=True, eq=False)
class _Asked:
    """A batch to reply to."""

    rows: tuple[tuple[int, ...], ...]
    edits: tuple[Edit, ...]
    decoding: Decoding
    longest: int


def _written(model: Model, asked: _Asked) -> list[tuple[str, int]]:
    def some(places: Sequence[int]) -> list[list[int]]:
        rows = [asked.rows[place] for place in places]
        whole = len(rows) == len(asked.rows)
        edits = asked.edits if whole else [of_rows(edit, places) for edit in asked.edits]
        choose = chooser(asked.decoding, rows, stop_tokens(model), device_of(model))
        return _reply(model, rows, edits, choose, asked.longest)

    parts = halving(
        some, range(len(asked.rows)), lambda place: name_of_row(model, asked.rows[place])
    )
    decode, replies = model.tokenizer.decode, chain.from_iterable(parts)
    return [(decode(reply, skip_special_tokens=True).strip(), len(reply)) for reply in replies]


@torch.no_grad()
def _reply(
    model: Model,
    rows: Sequence[Sequence[int]],
    edits: Sequence[Edit],
    choose: Choose,
    longest: int,
) -> list[list[int]]:
    with edited(model, edits):
        if edits and all(edit.positions == "last" for edit in edits):
            # Nothing before the last token is touched: prompts that are equal are read once.
            last, prefix = prefill_shared(model, rows)
            with during("prompt"):
                logits, prefix = extend(model, last, prefix)
        else:
            with during("prompt"):
                logits, prefix = prefill(model, pad_left(rows, device_of(model)))
        check_logits(model, logits[:, -1], rows)
        return _decode(model, logits, prefix, choose, longest, rows)


def _decode(
    model: Model,
    logits: Float[Tensor, "prompt pos vocab"],
    prefix: Prefix,
    choose: Choose,
    longest: int,
    rows: Sequence[Sequence[int]],
) -> list[list[int]]:
    stops = torch.tensor(stop_tokens(model), device=logits.device)
    nothing: Int[Tensor, "prompt pos"] = stops.new_zeros(len(logits), 0)
    written = choose(logits[:, -1], nothing)[:, None]
    ended = torch.isin(written[:, 0], stops)
    with during("decode"):
        while written.shape[1] < longest and not bool(ended.all()):
            logits, prefix = extend(model, written[:, -1:], prefix)
            check_logits(model, logits[:, -1], rows, written)
            written = torch.cat([written, choose(logits[:, -1], written)[:, None]], dim=1)
            ended = ended | torch.isin(written[:, -1], stops)
    return [list(_until(row, stops.tolist())) for row in written.tolist()]


def _until(row: Iterable[int], stops: Sequence[int]) -> Iterator[int]:
    for token in row:
        if token in stops:
            return
        yield token

"""Replies and their likelihood: generated, resumed, scored, and chosen among options.

By default every method replies greedily and alike. The published scripts penalise repetitions
differently per method, over prompt and reply together, so that they also penalise the end token,
which a chat prompt holds (Wang et al. 2025, arXiv 2510.11328, stages 3 and 7). Penalties are those
of transformers' own processors.

The choice among labels is restricted: they are compared with each other, whatever else the model
would rather say. Prompts that put one request to many texts begin alike; what they share is read
once.

How many prompts are read at once, and who is told after every batch how many of them are done, is
said around the calls (:func:`~circuits.running.execution`).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import chain, pairwise, takewhile
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import ModelError
from circuits.journal import begin_call, stop_if_asked
from circuits.judges.replies import Reply
from circuits.models.edits import Edit, edited, of_rows, per_row
from circuits.models.engines import engine
from circuits.models.memory import Receipt, charge_receipt, counted, halving, name_of_row
from circuits.models.protocol import Model, device_of
from circuits.models.run import (
    Prefix,
    can_share,
    check_values,
    during,
    extend,
    prefill,
    prefill_shared,
)
from circuits.models.tokens import encode, encode_text, pad_left, stop_tokens
from circuits.names import NEUTRAL
from circuits.prompts.prompt import Prompt, PromptLike, as_prompts, is_one_prompt
from circuits.running import advance, in_force

__all__ = [
    "Decoding",
    "EditsOf",
    "batches",
    "choice_logs",
    "chooser",
    "elicit",
    "generate",
    "named",
    "reply_losses",
]

Choose = Callable[
    [Float[Tensor, "prompt vocab"], Int[Tensor, "prompt pos"]], Int[Tensor, " prompt"]
]
"""(logits of the next token, tokens written so far) -> the next token of every row."""


@dataclass(frozen=True)
class Decoding:
    """Penalties of greedy decoding; none by default."""

    repetition_penalty: float = 1.0
    """Positive logits of tokens already read or written are divided by it, negative multiplied."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens is written that was read or written before; 0: no such rule."""
    min_new_tokens: int = 0
    """The reply does not end before it has so many tokens."""


def chooser(
    decoding: Decoding, prompts: Sequence[Sequence[int]], stops: Sequence[int], device: torch.device
) -> Choose:
    """How the next tokens of replies to these prompts are chosen."""
    if decoding == Decoding():
        return lambda logits, written: logits.argmax(-1)
    # Loaded here: most decoding needs none of them.
    from transformers import (
        MinNewTokensLengthLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
    )

    # Padded with an id that no token has: n-grams with it are never seen again.
    rows = pad_left(prompts, device, pad=-1)
    rules: list[tuple[Tensor, Callable[..., Tensor]]] = []
    if decoding.repetition_penalty != 1.0:
        # A token is penalised once however often it is there: a row's own token is no padding.
        first = torch.tensor([[row[0]] for row in prompts], device=device)
        read = rows.ids.where(rows.mask, first)
        rules.append((read, RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty)))
    if decoding.no_repeat_ngram_size:
        rules.append((rows.ids, NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size)))
    if decoding.min_new_tokens:
        width, least = rows.ids.shape[1], decoding.min_new_tokens
        ends = MinNewTokensLengthLogitsProcessor(width, least, list(stops), device=str(device))
        rules.append((rows.ids, ends))

    def choose(logits: Tensor, written: Tensor) -> Tensor:
        scores = logits.float()
        for read, rule in rules:
            scores = rule(torch.cat([read, written], dim=1), scores)
        return scores.argmax(-1)

    return choose


P = TypeVar("P")
R = TypeVar("R")


def _resumed(
    model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
) -> Iterator[tuple[int, R]]:
    """``(place, work(model, part))`` of every part, by the engine or from the journal.

    What a part from the journal cost when it was made is charged again, so that receipts do not
    tell whether the work was interrupted. Results must be plain JSON values; parts tuples and
    dataclasses of plain values and tensors.
    """
    call = begin_call()
    if call is None:
        for found in engine().results(model, work, parts):
            yield found
            stop_if_asked()
        return
    known: list[tuple[int, Any]] = []
    asked: list[tuple[int, str]] = []

    def missing() -> Iterator[P]:
        for place, part in enumerate(parts):
            digest = hashlib.sha256(json.dumps(_plain(part)).encode()).hexdigest()[:32]
            found = call.find(place, digest)
            if found is None:
                asked.append((place, digest))
                yield part
            else:
                known.append((place, found))

    results = iter(engine().results(model, work, missing()))
    while True:
        with counted() as receipt:
            made = next(results, None)
        while known:
            place, found = known.pop(0)
            charge_receipt(Receipt(**found["receipt"]))
            yield place, found["result"]
        if made is None:
            return
        place, digest = asked[made[0]]
        call.keep(place, digest, {"result": made[1], "receipt": receipt.to_json()})
        yield place, made[1]
        stop_if_asked()


def _plain(value: object) -> Any:
    """The value as plain values, to which no other value of its kind comes."""
    if isinstance(value, Tensor):
        own = value.detach().cpu().contiguous()
        data = own.reshape(-1).view(torch.uint8).numpy().tobytes()
        return [str(own.dtype), list(own.shape), hashlib.sha256(data).hexdigest()]
    if is_dataclass(value):
        return [type(value).__name__, *(_plain(getattr(value, own.name)) for own in fields(value))]
    return [_plain(own) for own in value] if isinstance(value, tuple) else repr(value)


EditsOf = Callable[[Sequence[int]], Sequence[Edit]]
"""The edits for a batch, given the places of its prompts."""


def elicit(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    emotions: Sequence[str] | None = None,
    edits: EditsOf | None = None,
    decoding: Decoding | None = None,
    max_new_tokens: int = 100,
) -> list[Reply]:
    """Greedy replies to ``prompts``, in their order.

    Args:
        emotions: What each reply should express; by default what its prompt asks for
            (``neutral`` for a neutral one).
        edits: Changes made to the model while it reads and writes: a function of the places in
            ``prompts`` that are in the batch, so that rows may be changed differently.
        decoding: Penalties; none by default.
        max_new_tokens: Longest reply.

    Raises:
        ModelError: a prompt cannot be rendered, or an edit does not fit the model.
    """
    wanted = emotions or [prompt.emotion or NEUTRAL for prompt in prompts]
    rows = [encode(model, prompt) for prompt in prompts]
    written = _continuations(model, rows, edits, decoding, max_new_tokens)
    return [
        Reply(prompt, text, n_tokens, emotion=emotion)
        for prompt, (text, n_tokens), emotion in zip(prompts, written, wanted, strict=True)
    ]


def generate(
    model: Model,
    prompts: PromptLike | Sequence[PromptLike],
    *,
    edits: Sequence[Edit] = (),
    decoding: Decoding | None = None,
    max_new_tokens: int = 100,
) -> Any:
    """What the model writes after each prompt, greedily.

    Args:
        prompts: One prompt, or a sequence of them: strings (read as they are, without a chat
            template), chat messages, token ids or :class:`~circuits.prompts.prompt.Prompt`.
        edits: Changes made to the model while it reads and writes.
        decoding: Penalties; none by default.
        max_new_tokens: Longest text.

    Returns:
        A text for one prompt, a list of texts for a sequence.

    Raises:
        DataError: a prompt is empty or of no known kind.
        ModelError: a prompt cannot be rendered, or an edit does not fit the model.
    """
    rows = [encode(model, prompt) for prompt in as_prompts(prompts)]
    own = partial(_given, edits) if edits else None
    written = _continuations(model, rows, own, decoding, max_new_tokens)
    texts = [text for text, _ in written]
    return texts[0] if is_one_prompt(prompts) else texts


def _continuations(
    model: Model,
    rows: Sequence[Sequence[int]],
    edits: EditsOf | None,
    decoding: Decoding | None,
    max_new_tokens: int,
) -> list[tuple[str, int]]:
    """What the model writes after token sequences, with its number of tokens."""
    texts: dict[int, tuple[str, int]] = {}
    together = list(batches(rows, in_force().rows()))
    asked = (
        (
            tuple(tuple(rows[place]) for place in chosen),
            tuple(edits(chosen)) if edits else (),
            decoding or Decoding(),
            max_new_tokens,
        )
        for chosen in together
    )
    for batch, written in _resumed(model, _written, asked):
        own = ((text, n_tokens) for text, n_tokens in written)
        texts |= zip(together[batch], own, strict=True)
        advance(len(written))
    return [texts[place] for place in range(len(rows))]


def batches(
    rows: Sequence[Sequence[int]], size: int, fits: Callable[[int, int], bool] | None = None
) -> Iterator[list[int]]:
    """Places of ``rows`` in batches of rows of like length, so that little is padded.

    A batch has ``size`` rows at most, or as many as ``fits(rows, width)`` allows; one always may.
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


_Asked = tuple[tuple[tuple[int, ...], ...], tuple[Edit, ...], Decoding, int]
"""A batch to reply to: rows, edits, decoding, longest reply."""


def _written(model: Model, asked: _Asked) -> list[tuple[str, int]]:
    all_rows, edits, decoding, longest = asked

    def some(places: Sequence[int]) -> list[list[int]]:
        whole = len(places) == len(all_rows)
        own = edits if whole else [of_rows(edit, places) for edit in edits]
        return _reply(model, [all_rows[place] for place in places], own, decoding, longest)

    places = range(len(all_rows))
    parts = halving(some, places, lambda place: name_of_row(model, all_rows[place]))
    decode, replies = model.tokenizer.decode, chain.from_iterable(parts)
    return [(decode(reply, skip_special_tokens=True).strip(), len(reply)) for reply in replies]


@torch.no_grad()
def _reply(
    model: Model,
    rows: Sequence[Sequence[int]],
    edits: Sequence[Edit],
    decoding: Decoding,
    longest: int,
) -> list[list[int]]:
    ends = stop_tokens(model)
    choose = chooser(decoding, rows, ends, device_of(model))
    with edited(model, edits):
        if edits and all(edit.positions == "last" for edit in edits):
            # Nothing before the last token is touched: prompts that are equal are read once.
            last, prefix = prefill_shared(model, rows)
            with during("prompt"):
                logits, prefix = extend(model, last, prefix)
        else:
            with during("prompt"):
                logits, prefix = prefill(model, pad_left(rows, device_of(model)))
        _check_next(model, logits, rows)
        stops = torch.tensor(ends, device=logits.device)
        nothing: Int[Tensor, "prompt pos"] = stops.new_zeros(len(logits), 0)
        written = choose(logits[:, -1], nothing)[:, None]
        ended = torch.isin(written[:, 0], stops)
        with during("decode"):
            while written.shape[1] < longest and not bool(ended.all()):
                logits, prefix = extend(model, written[:, -1:], prefix)
                _check_next(model, logits, rows, written)
                written = torch.cat([written, choose(logits[:, -1], written)[:, None]], dim=1)
                ended = ended | torch.isin(written[:, -1], stops)
    return [list(takewhile(lambda token: token not in ends, row)) for row in written.tolist()]


def _check_next(
    model: Model, logits: Tensor, rows: Sequence[Sequence[int]], written: Tensor | None = None
) -> None:
    # A logit that is minus infinity is never chosen.
    check_values(model, logits[:, -1].amax(-1), "the logits of the next token", rows, written)


def reply_losses(
    model: Model, prompts: Sequence[Prompt], texts: Sequence[str]
) -> Float[Tensor, " prompt"]:
    """Mean negative log-likelihood per token (nats) of each text as the reply to its prompt.

    Replies to the same prompt are best given together: the prompt is then read once. An empty
    text has no tokens; its loss is NaN.
    """
    heads = [encode(model, prompt) for prompt in prompts]
    tails = [encode_text(model, text) for text in texts]
    losses = torch.full((len(prompts),), float("nan"))
    together = list(batches(heads, in_force().rows()))
    parts = [[(prompts[i].key, heads[i], tails[i]) for i in chosen] for chosen in together]
    for place, found in engine().results(model, _losses, parts):
        losses[together[place]] = found
        advance(len(found))
    return losses


def _losses(
    model: Model, asked: Sequence[tuple[str, list[int], list[int]]]
) -> Float[Tensor, " prompt"]:
    """Of prompts with their replies: the prompt's name and tokens, the reply's tokens."""

    @torch.no_grad()
    def some(chosen: Sequence[tuple[str, list[int], list[int]]]) -> Tensor:
        _, heads, replies = zip(*chosen, strict=True)
        last, prefix = prefill_shared(model, heads)
        # What stands after a reply's end is never looked at from before it.
        width = max(map(len, replies))
        rows = [[*reply, *[0] * (width - len(reply))] for reply in replies]
        padded = torch.tensor(rows, dtype=torch.long, device=last.device)
        logits, _ = extend(model, torch.cat([last, padded], dim=1), prefix)
        check_values(model, logits.amax(-1), "the logits of a reply", heads)
        logs = logits[:, :-1].float().log_softmax(-1).gather(-1, padded[..., None])[..., 0]
        return torch.stack([-own[: len(r)].mean() for own, r in zip(logs, replies, strict=True)])

    return torch.cat(halving(some, asked, lambda one: one[0])).cpu()


@torch.no_grad()
def choice_logs(
    model: Model,
    prompts: Sequence[Prompt],
    labels: Sequence[str],
    *,
    edits: Sequence[Edit] | EditsOf = (),
) -> Float[Tensor, "prompt label"]:
    """Log-probability (nats) of each label as the reply to each prompt.

    The sum over the label's tokens, among all tokens that the model knows.

    Args:
        edits: Changes made to the model while it reads prompts and labels. An edit of the last
            position is made at the prompt's last position and, if it is due at every call, at
            each token of a label. A function of the places in ``prompts`` that are in the batch
            gives rows edits of their own; prompts are then read whole.

    Raises:
        ModelError: there is no label, a label is empty, two labels have the same tokens, a prompt
            cannot be rendered, or an edit does not fit the model.
    """
    names = _label_tokens(model, labels)
    rows = [encode(model, prompt) for prompt in prompts]
    own, common = (edits, ()) if callable(edits) else (None, edits)
    _check_alike(common)
    longest = max(map(len, rows), default=0) + max(map(len, names))
    trunk = 0
    if rows and own is None and can_share(model, longest):
        # What the first and the last row in alphabetical order share, all rows share; every row
        # keeps a token of its own.
        low, high, room = min(rows), max(rows), min(map(len, rows)) - 1
        trunk = next((i for i in range(room) if low[i] != high[i]), room)
    found = torch.zeros(len(rows), len(names))

    def choose(chosen: Sequence[int]) -> None:
        tokens = pad_left([rows[i][trunk:] for i in chosen], device_of(model))
        with edited(model, own(chosen) if own else ()):
            with during("prompt"):
                if start is None:
                    logits, prefix = prefill(model, tokens)
                else:
                    own_start = start.select([0] * len(chosen))
                    logits, prefix = extend(model, tokens, own_start, ends=1)
            _check_next(model, logits, [rows[i] for i in chosen])
            found[chosen] = _label_logs(model, logits, prefix, names).cpu()

    with edited(model, common):
        start = None
        if trunk:
            with during("prefix"):
                _, start = prefill(model, pad_left([rows[0][:trunk]], device_of(model)))
        for chosen in batches(rows, in_force().rows(256)):  # of each, few tokens are computed
            halving(choose, chosen, lambda place: name_of_row(model, rows[place]))
            advance(len(chosen))
    return found


def named(
    model: Model,
    prompts: Sequence[Prompt],
    labels: Sequence[str],
    *,
    edits: Sequence[Edit] | EditsOf = (),
    max_new_tokens: int = 8,
) -> list[str | None]:
    """The first label in each greedy reply, as a word or words of it; ``None`` if there is none.

    Upper and lower case are not told apart. Edits are those of :func:`choice_logs`, the other
    options those of :func:`elicit`.

    Raises:
        ModelError: there is no label, a label is empty, two labels have the same tokens, a prompt
            cannot be rendered, or an edit does not fit the model.
    """
    _label_tokens(model, labels)
    if not callable(edits):
        _check_alike(edits)
    rows = [encode(model, prompt) for prompt in prompts]
    own: EditsOf = edits if callable(edits) else partial(_given, edits)
    spelled = {label.lower(): label for label in reversed(labels)}
    # Of two labels that begin at one place, the longer one is meant.
    words = "|".join(re.escape(word) for word in sorted(spelled, key=len, reverse=True))
    first = re.compile(rf"(?<!\w)(?:{words})(?!\w)")
    written = _continuations(model, rows, own, None, max_new_tokens)
    found = [first.search(text.lower()) for text, _ in written]
    return [spelled[label[0]] if label else None for label in found]


def _given(edits: Sequence[Edit], places: Sequence[int]) -> Sequence[Edit]:
    return edits


def _label_tokens(model: Model, labels: Sequence[str]) -> list[list[int]]:
    """Token ids of each label as the beginning of a reply."""
    if not labels:
        raise ModelError("a choice needs labels and none is given; name the classes")
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = tuple(encode_text(model, label)) if label.strip() else ()
        if not ids:
            raise ModelError(f"the label {label!r} has no tokens; give a word for every class")
        if ids in seen:
            raise ModelError(
                f"the labels {seen[ids]!r} and {label!r} are the same tokens to this model; "
                "give every class a name of its own"
            )
        seen[ids] = label
    return [list(ids) for ids in seen]


def _check_alike(edits: Iterable[Edit]) -> None:
    for edit in edits:
        if per_row(edit):
            raise ModelError(
                f"an edit of {edit.site} in layer {edit.layer} has values for single rows, and "
                "rows are put in batches by their length; give a function of the places of a batch"
            )


def _label_logs(
    model: Model,
    logits: Float[Tensor, "prompt 1 vocab"],
    prefix: Prefix,
    names: Sequence[Sequence[int]],
) -> Float[Tensor, "prompt label"]:
    first = logits[:, -1].float().log_softmax(-1)
    sums = first[:, [name[0] for name in names]]
    for place, name in enumerate(names):
        own = prefix.fork() if len(name) > 1 else prefix
        for token, following in pairwise(name):
            # Token by token: an edit of the last position is due at each of them.
            with during("decode"):
                ids = torch.full((len(first), 1), token, device=first.device)
                step, own = extend(model, ids, own)
            sums[:, place] += step[:, -1].float().log_softmax(-1)[:, following]
    return sums

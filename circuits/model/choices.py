"""Which of given labels a model replies with: how likely each is, or which it writes.

The choice is restricted: the labels are compared with each other, whatever else the model would
rather say. Prompts that put one request to many texts begin alike; what they share is read once.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.data.prompts import Prompt, Question
from circuits.errors import ModelError
from circuits.model.chat import encode_prompt, encode_text, pad_left
from circuits.model.edits import Add, Edit, Replace, Scale, edited
from circuits.model.finite import check_logits
from circuits.model.forward import (
    Prefix,
    can_share,
    during,
    extend,
    extend_padded,
    prefill,
)
from circuits.model.generation import EditsOf, Progress, batches, continuations
from circuits.model.halving import halving
from circuits.model.protocol import Model, device_of
from circuits.model.rows import name_of_row

__all__ = ["choice_logs", "label_tokens", "named"]


@torch.no_grad()
def choice_logs(
    model: Model,
    prompts: Sequence[Prompt | Question],
    labels: Sequence[str],
    *,
    edits: Sequence[Edit] | EditsOf = (),
    normalised: bool = False,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Float[Tensor, "prompt label"]:
    """Log-probability (nats) of each label as the reply to each prompt.

    The sum over the label's tokens, among all tokens that the model knows.

    Args:
        model: The model that chooses.
        prompts: What it replies to.
        labels: What it chooses from; the order is that of the result.
        edits: Changes made to the model while it reads prompts and labels. An edit of the last
            position is made at the prompt's last position and, if it is due at every call, at
            each token of a label. A function of the places in ``prompts`` that are in the batch
            gives rows edits of their own; prompts are then read whole.
        normalised: Mean over the label's tokens instead of the sum.
        batch_size: Prompts at once.
        progress: Told after every batch how many prompts it read.

    Raises:
        ModelError: there is no label, a label is empty, two labels have the same tokens, a prompt
            cannot be rendered, or an edit does not fit the model.
    """
    names = label_tokens(model, labels)
    rows = [encode_prompt(model, prompt) for prompt in prompts]
    own = edits if callable(edits) else None
    common = () if callable(edits) else edits
    _check_alike(common)
    longest = max(map(len, rows), default=0) + max(map(len, names))
    trunk = _shared(rows) if own is None and can_share(model, longest) else 0
    found = torch.zeros(len(rows), len(names))

    def choose(chosen: Sequence[int]) -> None:
        with edited(model, own(chosen) if own else ()):
            logits, prefix = _read_prompts(model, [rows[i][trunk:] for i in chosen], start)
            check_logits(model, logits[:, -1], [rows[i] for i in chosen])
            found[chosen] = _label_logs(model, logits, prefix, names).cpu()

    with edited(model, common):
        start = _read_trunk(model, rows[0][:trunk]) if trunk else None
        for chosen in batches(rows, batch_size):
            halving(choose, chosen, lambda place: name_of_row(model, rows[place]))
            if progress:
                progress(len(chosen))
    return found / torch.tensor([len(name) for name in names]) if normalised else found


def named(
    model: Model,
    prompts: Sequence[Prompt | Question],
    labels: Sequence[str],
    *,
    edits: Sequence[Edit] | EditsOf = (),
    max_new_tokens: int = 8,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> list[str | None]:
    """The first label in each greedy reply, as a word or words of it; ``None`` if there is none.

    Upper and lower case are not told apart. Edits are those of :func:`choice_logs`, the other
    options those of :func:`~circuits.model.generation.elicit`.

    Raises:
        ModelError: there is no label, a label is empty, two labels have the same tokens, a prompt
            cannot be rendered, or an edit does not fit the model.
    """
    label_tokens(model, labels)
    common = () if callable(edits) else edits
    _check_alike(common)
    written = continuations(
        model,
        [encode_prompt(model, prompt) for prompt in prompts],
        edits=edits if callable(edits) else lambda places: common,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    return [_first(text, labels) for text, _ in written]


def label_tokens(model: Model, labels: Sequence[str]) -> list[list[int]]:
    """Token ids of each label as the beginning of a reply.

    Raises:
        ModelError: there is no label, a label is empty, or two labels have the same tokens.
    """
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
        # Heads have a width of their own, so their sites have one axis more.
        own = 2 if edit.site in ("q", "k", "v", "z") else 1
        if max(part.ndim for part in _values(edit)) > own:
            raise ModelError(
                f"an edit of {edit.site} in layer {edit.layer} has values for single rows, and "
                "rows are put in batches by their length; give a function of the places of a batch"
            )


def _values(edit: Edit) -> tuple[Tensor, ...]:
    if isinstance(edit, Replace):
        return edit.value, edit.chosen
    if isinstance(edit, Scale):
        return (edit.factor,)
    return (edit.value,) if isinstance(edit, Add) else (edit.largest, edit.chosen)


def _shared(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with; every row keeps one of its own."""
    if not rows:
        return 0
    low, high, room = min(rows), max(rows), min(map(len, rows)) - 1
    # What the first and the last row in alphabetical order share, all rows share.
    return next((i for i in range(room) if low[i] != high[i]), room)


def _read_trunk(model: Model, row: Sequence[int]) -> Prefix:
    with during("prefix"):
        return prefill(model, pad_left([row], device_of(model)))[1]


def _read_prompts(
    model: Model, rows: Sequence[Sequence[int]], start: Prefix | None
) -> tuple[Float[Tensor, "prompt 1 vocab"], Prefix]:
    tokens = pad_left(rows, device_of(model))
    with during("prompt"):
        if start is None:
            return prefill(model, tokens)
        return extend_padded(model, tokens, start.select([0] * len(rows)))


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


def _first(text: str, labels: Sequence[str]) -> str | None:
    spelled = {label.lower(): label for label in reversed(labels)}
    # Of two labels that begin at one place, the longer one is meant.
    words = "|".join(re.escape(word) for word in sorted(spelled, key=len, reverse=True))
    found = re.search(rf"(?<!\w)(?:{words})(?!\w)", text.lower())
    return spelled[found[0]] if found else None

"""The one pass over the accepted prompts from which directions and effects are made.

Residual streams and head outputs at the position that is read are kept (they are small);
neurons, of which there are many, are only summed. Contexts are processed whole, so that sums of
within-context contrasts can be kept too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.data.prompts import Prompt
from circuits.data.replies import Reply
from circuits.data.sev import Context
from circuits.errors import DataError
from circuits.measure.moments import Moments, Summary
from circuits.model.chat import encode_prompt, encode_text, pad_left
from circuits.model.generation import Progress, batches
from circuits.model.protocol import Model, device_of
from circuits.model.runs import Pick, capture

__all__ = ["Grid", "Last", "Read", "Sweep", "arrange", "sweep"]

Read = Literal["prompt", "reply"]
"""Directions are read at the last prompt position (published), or averaged over the reply."""

Last = Literal["resid_post", "final"]
"""The residual stream after the last MLP, or (published) what the final norm makes of it."""

_RESIDUAL = ("resid_mid", "resid_post")
_SITES = (*_RESIDUAL, "z", "post")


@dataclass(frozen=True, eq=False)
class Grid:
    """Accepted replies arranged by context and emotion."""

    contexts: tuple[Context, ...]
    emotions: tuple[str, ...]
    cells: Mapping[tuple[str, str], Reply]
    """(context id, emotion) -> the reply that was accepted there."""

    @property
    def present(self) -> Bool[Tensor, "context emotion"]:
        """Which cells are filled."""
        filled = [[(c.id, e) in self.cells for e in self.emotions] for c in self.contexts]
        return torch.tensor(filled, dtype=torch.bool).reshape(len(filled), len(self.emotions))

    @property
    def complete(self) -> Bool[Tensor, " context"]:
        """Contexts in which no emotion is missing."""
        return self.present.all(dim=1)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What one pass over the accepted prompts leaves."""

    grid: Grid
    present: Bool[Tensor, "context emotion"]
    resid_mid: Float[Tensor, "context emotion layer d_model"]
    """After attention; zero where a cell is missing."""
    resid_post: Float[Tensor, "context emotion layer d_model"]
    """After the MLP."""
    z: Float[Tensor, "context emotion layer head d_head"]
    """Head outputs before W_O, at the last prompt position."""
    post: Summary
    """Neuron activations at the last prompt position, per emotion."""
    post_above_zero: Summary
    """Their positive part."""
    post_centred: Summary
    """Neuron activation minus its mean over the emotions of the same, complete, context."""
    post_shared: Summary
    """That mean over the emotions of a complete context (one group)."""


def arrange(accepted: Sequence[Reply], emotions: Sequence[str]) -> Grid:
    """Arrange accepted replies by context and emotion.

    Raises:
        DataError: two replies share a cell, or nothing of the wanted emotions was accepted.
    """
    contexts: dict[str, Context] = {}
    cells: dict[tuple[str, str], Reply] = {}
    for reply in accepted:
        if reply.emotion not in emotions:
            continue
        context = reply.prompt.context
        key = (context.id, reply.emotion)
        if key in cells:
            raise DataError(
                f"two accepted replies for context {key[0]!r} and emotion {key[1]!r}; "
                "a context may be asked for an emotion once"
            )
        contexts[context.id] = context
        cells[key] = reply
    if not cells:
        raise DataError(f"no accepted reply in any of {', '.join(emotions)}")
    return Grid(tuple(contexts.values()), tuple(emotions), cells)


def sweep(
    model: Model,
    grid: Grid,
    *,
    read: Read = "prompt",
    last: Last = "resid_post",
    half: bool = False,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> Sweep:
    """Run every accepted prompt once.

    Args:
        model: The model.
        grid: Accepted replies by context and emotion.
        read: Where residual streams are read; heads and neurons always at the last prompt
            position, where the reply begins.
        last: What stands for the residual stream after the last MLP.
        half: Round to float16 what was read, as the published dumps do.
        batch_size: Prompts at once.
        progress: Told after every batch how many prompts were run.

    Raises:
        ModelError: a hook point is missing, or an activation is not finite.
    """
    cfg, present = model.cfg, grid.present
    shape = (*present.shape, cfg.n_layers)
    residual = {site: torch.zeros(*shape, cfg.d_model) for site in _RESIDUAL}
    z = torch.zeros(*shape, cfg.n_heads, cfg.d_head)
    width = (len(grid.emotions), cfg.n_layers, cfg.d_mlp)
    raw, above, centred = (Moments(width) for _ in range(3))
    shared = Moments((1, *width[1:]))
    sites = (*_SITES, "final") if last == "final" else _SITES
    for places, found in _passes(model, grid, present, read, sites, batch_size):
        rows, columns = places.T
        if half:
            found = {site: value.half().float() for site, value in found.items()}
        if last == "final":
            found["resid_post"][:, -1] = found["final"][:, -1]
        for site in _RESIDUAL:
            residual[site][rows, columns] = found[site]
        z[rows, columns] = found["z"]
        raw.update(found["post"], columns)
        above.update(found["post"].clamp_min(0), columns)
        _contrast(centred, shared, found["post"], places, present)
        if progress:
            progress(len(rows))
    return Sweep(
        grid, present, **residual, z=z,
        post=raw.result(), post_above_zero=above.result(), post_centred=centred.result(),
        post_shared=shared.result(),
    )  # fmt: skip


def _passes(
    model: Model, grid: Grid, present: Tensor, read: Read, sites: Sequence[str], batch_size: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    prompts = [_any_prompt(grid, context) for context in grid.contexts]
    lengths = [encode_prompt(model, prompt) for prompt in prompts]
    contexts_at_once = max(1, batch_size // len(grid.emotions))
    for chosen in batches(lengths, contexts_at_once):
        places = torch.tensor(
            [[c, e] for c in chosen for e in range(len(grid.emotions)) if present[c, e]]
        )
        replies = [grid.cells[grid.contexts[c].id, grid.emotions[e]] for c, e in places.tolist()]
        yield places, _read(model, replies, read, sites)


def _read(
    model: Model, replies: Sequence[Reply], read: Read, sites: Sequence[str]
) -> dict[str, Tensor]:
    device = device_of(model)
    heads = [encode_prompt(model, reply.prompt) for reply in replies]
    if read == "prompt":
        return capture(model, pad_left(heads, device), dict.fromkeys(sites, _last))
    tails = [encode_text(model, reply.text) for reply in replies]
    tokens = pad_left([[*h, *t] for h, t in zip(heads, tails, strict=True)], device)
    written = torch.tensor([len(tail) for tail in tails], device=device)
    at_end, over_reply = _reply_picks(tokens.ids.shape[1], written)
    picks = {site: at_end if site in ("z", "post") else over_reply for site in sites}
    return capture(model, tokens, picks)


def _last(activation: Tensor) -> Tensor:
    return activation[:, -1].cpu()


def _reply_picks(width: int, written: Tensor) -> tuple[Pick, Pick]:
    # Position `width - 1 - written` is the last of the prompt; the reply's tokens follow it.
    last_prompt = width - 1 - written
    after = torch.arange(width, device=written.device)[None] > last_prompt[:, None]
    if not bool(after.any(dim=1).all()):
        raise DataError("a reply is empty, so nothing can be averaged over it")
    rows = torch.arange(len(written), device=written.device)

    def at_end(activation: Tensor) -> Tensor:
        return activation[rows, last_prompt].cpu()

    def over_reply(activation: Tensor) -> Tensor:
        weight = after.to(activation.dtype)[..., None]
        return ((activation * weight).sum(1) / weight.sum(1)).cpu()

    return at_end, over_reply


def _any_prompt(grid: Grid, context: Context) -> Prompt:
    return next(
        grid.cells[context.id, e].prompt for e in grid.emotions if (context.id, e) in grid.cells
    )


def _contrast(
    centred: Moments, shared: Moments, post: Tensor, places: Tensor, present: Tensor
) -> None:
    # A batch holds whole contexts, so the rows of a complete context are neighbours.
    n = present.shape[1]
    whole = present[places[:, 0]].all(dim=1)
    if not bool(whole.any()):
        return
    grouped = post[whole].reshape(-1, n, *post.shape[1:])
    middle = grouped.mean(dim=1, keepdim=True)
    centred.update((grouped - middle).flatten(0, 1), places[whole, 1])
    shared.update(middle[:, 0], torch.zeros(len(middle), dtype=torch.long))

"""The pass over the accepted prompts from which directions and effects are made.

Contexts are processed whole, so that sums of within-context contrasts can be made on the way.
Directions, means and all about neurons come from sums. Effects of heads and generality need the
directions first and then the residual streams and head outputs at the position that is read once
more: they are kept if a memory budget allows, or made again by a second pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.data.replies import Reply
from circuits.data.sev import Context
from circuits.errors import DataError
from circuits.measure.contrasts import Batch, Contrasts, ContrastSums, Themed
from circuits.measure.memory import MEMORY, Keeping, fits_in, keeping
from circuits.measure.moments import Summary
from circuits.measure.sweep_sums import SweepSums
from circuits.model.chat import encode_prompt, encode_text, pad_left
from circuits.model.engine import engine, in_order, shards
from circuits.model.generation import Progress, batches
from circuits.model.halving import halving_tables
from circuits.model.protocol import Model, device_of
from circuits.model.runs import Pick, capture

__all__ = ["Again", "Grid", "Last", "Read", "Sweep", "arrange", "sweep"]

Read = Literal["prompt", "reply"]
"""Directions are read at the last prompt position (published), or averaged over the reply."""

Last = Literal["resid_post", "final"]
"""The residual stream after the last MLP, or (published) what the final norm makes of it."""

_VALUES = ("resid_mid", "resid_post", "z")


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

    @property
    def themes(self) -> Themed:
        """Themes of the complete contexts."""
        rows = self.complete.nonzero()[:, 0].tolist()
        names = tuple(dict.fromkeys(self.contexts[row].theme for row in rows))
        return Themed(names, {row: names.index(self.contexts[row].theme) for row in rows})


@dataclass(frozen=True, eq=False)
class Sweep:
    """What one pass over the accepted prompts leaves."""

    grid: Grid
    present: Bool[Tensor, "context emotion"]
    values: Iterable[Batch]
    """Values at the position that is read, batch by batch: kept, or made :class:`Again`."""
    keeping: Keeping
    """Which of the two, and why."""
    contrasts: Contrasts
    """Sums of the residual streams of complete contexts."""
    z: Float[Tensor, "emotion layer head d_head"]
    """Mean head outputs before W_O over complete contexts, at the last prompt position."""
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


@dataclass(frozen=True, eq=False)
class Again:
    """Values that are made again, by running the prompts, whenever they are looked at."""

    model: Model
    grid: Grid
    read: Read
    last: Last
    together: tuple[tuple[int, ...], ...]
    """Places of the contexts that are run at once."""

    def __iter__(self) -> Iterator[Batch]:
        """Run every accepted prompt once."""
        return (batch for batch, _, _ in self.run(_VALUES))

    def run(
        self, sites: Sequence[str]
    ) -> Iterator[tuple[Batch, Int[Tensor, "row 2"], dict[str, Tensor]]]:
        """A batch's values; context and emotion of its rows; the rows of every site."""
        grid, present = self.grid, self.grid.present
        sites = (*sites, "final") if self.last == "final" else sites
        for chosen in self.together:
            cells = [(c, e) for c in chosen for e in range(len(grid.emotions)) if present[c, e]]
            replies = [grid.cells[grid.contexts[c].id, grid.emotions[e]] for c, e in cells]
            work = partial(_read, self, sites=sites)
            found = halving_tables(work, replies, lambda reply: reply.prompt.key)
            if self.last == "final":
                found["resid_post"][:, -1] = found["final"][:, -1]
            rows, columns = torch.tensor([(chosen.index(c), e) for c, e in cells]).T
            values = {site: _arranged(found[site], rows, columns, grid) for site in _VALUES}
            places = torch.tensor(chosen)
            yield Batch(places, present[places], **values), torch.tensor(cells), found


def sweep(
    model: Model,
    grid: Grid,
    *,
    read: Read = "prompt",
    last: Last = "resid_post",
    half: bool = False,
    half_parts: bool = False,
    memory: float = MEMORY,
    batch_size: int = 96,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Run every accepted prompt once.

    Args:
        model: The model.
        grid: Accepted replies by context and emotion.
        read: Where residual streams are read; heads and neurons always at the last prompt
            position, where the reply begins.
        last: What stands for the residual stream after the last MLP.
        half: Round residual streams to float16 before they are summed, as published dumps do.
        half_parts: Round head outputs and neurons too, as the dumps of published differences do.
        memory: Budget in gigabytes for values and for the activations of one pass. Values that do
            not fit are made again when they are looked at; a pass runs one context at least.
        batch_size: Prompts at once, at most.
        seed: Of the emotions that the control of generality shuffles.
        progress: Told after every batch how many prompts were run.

    Raises:
        ModelError: a hook point is missing, or an activation is not finite.
        DataError: the budget is not positive.
    """
    does = keeping(model, len(grid.cells), memory)
    how = _How(grid, read, last, half, half_parts, does.kept, seed)
    parts = shards(_together(model, grid, read, memory, batch_size))
    sums, kept = how.sums(model), list[Batch]()
    found = in_order(engine().results(model, partial(_of_shard, how=how), parts))
    for own, batches_kept, count in found:
        sums.merge(own)
        kept += batches_kept
        if progress:
            progress(count)
    again = Again(model, grid, read, last, tuple(chosen for part in parts for chosen in part))
    return Sweep(grid, grid.present, tuple(kept) if does.kept else again, does, **sums.result())


@dataclass(frozen=True, eq=False)
class _How:
    """What workers need to know of a sweep."""

    grid: Grid
    read: Read
    last: Last
    half: bool
    half_parts: bool
    kept: bool
    seed: int

    def sums(self, model: Model) -> SweepSums:
        cfg = model.cfg
        contrasts = ContrastSums(
            self.grid.themes, (len(self.grid.emotions), cfg.n_layers, cfg.d_model),
            half=self.half, seed=self.seed,
        )  # fmt: skip
        return SweepSums(contrasts, cfg.n_heads, cfg.d_head, cfg.d_mlp)


def _of_shard(
    model: Model, together: tuple[tuple[int, ...], ...], *, how: _How
) -> tuple[SweepSums, list[Batch], int]:
    """Sums over some batches of contexts, their values if they are kept, and their prompts."""
    sums, kept, count = how.sums(model), [], 0
    again = Again(model, how.grid, how.read, how.last, together)
    for batch, cells, found in again.run((*_VALUES, "post")):
        if how.half_parts:
            batch = replace(batch, z=batch.z.half().float())
            found["post"] = found["post"].half().float()
        sums.update(batch, found["post"], cells, how.grid.present)
        kept += [batch] if how.kept else []
        count += len(cells)
    return sums, kept, count


def _together(
    model: Model, grid: Grid, read: Read, memory: float, batch_size: int
) -> tuple[tuple[int, ...], ...]:
    """Contexts to run at once: of like length, and no more than the budget allows."""
    n_emotions = len(grid.emotions)
    longest = [_longest(model, grid, context, read) for context in grid.contexts]
    fits = fits_in(model, memory, n_emotions)
    return tuple(map(tuple, batches(longest, max(1, batch_size // n_emotions), fits)))


def _longest(model: Model, grid: Grid, context: Context, read: Read) -> list[int]:
    own = [grid.cells[context.id, e] for e in grid.emotions if (context.id, e) in grid.cells]
    rows = [encode_prompt(model, reply.prompt) for reply in own]
    if read == "reply":
        rows = [row + encode_text(model, reply.text) for row, reply in zip(rows, own, strict=True)]
    return max(rows, key=len)


def _arranged(
    values: Float[Tensor, "row *rest"],
    rows: Int[Tensor, " row"],
    columns: Int[Tensor, " row"],
    grid: Grid,
) -> Float[Tensor, "context emotion *rest"]:
    placed = values.new_zeros(int(rows.max()) + 1, len(grid.emotions), *values.shape[1:])
    placed[rows, columns] = values
    return placed


def _read(again: Again, replies: Sequence[Reply], sites: Sequence[str]) -> dict[str, Tensor]:
    model, device = again.model, device_of(again.model)
    heads = [encode_prompt(model, reply.prompt) for reply in replies]
    if again.read == "prompt":
        return capture(model, pad_left(heads, device), dict.fromkeys(sites, _last))
    tails = [encode_text(model, reply.text) for reply in replies]
    tokens = pad_left([[*h, *t] for h, t in zip(heads, tails, strict=True)], device)
    written = torch.tensor([len(tail) for tail in tails], device=device)
    at_end, over_reply = _reply_picks(tokens.ids.shape[1], written)
    return capture(model, tokens, {s: at_end if s in ("z", "post") else over_reply for s in sites})


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

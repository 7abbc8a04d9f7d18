"""Activations of prompts in one pass, grouped by context and summed on the way.

Sums over complete contexts, from which directions and their generality are made.

Contexts come in batches, and only sums per theme are held: of each emotion's residual stream
minus the mean over the emotions of its context, of the same with emotions shuffled within
contexts (the random baseline of generality), and of those means.

What a memory budget allows: how many prompts in one pass, and whether their values are kept.

Half of the budget is for the activations of one pass, half for values at the position that is
read. Sums over prompts come on top; their size does not depend on the number of prompts.

The pass over the accepted prompts from which directions and effects are made.

Contexts are processed whole, so that sums of within-context contrasts can be made on the way.
Directions, means and all about neurons come from sums. Effects of heads and generality need the
directions first and then the residual streams and head outputs at the position that is read once
more: they are kept if a memory budget allows, or made again by a second pass.

From which prompts the differences are made that modulation writes.

By default from those that directions and effects are made from. Wang et al. 2025 (arXiv
2510.11328, stage 5) read them from an indented wording; as released, their scripts also keep only
one valence of a scenario, the last file read.

Mean head outputs and neuron activations, and how an emotion differs in them.

These differences are what modulation writes (Wang et al. 2025, arXiv 2510.11328, stage 5). Their
reference may be the mean over the emotions, as published, or the neutral prompt. The neutral prompt
is what a modulated model is given, so with it strength 1 means "as if the emotion had been asked
for"; a difference to the other emotions leaves out what all emotions share.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import DataError
from circuits.judges.replies import Reply
from circuits.models.engines import engine, in_order, shards
from circuits.models.generate import batches
from circuits.models.memory import halving_tables
from circuits.models.protocol import Model, device_of, dtype_of
from circuits.models.run import Pick, capture, reading
from circuits.models.tokens import encode, encode_text, pad_left
from circuits.prompts.prompt import PromptLike, as_prompts
from circuits.prompts.sev import Context
from circuits.prompts.templates import INDENTED, PUBLISHED, emotion_prompt
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = [
    "GB",
    "ActivationSums",
    "Activations",
    "Batch",
    "CacheDecision",
    "ComponentMeans",
    "ContextGroups",
    "ContrastSums",
    "Contrasts",
    "DiffGrouping",
    "DiffPrompt",
    "Differences",
    "Last",
    "Moments",
    "NeutralMeans",
    "NeutralSums",
    "PromptsByEmotion",
    "Read",
    "RelativeTo",
    "SecondPass",
    "Summary",
    "Themed",
    "as_activations",
    "cache_decision",
    "component_means",
    "differences",
    "first_copies",
    "fits_in",
    "group_by_context",
    "group_prompts",
    "last_valence",
    "read_activations",
    "reworded",
]


@dataclass(frozen=True, eq=False)
class Summary:
    """Means of a quantity over contexts, with their standard errors."""

    mean: Float[Tensor, "..."]
    stderr: Float[Tensor, "..."]
    """Standard deviation over contexts (ddof 1) divided by the root of their number."""
    count: Int[Tensor, " group"]


class Moments:
    """Mean and variance per group, updated batch by batch, or merged from parts.

    Counts, means and sums of squared deviations are merged (Chan, Golub and LeVeque 1983), which
    loses no digits to cancellation, whatever the order and size of the batches and parts.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._count = torch.zeros(shape[0], dtype=torch.long)
        self._mean = torch.zeros(shape, dtype=torch.float64)
        self._square = torch.zeros(shape, dtype=torch.float64)

    def update(self, values: Float[Tensor, "batch ..."], groups: Int[Tensor, " batch"]) -> None:
        """Add rows; ``groups`` says which group each row belongs to."""
        for group in groups.unique().tolist():
            rows = values[groups == group].double()
            n, seen = len(rows), int(self._count[group])
            mean = rows.mean(0)
            apart = mean - self._mean[group]
            self._mean[group] += apart * (n / (n + seen))
            self._square[group] += ((rows - mean) ** 2).sum(0) + apart**2 * (n * seen / (n + seen))
            self._count[group] += n

    def merge(self, other: "Moments") -> None:
        """Add the rows that another one has seen."""
        shape = (-1, *[1] * (self._mean.ndim - 1))
        n, seen = (each._count.double().reshape(shape) for each in (other, self))
        both = (n + seen).clamp_min(1)
        apart = other._mean - self._mean
        self._mean += apart * (n / both)
        self._square += other._square + apart.square_() * (n * seen / both)
        self._count += other._count

    def result(self) -> Summary:
        """The means and standard errors so far; NaN where rows are too few (one, two)."""
        count = self._count.reshape(-1, *[1] * (self._mean.ndim - 1)).double()
        freedom = torch.where(count > 1, count - 1, torch.nan)
        stderr = (self._square / freedom / count).sqrt()
        mean = torch.where(count > 0, self._mean, torch.nan)
        return Summary(mean.float(), stderr.float(), self._count.clone())


@dataclass(frozen=True, eq=False)
class Batch:
    """Whole contexts at the position that is read; zero where a cell is missing."""

    places: Int[Tensor, " context"]
    """Their indices in the groups."""
    present: Bool[Tensor, "context emotion"]
    resid_mid: Float[Tensor, "context emotion layer d_model"]
    """After attention."""
    resid_post: Float[Tensor, "context emotion layer d_model"]
    """After the MLP."""
    z: Float[Tensor, "context emotion layer head d_head"]
    """Head outputs before W_O, at the last prompt position."""

    @property
    def complete(self) -> Bool[Tensor, " context"]:
        """Contexts in which no emotion is missing."""
        return self.present.all(dim=1)

    def whole(self) -> Iterator[tuple[int, Float[Tensor, "emotion sublayer layer d_model"]]]:
        """Place and residual streams after both sublayers of every complete context."""
        for row in self.complete.nonzero()[:, 0].tolist():
            streams = torch.stack([self.resid_mid[row], self.resid_post[row]], dim=1)
            yield int(self.places[row]), streams


@dataclass(frozen=True)
class Themed:
    """Themes of the complete contexts."""

    theme: tuple[str, ...]
    of: dict[int, int]
    """Index of a complete context in the groups -> that of its theme, in the groups' order."""


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Sums over complete contexts, per theme."""

    themes: Themed
    count: Int[Tensor, " theme"]
    """Complete contexts."""
    apart: Float[Tensor, "theme emotion sublayer layer d_model"]
    """Sum of the residual streams minus their mean over the emotions of the context."""
    shuffled: Float[Tensor, "theme emotion sublayer layer d_model"]
    """The same, emotions shuffled within contexts."""
    middle: Float[Tensor, "theme sublayer layer d_model"]
    """Sum of the means over the emotions of a context."""
    rms: Float[Tensor, "sublayer layer"]
    """Root mean square over d_model, averaged over prompts; zero without contexts."""


class ContrastSums:
    """Accumulates :class:`Contrasts`."""

    def __init__(self, themes: Themed, shape: tuple[int, int, int], *, half: bool = False) -> None:
        """Sums for ``shape`` emotions, layers and d_model; the seed in force shuffles emotions.

        Args:
            themes: Themes of the complete contexts.
            shape: Emotions, layers, d_model.
            half: Round activations to float16 first, as the published dumps do.
        """
        self.shape = n_emotions, n_layers, d_model = shape
        size = (len(themes.theme), n_emotions, 2, n_layers, d_model)
        self._themes, self._half = themes, half
        self._apart, self._shuffled = (torch.zeros(size, dtype=torch.float64) for _ in range(2))
        self._middle = torch.zeros(size[:1] + size[2:], dtype=torch.float64)
        self._rms = torch.zeros(2, n_layers, dtype=torch.float64)
        self._count = torch.zeros(size[0], dtype=torch.long)
        random = torch.Generator().manual_seed(in_force().seed)
        order = torch.rand(len(themes.of), n_emotions, generator=random).argsort(dim=1)
        self._order = dict(zip(themes.of, order, strict=True))

    def update(self, batch: Batch) -> None:
        """Add the complete contexts of a batch."""
        for place, streams in batch.whole():
            rms = streams.square().mean(-1).sqrt()
            if self._half:
                rounded = streams.half()
                streams, rms = rounded.float(), (rounded * rounded).mean(-1).sqrt().float()
            middle, theme = streams.mean(dim=0), self._themes.of[place]
            apart = streams - middle
            self._apart[theme] += apart
            self._shuffled[theme] += apart[self._order[place]]
            self._middle[theme] += middle
            self._rms += rms.double().mean(0)
            self._count[theme] += 1

    def merge(self, other: "ContrastSums") -> None:
        """Add the contexts that another one, made with the same arguments, has seen."""
        for name in ("_apart", "_shuffled", "_middle", "_rms", "_count"):
            getattr(self, name).add_(getattr(other, name))

    def result(self) -> Contrasts:
        """The sums; nothing may be added after."""
        return Contrasts(
            self._themes,
            self._count,
            self._apart,
            self._shuffled,
            self._middle,
            self._rms / max(1, int(self._count.sum())),
        )


class ActivationSums:
    """Sums of residual streams, head outputs and neuron activations."""

    def __init__(self, contrasts: ContrastSums, n_heads: int, d_head: int, d_mlp: int) -> None:
        """Nothing seen yet.

        Args:
            contrasts: Sums of residual streams, empty.
            n_heads: Heads of a layer.
            d_head: Width of a head.
            d_mlp: Neurons of a layer.
        """
        n_emotions, n_layers, _ = contrasts.shape
        self._contrasts = contrasts
        self._z = Moments((n_emotions, n_layers, n_heads, d_head))
        neurons = (n_emotions, n_layers, d_mlp)
        self._raw, self._above, self._centred = (Moments(neurons) for _ in range(3))
        self._shared = Moments((1, *neurons[1:]))

    def update(self, batch: Batch, post: Tensor, cells: Tensor, present: Tensor) -> None:
        """Add whole contexts.

        Args:
            batch: Their streams and head outputs.
            post: ``[row layer neuron]``, a row per prompt.
            cells: ``[row 2]``, context and emotion of every row.
            present: ``[context emotion]``, which cells all groups have.
        """
        self._contrasts.update(batch)
        whole = batch.z[batch.complete]
        self._z.update(whole.flatten(0, 1), torch.arange(whole.shape[1]).repeat(len(whole)))
        self._raw.update(post, cells[:, 1])
        self._above.update(post.clamp_min(0), cells[:, 1])
        # A batch holds whole contexts, so the rows of a complete context are neighbours.
        complete = present[cells[:, 0]].all(dim=1)
        if not bool(complete.any()):
            return
        grouped = post[complete].unflatten(0, (-1, present.shape[1]))
        middle = grouped.mean(dim=1, keepdim=True)
        self._centred.update((grouped - middle).flatten(0, 1), cells[complete, 1])
        self._shared.update(middle[:, 0], torch.zeros(len(middle), dtype=torch.long))

    def merge(self, other: "ActivationSums") -> None:
        """Add the contexts that another one has seen."""
        for name, own in vars(self).items():
            own.merge(vars(other)[name])

    def result(self) -> dict[str, Any]:
        """The fields of activations that are made of sums."""
        return {
            "contrasts": self._contrasts.result(),
            "z": self._z.result().mean,
            "post": self._raw.result(),
            "post_above_zero": self._above.result(),
            "post_centred": self._centred.result(),
            "post_shared": self._shared.result(),
        }


GB = 10**9
"""Bytes in a gigabyte."""

_FLOAT = 4


@dataclass(frozen=True)
class CacheDecision:
    """Whether values are kept for a second look, or made again by running the prompts again."""

    kept: bool
    reason: str


def cache_decision(model: Model, n_cells: int) -> CacheDecision:
    """Keep the values of ``n_cells`` prompts if they take no more than half of the memory budget.

    The budget is that of :func:`~circuits.running.execution`.
    """
    memory = in_force().memory
    size, share = n_cells * _bytes_cached(model), memory * GB / 2
    found = f"values of {n_cells} prompts at the position that is read take {_in_mb(size)}"
    kept = size <= share
    does = "kept" if kept else "made again by a second pass"
    bound = "at most" if kept else "more than"
    return CacheDecision(
        kept, f"{does}: {found}, {bound} {_in_mb(share)}, half of the budget of {memory:g} GB"
    )


def fits_in(model: Model, times: int) -> Callable[[int, int], bool]:
    """Whether ``times * count`` rows of a width may be run at once in half of the memory budget."""
    share = in_force().memory * GB / 2

    def fits(count: int, width: int) -> bool:
        return count * times * _bytes_of_row(model, width) <= share

    return fits


def _bytes_cached(model: Model) -> int:
    """resid_mid, resid_post and z of one prompt, in float32."""
    cfg = model.cfg
    return _FLOAT * cfg.n_layers * (2 * cfg.d_model + cfg.n_heads * cfg.d_head)


def _bytes_of_row(model: Model, width: int) -> int:
    """An upper estimate of what a prompt of ``width`` tokens holds while it is run.

    One layer is at work at a time: its streams, projections and neurons, some of them twice or
    in float32, and its attention scores. Besides, all layers' values at the position that is
    read, neurons included, are held in float32, and copied while they are summed.
    """
    cfg, size = model.cfg, dtype_of(model).itemsize
    attention = cfg.n_heads * cfg.d_head
    token = (8 * size + 2 * _FLOAT) * cfg.d_model + 6 * size * attention + 6 * size * cfg.d_mlp
    scores = cfg.n_heads * width * (3 * size + _FLOAT)
    values = 3 * _bytes_cached(model) + 3 * _FLOAT * cfg.n_layers * cfg.d_mlp
    return width * (token + scores) + values


def _in_mb(size: int | float) -> str:
    return f"{size / 1e6:,.1f} MB"


Read = Literal["prompt", "reply"]
"""Directions are read at the last prompt position (published), or averaged over the reply."""

Last = Literal["resid_post", "final"]
"""The residual stream after the last MLP, or (published) what the final norm makes of it."""

_VALUES = ("resid_mid", "resid_post", "z")


@dataclass(frozen=True, eq=False)
class ContextGroups:
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
class Activations:
    """What one pass over the accepted prompts leaves."""

    groups: ContextGroups
    present: Bool[Tensor, "context emotion"]
    values: Iterable[Batch]
    """Values at the position that is read, batch by batch: kept, or made :class:`SecondPass`."""
    keeping: CacheDecision
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


def group_by_context(accepted: Sequence[Reply], emotions: Sequence[str]) -> ContextGroups:
    """Arrange accepted replies by context and emotion.

    Raises:
        DataError: two replies share a cell, or nothing of the wanted emotions was accepted.
    """
    contexts: dict[str, Context] = {}
    cells: dict[tuple[str, str], Reply] = {}
    for reply in accepted:
        if reply.emotion not in emotions:
            continue
        context = reply.prompt.origin
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
    return ContextGroups(tuple(contexts.values()), tuple(emotions), cells)


PromptsByEmotion = Mapping[str, Sequence[PromptLike]]
"""Emotion -> the prompts whose replies are to express it."""


def group_prompts(prompts: PromptsByEmotion) -> ContextGroups:
    """Prompts of several emotions, grouped by context.

    Prompts made from a context belong to its group; where no prompt has one, the i-th prompts of
    all emotions form a group. Within a group emotions are contrasted, so its prompts should differ
    in nothing else. Groups that lack an emotion are left out of what needs all of them.

    >>> groups = group_prompts({"fear": ["I am afraid"], "calm": ["I am calm"]})
    >>> groups.emotions, len(groups.contexts)
    (('fear', 'calm'), 1)

    Raises:
        DataError: there are fewer than two emotions or no prompts, only some prompts have a
            context, or a context has two prompts of one emotion.
    """
    if not isinstance(prompts, Mapping) or len(prompts) < 2:
        raise DataError(
            "emotions are contrasted with each other: give a mapping of two emotions or more, "
            "each with its prompts"
        )
    own = {emotion: as_prompts(given) for emotion, given in prompts.items()}
    having = {prompt.context is not None for group in own.values() for prompt in group}
    if len(having) > 1:
        raise DataError("some prompts were made from a context and some not; give one kind")
    if having == {False}:
        lengths = {emotion: len(group) for emotion, group in own.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{n} of {emotion}" for emotion, n in lengths.items())
            raise DataError(f"the i-th prompts of all emotions form a group; found {found}")
        for emotion, group in own.items():
            own[emotion] = [
                replace(prompt, context=Context(f"group_{i:04d}", "prompts", "neutral", "", ""))
                for i, prompt in enumerate(group)
            ]
    # The groups only name what belongs together: prompts made of texts are read as they are.
    replies = [Reply(prompt, "", 0, emotion) for emotion, group in own.items() for prompt in group]
    return group_by_context(replies, tuple(own))


@dataclass(frozen=True, eq=False)
class SecondPass:
    """Values that are made again, by running the prompts, whenever they are looked at."""

    model: Model
    groups: ContextGroups
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
        groups, present = self.groups, self.groups.present
        sites = (*sites, "final") if self.last == "final" else sites
        for chosen in self.together:
            cells = [(c, e) for c in chosen for e in range(len(groups.emotions)) if present[c, e]]
            replies = [groups.cells[groups.contexts[c].id, groups.emotions[e]] for c, e in cells]
            work = partial(_read, self, sites=sites)
            found = halving_tables(work, replies, lambda reply: reply.prompt.key)
            if self.last == "final":
                found["resid_post"][:, -1] = found["final"][:, -1]
            rows, columns = torch.tensor([(chosen.index(c), e) for c, e in cells]).T
            values = {site: _arranged(found[site], rows, columns, groups) for site in _VALUES}
            places = torch.tensor(chosen)
            yield Batch(places, present[places], **values), torch.tensor(cells), found


def read_activations(
    model: Model,
    groups: ContextGroups,
    *,
    read: Read = "prompt",
    last: Last = "resid_post",
    half: bool = False,
    half_parts: bool = False,
) -> Activations:
    """Run every accepted prompt once.

    The memory budget in force (:func:`~circuits.running.execution`) is for values and for the
    activations of one pass. Values that do not fit are made again when they are looked at; a pass
    runs one context at least. The seed in force is that of the emotions that the random baseline of
    generality shuffles.

    Args:
        model: The model.
        groups: Accepted replies by context and emotion.
        read: Where residual streams are read; heads and neurons always at the last prompt
            position, where the reply begins.
        last: What stands for the residual stream after the last MLP.
        half: Round residual streams to float16 before they are summed, as published dumps do.
        half_parts: Round head outputs and neurons too, as the dumps of published differences do.

    Raises:
        ModelError: a hook point is missing, or an activation is not finite.
    """
    does = cache_decision(model, len(groups.cells))
    how = _How(groups, read, last, half, half_parts, does.kept)
    parts = shards(_together(model, groups, read))
    sums, kept = how.sums(model), list[Batch]()
    found = in_order(engine().results(model, partial(_of_shard, how=how), parts))
    for own, batches_kept, count in found:
        sums.merge(own)
        kept += batches_kept
        advance(count)
    again = SecondPass(
        model, groups, read, last, tuple(chosen for part in parts for chosen in part)
    )
    return Activations(
        groups, groups.present, tuple(kept) if does.kept else again, does, **sums.result()
    )


def as_activations(model: Model, given: "Activations | PromptsByEmotion") -> "Activations":
    """The activations of prompts, read now unless they have been read already."""
    return (
        given if isinstance(given, Activations) else read_activations(model, group_prompts(given))
    )


@dataclass(frozen=True, eq=False)
class _How:
    """What workers need to know of a pass."""

    groups: ContextGroups
    read: Read
    last: Last
    half: bool
    half_parts: bool
    kept: bool

    def sums(self, model: Model) -> ActivationSums:
        cfg = model.cfg
        contrasts = ContrastSums(
            self.groups.themes,
            (len(self.groups.emotions), cfg.n_layers, cfg.d_model),
            half=self.half,
        )
        return ActivationSums(contrasts, cfg.n_heads, cfg.d_head, cfg.d_mlp)


def _of_shard(
    model: Model, together: tuple[tuple[int, ...], ...], *, how: _How
) -> tuple[ActivationSums, list[Batch], int]:
    """Sums over some batches of contexts, their values if they are kept, and their prompts."""
    sums, kept, count = how.sums(model), [], 0
    again = SecondPass(model, how.groups, how.read, how.last, together)
    for batch, cells, found in again.run((*_VALUES, "post")):
        if how.half_parts:
            batch = replace(batch, z=batch.z.half().float())
            found["post"] = found["post"].half().float()
        sums.update(batch, found["post"], cells, how.groups.present)
        kept += [batch] if how.kept else []
        count += len(cells)
    return sums, kept, count


def _together(model: Model, groups: ContextGroups, read: Read) -> tuple[tuple[int, ...], ...]:
    """Contexts to run at once: of like length, and no more than the budget allows."""
    n_emotions = len(groups.emotions)
    longest = [_longest(model, groups, context, read) for context in groups.contexts]
    fits, size = fits_in(model, n_emotions), in_force().rows()
    return tuple(map(tuple, batches(longest, max(1, size // n_emotions), fits)))


def _longest(model: Model, groups: ContextGroups, context: Context, read: Read) -> list[int]:
    own = [groups.cells[context.id, e] for e in groups.emotions if (context.id, e) in groups.cells]
    rows = [encode(model, reply.prompt) for reply in own]
    if read == "reply":
        rows = [row + encode_text(model, reply.text) for row, reply in zip(rows, own, strict=True)]
    return max(rows, key=len)


def _arranged(
    values: Float[Tensor, "row *rest"],
    rows: Int[Tensor, " row"],
    columns: Int[Tensor, " row"],
    groups: ContextGroups,
) -> Float[Tensor, "context emotion *rest"]:
    placed = values.new_zeros(int(rows.max()) + 1, len(groups.emotions), *values.shape[1:])
    placed[rows, columns] = values
    return placed


def _read(again: SecondPass, replies: Sequence[Reply], sites: Sequence[str]) -> dict[str, Tensor]:
    model, device = again.model, device_of(again.model)
    heads = [encode(model, reply.prompt) for reply in replies]
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


DiffPrompt = Literal["asked", "indented"]
"""Wording of the prompts: as everywhere, or (published) indented."""

DiffGrouping = Literal["context", "scenario"]
"""A mean is taken off within a context, or (as released) within what is left of a scenario: its
last complete valence in sorted order."""


def reworded(groups: ContextGroups, wording: DiffPrompt) -> ContextGroups:
    """The same cells with prompts in this wording."""
    template = INDENTED if wording == "indented" else PUBLISHED
    cells = {
        place: replace(reply, prompt=emotion_prompt(reply.prompt.origin, reply.emotion, template))
        for place, reply in groups.cells.items()
    }
    return replace(groups, cells=cells)


def last_valence(groups: ContextGroups) -> ContextGroups:
    """Of every scenario only the complete context whose valence is last in sorted order."""
    last: dict[str, Context] = {}
    for context, complete in zip(groups.contexts, groups.complete.tolist(), strict=True):
        before = last.get(context.scenario)
        if complete and (before is None or context.valence > before.valence):
            last[context.scenario] = context
    kept = {context.id for context in last.values()}
    cells = {place: reply for place, reply in groups.cells.items() if place[0] in kept}
    return replace(groups, contexts=tuple(last.values()), cells=cells)


RelativeTo = Literal["neutral", "emotions"]


@dataclass(frozen=True, eq=False)
class ComponentMeans(Record):
    """Means over complete contexts of prompts that ask for an emotion, at the last position."""

    z: Float[Tensor, "emotion layer head d_head"]
    """Head outputs before W_O."""
    post: Float[Tensor, "emotion layer neuron"]
    """Neuron activations."""

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    n_contexts: int


@dataclass(frozen=True, eq=False)
class NeutralMeans(Record):
    """The same means over neutral prompts."""

    z: Float[Tensor, "layer head d_head"]
    post: Float[Tensor, "layer neuron"]

    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    n_contexts: int


@dataclass(frozen=True, eq=False)
class Differences(Record):
    """What every head and neuron does differently when an emotion is asked for."""

    z: Float[Tensor, "emotion layer head d_head"]
    post: Float[Tensor, "emotion layer neuron"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    relative_to: str


def component_means(activations: Activations) -> ComponentMeans:
    """Means of all heads and neurons from one sweep; incomplete contexts are left out."""
    complete = activations.groups.complete
    z = activations.z
    return ComponentMeans(
        z=z,
        post=activations.post_shared.mean + activations.post_centred.mean,
        emotion=activations.groups.emotions,
        layer=tuple(range(z.shape[1])),
        head=tuple(range(z.shape[2])),
        neuron=tuple(range(activations.post.mean.shape[2])),
        n_contexts=int(complete.sum()),
    )


def differences(
    means: ComponentMeans, plain: NeutralMeans | None = None, *, unit: bool = False
) -> Differences:
    """Means minus those of neutral prompts, or without them minus the mean over the emotions.

    Args:
        means: Of prompts that ask for an emotion.
        plain: Of neutral prompts.
        unit: Give the heads of a layer together the length one, as the released stage 5.3 does;
            lengths up to 1e-8 stay.
    """
    relative_to: RelativeTo = "neutral" if plain is not None else "emotions"
    z = plain.z if plain is not None else means.z.mean(0)
    post = plain.post if plain is not None else means.post.mean(0)
    apart = means.z - z
    if unit:
        length = apart.flatten(2).norm(dim=-1)[..., None, None]
        apart = apart / length.where(length > 1e-8, 1.0)
    return Differences(
        provenance=means.provenance.child(relative_to=relative_to, unit=unit),
        z=apart,
        post=means.post - post,
        emotion=means.emotion,
        layer=means.layer,
        head=means.head,
        neuron=means.neuron,
        relative_to=relative_to,
    )


class NeutralSums:
    """Accumulates the neutral means from passes that are made for something else."""

    def __init__(self, model: Model) -> None:
        cfg = model.cfg
        self._z = Moments((1, cfg.n_layers, cfg.n_heads, cfg.d_head))
        self._post = Moments((1, cfg.n_layers, cfg.d_mlp))

    def update(
        self,
        z: Float[Tensor, "prompt layer head d_head"],
        post: Float[Tensor, "prompt layer neuron"],
    ) -> None:
        """Add some neutral prompts."""
        for moments, rows in ((self._z, z), (self._post, post)):
            moments.update(rows, torch.zeros(len(rows), dtype=torch.long))

    def merge(self, other: "NeutralSums") -> None:
        """Add the prompts that another one has seen."""
        self._z.merge(other._z)
        self._post.merge(other._post)

    def result(self) -> NeutralMeans:
        """The means so far."""
        z, post = self._z.result(), self._post.result()
        return NeutralMeans(
            z=z.mean[0],
            post=post.mean[0],
            layer=tuple(range(z.mean.shape[1])),
            head=tuple(range(z.mean.shape[2])),
            neuron=tuple(range(post.mean.shape[2])),
            n_contexts=int(z.count[0]),
        )


@contextmanager
def first_copies(model: Model) -> Iterator[dict[str, Tensor]]:
    """A table that is filled, as the block ends, from a branched pass inside it.

    ``z`` and ``post`` of the first copy of every prompt, ``[prompt layer ...]``.
    """
    found: dict[str, Tensor] = {}
    with reading(model, {"z": _first_copy, "post": _first_copy}) as table:
        yield found
    for site, layers in table.items():
        found[site] = torch.stack([layers[i] for i in range(model.cfg.n_layers)], dim=1).float()


def _first_copy(activation: Tensor) -> Tensor:
    return activation[:, 0].cpu()

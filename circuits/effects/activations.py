"""Activations of prompts at the position that is read, and their means over contexts.

Prompts are grouped by the context that they were made from: within a context they differ only in
the emotion that they ask for, so what the context itself says can be taken off. Every prompt is run
once; residual streams, head outputs and neuron activations are held as tensors
``[context emotion layer ...]``, of which directions, effects and generality are plain algebra, one
layer at a time. Where they take more than half of the memory budget they lie in a temporary file.

Differences between emotions, or to neutral prompts, are what modulation writes (Wang et al. 2025,
arXiv 2510.11328, stage 5). The published reference is the mean over the emotions. A modulated model
is given the neutral prompt, so relative to it strength 1 means "as if the emotion had been asked
for"; a difference to the other emotions leaves out what all emotions share. As released, the
scripts read differences from an indented wording and keep one valence of a scenario.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DataError
from circuits.judges.replies import Reply
from circuits.models.engines import engine, in_order, shards
from circuits.models.generate import batches
from circuits.models.memory import halving_tables
from circuits.models.protocol import Model, device_of, dtype_of
from circuits.models.run import capture
from circuits.models.tokens import encode, encode_text, pad_left
from circuits.prompts.prompt import PromptLike, as_prompts
from circuits.prompts.sev import Context
from circuits.prompts.templates import INDENTED, PUBLISHED, emotion_prompt
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = [
    "Activations",
    "ComponentMeans",
    "ContextGroups",
    "DiffGrouping",
    "DiffPrompt",
    "Differences",
    "Last",
    "NeutralMeans",
    "PromptsByEmotion",
    "Read",
    "RelativeTo",
    "as_activations",
    "component_means",
    "differences",
    "group_by_context",
    "group_prompts",
    "last_valence",
    "mean_stderr",
    "mean_stderr_by_emotion",
    "read_activations",
    "reworded",
]

Read = Literal["prompt", "reply"]
"""Residual streams are read at the last prompt position (published), or averaged over the reply."""

Last = Literal["resid_post", "final"]
"""The residual stream after the last MLP, or (published) what the final norm makes of it."""


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


@dataclass(frozen=True, eq=False)
class Activations:
    """Values of every prompt at the position that is read, in float32; zero where one is missing.

    Heads and neurons are read at the last prompt position, where the reply begins.
    """

    groups: ContextGroups
    resid_mid: Float[Tensor, "context emotion layer d_model"]
    """After attention."""
    resid_post: Float[Tensor, "context emotion layer d_model"]
    """After the MLP."""
    z: Float[Tensor, "context emotion layer head d_head"]
    """Head outputs before W_O."""
    post: Float[Tensor, "context emotion layer neuron"]
    """Neuron activations; of width zero where there are no neurons."""
    half: bool = False
    """Directions are made from residual streams in float16, as in the published dumps."""
    stored: str = "memory"
    """Where the values lie, and how large they are."""

    @property
    def present(self) -> Bool[Tensor, "context emotion"]:
        """Which cells are filled."""
        return self.groups.present

    @property
    def complete(self) -> Bool[Tensor, " context"]:
        """Contexts in which no emotion is missing."""
        return self.groups.complete

    def streams(self, layer: int) -> Float[Tensor, "context emotion sublayer d_model"]:
        """Residual streams after both sublayers of a layer, in the complete contexts."""
        whole = self.complete
        found = torch.stack([self.resid_mid[whole, :, layer], self.resid_post[whole, :, layer]], 2)
        return found.half() if self.half else found


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


_SITES = ("resid_mid", "resid_post", "z", "post")
_Row = tuple[str, list[int], list[int]]
"""A prompt's name, its tokens, and those of its reply where that is read."""


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

    Half of the memory budget in force (:func:`~circuits.running.execution`) is for the activations
    of one pass, half for the values; values that need more lie in a temporary file (``TMPDIR``).

    Args:
        model: The model.
        groups: Accepted replies by context and emotion.
        read: Where residual streams are read.
        last: What stands for the residual stream after the last MLP.
        half: Directions are made from residual streams in float16, as in the published dumps.
        half_parts: Round head outputs and neurons to float16, as dumps of differences do.

    Raises:
        DataError: an empty reply is to be averaged over.
        ModelError: a hook point is missing, or an activation is not finite.
    """
    rows: list[_Row] = []
    for reply in groups.cells.values():
        written = encode_text(model, reply.text) if read == "reply" else []
        if read == "reply" and not written:
            raise DataError("a reply is empty, so nothing can be averaged over it")
        rows.append((reply.prompt.key, encode(model, reply.prompt), written))
    contexts = {context.id: place for place, context in enumerate(groups.contexts)}
    cells = torch.tensor([(contexts[c], groups.emotions.index(e)) for c, e in groups.cells])
    share = in_force().memory * 1e9 / 2
    together = batches(
        [prompt + written for _, prompt, written in rows],
        in_force().rows(),
        lambda count, width: count * _bytes_of_row(model, width) <= share,
    )
    parts = shards(list(together))
    work = partial(_read_part, read=read, last=last)
    given = [[[rows[i] for i in places] for places in part] for part in parts]
    values, stored = _storage(model, groups)
    done = in_order(engine().results(model, work, given))
    for part, found in zip(parts, done, strict=True):
        at = cells[[place for places in part for place in places]]
        for site, own in found.items():
            rounded = half_parts and site in ("z", "post")
            values[site][at[:, 0], at[:, 1]] = own.half().float() if rounded else own
        advance(len(at))
    return Activations(groups, **values, half=half, stored=stored)


def _read_part(
    model: Model, part: Sequence[Sequence[_Row]], *, read: Read, last: Last
) -> dict[str, Tensor]:
    """Site -> ``[row layer ...]``, the batches' rows one under the other."""

    def values(rows: Sequence[_Row]) -> dict[str, Tensor]:
        device = device_of(model)
        tokens = pad_left([[*prompt, *reply] for _, prompt, reply in rows], device)
        written = torch.tensor([len(reply) for _, _, reply in rows], device=device)
        # The last of the prompt; the reply's tokens follow it.
        end = tokens.ids.shape[1] - 1 - written
        place = torch.arange(tokens.ids.shape[1], device=device)

        def at_end(activation: Tensor) -> Tensor:
            return activation[torch.arange(len(end), device=device), end].cpu()

        def over_reply(activation: Tensor) -> Tensor:
            weight = (place > end[:, None]).to(activation.dtype)[..., None]
            return ((activation * weight).sum(1) / weight.sum(1)).cpu()

        streams = over_reply if read == "reply" else at_end
        picks = {"resid_mid": streams, "resid_post": streams, "z": at_end, "post": at_end}
        if last == "final":
            picks["final"] = streams
        found = capture(model, tokens, picks)
        if last == "final":
            found["resid_post"][:, -1] = found.pop("final")[:, -1]
        return found

    found = [halving_tables(values, rows, lambda row: row[0]) for rows in part]
    return {site: torch.cat([own[site] for own in found]) for site in _SITES}


def _storage(model: Model, groups: ContextGroups) -> tuple[dict[str, Tensor], str]:
    """Zeros for the values of all sites, in memory or in a file that goes with them."""
    cfg, cells = model.cfg, (len(groups.contexts), len(groups.emotions))
    widths = {
        "resid_mid": (cfg.d_model,),
        "resid_post": (cfg.d_model,),
        "z": (cfg.n_heads, cfg.d_head),
        "post": (cfg.d_mlp or 0,),
    }
    size, memory = prod(cells) * _bytes_of_values(model), in_force().memory
    in_file = size > memory * 1e9 / 2

    def zeros(shape: tuple[int, ...]) -> Tensor:
        if not in_file or 0 in shape:
            return torch.zeros(shape)
        with tempfile.TemporaryFile() as file:
            return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))

    where = "a temporary file" if in_file else "memory"
    stored = f"{where}: {size / 1e6:,.1f} MB for {prod(cells)} prompts, budget {memory:g} GB"
    return {site: zeros((*cells, cfg.n_layers, *own)) for site, own in widths.items()}, stored


def _bytes_of_values(model: Model) -> int:
    """Of one prompt at all sites, in float32."""
    cfg = model.cfg
    return 4 * cfg.n_layers * (2 * cfg.d_model + cfg.n_heads * cfg.d_head + (cfg.d_mlp or 0))


def _bytes_of_row(model: Model, width: int) -> int:
    """An upper estimate of what a prompt of ``width`` tokens holds while it is run.

    One layer is at work at a time: its streams, projections and neurons, some of them twice or in
    float32, and its attention scores. Besides, its values are held in float32, and copied.
    """
    cfg, size = model.cfg, dtype_of(model).itemsize
    inner = cfg.n_heads * cfg.d_head + (cfg.d_mlp or 0)
    token = (8 * size + 8) * cfg.d_model + 6 * size * inner
    scores = cfg.n_heads * width * (3 * size + 4)
    return width * (token + scores) + 3 * _bytes_of_values(model)


def as_activations(model: Model, given: Activations | PromptsByEmotion) -> Activations:
    """The activations of prompts, read now unless they have been read already."""
    if isinstance(given, Activations):
        return given
    return read_activations(model, group_prompts(given))


def mean_stderr(rows: Float[Tensor, "row *rest"]) -> tuple[Tensor, Tensor]:
    """Mean over the rows, and its standard error (ddof 1); NaN where rows are too few (one, two).

    >>> mean_stderr(torch.tensor([1.0, 3.0]))
    (tensor(2.), tensor(1.))
    """
    n, exact, kind = len(rows), rows.double(), torch.promote_types(rows.dtype, torch.float32)
    mean = exact.sum(0) / n
    stderr = ((exact - mean).square().sum(0) / (n * (n - 1))).sqrt()
    return mean.to(kind), stderr.to(kind)


def mean_stderr_by_emotion(
    values: Float[Tensor, "context emotion *rest"], present: Bool[Tensor, "context emotion"]
) -> tuple[Float[Tensor, "emotion *rest"], Float[Tensor, "emotion *rest"]]:
    """Mean of every emotion over the contexts that have it, and its standard error."""
    found = [mean_stderr(values[here, e]) for e, here in enumerate(present.T)]
    return torch.stack([mean for mean, _ in found]), torch.stack([stderr for _, stderr in found])


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
    whole = [c for c, all_there in zip(groups.contexts, groups.complete, strict=True) if all_there]
    last: dict[str, Context] = {}
    for context in whole:
        before = last.get(context.scenario)
        if before is None or context.valence > before.valence:
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
    """Means of all heads and neurons; incomplete contexts are left out."""
    whole, n_layers = activations.complete, activations.z.shape[2]

    def mean(values: Tensor) -> Tensor:
        layers = [mean_stderr(values[whole, :, layer])[0] for layer in range(n_layers)]
        return torch.stack(layers, dim=1)

    z, post = mean(activations.z), mean(activations.post)
    return ComponentMeans(
        z=z,
        post=post,
        emotion=activations.groups.emotions,
        layer=tuple(range(n_layers)),
        head=tuple(range(z.shape[2])),
        neuron=tuple(range(post.shape[2])),
        n_contexts=int(whole.sum()),
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

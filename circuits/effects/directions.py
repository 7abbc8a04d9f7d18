"""Emotion directions, and whether they hold beyond their contexts.

A direction is what is added to the residual stream when an emotion is asked for. Within every
complete context the mean over its emotions is taken off, so that what the context itself says
cancels; the rest is averaged over contexts, centred over emotions and normalised (Wang et al. 2025,
arXiv 2510.11328, stage 2). Directions are relative to the mean of the emotions: they sum to zero
before normalisation, and there is no neutral reference.

Do emotion directions hold beyond the contexts that they were made from?

Three answers per sublayer and layer: the cosine between directions from two random halves of
the contexts; the cosine between a theme's own direction and the one made without that theme;
and how often the nearest direction, made without the theme, names the emotion of a context of
that theme. The shuffled baseline repeats the last with emotions shuffled within contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.effects.activations import (
    Activations,
    Batch,
    Differences,
    PromptsByEmotion,
    group_prompts,
    read_activations,
)
from circuits.errors import AxisError, DataError
from circuits.models.generate import batches
from circuits.models.memory import halving_tables
from circuits.models.protocol import Model, device_of
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.names import SUBLAYERS
from circuits.prompts.sev import Context
from circuits.prompts.templates import Template, emotion_prompts, neutral_prompts
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = [
    "Directions",
    "Generality",
    "GeneralityPass",
    "GeneralitySums",
    "centred",
    "direction_generality",
    "directions",
    "emotion_directions",
    "own_differences",
    "reference_direction",
    "similarity",
    "stable_layers",
    "unit",
]


@dataclass(frozen=True, eq=False)
class Directions(Record):
    """One unit vector per emotion, sublayer and layer."""

    vectors: Float[Tensor, "emotion sublayer layer d_model"]
    """Unit directions in the residual stream after the sublayer (resid_mid, resid_post)."""
    norm: Float[Tensor, "emotion sublayer layer"]
    """Length of the contrast before normalisation, in units of the residual stream."""
    rms: Float[Tensor, "sublayer layer"]
    """Root mean square over d_model of the residual stream, averaged over prompts."""

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    n_contexts: int
    """Complete contexts, from which the directions are made."""
    n_left_out: int
    """Contexts that lack an emotion and were left out."""
    read: str
    """``prompt``: at the last prompt position; ``reply``: averaged over the reply."""


def emotion_directions(activations: Activations, *, read: str = "prompt") -> Directions:
    """Directions of every emotion after every sublayer, from the sums of one activations.

    Args:
        activations: One pass over the accepted prompts.
        read: Where the activations read; kept in the record.

    Raises:
        DataError: no context has a reply accepted in every emotion; says which emotions lack.
    """
    sums, n = activations.contrasts, int(activations.contrasts.count.sum())
    if not n:
        raise DataError(_why_none(activations))
    vectors, norm = unit(centred(sums.apart.sum(0), n))
    return Directions(
        vectors=vectors,
        norm=norm,
        rms=sums.rms.float(),
        emotion=activations.groups.emotions,
        sublayer=SUBLAYERS,
        layer=tuple(range(vectors.shape[2])),
        n_contexts=n,
        n_left_out=len(activations.present) - n,
        read=read,
    )


def directions(model: Model, prompts: PromptsByEmotion) -> Directions:
    """Emotion directions from any prompts, at their last position.

    Args:
        model: The model.
        prompts: Emotion -> prompts whose replies are to express it; they are contrasted within
            groups, see :func:`~circuits.effects.activations.grouped`.

    Raises:
        DataError: the prompts form no group with all emotions.
        ModelError: a prompt cannot be read.
    """
    return emotion_directions(read_activations(model, group_prompts(prompts)))


def centred(apart: Float[Tensor, "emotion *rest"], n: int) -> Float[Tensor, "emotion *rest"]:
    """The mean of ``n`` contexts' contrasts from their sum, centred over emotions, in float32."""
    mean = apart / n
    return (mean - mean.mean(dim=0, keepdim=True)).float()


def unit(
    vectors: Float[Tensor, "*rest d_model"],
) -> tuple[Float[Tensor, "*rest d_model"], Float[Tensor, "*rest"]]:
    """Vectors of length one, and the lengths they had."""
    norm = vectors.norm(dim=-1)
    return vectors / (norm[..., None] + 1e-12), norm


def stable_layers(n_layers: int) -> tuple[int, ...]:
    """Layers whose directions make the reference direction: 21-25 of 28, scaled by depth."""
    first, last = round(21 / 28 * n_layers), round(25 / 28 * n_layers)
    return tuple(range(min(first, n_layers - 1), min(last, n_layers - 1) + 1))


def reference_direction(
    directions: Directions, layers: tuple[int, ...]
) -> Float[Tensor, "emotion d_model"]:
    """One unit vector per emotion: the mean of the chosen layers' directions, signs aligned.

    Every vector is flipped to agree with the first (attention of the first layer), after
    Wang et al. 2025, stage 6.3.

    Raises:
        AxisError: a layer does not exist, or no layer is given.
    """
    if not layers:
        raise AxisError("a reference direction needs at least one layer")
    chosen = directions.sel(layer=layers).vectors.flatten(1, 2)
    agree = (chosen * chosen[:, :1]).sum(-1, keepdim=True)
    return unit((chosen * agree.sign().where(agree != 0, 1.0)).sum(1))[0]


def similarity(directions: Directions) -> Float[Tensor, "emotion other_emotion sublayer layer"]:
    """Cosine between the directions of two emotions, per sublayer and layer."""
    return torch.einsum("eslw,oslw->eosl", directions.vectors, directions.vectors)


def _why_none(activations: Activations) -> str:
    present: Bool[Tensor, "context emotion"] = activations.present
    lacking = {
        emotion: int((~present[:, i]).sum())
        for i, emotion in enumerate(activations.groups.emotions)
    }
    worst = max(lacking, key=lambda emotion: lacking[emotion])
    return (
        f"no context has an accepted reply in all of {', '.join(activations.groups.emotions)}; of "
        f"{len(present)} contexts {lacking[worst]} lack {worst!r}. "
        "Use more contexts, another judge, or drop that emotion"
    )


@dataclass(frozen=True, eq=False)
class Generality(Record):
    """Evidence that directions do not depend on the context."""

    split_half: Float[Tensor, "emotion sublayer layer"]
    """Cosine between the directions of two random halves, averaged over splits."""
    split_half_low: Float[Tensor, "emotion sublayer layer"]
    """The 2.5th percentile over splits."""
    without_theme: Float[Tensor, "emotion sublayer layer theme"]
    """Cosine between the direction made from a theme and the one made without it."""
    accuracy: Float[Tensor, "sublayer layer"]
    """Share of held-out prompts whose nearest direction is that of their emotion."""
    random_baseline: Float[Tensor, "sublayer layer"]
    """The same, emotions shuffled within the contexts that the directions are made from."""

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    theme: tuple[str, ...]
    n_splits: int


def direction_generality(activations: Activations, *, n_splits: int = 50) -> Generality:
    """Measure how far the directions generalise; only complete contexts are used.

    Passes at the values of the activations once.

    Raises:
        DataError: fewer than two themes have a complete context.
    """
    look = GeneralityPass(activations, n_splits=n_splits)
    for batch in activations.values:
        look.update(batch)
    return look.result()


@dataclass(frozen=True, eq=False)
class GeneralitySums:
    """What was seen so far; parts are merged."""

    first: Float[Tensor, "split emotion sublayer layer d_model"]
    """Of every split's first half."""
    right: Float[Tensor, "sublayer layer"]
    by_chance: Float[Tensor, "sublayer layer"]

    def merge(self, other: "GeneralitySums") -> None:
        """Add what another one has seen."""
        self.first.add_(other.first)
        self.right.add_(other.right)
        self.by_chance.add_(other.by_chance)


class GeneralityPass:
    """Measures generality while batches of values are shown, every one once.

    Holds sums per split and directions per theme, whatever the number of contexts.

    Raises:
        DataError: fewer than two themes have a complete context.
    """

    def __init__(self, activations: Activations, *, n_splits: int = 50) -> None:
        sums, self._emotions = activations.contrasts, activations.groups.emotions
        self._themes, self._n = sums.themes, int(sums.count.sum())
        if len(sums.count) < 2:
            raise DataError(
                f"generality needs complete contexts of at least two themes, found "
                f"{len(sums.count)}"
            )
        self._total = sums.apart.sum(0).float()
        self._within = _made_of(sums.apart, sums.count)
        self._without = _made_without(sums.apart, sums.count)
        self._shuffled = _made_without(sums.shuffled, sums.count)
        others = (self._n - sums.count)[:, None, None, None]
        self._middle = ((sums.middle.sum(0) - sums.middle) / others).float()
        own = self._total.shape
        self.sums = GeneralitySums(
            torch.zeros(n_splits, *own), torch.zeros(own[1:3]), torch.zeros(own[1:3])
        )
        self._in_first = _halves(list(sums.themes.of), n_splits)

    def update(self, batch: Batch) -> None:
        """Add the complete contexts of a batch."""
        for place, streams in batch.whole():
            theme = self._themes.of[place]
            moved = streams - self._middle[theme]
            self.sums.right.add_(_named(moved, self._without[theme]))
            self.sums.by_chance.add_(_named(moved, self._shuffled[theme]))
            apart = streams - streams.mean(dim=0)
            for split in self._in_first[place]:
                self.sums.first[split] += apart

    def result(self) -> Generality:
        """What was measured."""
        halves = torch.stack([_cosine(first, self._total - first) for first in self.sums.first])
        n_prompts = self._n * len(self._emotions)
        return Generality(
            split_half=halves.mean(0),
            split_half_low=halves.quantile(0.025, dim=0),
            without_theme=(self._within * self._without).sum(-1).movedim(0, -1),
            accuracy=self.sums.right / n_prompts,
            random_baseline=self.sums.by_chance / n_prompts,
            emotion=self._emotions,
            sublayer=SUBLAYERS,
            layer=tuple(range(self._total.shape[2])),
            theme=self._themes.theme,
            n_splits=len(self.sums.first),
        )


def _halves(places: list[int], n_splits: int) -> dict[int, list[int]]:
    """Place of a context -> the splits in whose first half it is."""
    random = torch.Generator().manual_seed(in_force().seed)
    found: dict[int, list[int]] = {place: [] for place in places}
    for split in range(n_splits):
        for chosen in torch.randperm(len(places), generator=random)[: len(places) // 2].tolist():
            found[places[chosen]].append(split)
    return found


def _made_of(
    apart: Float[Tensor, "theme emotion sublayer layer d_model"], count: Int[Tensor, " theme"]
) -> Float[Tensor, "theme emotion sublayer layer d_model"]:
    """Directions from each theme's own sums."""
    made = [unit(centred(own, int(n)))[0] for own, n in zip(apart, count, strict=True)]
    return torch.stack(made)


def _made_without(
    apart: Float[Tensor, "theme emotion sublayer layer d_model"], count: Int[Tensor, " theme"]
) -> Float[Tensor, "theme emotion sublayer layer d_model"]:
    """Directions from all themes' sums but each theme's own."""
    return _made_of(apart.sum(0) - apart, count.sum() - count)


def _cosine(
    one: Float[Tensor, "*rest d_model"], other: Float[Tensor, "*rest d_model"]
) -> Float[Tensor, "*rest"]:
    return (unit(one)[0] * unit(other)[0]).sum(-1)


def _named(
    streams: Float[Tensor, "emotion sublayer layer d_model"],
    directions: Float[Tensor, "other_emotion sublayer layer d_model"],
) -> Float[Tensor, "sublayer layer"]:
    """How many emotions' streams lie nearest to their own emotion's direction."""
    scores = torch.einsum("esld,osld->sleo", streams, directions)
    return (scores.argmax(-1) == torch.arange(len(streams))).sum(-1).float()


@torch.no_grad()
def own_differences(
    model: Model,
    contexts: Sequence[Context],
    emotions: Sequence[str],
    *,
    template: str | Template = "published",
) -> Differences:
    """What every head and neuron does differently when an emotion is asked for, minus neutral.

    One pass per context and emotion and one per neutral prompt, at the last prompt position; no
    reply is made or judged, so contexts count in which asking would not have helped.

    Raises:
        DataError: there is no context.
    """
    if not contexts:
        raise DataError("differences need one context or more, found none")
    prompts = emotion_prompts(contexts, emotions, template) + neutral_prompts(contexts, template)
    rows = [encode(model, prompt) for prompt in prompts]
    cfg, n = model.cfg, len(emotions)
    z = torch.zeros(n + 1, cfg.n_layers, cfg.n_heads, cfg.d_head)
    post = torch.zeros(n + 1, cfg.n_layers, cfg.d_mlp)

    def read(chosen: Sequence[int]) -> dict[str, Tensor]:
        tokens = pad_left([rows[i] for i in chosen], device_of(model))
        return capture(model, tokens, {"z": _last, "post": _last})

    for chosen in batches(rows, in_force().rows()):
        found = halving_tables(read, chosen, lambda place: prompts[place].key)
        places = torch.tensor([i % n if i < n * len(contexts) else n for i in chosen])
        z.index_add_(0, places, found["z"].cpu() / len(contexts))
        post.index_add_(0, places, found["post"].cpu() / len(contexts))
        advance(len(chosen))
    return Differences(
        z=z[:-1] - z[-1],
        post=post[:-1] - post[-1],
        emotion=tuple(emotions),
        layer=tuple(range(cfg.n_layers)),
        head=tuple(range(cfg.n_heads)),
        neuron=tuple(range(cfg.d_mlp)),
        relative_to="neutral",
    )


def _last(activation: Tensor) -> Tensor:
    return activation[:, -1]

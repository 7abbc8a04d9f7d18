"""Emotion directions, and whether they hold beyond their contexts.

A direction is what is added to the residual stream when an emotion is asked for. Within every
complete context the mean over its emotions is taken off, so that what the context itself says
cancels; the rest is averaged over contexts, centred over emotions and normalised (Wang et al. 2025,
arXiv 2510.11328, stage 2). Directions are relative to the mean of the emotions: they sum to zero
before normalisation, and there is no neutral reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.effects.activations import (
    Activations,
    Differences,
    PromptsByEmotion,
    component_means,
    group_by_context,
    group_prompts,
    read_activations,
)
from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.models.protocol import Model
from circuits.names import NEUTRAL, SUBLAYERS
from circuits.prompts.sev import Context
from circuits.prompts.templates import Template, emotion_prompts, neutral_prompts
from circuits.records import Record
from circuits.running import in_force

__all__ = [
    "Directions",
    "Generality",
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
    """Directions of every emotion after every sublayer.

    Args:
        activations: One pass over the accepted prompts.
        read: Where the activations read; kept in the record.

    Raises:
        DataError: no context has a reply accepted in every emotion; says which emotions lack.
    """
    emotions, present, n = activations.groups.emotions, activations.present, activations.complete
    if not bool(n.any()):
        lacking = (~present).sum(0)
        worst = int(lacking.argmax())
        raise DataError(
            f"no context has an accepted reply in all of {', '.join(emotions)}; of {len(present)} "
            f"contexts {lacking[worst]} lack {emotions[worst]!r}. "
            "Use more contexts, another judge, or drop that emotion"
        )
    apart, rms = [], []
    for layer in range(activations.z.shape[2]):
        streams = activations.streams(layer)
        # In the number type of the dumps, as the scripts take it.
        rms.append((streams * streams).mean(-1).sqrt().double().mean((0, 1)))
        apart.append(_apart(streams.float()).double().mean(0))
    vectors, norm = unit(_centred(torch.stack(apart, dim=2)))
    return Directions(
        vectors=vectors,
        norm=norm,
        rms=torch.stack(rms, dim=1).float(),
        emotion=emotions,
        sublayer=SUBLAYERS,
        layer=tuple(range(len(rms))),
        n_contexts=int(n.sum()),
        n_left_out=int((~n).sum()),
        read=read,
    )


def directions(model: Model, prompts: PromptsByEmotion) -> Directions:
    """Emotion directions from any prompts, at their last position.

    Args:
        model: The model.
        prompts: Emotion -> prompts whose replies are to express it; they are contrasted within
            groups, see :func:`~circuits.effects.activations.group_prompts`.

    Raises:
        DataError: the prompts form no group with all emotions.
        ModelError: a prompt cannot be read.
    """
    return emotion_directions(read_activations(model, group_prompts(prompts)))


def _apart(
    values: Float[Tensor, "context emotion *rest"],
) -> Float[Tensor, "context emotion *rest"]:
    """Minus the mean over the emotions of a context."""
    return values - values.mean(dim=1, keepdim=True)


def _centred(mean: Float[Tensor, "*theme emotion sublayer layer d_model"]) -> Tensor:
    """A mean contrast, centred over emotions, in float32."""
    return (mean - mean.mean(dim=-4, keepdim=True)).float()


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
    """Whether directions hold beyond the contexts that they were made from.

    Per sublayer and layer: the cosine between directions from two random halves of the complete
    contexts; the cosine between a theme's own direction and the one made without that theme; and
    how often the nearest direction, made without the theme, names the emotion of a context of that
    theme. The seed in force draws the halves and shuffles the emotions of the baseline.

    Raises:
        DataError: fewer than two themes have a complete context.
    """
    emotions, places = activations.groups.emotions, activations.complete.nonzero()[:, 0].tolist()
    themes = [activations.groups.contexts[place].theme for place in places]
    names = tuple(dict.fromkeys(themes))
    if len(names) < 2:
        raise DataError(
            f"generality needs complete contexts of at least two themes, found {len(names)}"
        )
    n, own = len(places), torch.tensor([names.index(theme) for theme in themes])
    of_theme = torch.nn.functional.one_hot(own).T.double()
    count = of_theme.sum(1)[:, None, None, None]
    seed, random = in_force().seed, torch.Generator()
    order = torch.rand(n, len(emotions), generator=random.manual_seed(seed)).argsort(dim=1)
    random.manual_seed(seed)
    in_first = torch.zeros(n_splits, n)
    for split in in_first:
        split[torch.randperm(n, generator=random)[: n // 2]] = 1.0

    def by_theme(values: Float[Tensor, "context *rest"]) -> Float[Tensor, "theme *rest"]:
        return einsum(of_theme, values.double(), "theme context, context ... -> theme ...")

    def made(apart: Float[Tensor, "theme emotion sublayer d_model"], of: Tensor) -> Tensor:
        return unit(_centred((apart / of)[:, :, :, None]))[0][:, :, :, 0]

    halves, without_theme, right, by_chance = [], [], [], []
    for layer in range(activations.z.shape[2]):
        streams = activations.streams(layer).float()
        apart, middle = _apart(streams), streams.mean(1)
        sums = by_theme(apart)
        shuffled = by_theme(apart[torch.arange(n)[:, None], order])
        without = made(sums.sum(0) - sums, n - count)
        without_theme.append((made(sums, count) * without).sum(-1).movedim(0, -1))
        others = ((by_theme(middle).sum(0) - by_theme(middle)) / (n - count[..., 0])).float()
        moved = streams - others[own][:, None]
        right.append(_named(moved, without[own]))
        by_chance.append(_named(moved, made(shuffled.sum(0) - shuffled, n - count)[own]))
        first = einsum(in_first, apart, "split context, context ... -> split ...")
        rest = sums.sum(0).float() - first
        halves.append((unit(first)[0] * unit(rest)[0]).sum(-1))
    splits = torch.stack(halves, dim=-1)
    return Generality(
        split_half=splits.mean(0),
        split_half_low=splits.quantile(0.025, dim=0),
        without_theme=torch.stack(without_theme, dim=-2),
        accuracy=torch.stack(right, dim=-1),
        random_baseline=torch.stack(by_chance, dim=-1),
        emotion=emotions,
        sublayer=SUBLAYERS,
        layer=tuple(range(len(right))),
        theme=names,
        n_splits=n_splits,
    )


def _named(
    streams: Float[Tensor, "context emotion sublayer d_model"],
    directions: Float[Tensor, "context other_emotion sublayer d_model"],
) -> Float[Tensor, " sublayer"]:
    """Share of streams that lie nearest to their own emotion's direction."""
    pattern = (
        "context emotion sublayer d_model, context other sublayer d_model "
        "-> sublayer context emotion other"
    )
    scores = einsum(streams, directions, pattern)
    return (scores.argmax(-1) == torch.arange(scores.shape[2])).float().mean((1, 2))


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
    said = [Reply(prompt, "", 0, prompt.emotion or NEUTRAL) for prompt in prompts]
    groups = group_by_context(said, (*emotions, NEUTRAL))
    means = component_means(read_activations(model, groups))
    return Differences(
        z=means.z[:-1] - means.z[-1],
        post=means.post[:-1] - means.post[-1],
        emotion=tuple(emotions),
        layer=means.layer,
        head=means.head,
        neuron=means.neuron,
        relative_to="neutral",
    )

"""What every attention head adds along the emotion direction: exact, without another pass.

A head's write is ``z @ W_O`` and the sublayer's write is their sum, so zeroing a head lowers
the projection of resid_mid on a direction v by exactly ``z @ W_O @ v``. That is the default
readout. Wang et al. 2025 (arXiv 2510.11328, stage 4.2) zero each head, run the model again and
read the same layer after the next norm; since everything upstream is unchanged, that too has a
closed form, ``norm(x) . v - norm(x - z W_O) . v`` (readout ``post_norm``).

The second pass over the values: effects of heads and generality, in one go.

Values that were kept are looked at here. Others are made again, shard by shard, where the engine
says, and only sums come back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.effects.activations import (
    Activations,
    Batch,
    Last,
    Moments,
    PromptsByEmotion,
    Read,
    SecondPass,
    as_activations,
)
from circuits.effects.directions import Directions, GeneralityPass, GeneralitySums
from circuits.errors import ModelError
from circuits.models.engines import Here, engine, in_order, shards
from circuits.models.families import along_heads, head_weights, needs
from circuits.models.protocol import Model, blocks_of, device_of, dtype_of
from circuits.records import Record
from circuits.running import advance

__all__ = [
    "QUANTILE",
    "HeadEffects",
    "HeadPass",
    "HeadReadout",
    "HeadSums",
    "head_effects",
    "random_directions",
    "second_pass",
]

QUANTILE = 0.99
"""A random baseline is this quantile of |effect| along random directions, over all components
and draws."""


def random_directions(count: int, d_model: int, *, seed: int = 0) -> Float[Tensor, "draw d_model"]:
    """Unit vectors, uniform on the sphere."""
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, d_model, generator=random)
    return drawn / drawn.norm(dim=-1, keepdim=True)


HeadReadout = Literal["resid_mid", "post_norm"]

_SPLIT = (
    "context emotion layer head d_head, emotion layer head d_head -> context emotion layer head"
)
_SHARED = "context layer head d_head, emotion layer head d_head -> context emotion layer head"
_ALONG = "context emotion layer d_model, emotion layer d_model -> context emotion layer"


@dataclass(frozen=True, eq=False)
class HeadEffects(Record):
    """Direct effect of every head on its layer's emotion direction, at the last prompt position.

    Positive: the head pushes towards the emotion. Unit: length in the residual stream
    (``resid_mid``), or projection of the normed stream (``post_norm``).
    """

    mean: Float[Tensor, "emotion layer head"]
    """Readout with the head minus readout without it, averaged over contexts."""
    stderr: Float[Tensor, "emotion layer head"]
    """Standard error of ``mean`` over contexts."""
    centred: Float[Tensor, "emotion layer head"]
    """Effect minus its mean over the emotions of the same context, along the same direction."""
    centred_stderr: Float[Tensor, "emotion layer head"]
    """Standard error of ``centred`` over contexts."""
    baseline: Float[Tensor, "emotion layer"]
    """Mean readout with all heads."""
    random_baseline: Float[Tensor, "emotion layer"]
    """Largest |centred effect| of the layer's heads along random directions (99th percentile)."""

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    readout: str
    n_contexts: tuple[int, ...]
    """Contexts per emotion behind ``mean``."""


def head_effects(
    model: Model,
    prompts: Activations | PromptsByEmotion,
    directions: Directions,
    *,
    readout: HeadReadout = "resid_mid",
    draws: int = 100,
) -> HeadEffects:
    """Effects of all heads on prompts of several emotions.

    Args:
        model: The model.
        prompts: Emotion -> prompts, in the order of the directions' emotions; or their activations.
        directions: What effects are read along.
        readout: What is projected.
        draws: Random directions of the random baseline.

    Raises:
        ModelError: heads do not add up to what is written, or ``post_norm`` is asked of a model
            whose norm before the MLP is no RMSNorm.
    """
    found = as_activations(model, prompts)
    look = HeadPass(model, found, directions, readout=readout, draws=draws)
    for batch in found.values:
        look.update(batch)
    return look.result()


@dataclass(frozen=True, eq=False)
class HeadSums:
    """What was seen so far; parts are merged."""

    raw: Moments
    centred: Moments
    baseline: Moments

    def merge(self, other: "HeadSums") -> None:
        """Add what another one has seen."""
        self.raw.merge(other.raw)
        self.centred.merge(other.centred)
        self.baseline.merge(other.baseline)


class HeadPass:
    """Measures effects of heads while batches of values are shown, every one once."""

    def __init__(
        self,
        model: Model,
        activations: Activations,
        directions: Directions,
        *,
        readout: HeadReadout = "resid_mid",
        draws: int = 100,
    ) -> None:
        needs(model, "effects of heads", "attention", "heads")
        self._model, self._directions = model, directions
        self._between = activations.z - activations.z.mean(0)
        self._readout: HeadReadout = readout
        self._draws = draws
        self._vectors = directions.sel(sublayer="attn").vectors[:, 0]
        self._along = along_heads(model, self._vectors)
        shape = self._along.shape[:3]
        self.sums = HeadSums(Moments(shape), Moments(shape), Moments(shape[:2]))

    def update(self, batch: Batch) -> None:
        """Add the prompts of a batch."""
        linear = einsum(batch.z, self._along, _SPLIT)
        effect, baseline = linear, einsum(batch.resid_mid, self._vectors, _ALONG)
        if self._readout == "post_norm":
            effect, baseline = _post_norm(self._model, batch, self._vectors)
        emotions = torch.arange(linear.shape[1]).expand(len(linear), -1)
        self.sums.raw.update(effect[batch.present], emotions[batch.present])
        self.sums.baseline.update(baseline[batch.present], emotions[batch.present])
        # z of every emotion along the direction of one: the mean over emotions is what all share.
        apart = linear - einsum(batch.z.mean(1), self._along, _SHARED)
        whole = batch.complete
        self.sums.centred.update(apart[whole].flatten(0, 1), emotions[whole].flatten())

    def result(self) -> HeadEffects:
        """What was measured."""
        plain, relative = self.sums.raw.result(), self.sums.centred.result()
        return HeadEffects(
            mean=plain.mean,
            stderr=plain.stderr,
            centred=relative.mean,
            centred_stderr=relative.stderr,
            baseline=self.sums.baseline.result().mean,
            random_baseline=_random_baseline(self._model, self._between, self._draws),
            emotion=self._directions.emotion,
            layer=self._directions.layer,
            head=tuple(range(plain.mean.shape[2])),
            readout=self._readout,
            n_contexts=tuple(plain.count.tolist()),
        )


def _post_norm(
    model: Model, batch: Batch, vectors: Float[Tensor, "emotion layer d_model"]
) -> tuple[Float[Tensor, "context emotion layer head"], Float[Tensor, "context emotion layer"]]:
    found = [
        _post_norm_of_layer(
            model, i, batch.resid_mid[:, :, i], batch.z[:, :, i], W_O, vectors[:, i]
        )
        for i, W_O in enumerate(head_weights(model))
    ]
    effect, baseline = zip(*found, strict=True)
    return torch.stack(effect, dim=2), torch.stack(baseline, dim=2)


def _post_norm_of_layer(
    model: Model, layer: int, x: Tensor, z: Tensor, W_O: Tensor, v: Tensor
) -> tuple[Float[Tensor, "context emotion head"], Float[Tensor, "context emotion"]]:
    gain, eps = _rms_norm(model, layer)
    write = einsum(
        z, W_O, "context emotion head d_head, head d_head d_model -> context emotion head d_model"
    )
    toward = gain * v
    size = x.square().sum(-1)[..., None]
    along = einsum(x, toward, "context emotion d_model, emotion d_model -> context emotion")[
        ..., None
    ]
    lost = einsum(
        write, toward, "context emotion head d_model, emotion d_model -> context emotion head"
    )
    cross = einsum(
        write, x, "context emotion head d_model, context emotion d_model -> context emotion head"
    )
    left = (size - 2 * cross + write.square().sum(-1)).clamp_min(0)
    d_model = x.shape[-1]
    whole = along / (size / d_model + eps).sqrt()
    return whole - (along - lost) / (left / d_model + eps).sqrt(), whole[..., 0]


def _rms_norm(model: Model, layer: int) -> tuple[Float[Tensor, " d_model"], float]:
    kind = str(getattr(model.cfg, "normalization_type", ""))
    if not kind.startswith("RMS"):
        raise ModelError(
            f"readout 'post_norm' needs an RMSNorm before the MLP, found {kind or 'none'}; "
            "use readout 'resid_mid'"
        )
    # What the norm makes of ones is its gain, however it keeps it (Gemma adds one to a weight).
    eps = float(model.cfg.eps)
    norm = blocks_of(model)[layer].ln2
    device = next((weight.device for weight in norm.parameters()), device_of(model))
    ones = torch.ones(1, 1, model.cfg.d_model, device=device, dtype=dtype_of(model))
    with torch.no_grad():
        gain = norm(ones)[0, 0]
    return gain.float().cpu() * (1 + eps) ** 0.5, eps


def _random_baseline(
    model: Model, between: Float[Tensor, "emotion layer head d_head"], draws: int
) -> Float[Tensor, "emotion layer"]:
    random, found = random_directions(draws, model.cfg.d_model), []
    for layer, W_O in enumerate(head_weights(model)):
        write = einsum(
            between[:, layer],
            W_O,
            "emotion head d_head, head d_head d_model -> emotion head d_model",
        )
        effects = einsum(write, random, "emotion head d_model, draw d_model -> emotion head draw")
        found.append(effects.abs().flatten(1).quantile(QUANTILE, dim=1))
    return torch.stack(found, dim=1)


Passes = tuple[HeadPass, GeneralityPass]


def second_pass(
    model: Model,
    activations: Activations,
    directions: Directions,
    *,
    readout: HeadReadout = "resid_mid",
) -> Passes:
    """Show every batch of values to both looks once; the splits of generality are drawn.

    Args:
        model: The model.
        activations: Its values.
        directions: Made from the activations.
        readout: Of the effects of heads.

    Raises:
        ModelError: ``post_norm`` is asked of a model whose norm before the MLP is no RMSNorm.
        DataError: fewer than two themes have a complete context.
    """
    how = _How(replace(activations, values=()), directions, readout)
    heads, general = how.passes(model)
    if isinstance(activations.values, SecondPass):
        work = partial(
            _made_again, how=how, read=activations.values.read, last=activations.values.last
        )
        found = engine().results(model, work, shards(activations.values.together))
    else:
        found = Here().results(model, partial(_seen, how=how), shards(tuple(activations.values)))
    for of_heads, of_generality, count in in_order(found):
        heads.sums.merge(of_heads)
        general.sums.merge(of_generality)
        advance(count)
    return heads, general


@dataclass(frozen=True, eq=False)
class _How:
    activations: Activations
    directions: Directions
    readout: HeadReadout

    def passes(self, model: Model) -> Passes:
        heads = HeadPass(model, self.activations, self.directions, readout=self.readout)
        return heads, GeneralityPass(self.activations)


def _made_again(
    model: Model, together: tuple[tuple[int, ...], ...], *, how: _How, read: Read, last: Last
) -> tuple[HeadSums, GeneralitySums, int]:
    return _seen(model, SecondPass(model, how.activations.groups, read, last, together), how=how)


def _seen(
    model: Model, batches: Iterable[Batch], *, how: _How
) -> tuple[HeadSums, GeneralitySums, int]:
    """What both looks see in batches of values, and how many prompts these are of."""
    (heads, general), count = how.passes(model), 0
    for batch in batches:
        heads.update(batch)
        general.update(batch)
        count += int(batch.present.sum())
    return heads.sums, general.sums, count

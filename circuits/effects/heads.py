"""What every attention head adds along the emotion direction: exact, without another pass.

A head's write is ``z @ W_O`` and the sublayer's write is their sum, so zeroing a head lowers
the projection of resid_mid on a direction v by exactly ``z @ W_O @ v``. That is the default
readout. Wang et al. 2025 (arXiv 2510.11328, stage 4.2) zero each head, run the model again and
read the same layer after the next norm; since everything upstream is unchanged, that too has a
closed form, ``norm(x) . v - norm(x - z W_O) . v`` (readout ``post_norm``).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.effects.activations import (
    Activations,
    PromptsByEmotion,
    as_activations,
    mean_stderr,
    mean_stderr_by_emotion,
)
from circuits.effects.directions import Directions
from circuits.errors import ModelError
from circuits.models.families import head_weights, needs
from circuits.models.protocol import Model, blocks_of, device_of, dtype_of
from circuits.records import Record

__all__ = ["QUANTILE", "HeadEffects", "HeadReadout", "head_effects", "random_directions"]

QUANTILE = 0.99
"""A random baseline is this quantile of |effect| along random directions, over all components
and draws."""


def random_directions(count: int, d_model: int, *, seed: int = 0) -> Float[Tensor, "draw d_model"]:
    """Unit vectors, uniform on the sphere."""
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, d_model, generator=random)
    return drawn / drawn.norm(dim=-1, keepdim=True)


HeadReadout = Literal["resid_mid", "post_norm"]


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
    needs(model, "effects of heads", "attention", "heads")
    found = as_activations(model, prompts)
    present, whole = found.present, found.complete
    vectors = directions.sel(sublayer="attn").vectors[:, 0]
    random, layers = random_directions(draws, model.cfg.d_model), list[dict[str, Tensor]]()
    for layer, W_O in enumerate(head_weights(model)):
        resid, z, v = found.resid_mid[:, :, layer], found.z[:, :, layer], vectors[:, layer]
        along = einsum(W_O, v, "head d_head d_model, emotion d_model -> emotion head d_head")
        effect = (z * along).sum(-1)
        # z of every emotion along the direction of one: the mean over emotions is what all share.
        centred = effect - (z.mean(1, keepdim=True) * along).sum(-1)
        baseline = einsum(resid, v, "context emotion d_model, emotion d_model -> context emotion")
        if readout == "post_norm":
            effect, baseline = _after_norm(model, layer, resid, z, W_O, v)
        mean = mean_stderr(z[whole])[0]
        write = einsum(mean - mean.mean(0), W_O, "emotion head k, head k m -> emotion head m")
        drawn = einsum(write, random, "emotion head m, draw m -> emotion head draw").abs()
        own = {"baseline": mean_stderr_by_emotion(baseline, present)[0]}
        own["mean"], own["stderr"] = mean_stderr_by_emotion(effect, present)
        own["centred"], own["centred_stderr"] = mean_stderr(centred[whole])
        own["random_baseline"] = drawn.flatten(1).quantile(QUANTILE, dim=1)
        layers.append(own)
    stacked: dict[str, Any] = {
        name: torch.stack([own[name] for own in layers], dim=1) for name in layers[0]
    }
    return HeadEffects(
        **stacked,
        emotion=directions.emotion,
        layer=directions.layer,
        head=tuple(range(found.z.shape[3])),
        readout=readout,
        n_contexts=tuple(present.sum(0).tolist()),
    )


def _after_norm(
    model: Model,
    layer: int,
    x: Float[Tensor, "context emotion d_model"],
    z: Float[Tensor, "context emotion head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    v: Float[Tensor, "emotion d_model"],
) -> tuple[Float[Tensor, "context emotion head"], Float[Tensor, "context emotion"]]:
    """What zeroing each head takes off the normed stream's projection, and the projection."""
    gain, eps = _rms_norm(model, layer)
    toward, d_model = gain * v, x.shape[-1]
    along = einsum(x, toward, "context emotion m, emotion m -> context emotion")[..., None]
    lost = (z * einsum(W_O, toward, "head k m, emotion m -> emotion head k")).sum(-1)
    # |x - write|^2 without the writes, which would fill [context emotion head d_model].
    cross = (z * einsum(x, W_O, "context emotion m, head k m -> context emotion head k")).sum(-1)
    gram = einsum(W_O, W_O, "head k m, head j m -> head k j")
    square = (z * einsum(z, gram, "... head k, head k j -> ... head j")).sum(-1)
    size = x.square().sum(-1)[..., None]
    left = (size - 2 * cross + square).clamp_min(0)
    whole = along / (size / d_model + eps).sqrt()
    return whole - (along - lost) / (left / d_model + eps).sqrt(), whole[..., 0]


def _rms_norm(model: Model, layer: int) -> tuple[Float[Tensor, " d_model"], float]:
    """Gain and epsilon of the norm before the MLP."""
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

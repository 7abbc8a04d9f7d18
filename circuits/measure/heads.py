"""What every attention head adds along the emotion direction: exact, without another pass.

A head's write is ``z @ W_O`` and the sublayer's write is their sum, so zeroing a head lowers
the projection of resid_mid on a direction v by exactly ``z @ W_O @ v``. That is the default
readout. Wang et al. 2025 (arXiv 2510.11328, stage 4.2) zero each head, run the model again and
read the same layer after the next norm; since everything upstream is unchanged, that too has a
closed form, ``norm(x) . v - norm(x - z W_O) . v`` (readout ``post_norm``).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.measure.controls import random_directions
from circuits.measure.directions import Directions
from circuits.measure.moments import Moments
from circuits.measure.sweep import Sweep
from circuits.model.protocol import Model, device_of, dtype_of
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["HeadEffects", "HeadReadout", "head_effects"]

HeadReadout = Literal["resid_mid", "post_norm"]

_SPLIT = "context emotion head d_head, emotion head d_head -> context emotion head"


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
    control: Float[Tensor, "emotion layer"]
    """Largest |centred effect| of the layer's heads along random directions (99th percentile)."""

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    readout: str
    n_contexts: tuple[int, ...]
    """Contexts per emotion behind ``mean``."""


def head_effects(
    model: Model,
    sweep: Sweep,
    directions: Directions,
    provenance: Provenance,
    *,
    readout: HeadReadout = "resid_mid",
    draws: int = 100,
) -> HeadEffects:
    """Effects of all heads from what one sweep kept.

    Raises:
        ModelError: ``post_norm`` is asked of a model whose norm before the MLP is no RMSNorm.
    """
    W_O = model.W_O.detach().float().cpu()
    after_attention = directions.sel(sublayer="attn").vectors[:, 0]
    shape = (len(directions.emotion), W_O.shape[0], W_O.shape[1])
    raw, centred = Moments(shape), Moments(shape)
    baseline, control = [], []
    rows = _effects(model, sweep, W_O, after_attention, readout)
    emotions = torch.arange(shape[0]).expand(len(sweep.present), -1)
    raw.update(rows.effect[sweep.present], emotions[sweep.present])
    whole = sweep.grid.complete
    centred.update(rows.contrast[whole].flatten(0, 1), emotions[whole].flatten())
    weights = sweep.present[..., None].double()
    baseline = (rows.baseline.double() * weights).sum(0) / weights.sum(0)
    control = torch.stack(
        [_control(sweep.z[whole][:, :, i], W_O[i], draws) for i in range(shape[1])], dim=1
    )
    plain, relative = raw.result(), centred.result()
    return HeadEffects(
        provenance=provenance,
        mean=plain.mean,
        stderr=plain.stderr,
        centred=relative.mean,
        centred_stderr=relative.stderr,
        baseline=baseline.float(),
        control=control,
        emotion=directions.emotion,
        layer=directions.layer,
        head=tuple(range(shape[2])),
        readout=readout,
        n_contexts=tuple(plain.count.tolist()),
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    effect: Float[Tensor, "context emotion layer head"]
    contrast: Float[Tensor, "context emotion layer head"]
    baseline: Float[Tensor, "context emotion layer"]


def _effects(
    model: Model, sweep: Sweep, W_O: Tensor, directions: Tensor, readout: HeadReadout
) -> _Rows:
    effect, contrast, baseline = [], [], []
    for layer in range(W_O.shape[0]):
        v, z, x = directions[:, layer], sweep.z[:, :, layer], sweep.resid_mid[:, :, layer]
        along = einsum(W_O[layer], v, "head d_head d_model, emotion d_model -> emotion head d_head")
        # z of every emotion along the direction of one: the mean over emotions is what all share.
        shared = einsum(
            z.mean(1), along, "context head d_head, emotion head d_head -> context emotion head"
        )
        linear = einsum(z, along, _SPLIT)
        if readout == "resid_mid":
            effect.append(linear)
            baseline.append(
                einsum(x, v, "context emotion d_model, emotion d_model -> context emotion")
            )
        else:
            found = _post_norm(model, layer, x, z, W_O[layer], v)
            effect.append(found[0])
            baseline.append(found[1])
        contrast.append(linear - shared)
    return _Rows(*(torch.stack(rows, dim=2) for rows in (effect, contrast, baseline)))


def _post_norm(
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
    ones = torch.ones(1, 1, model.cfg.d_model, device=device_of(model), dtype=dtype_of(model))
    with torch.no_grad():
        gain = model.blocks[layer].ln2(ones)[0, 0]
    return gain.float().cpu() * (1 + eps) ** 0.5, eps


def _control(
    z: Float[Tensor, "context emotion head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    draws: int,
) -> Float[Tensor, " emotion"]:
    random = random_directions(draws, W_O.shape[-1])
    apart = (z - z.mean(1, keepdim=True)).mean(0)
    write = einsum(apart, W_O, "emotion head d_head, head d_head d_model -> emotion head d_model")
    effects = einsum(write, random, "emotion head d_model, draw d_model -> emotion head draw")
    return effects.abs().flatten(1).quantile(0.99, dim=1)

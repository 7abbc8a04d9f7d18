"""Emotion directions: what is added to the residual stream when an emotion is asked for.

Within every complete context the mean over its emotions is taken off, so that what the context
itself says cancels; the rest is averaged over contexts, centred over emotions and normalised
(Wang et al. 2025, arXiv 2510.11328, stage 2). Directions are relative to the mean of the
emotions: they sum to zero before normalisation, and there is no neutral reference.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.measure.sweep import Sweep
from circuits.names import SUBLAYERS
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = [
    "Directions",
    "centred",
    "emotion_directions",
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


def emotion_directions(sweep: Sweep, provenance: Provenance, *, read: str = "prompt") -> Directions:
    """Directions of every emotion after every sublayer, from the sums of one sweep.

    Args:
        sweep: One pass over the accepted prompts.
        provenance: Of the result.
        read: Where the sweep read; kept in the record.

    Raises:
        DataError: no context has a reply accepted in every emotion; says which emotions lack.
    """
    sums, n = sweep.contrasts, int(sweep.contrasts.count.sum())
    if not n:
        raise DataError(_why_none(sweep))
    vectors, norm = unit(centred(sums.apart.sum(0), n))
    return Directions(
        provenance=provenance,
        vectors=vectors,
        norm=norm,
        rms=sums.rms.float(),
        emotion=sweep.grid.emotions,
        sublayer=SUBLAYERS,
        layer=tuple(range(vectors.shape[2])),
        n_contexts=n,
        n_left_out=len(sweep.present) - n,
        read=read,
    )


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


def _why_none(sweep: Sweep) -> str:
    present: Bool[Tensor, "context emotion"] = sweep.present
    lacking = {
        emotion: int((~present[:, i]).sum()) for i, emotion in enumerate(sweep.grid.emotions)
    }
    worst = max(lacking, key=lambda emotion: lacking[emotion])
    return (
        f"no context has an accepted reply in all of {', '.join(sweep.grid.emotions)}; of "
        f"{len(present)} contexts {lacking[worst]} lack {worst!r}. "
        "Use more contexts, another judge, or drop that emotion"
    )

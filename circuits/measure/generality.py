"""Do emotion directions hold beyond the contexts that they were made from?

Three answers per sublayer and layer: the cosine between directions from two random halves of
the contexts; the cosine between a theme's own direction and the one made without that theme;
and how often the nearest direction, made without the theme, names the emotion of a context of
that theme. The control repeats the last with emotions shuffled within contexts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import DataError
from circuits.measure.directions import contrast, unit
from circuits.measure.sweep import Sweep
from circuits.names import SUBLAYERS
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["Generality", "direction_generality"]


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
    control: Float[Tensor, "sublayer layer"]
    """The same, emotions shuffled within the contexts that the directions are made from."""

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    theme: tuple[str, ...]
    n_splits: int


def direction_generality(
    sweep: Sweep, provenance: Provenance, *, n_splits: int = 50, seed: int = 0
) -> Generality:
    """Measure how far the directions generalise; only complete contexts are used.

    Raises:
        DataError: fewer than two themes have a complete context.
    """
    complete = sweep.grid.complete
    kept = [c for c, whole in zip(sweep.grid.contexts, complete.tolist(), strict=True) if whole]
    themes = tuple(dict.fromkeys(context.theme for context in kept))
    if len(themes) < 2:
        raise DataError(
            f"generality needs complete contexts of at least two themes, found {len(themes)}"
        )
    residual = torch.stack([sweep.resid_mid[complete], sweep.resid_post[complete]], dim=2)
    membership = torch.tensor([themes.index(context.theme) for context in kept])
    random = torch.Generator().manual_seed(seed)
    halves = _split_half(residual, n_splits, random)
    shuffled = _shuffle_emotions(residual, random)
    return Generality(
        provenance=provenance,
        split_half=halves.mean(0),
        split_half_low=halves.quantile(0.025, dim=0),
        without_theme=_without_theme(residual, membership, len(themes)),
        accuracy=_held_out_accuracy(residual, residual, membership, len(themes)),
        control=_held_out_accuracy(residual, shuffled, membership, len(themes)),
        emotion=sweep.grid.emotions,
        sublayer=SUBLAYERS,
        layer=tuple(range(residual.shape[3])),
        theme=themes,
        n_splits=n_splits,
    )


def _split_half(
    residual: Float[Tensor, "context emotion sublayer layer d_model"],
    n_splits: int,
    random: torch.Generator,
) -> Float[Tensor, "split emotion sublayer layer"]:
    apart = residual - residual.mean(dim=1, keepdim=True)
    total, n = apart.sum(0), len(apart)
    cosines = []
    for _ in range(n_splits):
        half = torch.randperm(n, generator=random)[: n // 2]
        first = apart[half].sum(0)
        cosines.append((unit(first)[0] * unit(total - first)[0]).sum(-1))
    return torch.stack(cosines)


def _without_theme(
    residual: Float[Tensor, "context emotion sublayer layer d_model"],
    membership: Int[Tensor, " context"],
    n_themes: int,
) -> Float[Tensor, "emotion sublayer layer theme"]:
    cosines = []
    for theme in range(n_themes):
        own = membership == theme
        cosines.append(
            (unit(contrast(residual[own]))[0] * unit(contrast(residual[~own]))[0]).sum(-1)
        )
    return torch.stack(cosines, dim=-1)


def _held_out_accuracy(
    tested: Float[Tensor, "context emotion sublayer layer d_model"],
    made_from: Float[Tensor, "context emotion sublayer layer d_model"],
    membership: Int[Tensor, " context"],
    n_themes: int,
) -> Float[Tensor, "sublayer layer"]:
    right = torch.zeros(tested.shape[2:4])
    truth = torch.arange(tested.shape[1])[None, None, None]
    for theme in range(n_themes):
        own = membership == theme
        directions = unit(contrast(made_from[~own]))[0]
        middle = made_from[~own].mean(dim=(0, 1))
        scores = torch.einsum("cesld,osld->csleo", tested[own] - middle, directions)
        right += (scores.argmax(-1) == truth).sum(dim=(0, -1))
    return right / (tested.shape[0] * tested.shape[1])


def _shuffle_emotions(
    residual: Float[Tensor, "context emotion sublayer layer d_model"], random: torch.Generator
) -> Float[Tensor, "context emotion sublayer layer d_model"]:
    order = torch.rand(residual.shape[:2], generator=random).argsort(dim=1)
    return residual[torch.arange(len(residual))[:, None], order]

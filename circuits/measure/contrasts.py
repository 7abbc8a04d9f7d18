"""Sums over complete contexts, from which directions and their generality are made.

Contexts come in batches, and only sums per theme are held: of each emotion's residual stream
minus the mean over the emotions of its context, of the same with emotions shuffled within
contexts (the control of generality), and of those means.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Batch", "ContrastSums", "Contrasts", "Themed"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Whole contexts at the position that is read; zero where a cell is missing."""

    places: Int[Tensor, " context"]
    """Their places in the grid."""
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
    """Place of a complete context in the grid -> place of its theme; in the grid's order."""


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

    def __init__(
        self,
        themes: Themed,
        shape: tuple[int, int, int],
        *,
        half: bool = False,
        seed: int = 0,
    ) -> None:
        """Sums for ``shape`` emotions, layers and d_model.

        Args:
            themes: Themes of the complete contexts.
            shape: Emotions, layers, d_model.
            half: Round activations to float16 first, as the published dumps do.
            seed: Of the shuffled emotions.
        """
        self.shape = n_emotions, n_layers, d_model = shape
        size = (len(themes.theme), n_emotions, 2, n_layers, d_model)
        self._themes, self._half = themes, half
        self._apart, self._shuffled = (torch.zeros(size, dtype=torch.float64) for _ in range(2))
        self._middle = torch.zeros(size[:1] + size[2:], dtype=torch.float64)
        self._rms = torch.zeros(2, n_layers, dtype=torch.float64)
        self._count = torch.zeros(size[0], dtype=torch.long)
        random = torch.Generator().manual_seed(seed)
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
            self._themes, self._count, self._apart, self._shuffled, self._middle,
            self._rms / max(1, int(self._count.sum())),
        )  # fmt: skip

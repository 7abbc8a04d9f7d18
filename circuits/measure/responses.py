"""Sums of what injected doses do to the readout, batch by batch of prompts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.measure.moments import Moments

__all__ = ["Responses", "Variants"]


@dataclass(frozen=True, eq=False)
class Variants:
    """What is added at each sublayer: emotion by emotion all doses, then random directions."""

    vectors: Float[Tensor, "sublayer layer variant d_model"]
    lengths: Float[Tensor, "sublayer layer variant"]
    n_doses: int


class Responses:
    """Running sums of every emotion's responses to its own doses, and to random directions."""

    def __init__(self, variants: Variants, n_emotions: int) -> None:
        n_sublayers, n_layers, n_variants = variants.lengths.shape
        shape = (n_emotions, n_sublayers, n_layers)
        n_doses = variants.n_doses
        self._lengths, self._n_doses = variants.lengths, n_doses
        self.by_dose, self.slope = Moments((*shape, n_doses)), Moments(shape)
        self.random = Moments((*shape, n_variants - n_emotions * n_doses))
        self.baseline = Moments((n_emotions,))

    def update(
        self,
        scores: Float[Tensor, "prompt sublayer layer variant emotion"],
        baseline: Float[Tensor, "prompt emotion"],
        present: Bool[Tensor, "prompt emotion"],
    ) -> None:
        """Add the prompts of a batch to the emotions that were accepted in their contexts."""
        change = scores - baseline[:, None, None, None]
        response = change / self._lengths[..., None].clamp_min(1e-12)
        n_emotions = present.shape[1]
        for e in range(n_emotions):
            own = response[present[:, e]][..., e]
            mine = own[..., e * self._n_doses : (e + 1) * self._n_doses]
            group = torch.full((len(own),), e)
            self.by_dose.update(mine, group)
            self.slope.update(mine.mean(-1), group)
            self.random.update(own[..., n_emotions * self._n_doses :], group)
            self.baseline.update(baseline[present[:, e], e], group)

    def merge(self, other: "Responses") -> None:
        """Add the prompts that another one has seen."""
        for name in ("by_dose", "slope", "random", "baseline"):
            getattr(self, name).merge(getattr(other, name))

    def control(self) -> Float[Tensor, "emotion sublayer layer"]:
        """The largest mean response to a random direction; zero where none was tried."""
        mean = self.random.result().mean.abs()
        return mean.amax(-1) if mean.shape[-1] else mean.new_zeros(mean.shape[:-1])

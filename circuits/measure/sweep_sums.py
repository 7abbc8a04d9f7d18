"""The sums that one pass over the accepted prompts makes; parts of it are merged."""

from typing import Any

import torch
from torch import Tensor

from circuits.measure.contrasts import Batch, ContrastSums
from circuits.measure.moments import Moments

__all__ = ["SweepSums"]


class SweepSums:
    """Sums of residual streams, head outputs and neuron activations."""

    def __init__(self, contrasts: ContrastSums, n_heads: int, d_head: int, d_mlp: int) -> None:
        """Nothing seen yet.

        Args:
            contrasts: Sums of residual streams, empty.
            n_heads: Heads of a layer.
            d_head: Width of a head.
            d_mlp: Neurons of a layer.
        """
        n_emotions, n_layers, _ = contrasts.shape
        self._contrasts = contrasts
        self._z = Moments((n_emotions, n_layers, n_heads, d_head))
        neurons = (n_emotions, n_layers, d_mlp)
        self._raw, self._above, self._centred = (Moments(neurons) for _ in range(3))
        self._shared = Moments((1, *neurons[1:]))

    def update(self, batch: Batch, post: Tensor, cells: Tensor, present: Tensor) -> None:
        """Add whole contexts.

        Args:
            batch: Their streams and head outputs.
            post: ``[row layer neuron]``, a row per prompt.
            cells: ``[row 2]``, context and emotion of every row.
            present: ``[context emotion]``, which cells the whole grid has.
        """
        self._contrasts.update(batch)
        whole = batch.z[batch.complete]
        self._z.update(whole.flatten(0, 1), torch.arange(whole.shape[1]).repeat(len(whole)))
        self._raw.update(post, cells[:, 1])
        self._above.update(post.clamp_min(0), cells[:, 1])
        # A batch holds whole contexts, so the rows of a complete context are neighbours.
        complete = present[cells[:, 0]].all(dim=1)
        if not bool(complete.any()):
            return
        grouped = post[complete].unflatten(0, (-1, present.shape[1]))
        middle = grouped.mean(dim=1, keepdim=True)
        self._centred.update((grouped - middle).flatten(0, 1), cells[complete, 1])
        self._shared.update(middle[:, 0], torch.zeros(len(middle), dtype=torch.long))

    def merge(self, other: "SweepSums") -> None:
        """Add the contexts that another one has seen."""
        for name, own in vars(self).items():
            own.merge(vars(other)[name])

    def result(self) -> dict[str, Any]:
        """The fields of a sweep that are made of sums."""
        return {
            "contrasts": self._contrasts.result(),
            "z": self._z.result().mean,
            "post": self._raw.result(),
            "post_above_zero": self._above.result(),
            "post_centred": self._centred.result(),
            "post_shared": self._shared.result(),
        }

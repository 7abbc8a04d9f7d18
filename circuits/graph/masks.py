"""Circuits as masks: which heads and neurons are inside, for many circuits at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import CircuitError
from circuits.graph.circuit import Circuit
from circuits.model.protocol import Model

__all__ = ["Masks", "random_masks", "shuffled"]


@dataclass(frozen=True, eq=False)
class Masks:
    """Which heads and neurons are inside; a row is a circuit."""

    heads: Bool[Tensor, "row layer head"]
    neurons: Bool[Tensor, "row layer neuron"]

    def __len__(self) -> int:
        """How many circuits."""
        return len(self.heads)

    def __getitem__(self, rows: slice | list[int]) -> "Masks":
        """Some of the circuits."""
        return Masks(self.heads[rows], self.neurons[rows])

    @property
    def flat(self) -> Bool[Tensor, "row component"]:
        """One column per component: heads, then neurons, layer by layer."""
        return torch.cat([self.heads.flatten(1), self.neurons.flatten(1)], dim=1)

    def like(self, flat: Bool[Tensor, "row component"]) -> "Masks":
        """Masks of the same model from their :attr:`flat` form."""
        heads, neurons = self.heads.shape[1:], self.neurons.shape[1:]
        own, rest = flat.split([heads.numel(), neurons.numel()], dim=1)
        return Masks(own.reshape(len(flat), *heads), rest.reshape(len(flat), *neurons))

    def spread(self, values: Float[Tensor, " layer"]) -> Float[Tensor, " component"]:
        """A number per layer and kind for every component: its place in the flat form."""
        _, layers, heads = self.heads.shape
        own = values.repeat_interleave(heads)
        return torch.cat([own, values.repeat_interleave(self.neurons.shape[2]) + layers])

    @classmethod
    def of(cls, model: Model, circuits: Sequence[Circuit]) -> "Masks":
        """The circuits of a model.

        Raises:
            CircuitError: a circuit names a head or neuron that the model does not have.
        """
        cfg = model.cfg
        heads = torch.zeros(len(circuits), cfg.n_layers, cfg.n_heads, dtype=torch.bool)
        neurons = torch.zeros(len(circuits), cfg.n_layers, cfg.d_mlp, dtype=torch.bool)
        for row, circuit in enumerate(circuits):
            _fill(heads[row], circuit.heads, circuit.emotion, "head")
            _fill(neurons[row], circuit.neurons, circuit.emotion, "neuron")
        return cls(heads, neurons)


def random_masks(circuit: Masks, draws: int, random: torch.Generator) -> Masks:
    """Random circuits with as many heads and neurons in every layer, from those it has not.

    Where a layer has too few others, all of them and some of the circuit's own are taken, so that
    the sizes agree.

    Args:
        circuit: One circuit.
        draws: How many.
        random: Decides the draws.
    """
    own = circuit.flat[0]
    # Sorted by layer and kind, then others before own, then at random: the first ones are taken.
    order = torch.rand(draws, len(own), generator=random) + own
    return circuit.like(_first_of_groups(order, own[None], _groups(circuit)))


def shuffled(
    masks: Masks, draws: int, random: torch.Generator
) -> Bool[Tensor, "draw row component"]:
    """Nested circuits at random: as many per layer and kind as each of ``masks``, in flat form."""
    flat, groups = masks.flat, _groups(masks)
    order = torch.rand(draws, flat.shape[1], generator=random)
    return torch.stack([_first_of_groups(order, row[None], groups) for row in flat], dim=1)


def _first_of_groups(
    order: Float[Tensor, "draw component"],
    sizes_of: Bool[Tensor, "1 component"],
    groups: Float[Tensor, " component"],
) -> Bool[Tensor, "draw component"]:
    """In every group, as many of the first in ``order`` as ``sizes_of`` has there."""
    count = int(groups.max()) + 1
    index = groups.long()
    sizes = torch.zeros(count, dtype=torch.long).index_add(0, index, sizes_of[0].long())
    # Orders lie between 0 and 2, so groups stay apart.
    place = (order + 2 * groups).argsort(dim=1).argsort(dim=1)
    starts = torch.bincount(index, minlength=count).cumsum(0)
    starts = torch.cat([starts.new_zeros(1), starts[:-1]])
    return place - starts[index] < sizes[index]


def _groups(masks: Masks) -> Float[Tensor, " component"]:
    layers = masks.heads.shape[1]
    return masks.spread(torch.arange(layers, dtype=torch.float64))


def _fill(
    mask: Bool[Tensor, "layer component"],
    places: Sequence[tuple[int, int]],
    emotion: str,
    kind: str,
) -> None:
    for layer, index in places:
        if layer >= mask.shape[0] or index >= mask.shape[1]:
            raise CircuitError(
                f"the circuit of {emotion!r} names {kind} {index} of layer {layer}; the model "
                f"has {mask.shape[0]} layers of {mask.shape[1]} {kind}s. "
                "Is it another model's circuit?"
            )
        mask[layer, index] = True

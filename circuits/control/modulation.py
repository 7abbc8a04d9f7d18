"""From circuits and directions to edits of the model.

Modulation adds, at the selected heads and neurons, what the model itself does differently when
an emotion is asked for (Wang et al. 2025, arXiv 2510.11328, stage 7); strength 1 is the model's
own difference. Steering adds an emotion direction to the residual stream (stage 3); strength 1
is the length of the model's own difference at that layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.errors import CircuitError
from circuits.graph.circuit import Circuit, Node
from circuits.measure.directions import Directions
from circuits.measure.means import Differences
from circuits.model.edits import Add, When
from circuits.names import head_name, neuron_name

__all__ = ["Modulation", "Steering", "enhance", "random_like", "steer"]


@dataclass(frozen=True)
class Modulation:
    """How a circuit is written into the model."""

    strength: float = 1.0
    """Multiple of the model's own difference; negative suppresses."""
    when: When = "prompt"
    """Once, as the prompt is read, or at every step of the reply as well."""


@dataclass(frozen=True)
class Steering:
    """How a direction is added to the residual stream."""

    layers: tuple[int, ...]
    strength: float = 1.0
    when: When = "prompt"


def enhance(circuit: Circuit, differences: Differences, how: Modulation) -> list[Add]:
    """Edits that write the circuit's own differences at the last position.

    Raises:
        CircuitError: the circuit names a head or neuron that the differences do not have.
        AxisError: its emotion was not measured.
    """
    e = differences.index("emotion", circuit.emotion)
    z, post = torch.zeros_like(differences.z[e]), torch.zeros_like(differences.post[e])
    _check(circuit, tuple(z.shape[:2]), tuple(post.shape))
    for layer, head in circuit.heads:
        z[layer, head] = how.strength * differences.z[e, layer, head]
    for layer, neuron in circuit.neurons:
        post[layer, neuron] = how.strength * differences.post[e, layer, neuron]
    return _at_layers("z", z, how.when) + _at_layers("post", post, how.when)


def steer(directions: Directions, emotion: str, how: Steering) -> list[Add]:
    """Edits that add the emotion's direction after the MLP of the chosen layers.

    Several layers share the strength, so that it means the same for one layer and for many.

    Raises:
        AxisError: the emotion or a layer does not exist.
    """
    chosen = directions.sel(emotion=emotion, sublayer="mlp", layer=how.layers)
    size = how.strength / len(how.layers) * chosen.norm[0, 0]
    vectors = size[:, None] * chosen.vectors[0, 0]
    return [
        Add("resid_post", layer, vector, when=how.when)
        for layer, vector in zip(how.layers, vectors, strict=True)
    ]


def random_like(
    circuit: Circuit, differences: Differences, *, seed: int, same_layers: bool = True
) -> Circuit:
    """As many heads and neurons as the circuit has, drawn from those it has not.

    Args:
        circuit: Gives the numbers.
        differences: Give the model's size.
        seed: Decides the draw.
        same_layers: Draw as many per layer as the circuit has there (the harder control, since
            what a layer knows is often spread over its heads), or anywhere.
    """
    random = torch.Generator().manual_seed(seed)
    heads = _draw(circuit.heads, differences.z.shape[1:3], random, same_layers)
    neurons = _draw(circuit.neurons, differences.post.shape[1:3], random, same_layers)
    nodes = [Node(head_name(*place), "head", place[0]) for place in heads]
    nodes += [Node(neuron_name(*place), "neuron", place[0]) for place in neurons]
    return Circuit(circuit.emotion, tuple(nodes), (), provenance=circuit.provenance)


def _draw(
    taken: Sequence[tuple[int, int]],
    shape: Sequence[int],
    random: torch.Generator,
    same_layers: bool,
) -> list[tuple[int, int]]:
    # What is left of a layer, or of the model, may be less than was taken; then all of it is.
    left = torch.ones(shape[0], shape[1], dtype=torch.bool)
    for place in taken:
        left[place] = False
    if not same_layers:
        free = left.nonzero()
        chosen = free[torch.randperm(len(free), generator=random)[: len(taken)]]
        return sorted((int(layer), int(index)) for layer, index in chosen)
    drawn: list[tuple[int, int]] = []
    for layer in sorted({layer for layer, _ in taken}):
        free = left[layer].nonzero()[:, 0]
        count = sum(place == layer for place, _ in taken)
        order = torch.randperm(len(free), generator=random)[:count]
        drawn += [(layer, int(index)) for index in free[order]]
    return drawn


def _at_layers(site: str, values: Tensor, when: When) -> list[Add]:
    return [Add(site, layer, value, when=when) for layer, value in enumerate(values) if value.any()]


def _check(circuit: Circuit, heads: tuple[int, ...], neurons: tuple[int, ...]) -> None:
    for parts, shape, kind in (
        (circuit.heads, heads, "head"),
        (circuit.neurons, neurons, "neuron"),
    ):
        for layer, index in parts:
            if layer >= shape[0] or index >= shape[1]:
                raise CircuitError(
                    f"the circuit names {kind} {index} of layer {layer}; the model has "
                    f"{shape[0]} layers of {shape[1]} {kind}s. Is it another model's circuit?"
                )

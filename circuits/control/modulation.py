"""From circuits and directions to edits of the model.

Modulation adds, at the selected heads and neurons, what the model itself does differently when
an emotion is asked for (Wang et al. 2025, arXiv 2510.11328, stage 7); strength 1 is the model's
own difference. Steering adds an emotion direction to the residual stream (stage 3); strength 1
is the length of the model's own difference at that layer. Driving adds to neurons a multiple of
what they do on average when the emotion is asked for.

All of them write at the last position of the prompt, once; at that and at every position of the
reply; or at every position of prompt and reply (:data:`TIMES`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from circuits.errors import CircuitError
from circuits.graph.circuit import Circuit, Node
from circuits.graph.core import Order
from circuits.graph.same_model import check_same_model
from circuits.measure.directions import Directions
from circuits.measure.means import ComponentMeans, Differences
from circuits.model.edits import Add, When
from circuits.names import head_name, neuron_name

__all__ = [
    "TIMES",
    "Along",
    "How",
    "Driving",
    "Modulation",
    "Scale",
    "Steering",
    "Where",
    "blend",
    "enhance",
    "drive",
    "published_steering",
    "random_like",
    "steer",
]

Where = Literal["last", "all"]
"""Positions of a call that are written to."""

TIMES: tuple[tuple[When, Where], ...] = (("prompt", "last"), ("every", "last"), ("every", "all"))
"""(when, where): at the prompt's end, once; there and at every token of the reply; everywhere."""

Along = Literal["others", "plain", "probe"]
"""Steering directions: the emotion minus the mean of the emotions (published), the emotion minus
the plain prompt, or the weights of a linear probe."""

Scale = Literal["difference", "rms"]
"""Strength 1 of steering: the model's own difference, shared by the layers, or (published) the root
mean square of the running residual stream, at every layer."""


@dataclass(frozen=True)
class Modulation:
    """How a circuit is written into the model."""

    strength: float = 1.0
    """Multiple of the model's own difference; negative suppresses."""
    when: When = "prompt"
    """Once, as the prompt is read, or at every step of the reply as well."""
    heads_at: Where = "last"
    neurons_at: Where = "last"
    by_emotion: tuple[tuple[str, float], ...] = ()
    """Strengths of single emotions, in place of ``strength``."""
    order: Order = "product"
    """Which parts of a circuit are written, if not all are."""

    def strength_of(self, emotion: str) -> float:
        """The strength for one emotion.

        >>> Modulation(1.0, by_emotion=(("anger", 0.8),)).strength_of("anger")
        0.8
        """
        return dict(self.by_emotion).get(emotion, self.strength)


@dataclass(frozen=True)
class Steering:
    """How a direction is added to the residual stream."""

    layers: tuple[int, ...]
    strength: float = 1.0
    when: When = "prompt"
    scale: Scale = "difference"
    at: Where = "last"
    along: Along = "others"
    by_emotion: tuple[tuple[str, float], ...] = ()

    def strength_of(self, emotion: str) -> float:
        """The strength for one emotion."""
        return dict(self.by_emotion).get(emotion, self.strength)


@dataclass(frozen=True)
class Driving:
    """How neurons are driven."""

    strength: float = 1.0
    """Multiple of a neuron's own mean activation when the emotion is asked for."""
    when: When = "prompt"
    at: Where = "last"
    by_emotion: tuple[tuple[str, float], ...] = ()

    def strength_of(self, emotion: str) -> float:
        """The strength for one emotion."""
        return dict(self.by_emotion).get(emotion, self.strength)


How = Modulation | Steering | Driving


def enhance(circuit: Circuit, differences: Differences, how: Modulation) -> list[Add]:
    """Edits that write the circuit's own differences.

    Raises:
        CircuitError: the circuit is of a model of another size, or names a head or neuron that
            the differences do not have.
        AxisError: its emotion was not measured.
    """
    check_same_model(
        f"the circuit of {circuit.emotion}", circuit.provenance.model,
        differences.provenance.model, any_revision=True,
    )  # fmt: skip
    e = differences.index("emotion", circuit.emotion)
    z, post = torch.zeros_like(differences.z[e]), torch.zeros_like(differences.post[e])
    _check(circuit, tuple(z.shape[:2]), tuple(post.shape))
    strength = how.strength_of(circuit.emotion)
    for layer, head in circuit.heads:
        z[layer, head] = strength * differences.z[e, layer, head]
    for layer, neuron in circuit.neurons:
        post[layer, neuron] = strength * differences.post[e, layer, neuron]
    return [
        *_at_layers("z", z, how.when, how.heads_at),
        *_at_layers("post", post, how.when, how.neurons_at),
    ]


def blend(
    circuits: Mapping[str, Circuit],
    differences: Differences,
    weights: Mapping[str, float],
    how: Modulation,
) -> list[Add]:
    """Edits of several emotions' circuits at once, each at its weight times its strength.

    Parts that circuits share get the sum of what each writes. A negative weight suppresses.

    Raises:
        CircuitError: an emotion has no circuit, or a circuit is another model's.
    """
    lacking = sorted(set(weights) - set(circuits))
    if lacking:
        raise CircuitError(
            f"there is no circuit of {lacking[0]!r}; there are {', '.join(circuits) or 'none'}"
        )
    parts: dict[tuple[str, int, Where], Add] = {}
    for emotion, weight in weights.items():
        strength = weight * how.strength_of(emotion)
        alone = replace(how, strength=strength, by_emotion=())
        for own in enhance(circuits[emotion], differences, alone):
            place = (own.site, own.layer, "last" if own.positions == "last" else "all")
            before = parts.get(place)
            parts[place] = own if before is None else replace(own, value=before.value + own.value)
    return list(parts.values())


def drive(
    neurons: Sequence[tuple[int, int]], means: ComponentMeans, emotion: str, how: Driving
) -> list[Add]:
    """Edits that add to each neuron its mean activation under the emotion, times the strength.

    Args:
        neurons: (layer, neuron), of any selection.
        means: Mean activations when emotions are asked for.
        emotion: Whose means are added.
        how: How strongly and when.

    Raises:
        AxisError: the emotion, a layer or a neuron does not exist.
    """
    e, post = means.index("emotion", emotion), torch.zeros_like(means.post[0])
    for layer, neuron in neurons:
        place = means.index("layer", layer), means.index("neuron", neuron)
        post[place] = how.strength_of(emotion) * means.post[e][place]
    return _at_layers("post", post, how.when, how.at)


def steer(directions: Directions, emotion: str, how: Steering) -> list[Add]:
    """Edits that add the emotion's direction after the MLP of the chosen layers.

    Several layers share the strength, so that it means the same for one layer and for many.

    Raises:
        AxisError: the emotion or a layer does not exist.
    """
    chosen = directions.sel(emotion=emotion, sublayer="mlp", layer=how.layers)
    running = how.scale == "rms"
    size = how.strength_of(emotion) / len(how.layers) * chosen.norm[0, 0]
    if running:
        size = torch.full_like(size, how.strength_of(emotion))
    vectors = size[:, None] * chosen.vectors[0, 0]
    return [
        Add("resid_post", layer, vector, how.at, how.when, times_rms=running)
        for layer, vector in zip(how.layers, vectors, strict=True)
    ]


def published_steering(n_layers: int) -> Steering:
    """Steering as published: layers 11-20 of 28, scaled by depth, 8 times the running rms.

    >>> published_steering(28).layers
    (11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
    """
    first, last = round(11 / 28 * n_layers), round(20 / 28 * n_layers)
    layers = tuple(range(min(first, n_layers - 1), min(last, n_layers - 1) + 1))
    return Steering(layers, 8.0, "every", "rms")


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


def _at_layers(site: str, values: Tensor, when: When, at: Where) -> list[Add]:
    return [Add(site, i, value, at, when) for i, value in enumerate(values) if value.any()]


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

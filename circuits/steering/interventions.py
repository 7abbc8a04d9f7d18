"""From circuits and directions to edits of the model.

Modulation adds, at the selected heads and neurons, what the model itself does differently when
an emotion is asked for (Wang et al. 2025, arXiv 2510.11328, stage 7); strength 1 is the model's
own difference. Steering adds a direction to the residual stream (stage 3); strength 1 is the length
of the model's own difference at that layer. The direction is the emotion minus the mean of the
emotions; or the emotion minus the neutral prompt; or the weights by which a linear probe tells the
emotion from the neutral prompt (logistic regression, as in Zou et al. 2023, arXiv 2310.01405), as
long as the difference to the neutral prompt. Neuron steering adds to neurons a multiple of what
they do on average when the emotion is asked for.

All of them write at the last position of the prompt, once; at that and at every position of the
reply; or at every position of prompt and reply (:data:`TIMES`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit.ablate import members
from circuits.circuit.circuit import Circuit, Node, Order, check_same_model, core
from circuits.effects.activations import ComponentMeans, Differences
from circuits.effects.directions import Directions, unit
from circuits.effects.neurons import NeuronEffects
from circuits.errors import CircuitError, DataError
from circuits.models.edits import Add, When
from circuits.models.engines import engine
from circuits.models.generate import batches
from circuits.models.memory import halving
from circuits.models.protocol import Model, device_of
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.names import head_name, neuron_name
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompts, neutral_prompts
from circuits.provenance import current
from circuits.running import advance, in_force

__all__ = [
    "TIMES",
    "Along",
    "InterventionSettings",
    "Interventions",
    "Modulation",
    "NeuronSteering",
    "Scale",
    "Steering",
    "Where",
    "blend",
    "circuit_edits",
    "component_edits",
    "neuron_edits",
    "other_directions",
    "published_steering",
    "random_like",
    "residuals",
    "steer",
    "strongest_neurons",
]

Where = Literal["last", "all"]
"""Positions of a call that are written to."""

TIMES: tuple[tuple[When, Where], ...] = (("prompt", "last"), ("every", "last"), ("every", "all"))
"""(when, where): at the prompt's end, once; there and at every token of the reply; everywhere."""

Along = Literal["others", "neutral", "probe"]
"""Steering directions: the emotion minus the mean of the emotions (published), the emotion minus
the neutral prompt, or the weights of a linear probe."""

Scale = Literal["difference", "rms"]
"""Strength 1 of steering: the model's own difference, shared by the layers, or (published) the root
mean square of the running residual stream, at every layer."""


class _ByEmotion:
    strength: float
    by_emotion: tuple[tuple[str, float], ...]

    def strength_of(self, emotion: str) -> float:
        """The strength for one emotion.

        >>> Modulation(1.0, by_emotion=(("anger", 0.8),)).strength_of("anger")
        0.8
        """
        return dict(self.by_emotion).get(emotion, self.strength)


@dataclass(frozen=True)
class Modulation(_ByEmotion):
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
    """Which components of a circuit are written, if not all are."""


@dataclass(frozen=True)
class Steering(_ByEmotion):
    """How a direction is added to the residual stream."""

    layers: tuple[int, ...]
    strength: float = 1.0
    when: When = "prompt"
    scale: Scale = "difference"
    at: Where = "last"
    along: Along = "others"
    by_emotion: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class NeuronSteering(_ByEmotion):
    """How neurons are driven."""

    strength: float = 1.0
    """Multiple of a neuron's own mean activation when the emotion is asked for."""
    when: When = "prompt"
    at: Where = "last"
    by_emotion: tuple[tuple[str, float], ...] = ()


InterventionSettings = Modulation | Steering | NeuronSteering


def circuit_edits(circuit: Circuit, differences: Differences, how: Modulation) -> list[Add]:
    """Edits that write the circuit's own differences.

    Raises:
        CircuitError: the circuit is of a model of another size, or names a head or neuron that
            the differences do not have.
        AxisError: its emotion was not measured.
    """
    return component_edits(*_written(circuit, differences, how.strength_of(circuit.emotion)), how)


def _written(circuit: Circuit, differences: Differences, strength: float) -> tuple[Tensor, Tensor]:
    check_same_model(
        f"the circuit of {circuit.emotion}",
        circuit.provenance.model,
        differences.provenance.model,
        any_revision=True,
    )
    e = differences.index("emotion", circuit.emotion)
    z, post = differences.z[e], differences.post[e]
    heads, neurons = members(circuit, z.shape[0], z.shape[1], post.shape[1])
    return strength * z.where(heads[..., None], 0.0), strength * post.where(neurons, 0.0)


def component_edits(
    z: Float[Tensor, "layer head d_head"], post: Float[Tensor, "layer neuron"], how: Modulation
) -> list[Add]:
    """Edits that add these values, where they are not zero; ``how`` says when and at which places.

    >>> component_edits(torch.zeros(2, 1, 4), torch.eye(2), Modulation())[0].site
    'post'
    """
    sites: tuple[tuple[str, Tensor, Where], ...]
    sites = (("z", z, how.heads_at), ("post", post, how.neurons_at))
    return [
        Add(site, layer, value, at, how.when)
        for site, values, at in sites
        for layer, value in enumerate(values)
        if value.any()
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
    z, post = torch.zeros_like(differences.z[0]), torch.zeros_like(differences.post[0])
    for emotion, weight in weights.items():
        own = _written(circuits[emotion], differences, weight * how.strength_of(emotion))
        z, post = z + own[0], post + own[1]
    return component_edits(z, post, how)


def neuron_edits(
    neurons: Sequence[tuple[int, int]], means: ComponentMeans, emotion: str, how: NeuronSteering
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
    return component_edits(
        torch.zeros_like(means.z[e]), post, Modulation(when=how.when, neurons_at=how.at)
    )


def steer(directions: Directions, emotion: str, how: Steering) -> list[Add]:
    """Edits that add the emotion's direction after the MLP of the chosen layers.

    Several layers share the strength, so that it means the same for one layer and for many.

    Raises:
        AxisError: the emotion or a layer does not exist.
    """
    chosen = directions.sel(emotion=emotion, sublayer="mlp", layer=how.layers)
    strength, running = how.strength_of(emotion), how.scale == "rms"
    norm = chosen.norm[0, 0]
    size = torch.full_like(norm, strength) if running else strength / len(how.layers) * norm
    return [
        Add("resid_post", layer, vector, how.at, how.when, times_rms=running)
        for layer, vector in zip(how.layers, size[:, None] * chosen.vectors[0, 0], strict=True)
    ]


def published_steering(n_layers: int) -> Steering:
    """Steering as published: layers 11-20 of 28, scaled by depth, 8 times the running rms.

    >>> published_steering(28).layers
    (11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
    """
    first, last = round(11 / 28 * n_layers), round(20 / 28 * n_layers)
    layers = tuple(range(min(first, n_layers - 1), min(last, n_layers - 1) + 1))
    return Steering(layers, 8.0, "every", "rms")


def random_like(circuit: Circuit, differences: Differences, *, same_layers: bool = True) -> Circuit:
    """As many heads and neurons as the circuit has, drawn from those it has not.

    The seed in force (:func:`~circuits.running.execution`) decides the draw.

    Args:
        circuit: Gives the numbers.
        differences: Give the model's size.
        same_layers: Draw as many per layer as the circuit has there (the harder baseline, since
            what a layer knows is often spread over its heads), or anywhere.
    """
    random = torch.Generator().manual_seed(in_force().seed)
    heads = _draw(circuit.heads, differences.z.shape[1:3], random, same_layers)
    neurons = _draw(circuit.neurons, differences.post.shape[1:3], random, same_layers)
    nodes = [Node(head_name(*place), "head", place[0]) for place in heads]
    nodes += [Node(neuron_name(*place), "neuron", place[0]) for place in neurons]
    return Circuit(circuit.emotion, tuple(nodes), (), provenance=circuit.provenance)


def _draw(
    taken: Sequence[tuple[int, int]], shape: Sequence[int], random: torch.Generator, by_layer: bool
) -> list[tuple[int, int]]:
    # What is left of a layer, or of the model, may be less than was taken; then all of it is.
    left = torch.ones(shape[0], shape[1], dtype=torch.bool)
    for place in taken:
        left[place] = False
    drawn: list[tuple[int, int]] = []
    own = sorted({layer for layer, _ in taken})
    for layers in [[layer] for layer in own] if by_layer else [range(shape[0])]:
        free = [(i, int(index)) for i in layers for index in left[i].nonzero()[:, 0]]
        count = sum(layer in layers for layer, _ in taken)
        drawn += [free[i] for i in torch.randperm(len(free), generator=random)[:count].tolist()]
    return sorted(drawn)


@dataclass(frozen=True, eq=False)
class Interventions:
    """Circuits, differences and directions, made from other contexts than they are used on."""

    circuits: Mapping[str, Circuit]
    differences: Differences
    directions: Directions
    parts: tuple[int, int] | None = None
    """Heads and neurons of a circuit that are written: its strongest ones; all by default."""
    others: Mapping[Along, Directions] = field(default_factory=dict)
    """Further directions to steer along."""
    neurons: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """Emotion -> (layer, neuron) of those that induction drives."""
    means: ComponentMeans | None = None
    """What induction drives them with."""

    def written(self, how: Modulation) -> dict[str, Circuit]:
        """The part of every emotion's circuit that is written."""
        if self.parts is None:
            return dict(self.circuits)
        return {e: core(c, *self.parts, how.order) for e, c in self.circuits.items()}

    def edits(self, how: InterventionSettings) -> list[list[Add]]:
        """Edits of every emotion.

        Raises:
            CircuitError: what ``how`` needs is not among the interventions.
        """
        if isinstance(how, Modulation):
            return [circuit_edits(c, self.differences, how) for c in self.written(how).values()]
        if isinstance(how, Steering):
            directions = {"others": self.directions, **self.others}.get(how.along)
            if directions is None:
                raise CircuitError(f"there are no directions along {how.along!r}; make them first")
            return [steer(directions, emotion, how) for emotion in self.circuits]
        if self.means is None:
            raise CircuitError("there are no mean activations to drive neurons with")
        return [neuron_edits(self.neurons[e], self.means, e, how) for e in self.circuits]

    def random_edits(self, how: Modulation, *, same_layers: bool) -> list[list[Add]]:
        """Edits of a random circuit of the same size for every emotion."""
        return [
            circuit_edits(
                random_like(own, self.differences, same_layers=same_layers), self.differences, how
            )
            for own in self.written(how).values()
        ]


_STEPS = 5000
"""Iterations of the probe at most; separable data need many."""


def residuals(
    model: Model, contexts: Sequence[Context], emotions: Sequence[str]
) -> Float[Tensor, "context judged layer d_model"]:
    """Residual streams after every layer at the last prompt position.

    ``judged`` runs over the emotions that the prompts ask for, and last the neutral prompt.
    """
    prompts = emotion_prompts(contexts, emotions) + neutral_prompts(contexts)
    rows = [encode(model, prompt) for prompt in prompts]
    found = torch.zeros(len(rows), model.cfg.n_layers, model.cfg.d_model)
    together = list(batches(rows, in_force().rows()))
    parts = [[(prompts[i].key, rows[i]) for i in chosen] for chosen in together]
    for place, streams in engine().results(model, _streams, parts):
        found[together[place]] = streams
        advance(len(streams))
    asked, plain = found.split([len(contexts) * len(emotions), len(contexts)])
    return torch.cat([asked.unflatten(0, (len(contexts), -1)), plain[:, None]], dim=1)


def _streams(
    model: Model, prompts: Sequence[tuple[str, list[int]]]
) -> Float[Tensor, "prompt layer d_model"]:
    """Of the last positions of prompts, given by their names and tokens."""

    def read(some: Sequence[tuple[str, list[int]]]) -> Tensor:
        tokens = pad_left([ids for _, ids in some], device_of(model))
        picks = {"resid_post": lambda activation: activation[:, -1]}
        return capture(model, tokens, picks)["resid_post"].cpu()

    return torch.cat(halving(read, prompts, lambda prompt: prompt[0]))


def other_directions(
    streams: Float[Tensor, "context judged layer d_model"], emotions: tuple[str, ...]
) -> dict[Along, Directions]:
    """Directions after every MLP: emotion minus neutral, and those of linear probes.

    Args:
        streams: As :func:`residuals` reads them, of train contexts.
        emotions: Their emotions.

    Raises:
        DataError: fewer than two contexts.
    """
    if len(streams) < 2:
        raise DataError(f"directions need two or more contexts, found {len(streams)}")
    plain = streams[:, -1].mean(0)
    vectors, norm = unit(streams[:, :-1].mean(0) - plain)
    weights = torch.stack([_probe(own) for own in streams.unbind(2)], dim=1)
    found: Mapping[Along, Tensor] = {"neutral": vectors, "probe": unit(weights)[0]}
    rms = streams.square().mean(-1).sqrt().mean((0, 1))
    return {
        along: Directions(
            provenance=current().child(along=along),
            vectors=own[:, None],
            norm=norm[:, None],
            rms=rms[None],
            emotion=emotions,
            sublayer=("mlp",),
            layer=tuple(range(streams.shape[2])),
            n_contexts=len(streams),
            n_left_out=0,
            read="prompt",
        )
        for along, own in found.items()
    }


def _probe(streams: Float[Tensor, "context judged d_model"]) -> Float[Tensor, "emotion d_model"]:
    """Weights of each emotion minus those of the neutral prompt, in the stream's own units."""
    from sklearn.linear_model import LogisticRegression

    values = streams.flatten(0, 1).double().numpy()
    labels = np.tile(np.arange(streams.shape[1]), len(streams))
    spread = values.std(axis=0) + 1e-6
    probe = LogisticRegression(max_iter=_STEPS)
    probe.fit((values - values.mean(axis=0)) / spread, labels)
    weights = probe.coef_ / spread
    return torch.from_numpy(weights[:-1] - weights[-1]).float()


def strongest_neurons(
    effects: NeuronEffects, emotion: str, count: int
) -> tuple[tuple[int, int], ...]:
    """(layer, neuron) of the neurons of the whole model with the largest own effects."""
    own = effects.centred[effects.index("emotion", emotion)]
    best = own.flatten().topk(count).indices.tolist()
    return tuple(sorted((i // own.shape[1], i % own.shape[1]) for i in best))

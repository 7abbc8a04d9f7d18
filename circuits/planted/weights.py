"""The weights of a planted model: what each part reads and writes, in coordinates with names.

The residual stream is a sum of parts at right angles: a large constant that keeps the norm's scale
still, marks that attention looks for, the emotion word's code, the signal that the writer makes of
it, the readouts, the topic of ordinary words, and the ``blind`` directions in which distractors
write. A drawn rotation hides these coordinates, so that no axis of the model has a meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.planted.layout import PlantedNode

__all__ = ["CONSTANT", "D_HEAD", "D_MLP", "D_MODEL", "LARGEST", "Coordinates", "Draft", "draft"]

D_MODEL, D_HEAD, D_MLP = 96, 24, 48
LARGEST = 8
"""Most emotions for which a head's values have room."""

CONSTANT = 200.0
"""So much more than all else in the stream that the norm's scale moves by under 2%."""
_TOPICS = 8
_QUIET, _BACKGROUND = 2e-5, 3e-3
"""Size of the random weights: beside hand-set ones, and of parts with no role.

A relay's steep gate and a large distractor multiply the first, so it is the smaller.
"""
_SCORE, _KEY, _NEAR = 12.0, 10.0, 11.0
"""Attention score of the sink (an emotion word has twice that); sizes of keys."""
_MARK, _SINK = D_HEAD // 2 - 1, D_HEAD // 2 - 2
"""The slots of a key that rotary embedding turns slowest: under 1e-5 a token."""
_FAST = slice(0, 6)
"""The slots that turn fastest; equal queries and keys there meet only at the same token."""
_STEEP = 16.0
"""Rise of a relay's gate from no signal to the whole one; it is zero at half the signal."""


@dataclass(frozen=True)
class Coordinates:
    """Where in the residual stream each quantity lies, and how the model's axes hide it."""

    emotions: tuple[str, ...]
    basis: Float[Tensor, "named d_model"]
    """Orthonormal rows: the direction of each named coordinate."""

    def span(self, name: str) -> slice:
        """The coordinates of a quantity."""
        count = len(self.emotions)
        sizes = {
            "constant": 1, "mark": 1, "sink": 1, "code": count, "signal": count, "readout": count,
            "topic": _TOPICS, "blind_topic": 4, "blind_code": count, "blind_signal": 4,
        }  # fmt: skip
        start = sum(list(sizes.values())[: list(sizes).index(name)])
        return slice(start, start + sizes[name])

    def at(self, name: str, emotion: str) -> int:
        """The coordinate of an emotion's part of a quantity."""
        return self.span(name).start + self.emotions.index(emotion)


@dataclass(frozen=True)
class Draft:
    """All weights in named coordinates; :func:`draft` fills them."""

    embed: Float[Tensor, "vocab named"]
    unembed: Float[Tensor, "vocab named"]
    q: Float[Tensor, "layer head d_head named"]
    k: Float[Tensor, "layer group d_head named"]
    v: Float[Tensor, "layer group d_head named"]
    o: Float[Tensor, "layer head d_head named"]
    gate: Float[Tensor, "layer neuron named"]
    up: Float[Tensor, "layer neuron named"]
    out: Float[Tensor, "layer neuron named"]

    @property
    def norm(self) -> float:
        """Gain of every norm, with which a normed stream is about the stream itself."""
        return CONSTANT / D_MODEL**0.5


def draft(
    drawn: Sequence[PlantedNode],
    present: Sequence[PlantedNode],
    where: Coordinates,
    vocabulary: dict[str, int],
    shape: tuple[int, int, int],
    generator: torch.Generator,
) -> Draft:
    """Random weights everywhere, smaller at the drawn parts, and the present parts on top.

    Args:
        drawn: All parts of the layout: the random weights do not depend on which are present.
        present: The parts that are planted.
        where: The coordinates.
        vocabulary: Token -> id.
        shape: Layers, heads, key-value heads.
        generator: Draws the random weights.
    """
    made = _random(drawn, len(vocabulary), shape, generator)
    _words(made, where, vocabulary, generator)
    heads_per_group = shape[1] // shape[2]
    mixing, _ = torch.linalg.qr(torch.randn(_TOPICS, 4, generator=generator))
    for node in present:
        if node.kind == "head":
            _look(made, node, where, node.index // heads_per_group)
            _write_head(made, node, where, mixing)
        else:
            _set_neuron(made, node, where)
    return made


def _random(
    drawn: Sequence[PlantedNode],
    vocab: int,
    shape: tuple[int, int, int],
    generator: torch.Generator,
) -> Draft:
    n_layers, n_heads, n_groups = shape
    of_head, of_group, of_neuron = (
        torch.full((n_layers, size), _BACKGROUND) for size in (n_heads, n_groups, D_MLP)
    )
    size = n_heads // n_groups
    for node in drawn:
        if node.kind == "head":
            # All heads of a group hold its hand-set values.
            group = node.index // size
            of_group[node.layer, group] = _QUIET
            of_head[node.layer, group * size : (group + 1) * size] = _QUIET
        else:
            of_neuron[node.layer, node.index] = _QUIET

    def weights(scale: Tensor, *inner: int, reads: bool = True) -> Tensor:
        values = torch.randn(*scale.shape, *inner, D_MODEL, generator=generator)
        if reads:
            values[..., 0] /= CONSTANT  # or the constant would drown all else
        return scale.reshape(*scale.shape, *(1 for _ in inner), 1) * values

    word = torch.full((vocab,), _BACKGROUND)
    return Draft(
        embed=weights(word, reads=False),
        unembed=weights(word),
        q=weights(of_head, D_HEAD),
        k=weights(of_group, D_HEAD),
        v=weights(of_group, D_HEAD),
        o=weights(of_head, D_HEAD, reads=False),
        gate=weights(of_neuron),
        up=weights(of_neuron),
        out=weights(of_neuron, reads=False),
    )


def _words(
    made: Draft, where: Coordinates, vocabulary: dict[str, int], generator: torch.Generator
) -> None:
    made.embed[:, where.span("constant")] = CONSTANT
    topics = 3 * torch.randn(len(vocabulary), _TOPICS, generator=generator)
    # What emotion words are about is the same for all of them.
    topics[[vocabulary[emotion] for emotion in where.emotions]] = 0
    made.embed[:, where.span("topic")] += topics
    made.embed[vocabulary["<s>"], where.span("sink")] += 1
    for emotion in where.emotions:
        made.embed[vocabulary[emotion], where.span("mark")] += 1
        made.embed[vocabulary[emotion], where.at("code", emotion)] += 1
        made.unembed[vocabulary[emotion], where.at("readout", emotion)] += 5


def _look(made: Draft, node: PlantedNode, where: Coordinates, group: int) -> None:
    """Queries and keys of a head: at the emotion word or else the sink, at itself, or at all."""
    query, key = made.q[node.layer, node.index], made.k[node.layer, group]
    constant = where.span("constant")
    if node.reads == "signal":
        query[_FAST, constant] += _NEAR / CONSTANT
        key[_FAST, constant] = _NEAR / CONSTANT
    if node.reads == "code":
        unit = _SCORE * D_HEAD**0.5 / _KEY
        query[_MARK, constant] += 2 * unit / CONSTANT
        query[_SINK, constant] += unit / CONSTANT
        key[_MARK, where.span("mark")] = _KEY
        key[_SINK, where.span("sink")] = _KEY
        if node.role == "backup":
            query[_MARK, where.span("signal")] -= 2 * unit
    # Heads of a group share keys and values, so these are set, not added.
    slots = _values(node, where)
    made.v[node.layer, group, slots, where.span(node.reads)] = torch.eye(slots.stop - slots.start)


def _values(node: PlantedNode, where: Coordinates) -> slice:
    """The slots of a head's value that hold what it reads; each quantity has its own."""
    count = len(where.emotions)
    starts = {"code": 0, "signal": count, "topic": 2 * count}
    size = _TOPICS if node.reads == "topic" else count
    return slice(starts[node.reads], starts[node.reads] + size)


def _write_head(made: Draft, node: PlantedNode, where: Coordinates, mixing: Tensor) -> None:
    out = made.o[node.layer, node.index, _values(node, where)]
    if node.reads == "topic":
        out[:, where.span("blind_topic")] += node.strength * mixing
        return
    each = torch.eye(len(where.emotions))
    if node.role in ("writer", "backup"):
        out[:, where.span("signal")] += each
    target = "blind_code" if node.role == "distractor" else "readout"
    out[:, where.span(target)] += node.strength * each


def _set_neuron(made: Draft, node: PlantedNode, where: Coordinates) -> None:
    gate, up, out = (table[node.layer, node.index] for table in (made.gate, made.up, made.out))
    constant = where.span("constant")
    if node.reads in ("topic", "constant"):
        gate[constant] += 2 / CONSTANT
        up[constant] += 0.5 / CONSTANT
        if node.reads == "topic":
            up[where.span("blind_topic")] += 0.1
        out[where.span("blind_signal" if node.reads == "topic" else "readout")] += node.strength
        return
    assert node.emotion is not None
    signal = where.at("signal", node.emotion)
    gate[signal] += _STEEP
    gate[constant] -= _STEEP / 2 / CONSTANT
    up[signal] += 2 / _STEEP
    if node.role == "distractor":
        out[where.span("blind_signal")] += node.strength
    else:
        out[where.at("readout", node.emotion)] += node.strength

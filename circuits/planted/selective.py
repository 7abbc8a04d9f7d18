"""A model whose class-selective neurons are known, and texts of its classes.

A text of a class is made of the class's cue words and of filler words. A selective neuron is
active at its class's cue words only and writes towards the class's label; the last layer's head
carries what was written from all positions to the last. Cue words of different classes differ in
nothing else, so no other neuron tells classes apart. Among the others are neurons that are always
active and write more than any, and neurons that never are.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from circuits.data.texts import LabelledText, Split, Texts
from circuits.errors import ModelError
from circuits.model.protocol import Model
from circuits.names import EMOTIONS, neuron_name
from circuits.planted.plant import build_model
from circuits.planted.weights import CONSTANT, D_HEAD, D_MLP, D_MODEL, LARGEST, Draft
from circuits.planted.words import word_tokenizer

__all__ = ["SelectivePlant", "plant_selective"]

_CUES, _FILLERS = 8, ("bag", "cup", "desk", "flat", "green", "hall", "ink", "jar")
_WORDS_OF_TEXT: Final = (7, 3)
"""Cue words and fillers of a text."""
_STEEP, _DEAD, _TOPICS = 16.0, -8.0, 8
_ALIKE: Final = 2
"""Always-active neurons, and never-active ones."""


@dataclass(frozen=True, eq=False)
class SelectivePlant:
    """A small model, and the neurons in it that are selective for each class."""

    model: Model
    label: tuple[str, ...]
    selective: tuple[frozenset[str], ...]
    """Names of the neurons of each class."""
    uniform: frozenset[str]
    """Neurons that are active on every token."""
    dead: frozenset[str]
    """Neurons that are active on none."""

    def texts(
        self, per_label: int, *, split: Split = "train", seed: int = 0, blank: bool = False
    ) -> Texts:
        """Texts of every class.

        Args:
            per_label: How many of each.
            split: What they are called.
            seed: Of the words.
            blank: Fillers only, so that labels say nothing about texts.
        """
        rng = random.Random(f"{split} {seed}")
        rows = [
            LabelledText(_text(label, rng, blank), label)
            for _ in range(per_label)
            for label in self.label
        ]
        return Texts(split, self.label, tuple(rows))


def plant_selective(
    seed: int, *, labels: Sequence[str] = EMOTIONS, n_layers: int = 3, per_label: int = 2
) -> SelectivePlant:
    """A Llama with hand-set selective neurons at drawn places.

    Args:
        seed: Equal seeds give equal models.
        labels: The classes; different words, two to eight.
        n_layers: Two or more; the neurons lie before the last.
        per_label: Selective neurons of each class.

    Raises:
        ModelError: there are too few or too many classes, layers or neurons.
    """
    labels = tuple(labels)
    needed, room = len(labels) * per_label + 2 * _ALIKE, (n_layers - 1) * D_MLP // 2
    if not 2 <= len(set(labels)) == len(labels) <= LARGEST or per_label < 1 or needed > room:
        raise ModelError(
            f"{per_label} selective neurons for each of {len(labels)} classes were asked for in "
            f"{n_layers} layers; give two to {LARGEST} classes and at most {max(room, 0)} neurons"
        )
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    places = [(layer, index) for layer in range(n_layers - 1) for index in range(D_MLP)]
    drawn = iter(rng.sample(places, needed))
    own = [[next(drawn) for _ in range(per_label)] for _ in labels]
    uniform, dead = ([next(drawn) for _ in range(_ALIKE)] for _ in range(2))
    tokenizer = word_tokenizer((*labels, *(_cue(label, i) for label in labels for i in _RANGE)))
    made = _draft(labels, tokenizer.get_vocab(), n_layers, generator)
    for label, neurons in enumerate(own):
        for place in neurons:
            _set_selective(made, place, label, len(labels), rng.uniform(0.8, 1.2))
    for place in uniform:
        _set_constant(made, place, 4.0, range(1 + len(labels), 1 + 2 * len(labels)))
    for place in dead:
        _set_constant(made, place, _DEAD, ())
    basis, _ = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator))
    return SelectivePlant(
        model=build_model(made, basis, tokenizer, name=f"selective-plant-{seed}"),
        label=labels,
        selective=tuple(_names(neurons) for neurons in own),
        uniform=_names(uniform),
        dead=_names(dead),
    )


_RANGE = range(_CUES)


def _cue(label: str, number: int) -> str:
    return f"{label}{number}"


def _text(label: str, rng: random.Random, blank: bool) -> str:
    cues, fillers = _WORDS_OF_TEXT
    words = [] if blank else [_cue(label, rng.choice(_RANGE)) for _ in range(cues)]
    words += [rng.choice(_FILLERS) for _ in range(cues + fillers - len(words))]
    rng.shuffle(words)
    return " ".join(words)


def _names(places: Sequence[tuple[int, int]]) -> frozenset[str]:
    return frozenset(neuron_name(*place) for place in places)


def _draft(
    labels: Sequence[str], vocabulary: dict[str, int], n_layers: int, generator: torch.Generator
) -> Draft:
    """Words, background neurons and the head that carries.

    Coordinates are the constant, the classes' codes, their readouts, and topics.
    """
    count, n_heads = len(labels), 4
    topics = slice(1 + 2 * count, 1 + 2 * count + _TOPICS)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    made = Draft(
        embed=torch.zeros(len(vocabulary), D_MODEL),
        unembed=1e-3 * normal(len(vocabulary), D_MODEL),
        **{name: torch.zeros(n_layers, n_heads, D_HEAD, D_MODEL) for name in "qkvo"},
        **{name: torch.zeros(n_layers, D_MLP, D_MODEL) for name in ("gate", "up")},
        out=3e-3 * normal(n_layers, D_MLP, D_MODEL),
    )
    made.embed[:, 0] = CONSTANT
    made.embed[:, topics] = normal(len(vocabulary), _TOPICS)
    alike = normal(_CUES, _TOPICS)
    for place, label in enumerate(labels):
        for i in _RANGE:
            made.embed[vocabulary[_cue(label, i)], 1 + place] = 1
            made.embed[vocabulary[_cue(label, i)], topics] = alike[i]
        made.unembed[vocabulary[label], 1 + count + place] = 5
    made.unembed[:, 0] = 0
    made.gate[..., topics] = normal(n_layers, D_MLP, _TOPICS) / _TOPICS**0.5
    # Seldom active: LAPE only looks at the one rate in twenty that is largest.
    made.gate[..., 0] = -(0.7 + normal(n_layers, D_MLP).abs()) / CONSTANT
    made.up[..., topics] = 0.3 * normal(n_layers, D_MLP, _TOPICS) / _TOPICS**0.5
    readout = range(1 + count, 1 + 2 * count)
    # Queries and keys of zero look at all positions alike.
    made.v[-1, 0, range(count), readout] = 1
    made.o[-1, 0, range(count), readout] = 1
    return made


def _set_selective(
    made: Draft, place: tuple[int, int], label: int, count: int, strength: float
) -> None:
    gate, up, out = (table[place] for table in (made.gate, made.up, made.out))
    for weights in (gate, up, out):
        weights.zero_()
    gate[1 + label], gate[0] = _STEEP, -_STEEP / 2 / CONSTANT
    up[0] = 2 / _STEEP / CONSTANT
    out[1 + count + label] = strength


def _set_constant(made: Draft, place: tuple[int, int], gate: float, out: Sequence[int]) -> None:
    for table in (made.gate, made.up):
        table[place].zero_()
    made.gate[place][0] = gate / CONSTANT
    made.up[place][0] = 0.5 / CONSTANT
    made.out[place][list(out)] = 2.0

"""Mean head outputs and neuron activations, and how an emotion differs in them.

These differences are what modulation writes (Wang et al. 2025, arXiv 2510.11328, stage 5). Their
reference may be the mean over the emotions, as published, or the plain prompt. The plain prompt
is what a modulated model is given, so with it strength 1 means "as if the emotion had been asked
for"; a difference to the other emotions leaves out what all emotions share.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.measure.moments import Moments
from circuits.measure.sweep import Sweep
from circuits.model.protocol import Model
from circuits.model.runs import reading
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = [
    "ComponentMeans",
    "Differences",
    "PlainMeans",
    "PlainRest",
    "RelativeTo",
    "component_means",
    "differences",
    "first_copies",
]

RelativeTo = Literal["plain", "emotions"]


@dataclass(frozen=True, eq=False)
class ComponentMeans(Record):
    """Means over complete contexts of prompts that ask for an emotion, at the last position."""

    z: Float[Tensor, "emotion layer head d_head"]
    """Head outputs before W_O."""
    post: Float[Tensor, "emotion layer neuron"]
    """Neuron activations."""

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    n_contexts: int


@dataclass(frozen=True, eq=False)
class PlainMeans(Record):
    """The same means over plain prompts."""

    z: Float[Tensor, "layer head d_head"]
    post: Float[Tensor, "layer neuron"]

    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    n_contexts: int


@dataclass(frozen=True, eq=False)
class Differences(Record):
    """What every head and neuron does differently when an emotion is asked for."""

    z: Float[Tensor, "emotion layer head d_head"]
    post: Float[Tensor, "emotion layer neuron"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    relative_to: str


def component_means(sweep: Sweep, provenance: Provenance) -> ComponentMeans:
    """Means of all heads and neurons from one sweep; incomplete contexts are left out."""
    complete = sweep.grid.complete
    z = sweep.z
    return ComponentMeans(
        provenance=provenance,
        z=z,
        post=sweep.post_shared.mean + sweep.post_centred.mean,
        emotion=sweep.grid.emotions,
        layer=tuple(range(z.shape[1])),
        head=tuple(range(z.shape[2])),
        neuron=tuple(range(sweep.post.mean.shape[2])),
        n_contexts=int(complete.sum()),
    )


def differences(
    means: ComponentMeans, plain: PlainMeans | None = None, *, unit: bool = False
) -> Differences:
    """Means minus those of plain prompts, or without them minus the mean over the emotions.

    Args:
        means: Of prompts that ask for an emotion.
        plain: Of plain prompts.
        unit: Give the heads of a layer together the length one, as the released stage 5.3 does;
            lengths up to 1e-8 stay.
    """
    relative_to: RelativeTo = "plain" if plain is not None else "emotions"
    z = plain.z if plain is not None else means.z.mean(0)
    post = plain.post if plain is not None else means.post.mean(0)
    apart = means.z - z
    if unit:
        length = apart.flatten(2).norm(dim=-1)[..., None, None]
        apart = apart / length.where(length > 1e-8, 1.0)
    return Differences(
        provenance=means.provenance.child(relative_to=relative_to, unit=unit),
        z=apart,
        post=means.post - post,
        emotion=means.emotion,
        layer=means.layer,
        head=means.head,
        neuron=means.neuron,
        relative_to=relative_to,
    )


class PlainRest:
    """Accumulates the plain means from passes that are made for something else."""

    def __init__(self, model: Model) -> None:
        cfg = model.cfg
        self._z = Moments((1, cfg.n_layers, cfg.n_heads, cfg.d_head))
        self._post = Moments((1, cfg.n_layers, cfg.d_mlp))

    def update(
        self,
        z: Float[Tensor, "prompt layer head d_head"],
        post: Float[Tensor, "prompt layer neuron"],
    ) -> None:
        """Add some plain prompts."""
        for moments, rows in ((self._z, z), (self._post, post)):
            moments.update(rows, torch.zeros(len(rows), dtype=torch.long))

    def merge(self, other: "PlainRest") -> None:
        """Add the prompts that another one has seen."""
        self._z.merge(other._z)
        self._post.merge(other._post)

    def result(self, provenance: Provenance) -> PlainMeans:
        """The means so far."""
        z, post = self._z.result(), self._post.result()
        return PlainMeans(
            provenance=provenance,
            z=z.mean[0],
            post=post.mean[0],
            layer=tuple(range(z.mean.shape[1])),
            head=tuple(range(z.mean.shape[2])),
            neuron=tuple(range(post.mean.shape[2])),
            n_contexts=int(z.count[0]),
        )


@contextmanager
def first_copies(model: Model) -> Iterator[dict[str, Tensor]]:
    """A table that is filled, as the block ends, from a branched pass inside it.

    ``z`` and ``post`` of the first copy of every prompt, ``[prompt layer ...]``.
    """
    found: dict[str, Tensor] = {}
    with reading(model, {"z": _first_copy, "post": _first_copy}) as table:
        yield found
    for site, layers in table.items():
        found[site] = torch.stack([layers[i] for i in range(model.cfg.n_layers)], dim=1).float()


def _first_copy(activation: Tensor) -> Tensor:
    return activation[:, 0].cpu()

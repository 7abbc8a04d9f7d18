"""Changes to a model as values, and the one interpreter that applies them.

An edit says what is changed: add a vector at a site, replace a slice of it, or scale it. It can
be printed, stored in a provenance, and tested without a model. :func:`edited` makes hooks of a
list of edits, out of place, and takes them away again on every path.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.models.families import need_neurons
from circuits.models.protocol import Hook, Model
from circuits.models.run import phase
from circuits.names import hook

__all__ = [
    "Add",
    "Attenuate",
    "Edit",
    "Replace",
    "Scale",
    "When",
    "attenuation",
    "by_row",
    "edited",
    "of_rows",
    "per_row",
]

When = Literal["prompt", "every"]
"""``prompt``: once, while the prompt is read. ``every``: at every call, decoding too."""

Positions = Literal["last", "all", "variant"]
"""The last position of a call, all of them, or (see :func:`~circuits.models.run.branch`) every
copy of the last token with a value of its own."""


@dataclass(frozen=True, eq=False)
class Add:
    """Add ``value`` to the activation at ``site`` of ``layer``.

    At ``z`` the value is ``[head d_head]``, at ``post`` ``[neuron]``, elsewhere ``[d_model]``. A
    leading axis gives every row of the batch (or every variant) a value of its own.
    """

    site: str
    layer: int
    value: Float[Tensor, "..."]
    positions: Positions = "last"
    when: When = "every"
    times_rms: bool = False
    """Multiply the value by the activation's own root mean square (over its last axis)."""

    def apply(self, activation: Tensor) -> Tensor:
        """The activation with the value added."""
        here, value = _edited_part(self.positions, activation), self.value.to(activation)
        if self.positions != "variant":
            value = _with_position(value, here)
        if self.times_rms:
            # Squares of half-precision numbers overflow.
            rms = here.float().square().mean(-1, keepdim=True).add(1e-12).sqrt()
            value = value * rms.to(here)
        return _ending(activation, here + value)


@dataclass(frozen=True, eq=False)
class Replace:
    """Put ``value`` where ``chosen`` is true; shapes as in :class:`Add`.

    Both may have a row and a position axis in front (``[row pos neuron]``). These are aligned at
    the right end, as left-padded rows are; what lies before their first position is kept.
    """

    site: str
    layer: int
    value: Float[Tensor, "..."]
    chosen: Bool[Tensor, "..."]
    positions: Positions = "last"
    when: When = "every"

    def apply(self, activation: Tensor) -> Tensor:
        """The activation with the chosen parts replaced."""
        parts = self.value.to(activation), self.chosen.to(activation.device)
        here = _edited_part(self.positions, activation)
        spans = [part.shape[1] for part in parts if part.ndim == activation.ndim]
        here = here[:, -min([here.shape[1], *spans]) :]
        value, chosen = (_with_position(part, here) for part in parts)
        return _ending(activation, value.where(chosen, here))


@dataclass(frozen=True, eq=False)
class Scale:
    """Multiply the activation by ``factor``; shapes as in :class:`Add`.

    A factor of 0 is the zero mask, ``1 + gain`` the gain mask of Lee et al. (Findings of ACL
    2025); 1 leaves every bit as it is.
    """

    site: str
    layer: int
    factor: Float[Tensor, "..."]
    positions: Positions = "last"
    when: When = "every"

    def apply(self, activation: Tensor) -> Tensor:
        """The activation multiplied."""
        here = _edited_part(self.positions, activation)
        return _ending(activation, here * _with_position(self.factor.to(activation), here))


@dataclass(frozen=True, eq=False)
class Attenuate:
    """Scale the chosen neurons down, each token's the more the larger they are.

    The adaptive mask of Zheng et al. (ACL 2026, arXiv 2604.17255), with the share of the largest
    activation cut to [0, 1], so that no activation grows or changes its sign.

    Raises:
        ModelError: the strength is not in [0, 1], or a largest activation is negative.
    """

    site: str
    layer: int
    strength: float
    """Part of an activation that is taken away where it is the largest; in [0, 1]."""
    largest: Float[Tensor, " neuron"]
    """Largest absolute activation; where it is 0 the neuron is left alone."""
    chosen: Bool[Tensor, " neuron"]
    positions: Positions = "last"
    when: When = "every"

    def __post_init__(self) -> None:
        """Refuse a strength that would change signs."""
        attenuation(self.largest, self.strength, self.largest)

    def apply(self, activation: Tensor) -> Tensor:
        """The activation with the chosen neurons scaled down."""
        here = _edited_part(self.positions, activation)
        scaled = here * attenuation(here, self.strength, self.largest)
        return _ending(activation, scaled.where(self.chosen.to(activation.device), here))


def attenuation(
    activation: Float[Tensor, "... neuron"], strength: float, largest: Float[Tensor, " neuron"]
) -> Float[Tensor, "... neuron"]:
    """What :class:`Attenuate` multiplies an activation by, in [1 - strength, 1].

    With mean activations of a class it is the factor of the static mask (:class:`Scale`).

    Raises:
        ModelError: the strength is not in [0, 1], or a largest activation is negative.
    """
    if not 0 <= strength <= 1:
        raise ModelError(
            f"an attenuation of strength {strength} is asked for; give one in [0, 1], "
            "or activations would grow or change their sign"
        )
    if not bool((largest >= 0).all()):
        raise ModelError(
            "a largest activation is negative or NaN; give the largest absolute activations"
        )
    largest = largest.to(activation)
    share = activation.abs() / largest.where(largest > 0, torch.inf)
    return 1 - strength * share.clamp(0, 1)


Edit = Add | Replace | Scale | Attenuate


def by_row(groups: Sequence[Sequence[Add]], rows: Sequence[int]) -> list[Edit]:
    """One list of edits for a batch whose row ``i`` gets those of ``groups[rows[i]]``.

    Groups may touch different places; a row is left alone where its group has no edit.
    """
    places: dict[tuple[str, int, Positions, When, bool], Tensor] = {}
    for number, group in enumerate(groups):
        for edit in group:
            place = (edit.site, edit.layer, edit.positions, edit.when, edit.times_rms)
            if place not in places:
                places[place] = edit.value.new_zeros(len(groups), *edit.value.shape)
            places[place][number] += edit.value
    return [
        Add(site, layer, table[list(rows)], positions, when, times_rms)
        for (site, layer, positions, when, times_rms), table in places.items()
    ]


def per_row(edit: Edit) -> dict[str, Tensor]:
    """The edit's tensors that hold values for single rows of a batch, by field."""
    # Heads have a width of their own, so their sites have one axis more.
    own = 2 if edit.site in ("q", "k", "v", "z") else 1
    parts = ((name, part) for name, part in vars(edit).items() if isinstance(part, Tensor))
    return {name: part for name, part in parts if part.ndim > own}


def of_rows(edit: Edit, rows: Sequence[int]) -> Edit:
    """The edit for some rows of the batch that it was made for."""
    parts = {name: part for name, part in per_row(edit).items() if len(part) > 1}
    return replace(edit, **{name: part[list(rows)] for name, part in parts.items()})


@contextmanager
def edited(model: Model, edits: Sequence[Edit]) -> Iterator[Model]:
    """The model with ``edits`` inside the block, the untouched model after it.

    Edits at one site are applied in the order given. Left padding keeps the last position at
    the end of every row, so ``positions="last"`` is the same place for all.

    Raises:
        ModelError: an edit names a layer that the model does not have, or neurons of a model that
            has none.
    """
    by_place: dict[tuple[str, int], list[Edit]] = {}
    for edit in edits:
        if not 0 <= edit.layer < model.cfg.n_layers:
            raise ModelError(
                f"an edit names layer {edit.layer}; "
                f"the model has layers 0 to {model.cfg.n_layers - 1}"
            )
        if edit.site == "post":
            need_neurons(model, "edits of neurons")
        by_place.setdefault((edit.site, edit.layer), []).append(edit)
    with model.hooks(fwd_hooks=[_changing(*place, own) for place, own in by_place.items()]):
        yield model


def _changing(site: str, layer: int, edits: list[Edit]) -> Hook:
    def change(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        for edit in edits:
            everywhere, always = edit.positions == "all", edit.when == "every"
            if everywhere if phase() == "prefix" else always or phase() == "prompt":
                activation = edit.apply(activation)
        return activation

    return hook(site, layer), change


def _edited_part(positions: Positions, activation: Tensor) -> Tensor:
    return activation[:, -1:] if positions == "last" else activation


def _ending(activation: Tensor, end: Tensor) -> Tensor:
    # The activation with other last positions.
    kept = activation.shape[1] - end.shape[1]
    return torch.cat([activation[:, :kept], end], dim=1) if kept else end


def _with_position(value: Tensor, activation: Tensor) -> Tensor:
    # A value with a row axis has as many axes as the activation has without its position axis.
    if value.ndim == activation.ndim - 1:
        return value.unsqueeze(1)
    # One with positions too has as many as the activation; it is aligned at the right end.
    return value[:, -activation.shape[1] :] if value.ndim == activation.ndim else value

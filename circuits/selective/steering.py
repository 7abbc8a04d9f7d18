"""Induction: the mean activation of a class, added to its neurons while other texts are read.

Zheng et al. (ACL 2026, arXiv 2604.17255). The addition is a constant vector, equal in kind to
activation addition, so a random vector of the same length is a control beside random neurons.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.data.texts import LabelledSet, Texts
from circuits.errors import DataError
from circuits.measure.controls import random_directions
from circuits.model.edits import Add
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.model.weights import neuron_weights
from circuits.records import Record
from circuits.selective.asking import Ask, Asking, asker, at, check_labels, random_sets, taken
from circuits.selective.profile import Profile
from circuits.selective.selection import Selection
from circuits.selective.statistics import above, interval

__all__ = ["Induction", "added", "as_long", "induce", "times"]


@dataclass(frozen=True, eq=False)
class Induction(Record):
    """How often a class is named for test texts of all other classes."""

    label: tuple[str, ...]
    """The class that is induced."""
    dose: tuple[float, ...]
    """Multiples of the class's mean activation; 0 changes nothing."""
    rate: Float[Tensor, "label dose"]
    """How often the induced class is named, in percent."""
    low: Float[Tensor, "label dose"]
    """Lower end of the 95% interval of the rate: bootstrap over texts."""
    high: Float[Tensor, "label dose"]
    """Upper end."""
    log_change: Float[Tensor, "label dose"]
    """Mean change of the induced label's log-probability, in nats."""
    random_rate: Float[Tensor, "draw label dose"]
    """The rate when random neurons of the same layers get their own mean for the class."""
    random_log_change: Float[Tensor, "draw label dose"]
    """Mean change of the induced label's log-probability then."""
    vector_rate: Float[Tensor, "draw label dose"]
    """The rate when every MLP writes a random vector as long as what the neurons add."""
    random_p: Float[Tensor, "label dose"]
    """(1 + random sets whose rate is at least as high) / (1 + random sets)."""
    vector_p: Float[Tensor, "label dose"]
    """The same for random vectors."""
    n_neurons: Int[Tensor, " label"]
    """Neurons that are added to."""


def induce(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    *,
    doses: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0),
    how: Asking | None = None,
    progress: Progress | None = None,
) -> Induction:
    """Add each class's mean activations to its neurons while texts of other classes are read.

    Args:
        model: The model.
        texts: Test texts of the other classes are asked about.
        selection: The neurons of every class.
        profile: Gives the mean activations.
        doses: Multiples of the mean.
        how: How many texts of a class (by default 20), and how many random sets and vectors (10).
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels, or was not profiled.
        DataError: a class has no test texts, or there is no dose.
        ModelError: a layer has too few other neurons for random sets.
    """
    how = how or Asking(per_label=20, draws=10)
    if not doses:
        raise DataError("there is no dose; give multiples of the mean activation, such as 1")
    asked = taken(texts.test, "test", how.per_label)
    check_labels(selection, asked)
    ask = asker(model, texts.request, how, progress)
    truth, base = torch.tensor(asked.truth), ask(asked, ())
    drawn, cells = random_sets(selection, how), []
    for place, label in enumerate(selection.label):
        own = asked.label.index(label)
        rows = (truth != own).nonzero()[:, 0].tolist()
        ways = [added(profile, label, c) for c in (selection.chosen[place], *drawn[place])]
        ways += as_long(model, ways[0], how.draws, how.seed)
        answered = _answered(ask, at(asked, rows), base[rows], ways, doses)
        cells.append(_induced(answered, base[rows], own, how))
    return Induction(
        provenance=selection.provenance.child(
            induced=list(doses), texts=texts.name, per_label=how.per_label, draws=how.draws,
            seed=how.seed, normalised=how.normalised, profile=profile.provenance.fingerprint(),
        ),
        label=selection.label,
        dose=tuple(doses),
        n_neurons=selection.chosen.sum((1, 2)),
        **{own.name: _stacked(cells, own.name) for own in fields(_Induced)},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Induced:
    """Rates and changes of one class."""

    rate: Float[Tensor, " dose"]
    low: Float[Tensor, " dose"]
    high: Float[Tensor, " dose"]
    log_change: Float[Tensor, " dose"]
    random_rate: Float[Tensor, "draw dose"]
    random_log_change: Float[Tensor, "draw dose"]
    vector_rate: Float[Tensor, "draw dose"]
    random_p: Float[Tensor, " dose"]
    vector_p: Float[Tensor, " dose"]


def _stacked(cells: Sequence[_Induced], name: str) -> Tensor:
    return torch.stack([getattr(cell, name) for cell in cells], -2)


def _induced(
    answered: Float[Tensor, "way dose text label"],
    base: Float[Tensor, "text label"],
    own: int,
    how: Asking,
) -> _Induced:
    named = 100.0 * (answered.argmax(-1) == own).double()
    rates = named.mean(-1)
    changes = (answered[..., own].double() - base[:, own]).mean(-1)
    low, high = interval(named[0], torch.Generator().manual_seed(how.seed))
    neurons, vectors = rates[1:].split(how.draws)
    return _Induced(
        rate=rates[0],
        low=low,
        high=high,
        log_change=changes[0],
        random_rate=neurons,
        random_log_change=changes[1:].split(how.draws)[0],
        vector_rate=vectors,
        random_p=above(rates[0], neurons),
        vector_p=above(rates[0], vectors),
    )


def _answered(
    ask: Ask,
    texts: Texts,
    base: Float[Tensor, "text label"],
    ways: Sequence[Sequence[Add]],
    doses: Sequence[float],
) -> Float[Tensor, "way dose text label"]:
    return torch.stack(
        [
            torch.stack([ask(texts, times(way, dose)) if way and dose else base for dose in doses])
            for way in ways
        ]
    )


def added(profile: Profile, label: str, chosen: Bool[Tensor, "layer neuron"]) -> list[Add]:
    """Edits that add a class's mean activations to the chosen neurons, at all positions.

    Raises:
        AxisError: the class was not profiled.
    """
    mean = profile.mean[profile.index("label", label)].where(chosen, 0.0)
    layers = chosen.any(1).nonzero()[:, 0].tolist()
    return [Add("post", layer, mean[layer], "all") for layer in layers]


def times(edits: Sequence[Add], dose: float) -> list[Add]:
    """The same edits with their values multiplied."""
    return [replace(edit, value=dose * edit.value) for edit in edits]


def as_long(model: Model, edits: Sequence[Add], draws: int, seed: int) -> list[list[Add]]:
    """Edits that make each MLP write a random vector as long as what ``edits`` make it write."""
    vectors = random_directions(draws * len(edits), model.cfg.d_model, seed=seed)
    by_draw = vectors.reshape(draws, len(edits), model.cfg.d_model)
    values = {edit.layer: edit.value.float() for edit in edits}
    written = {
        layer: values[layer] @ W_out
        for layer, W_out in enumerate(neuron_weights(model))
        if layer in values
    }
    lengths = [written[edit.layer].norm() for edit in edits]
    return [
        [
            Add("mlp_out", edit.layer, length * vector, "all")
            for edit, length, vector in zip(edits, lengths, own, strict=True)
        ]
        for own in by_draw
    ]

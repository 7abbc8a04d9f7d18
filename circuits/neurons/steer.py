"""Induction: the mean activation of a class, added to its neurons while other texts are read.

Zheng et al. (ACL 2026, arXiv 2604.17255). The addition is a constant vector, equal in kind to
activation addition, so a random vector of the same length is a baseline beside random neurons.

Cross-signal: the mean activation on a rhetorical device, added to the neurons of an emotion.

Zheng et al. (ACL 2026, arXiv 2604.17255) report that devices so support the recognition of
emotions. The strength is chosen on dev texts, for random neurons as well; changes are of test
texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.effects.heads import random_directions
from circuits.errors import AxisError, DataError
from circuits.models.edits import Add
from circuits.models.families import neuron_weights
from circuits.models.generate import Progress
from circuits.models.protocol import Model
from circuits.neurons.mask import (
    Ask,
    Asking,
    above,
    asker,
    at,
    check_labels,
    corrected,
    gains,
    hits,
    interval,
    places_of,
    random_sets,
    taken,
)
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection
from circuits.prompts.prompt import LabelledSet, Texts
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = [
    "CrossSignal",
    "Induction",
    "added",
    "as_long",
    "cross_signal",
    "induce",
    "signal",
    "times",
]


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
            induced=list(doses),
            texts=texts.name,
            per_label=how.per_label,
            draws=how.draws,
            seed=how.seed,
            normalised=how.normalised,
            profile=profile.provenance.fingerprint(),
        ),
        label=selection.label,
        dose=tuple(doses),
        n_neurons=selection.chosen.sum((1, 2)),
        **{own.name: _stacked(cells, own.name) for own in fields(_Induced)},
    )


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


@dataclass(frozen=True, eq=False)
class CrossSignal(Record):
    """Changes of accuracy in percentage points, test texts, rhetorical device by emotion."""

    label: tuple[str, ...]
    """The rhetorical device whose mean activations are added."""
    emotion: tuple[str, ...]
    """The emotion to whose neurons they are added, and whose texts are asked about."""
    change: Float[Tensor, "label emotion"]
    """Change on texts of the emotion."""
    low: Float[Tensor, "label emotion"]
    """Lower end of its 95% interval: paired bootstrap over texts."""
    high: Float[Tensor, "label emotion"]
    """Upper end."""
    other_change: Float[Tensor, "label emotion"]
    """Change on texts of all other emotions: what a mere leaning to the emotion costs there."""
    base: Float[Tensor, " emotion"]
    """Accuracy on texts of the emotion as the model is, in percent."""
    dose: Float[Tensor, "label emotion"]
    """The multiple that did best on dev texts."""
    random_change: Float[Tensor, "draw label emotion"]
    """Change on texts of the emotion for random neurons of the same layers; their strength is
    chosen on dev texts as well."""
    p: Float[Tensor, "label emotion"]
    """(1 + random sets whose change is at least as high) / (1 + random sets)."""
    corrected_p: Float[Tensor, "label emotion"]
    """The same corrected for the number of cells (Benjamini and Hochberg 1995)."""
    mode: str
    """``index``: every neuron gets its own mean on the device. ``set_scalar``: all get the mean
    over the set."""


def cross_signal(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    devices: Profile,
    *,
    doses: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0),
    mode: str = "index",
    how: Asking | None = None,
    progress: Progress | None = None,
) -> CrossSignal:
    """Add the mean activations on every device to the neurons of every emotion.

    Args:
        model: The model.
        texts: Of emotions; strengths are chosen on dev texts, test texts are reported on.
        selection: The neurons of every emotion.
        devices: Activity on texts of every rhetorical device; ``sel(label=...)`` leaves some out.
        doses: Multiples of the mean; among equally good ones the first is chosen.
        mode: Every neuron its own mean, or all the mean over the set.
        how: How many texts of an emotion (by default 30), and how many random sets (10).
        progress: Told how many texts were asked about.

    Raises:
        AxisError: an emotion of the selection is none of the texts' labels, or the mode is unknown.
        DataError: an emotion has no dev or test texts, or there is no dose.
        ModelError: a layer has too few other neurons for random sets.
    """
    how = how or Asking(per_label=30, draws=10)
    if mode not in ("index", "set_scalar"):
        raise AxisError(f"no mode is called {mode!r}; modes are index and set_scalar")
    if not doses:
        raise DataError("there is no dose; give multiples of the mean activation, such as 0.1")
    dev = taken(texts.dev, "dev", how.per_label)
    test = taken(texts.test, "test", how.per_label)
    check_labels(selection, test)
    ask, drawn = asker(model, texts.request, how, progress), random_sets(selection, how)
    cells: list[list[_Cell]] = []
    for place, emotion in enumerate(selection.label):
        bench = _Bench.of(ask, dev, test, emotion)
        sets = (selection.chosen[place], *drawn[place])
        cells.append(
            [
                bench.cell([signal(devices, device, own, mode) for own in sets], doses, how.seed)
                for device in devices.label
            ]
        )
    provenance = selection.provenance.child(
        devices=devices.provenance.fingerprint(),
        doses=list(doses),
        mode=mode,
        texts=texts.name,
        per_label=how.per_label,
        draws=how.draws,
        seed=how.seed,
        normalised=how.normalised,
    )
    return _record(cells, selection.label, devices.label, mode, provenance)


def signal(
    devices: Profile, device: str, chosen: Bool[Tensor, "layer neuron"], mode: str
) -> list[Add]:
    """Edits that add the mean activations on a device to the chosen neurons.

    Raises:
        AxisError: the device was not profiled.
    """
    edits = added(devices, device, chosen)
    if mode == "index" or not edits:
        return edits
    mean = float(devices.mean[devices.index("label", device)][chosen].mean())
    return [Add("post", e.layer, mean * chosen[e.layer].float(), "all") for e in edits]


@dataclass(frozen=True)
class _Cell:
    """One device and one emotion."""

    change: float
    low: float
    high: float
    other_change: float
    base: float
    dose: float
    random: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Bench:
    """What one emotion's cells have in common: texts, and what is answered without a signal."""

    ask: Ask
    dev: Texts
    test: Texts
    others: Texts
    answered: tuple[Tensor, ...]

    @classmethod
    def of(cls, ask: Ask, dev: Texts, test: Texts, emotion: str) -> "_Bench":
        """Ask about dev and test texts of the emotion, and test texts of the others."""
        own = set(places_of(test, emotion))
        rest = at(test, [place for place in range(len(test)) if place not in own])
        parts = dev.of(emotion), test.of(emotion), rest
        return cls(ask, *parts, tuple(ask(part, ()) for part in parts))

    def cell(self, signals: Sequence[Sequence[Add]], doses: Sequence[float], seed: int) -> _Cell:
        """The first signal is the emotion's own, the others are random."""
        chosen = [(own, self._best(own, doses)) for own in signals]
        gained = [self._gains(1, times(own, dose)) for own, dose in chosen]
        low, high = interval(gained[0], torch.Generator().manual_seed(seed))
        own, dose = chosen[0]
        return _Cell(
            float(gained[0].mean()),
            float(low),
            float(high),
            float(self._gains(2, times(own, dose)).mean()),
            100.0 * float(hits(self.answered[1], torch.tensor(self.test.truth)).double().mean()),
            dose,
            tuple(float(each.mean()) for each in gained[1:]),
        )

    def _best(self, edits: Sequence[Add], doses: Sequence[float]) -> float:
        reached = [float(self._gains(0, times(edits, dose)).mean()) for dose in doses]
        return doses[reached.index(max(reached))]

    def _gains(self, part: int, edits: Sequence[Add]) -> Tensor:
        texts, base = (self.dev, self.test, self.others)[part], self.answered[part]
        answered = self.ask(texts, edits) if edits else base
        return gains(answered, base, torch.tensor(texts.truth))


def _record(
    cells: Sequence[Sequence[_Cell]],
    emotions: tuple[str, ...],
    devices: tuple[str, ...],
    mode: str,
    provenance: Provenance,
) -> CrossSignal:
    def table(name: str) -> Tensor:
        values = [[getattr(cell, name) for cell in own] for own in cells]
        return torch.tensor(values, dtype=torch.float64).transpose(0, 1)

    random = table("random").movedim(-1, 0)
    p = above(table("change"), random)
    return CrossSignal(
        provenance=provenance,
        label=devices,
        emotion=emotions,
        change=table("change"),
        low=table("low"),
        high=table("high"),
        other_change=table("other_change"),
        base=table("base")[0],
        dose=table("dose"),
        random_change=random,
        p=p,
        corrected_p=corrected(p),
        mode=mode,
    )

"""The mean activation of a class, added to neurons while other texts are read.

**Steering to a class.** Zheng et al. (ACL 2026, arXiv 2604.17255) induce a class by adding its mean
activations to its neurons. What is added is a constant vector, equal in kind to activation
addition, so random vectors of the same length are a baseline, as random neurons are.

**Cross-signal.** The mean activation on a rhetorical device, added to the neurons of an emotion:
Zheng et al. report that devices so support the recognition of emotions. The strength is chosen on
dev texts, for random neurons as well; changes are of test texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.effects.heads import random_directions
from circuits.errors import DataError
from circuits.models.edits import Add
from circuits.models.families import neuron_weights
from circuits.models.protocol import Model
from circuits.neurons.mask import (
    above,
    at,
    classifier,
    corrected,
    gains,
    hits,
    interval,
    random_sets,
    studied,
    taken,
)
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection
from circuits.prompts.prompt import LabelledSet, Texts
from circuits.records import Record
from circuits.running import in_force

__all__ = ["CrossSignal", "Induction", "add_class_means", "cross_signal"]


@dataclass(frozen=True, eq=False)
class Induction(Record):
    """How often a class is named for test texts of all other classes."""

    label: tuple[str, ...]
    """The class that is steered to."""
    dose: tuple[float, ...]
    """Multiples of the class's mean activation; 0 changes nothing."""
    rate: Float[Tensor, "label dose"]
    """How often the class is named, in percent."""
    low: Float[Tensor, "label dose"]
    """``low`` to ``high`` is the 95% interval of the rate: bootstrap over texts."""
    high: Float[Tensor, "label dose"]
    log_change: Float[Tensor, "label dose"]
    """Mean change of its label's log-probability, in nats."""
    random_rate: Float[Tensor, "draw label dose"]
    """The rate when random neurons of the same layers get their own mean for the class."""
    random_log_change: Float[Tensor, "draw label dose"]
    vector_rate: Float[Tensor, "draw label dose"]
    """The rate when every MLP writes a random vector as long as what the neurons add."""
    random_p: Float[Tensor, "label dose"]
    """(1 + random sets whose rate is at least as high) / (1 + random sets)."""
    vector_p: Float[Tensor, "label dose"]
    n_neurons: Int[Tensor, " label"]


def add_class_means(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    *,
    doses: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0),
    per_label: int = 20,
    draws: int = 10,
) -> Induction:
    """Add each class's mean activations to its neurons while texts of other classes are read.

    Args:
        texts: Test texts of the other classes are classified.
        profile: Gives the mean activations.
        doses: Multiples of the mean.
        per_label: Texts of every class, at most.
        draws: Random sets of neurons, and as many random vectors, for every class.

    Raises:
        AxisError: a class of the selection is none of the texts' labels, or was not profiled.
        DataError: a class has no test texts, or there is no dose.
        ModelError: a layer has too few other neurons for random sets.
    """
    _check_doses(doses)
    test = taken(texts.test, "test", per_label, selection)
    classify, drawn = classifier(model, texts.request), random_sets(selection, draws)
    base, tables = classify(test, ()), []
    for label, chosen, random in zip(selection.label, selection.chosen, drawn, strict=True):
        own = test.label.index(label)
        rows = [place for place, true in enumerate(test.truth) if true != own]
        others, before = at(test, rows), base[rows]
        ways = [added(profile, label, neurons) for neurons in (chosen, *random)]
        ways += as_long(model, ways[0], draws)
        logs = torch.stack(
            [
                classify(others, times(way, dose)) if way and dose else before
                for way in ways
                for dose in doses
            ]
        ).unflatten(0, (len(ways), len(doses)))
        named = 100.0 * (logs.argmax(-1) == own).double()
        change = (logs[..., own].double() - before[:, own]).mean(-1)
        tables.append((named.mean(-1), change, torch.stack(interval(named[0]))))
    # Ways: the class's own neurons, random neurons, random vectors.
    rates, changes, ends = (torch.stack(each, 1) for each in zip(*tables, strict=True))
    (rate,), random_rate, vector_rate = rates.split((1, draws, draws))
    options = {"induced": list(doses), "profile": profile.provenance.fingerprint()}
    return Induction(
        provenance=studied(selection, texts.name, per_label, draws, **options),
        label=selection.label,
        dose=tuple(doses),
        n_neurons=selection.chosen.sum((1, 2)),
        rate=rate,
        low=ends[0],
        high=ends[1],
        log_change=changes[0],
        random_rate=random_rate,
        random_log_change=changes[1 : 1 + draws],
        vector_rate=vector_rate,
        random_p=above(rate, random_rate),
        vector_p=above(rate, vector_rate),
    )


def _check_doses(doses: Sequence[float]) -> None:
    if not doses:
        raise DataError("there is no dose; give multiples of the mean activation, such as 1")


def added(profile: Profile, label: str, chosen: Bool[Tensor, "layer neuron"]) -> list[Add]:
    """Edits that add a class's mean activations to the chosen neurons, at all positions."""
    mean = profile.mean[profile.index("label", label)].where(chosen, 0.0)
    layers = chosen.any(1).nonzero()[:, 0].tolist()
    return [Add("post", layer, mean[layer], "all") for layer in layers]


def times(edits: Sequence[Add], dose: float) -> list[Add]:
    """The same edits with their values multiplied."""
    return [replace(edit, value=dose * edit.value) for edit in edits]


def as_long(model: Model, edits: Sequence[Add], draws: int) -> list[list[Add]]:
    """Edits that make each MLP write a random vector as long as what ``edits`` make it write."""
    width = model.cfg.d_model
    vectors = random_directions(draws * len(edits), width, seed=in_force().seed)
    values = {edit.layer: edit.value.float() for edit in edits}
    weights = enumerate(neuron_weights(model))
    lengths = [(values[layer] @ W_out).norm() for layer, W_out in weights if layer in values]
    return [
        [
            Add("mlp_out", edit.layer, length * vector, "all")
            for edit, length, vector in zip(edits, lengths, own, strict=True)
        ]
        for own in vectors.reshape(draws, len(edits), width)
    ]


@dataclass(frozen=True, eq=False)
class CrossSignal(Record):
    """Changes of accuracy in percentage points, test texts, rhetorical device by emotion."""

    label: tuple[str, ...]
    """The rhetorical device whose mean activations are added."""
    emotion: tuple[str, ...]
    """The emotion to whose neurons they are added, and whose texts are classified."""
    change: Float[Tensor, "label emotion"]
    low: Float[Tensor, "label emotion"]
    """``low`` to ``high`` is its 95% interval: paired bootstrap over texts."""
    high: Float[Tensor, "label emotion"]
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
    mode: str = "index"
    """Every neuron gets its own mean on the device; older files may say ``set_scalar``."""


def cross_signal(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    devices: Profile,
    *,
    doses: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0),
    per_label: int = 30,
    draws: int = 10,
) -> CrossSignal:
    """Add the mean activations on every device to the neurons of every emotion.

    Args:
        texts: Of emotions; strengths are chosen on dev texts, test texts are reported on.
        devices: Activity on texts of every rhetorical device; ``sel(label=...)`` leaves some out.
        doses: Multiples of the mean; among equally good ones the first is chosen.
        per_label: Texts of every emotion and split, at most.
        draws: Random sets of neurons for every emotion.

    Raises:
        AxisError: an emotion of the selection is none of the texts' labels.
        DataError: an emotion has no dev or test texts, or there is no dose.
        ModelError: a layer has too few other neurons for random sets.
    """
    _check_doses(doses)
    dev = taken(texts.dev, "dev", per_label, selection)
    test = taken(texts.test, "test", per_label, selection)
    classify, drawn = classifier(model, texts.request), random_sets(selection, draws)

    def gained(part: tuple[Texts, Tensor], edits: Sequence[Add], dose: float) -> Tensor:
        own, before = part
        logs = classify(own, times(edits, dose)) if edits else before
        return gains(logs, before, torch.tensor(own.truth))

    size = len(devices.label), len(selection.label)
    names = ("change", "low", "high", "other_change", "dose")
    tables: dict[str, Any] = {name: torch.zeros(size, dtype=torch.float64) for name in names}
    random_change, bases = torch.zeros(draws, *size, dtype=torch.float64), []
    for e, (emotion, chosen) in enumerate(zip(selection.label, selection.chosen, strict=True)):
        others = test.of(*(label for label in test.label if label != emotion))
        on_dev, on_test, on_others = (
            (part, classify(part, ())) for part in (dev.of(emotion), test.of(emotion), others)
        )
        right = hits(on_test[1], torch.tensor(on_test[0].truth))
        bases.append(100.0 * right.double().mean())
        for d, device in enumerate(devices.label):
            for draw, neurons in enumerate((chosen, *drawn[e])):
                edits = added(devices, device, neurons)
                reached = [float(gained(on_dev, edits, dose).mean()) for dose in doses]
                dose = doses[reached.index(max(reached))]
                change = gained(on_test, edits, dose)
                if draw:
                    random_change[draw - 1, d, e] = change.mean()
                    continue
                elsewhere = gained(on_others, edits, dose).mean()
                values = change.mean(), *interval(change), elsewhere, dose
                for table, value in zip(tables.values(), values, strict=True):
                    table[d, e] = value
    p = above(tables["change"], random_change)
    options = {"devices": devices.provenance.fingerprint(), "doses": list(doses)}
    return CrossSignal(
        provenance=studied(selection, texts.name, per_label, draws, **options),
        label=devices.label,
        emotion=selection.label,
        base=torch.stack(bases),
        random_change=random_change,
        p=p,
        corrected_p=corrected(p),
        **tables,
    )

"""Cross-signal: the mean activation on a rhetorical device, added to the neurons of an emotion.

Zheng et al. (ACL 2026, arXiv 2604.17255) report that devices so support the recognition of
emotions. The strength is chosen on dev texts, for random neurons as well; changes are of test
texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.data.texts import LabelledSet, Texts
from circuits.errors import AxisError, DataError
from circuits.model.edits import Add
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.provenance import Provenance
from circuits.records import Record
from circuits.selective.asking import (
    Ask,
    Asking,
    asker,
    at,
    check_labels,
    places_of,
    random_sets,
    taken,
)
from circuits.selective.profile import Profile
from circuits.selective.selection import Selection
from circuits.selective.statistics import above, corrected, gains, hits, interval
from circuits.selective.steering import added, times

__all__ = ["CrossSignal", "cross_signal", "signal"]


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
        devices=devices.provenance.fingerprint(), doses=list(doses), mode=mode, texts=texts.name,
        per_label=how.per_label, draws=how.draws, seed=how.seed, normalised=how.normalised,
    )  # fmt: skip
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

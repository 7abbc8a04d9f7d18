"""Attenuation that grows until accuracy falls, and the same done to random neurons.

Zheng et al. (ACL 2026, arXiv 2604.17255): the neurons of a class that tell it best from the others
are attenuated; while the accuracy on dev texts has not fallen, more of them are attenuated, and
more strongly. The loop stops when accuracy falls, so that nearly any set of neurons ends in a fall
on the texts that it was tuned on. Hence the same loop, with the same budget, runs on random pools
of the same layers, and what is reported is the difference on test texts that no loop has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.models.edits import Edit
from circuits.models.generate import Progress
from circuits.models.protocol import Model
from circuits.neurons.mask import (
    Ask,
    Asking,
    Mask,
    asker,
    at,
    below,
    by_class,
    check_labels,
    core,
    corrected,
    edits_of,
    gains,
    gaps,
    hits,
    intervals,
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
    "Adaptive",
    "Attenuation",
    "Course",
    "Pool",
    "Schedule",
    "adapt",
    "adaptive_masking",
    "attenuate_until",
]


@dataclass(frozen=True)
class Schedule:
    """How the attenuation grows. Share and strength are at most 1."""

    alpha: float = 0.3
    alpha_step: float = 0.1
    tau: float = 0.1
    """The share of the pool, so that raising it makes the mask stronger."""
    tau_step: float = 0.05
    steps: int = 10
    """Trials at most."""
    per_label: int = 40
    """Dev texts of the class on which every step is tried, at most."""
    fall: float = 2.0
    """The fall of accuracy on dev texts that ends the loop, in percentage points."""

    def __post_init__(self) -> None:
        """Refuse schedules that do not grow or mask nothing."""
        if not (0 < self.alpha <= 1 and 0 < self.tau <= 1 and self.steps >= 1):
            raise DataError(
                f"alpha {self.alpha}, tau {self.tau} and {self.steps} steps were asked for; give "
                "alpha and tau above 0 and at most 1, and at least one step"
            )
        if min(self.alpha_step, self.tau_step, self.fall) < 0:
            raise DataError("steps of alpha and tau and the wanted fall must not be negative")

    @property
    def alphas(self) -> tuple[float, ...]:
        """Strength at every step."""
        return tuple(min(1.0, self.alpha + i * self.alpha_step) for i in range(self.steps))

    @property
    def taus(self) -> tuple[float, ...]:
        """Share of the pool at every step."""
        return tuple(min(1.0, self.tau + i * self.tau_step) for i in range(self.steps))


@dataclass(frozen=True, eq=False)
class Pool:
    """Neurons of which some are attenuated on behalf of a class."""

    neurons: Bool[Tensor, "layer neuron"]
    gap: Float[Tensor, "layer neuron"]
    """The larger, the earlier a neuron is attenuated."""
    profile: Profile
    label: str
    kind: str = "attenuate"

    def attenuated(self, alpha: float, tau: float) -> tuple[list[Edit], int]:
        """Edits of strength ``alpha`` on the share ``tau`` of the pool; on how many neurons."""
        chosen = core(self.gap, self.neurons, tau)
        edits = edits_of(Mask(self.kind, alpha), chosen, self.profile, self.label)
        return edits, int(chosen.sum())


@dataclass(frozen=True)
class Course:
    """One loop."""

    changes: tuple[float, ...]
    """Change of the accuracy on dev texts at every step, in percentage points."""
    success: bool
    edits: Sequence[Edit]
    """The last mask."""
    n_core: int


Attenuation = Callable[[float, float], tuple[Sequence[Edit], int]]
"""From strength and share to the edits, and the number of neurons that they are on."""


def attenuate_until(
    ask: Ask, dev: Texts, attenuation: Attenuation, schedule: Schedule, base: Tensor | None = None
) -> Course:
    """Attenuate more until accuracy on dev texts has fallen, or the steps are used up.

    Args:
        ask: Asks the model.
        dev: Texts of the dev split, all of them of the class.
        attenuation: The mask.
        schedule: How it grows.
        base: What ``ask`` answers without edits, if it is known.

    Raises:
        DataError: the texts are of another split.
    """
    truth = torch.tensor(dev.only("dev").truth)
    base = ask(dev, ()) if base is None else base
    changes: list[float] = []
    edits: Sequence[Edit] = ()
    n_core = 0
    for alpha, tau in zip(schedule.alphas, schedule.taus, strict=True):
        edits, n_core = attenuation(alpha, tau)
        answered = ask(dev, edits) if n_core else base
        changes.append(float(gains(answered, base, truth).mean()))
        if changes[-1] <= -schedule.fall:
            return Course(tuple(changes), True, edits, n_core)
    return Course(tuple(changes), False, edits, n_core)


@dataclass(frozen=True, eq=False)
class Adaptive(Record):
    """The end of every loop on test texts, and its course on dev texts.

    Changes are of accuracy, in percentage points, masked minus unmasked.
    """

    label: tuple[str, ...]
    """The class whose neurons are attenuated."""
    other_label: tuple[str, ...]
    """The true class of the texts."""
    dose: tuple[int, ...]
    """Steps of the loop."""
    change: Float[Tensor, "label other_label"]
    """On test texts, with the last mask of the loop."""
    low: Float[Tensor, "label other_label"]
    """Lower end of its 95% interval: paired bootstrap over texts."""
    high: Float[Tensor, "label other_label"]
    """Upper end."""
    base: Float[Tensor, " other_label"]
    """Accuracy on test texts without a mask, in percent."""
    random: Float[Tensor, "draw label"]
    """Change on test texts of the own class after the same loop on a random pool."""
    p: Float[Tensor, " label"]
    """(1 + random pools whose change is at least as low) / (1 + random pools)."""
    corrected_p: Float[Tensor, " label"]
    """The same corrected for the number of classes (Benjamini and Hochberg 1995)."""
    success: Bool[Tensor, " label"]
    """Did the accuracy on dev texts fall by the wanted amount?"""
    random_success: Bool[Tensor, "draw label"]
    """Did it for the random pool?"""
    alpha: Float[Tensor, " label"]
    """Attenuation at the end of the loop, at most 1."""
    tau: Float[Tensor, " label"]
    """Share of the pool that is attenuated at the end."""
    n_core: Int[Tensor, " label"]
    """Neurons attenuated at the end."""
    trajectory: Float[Tensor, "label dose"]
    """Change on dev texts of the own class at every step; NaN after the end."""
    random_trajectory: Float[Tensor, "draw label dose"]
    """The same for the random pools."""
    alphas: Float[Tensor, " dose"]
    """Attenuation at every step; the schedule is the same for all."""
    taus: Float[Tensor, " dose"]
    """Share of the pool at every step."""

    @property
    def own(self) -> Float[Tensor, " label"]:
        """Change on test texts of the class whose neurons are attenuated."""
        places = [self.index("other_label", label) for label in self.label]
        return self.change[range(len(self.label)), places]

    @property
    def beyond_random(self) -> Float[Tensor, " label"]:
        """The reported statistic: own change minus the mean of the random pools."""
        return self.own - self.random.mean(0)

    def random_band(self, label: str) -> tuple[Float[Tensor, " dose"], Float[Tensor, " dose"]]:
        """What 95% of the random pools lie between, step by step; one that ended stays there."""
        pools = self.random_trajectory[:, self.index("label", label)].clone()
        for step in range(1, pools.shape[1]):
            pools[:, step] = pools[:, step].where(~pools[:, step].isnan(), pools[:, step - 1])
        low, high = pools.quantile(torch.tensor([0.025, 0.975], dtype=pools.dtype), dim=0)
        return low, high

    @property
    def success_rate(self) -> Float[Tensor, " label"]:
        """Share of the random pools on which the loop succeeded as well."""
        return self.random_success.double().mean(0).float()


def adaptive_masking(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    *,
    schedule: Schedule | None = None,
    kind: str = "attenuate",
    how: Asking | None = None,
    progress: Progress | None = None,
) -> Adaptive:
    """Run the loop for every class and for random pools, then look at test texts once.

    The pool of a class are its selected neurons; random pools have as many in every layer, none of
    them selected for the class, and are ranked by the same statistic.

    Args:
        model: The model.
        texts: The loops are given dev texts; test texts are read after the last loop has ended.
        selection: The neurons of every class.
        profile: Gives the statistic by which a pool is ranked, and the largest activations.
        schedule: How the attenuation grows, and when it ends.
        kind: By the activation at hand (dynamic), or by the class's mean.
        how: How many test texts of a class, and how many random pools; 20 by default.
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels, or the kind is unknown.
        DataError: a class has no dev or no test texts.
        ModelError: a layer has too few other neurons for random pools.
    """
    how = how or Asking(draws=20)
    ask = asker(model, texts.request, how, progress)
    return adapt(ask, texts, selection, profile, schedule or Schedule(), kind, how)


def adapt(
    ask: Ask,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    schedule: Schedule,
    kind: str,
    how: Asking,
) -> Adaptive:
    """:func:`adaptive_masking` of whatever ``ask`` asks."""
    if kind not in ("attenuate", "static"):
        raise AxisError(f"masks that grow are attenuate and static, not {kind!r}")
    # The loops get the dev texts and nothing else.
    loops = _loops(ask, texts.dev, selection, profile, schedule, kind, how)
    provenance = selection.provenance.child(
        **asdict(schedule),
        kind=kind,
        texts=texts.name,
        test_per_label=how.per_label,
        draws=how.draws,
        seed=how.seed,
        normalised=how.normalised,
    )
    tested = _tested(ask, taken(texts.test, "test", how.per_label), loops, how)
    return _record(loops, tested, schedule, provenance)


@dataclass(frozen=True)
class _Loops:
    """How the loop went for a class and for its random pools."""

    label: str
    own: Course
    random: tuple[Course, ...]


def _loops(
    ask: Ask,
    dev: Texts,
    selection: Selection,
    profile: Profile,
    schedule: Schedule,
    kind: str,
    how: Asking,
) -> list[_Loops]:
    dev = taken(dev, "dev", schedule.per_label)
    check_labels(selection, dev)
    drawn, found = random_sets(selection, how), []
    for place, label in enumerate(selection.label):
        own, gap = dev.of(label), gaps(profile, label)
        base = ask(own, ())
        courses = [
            attenuate_until(
                ask, own, Pool(pool, gap, profile, label, kind).attenuated, schedule, base
            )
            for pool in (selection.chosen[place], *drawn[place])
        ]
        found.append(_Loops(label, courses[0], tuple(courses[1:])))
    return found


@dataclass(frozen=True, eq=False)
class _Tested:
    """What test texts say about the last masks."""

    labels: tuple[str, ...]
    truth: Int[Tensor, " text"]
    base: Float[Tensor, "text judged"]
    differences: Float[Tensor, "label text"]
    random: Float[Tensor, "draw label"]
    seed: int


def _tested(ask: Ask, test: Texts, loops: Sequence[_Loops], how: Asking) -> _Tested:
    truth, base = torch.tensor(test.truth), ask(test, ())
    rows: list[Tensor] = []
    random: list[Tensor] = []
    for loop in loops:
        masked = ask(test, loop.own.edits) if loop.own.n_core else base
        rows.append(gains(masked, base, truth))
        places = places_of(test, loop.label)
        own, before, true = at(test, places), base[places], truth[places]
        others = [ask(own, each.edits) if each.n_core else before for each in loop.random]
        random.append(gains(torch.stack(others), before, true).mean(-1))
    return _Tested(test.label, truth, base, torch.stack(rows), torch.stack(random, 1), how.seed)


def _record(
    loops: Sequence[_Loops], tested: _Tested, schedule: Schedule, provenance: Provenance
) -> Adaptive:
    classes = len(tested.labels)
    low, high = intervals(tested.differences, tested.truth, classes, tested.seed)
    change = by_class(tested.differences, tested.truth, classes)
    own = change[range(len(loops)), [tested.labels.index(loop.label) for loop in loops]]
    p = below(own, tested.random)
    ends = [len(loop.own.changes) - 1 for loop in loops]
    return Adaptive(
        provenance=provenance,
        label=tuple(loop.label for loop in loops),
        other_label=tested.labels,
        dose=tuple(range(schedule.steps)),
        change=change,
        low=low,
        high=high,
        base=by_class(100.0 * hits(tested.base, tested.truth), tested.truth, classes),
        random=tested.random,
        p=p,
        corrected_p=corrected(p),
        success=torch.tensor([loop.own.success for loop in loops]),
        random_success=torch.tensor([[c.success for c in loop.random] for loop in loops]).T,
        alpha=torch.tensor([schedule.alphas[end] for end in ends]),
        tau=torch.tensor([schedule.taus[end] for end in ends]),
        n_core=torch.tensor([loop.own.n_core for loop in loops]),
        trajectory=_padded([loop.own for loop in loops], schedule.steps),
        random_trajectory=torch.stack([_padded(loop.random, schedule.steps) for loop in loops], 1),
        alphas=torch.tensor(schedule.alphas),
        taus=torch.tensor(schedule.taus),
    )


def _padded(courses: Sequence[Course], steps: int) -> Float[Tensor, "course dose"]:
    found = torch.full((len(courses), steps), torch.nan)
    for place, course in enumerate(courses):
        found[place, : len(course.changes)] = torch.tensor(course.changes)
    return found

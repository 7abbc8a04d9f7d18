"""Attenuation that grows until accuracy falls, and the same done to random neurons.

Zheng et al. (ACL 2026, arXiv 2604.17255): the neurons of a class that tell it best from the others
are attenuated; while the accuracy on dev texts has not fallen, more of them are attenuated, and
more strongly. The loop stops when accuracy falls, so that nearly any set of neurons ends in a fall
on the texts that it was tuned on. Hence the same loop, with the same budget, runs on random pools
of the same layers, and what is reported is the difference on test texts that no loop has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.models.edits import Edit
from circuits.models.protocol import Model
from circuits.neurons.mask import (
    Classify,
    Mask,
    at,
    below,
    by_class,
    classifier,
    core,
    corrected,
    edits_of,
    gains,
    gaps,
    hits,
    interval,
    places_of,
    random_sets,
    taken,
)
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection
from circuits.neurons.study import Effects
from circuits.prompts.prompt import LabelledSet, Texts
from circuits.running import in_force

__all__ = ["Adaptive", "Course", "Schedule", "adaptive_masking", "attenuate_until"]


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
    def trials(self) -> list[tuple[float, float]]:
        """Strength and share of the pool at every step."""
        return [
            (min(1.0, self.alpha + i * self.alpha_step), min(1.0, self.tau + i * self.tau_step))
            for i in range(self.steps)
        ]


class Course(NamedTuple):
    """One loop."""

    changes: tuple[float, ...]
    """Change of the accuracy on dev texts at every step, in percentage points."""
    success: bool
    edits: Sequence[Edit]
    """The last mask."""


def attenuate_until(
    classify: Classify,
    dev: Texts,
    attenuation: Callable[[float, float], Sequence[Edit]],
    schedule: Schedule,
    base: Tensor | None = None,
) -> Course:
    """Attenuate more until accuracy on dev texts has fallen, or the steps are used up.

    Args:
        dev: Texts of the dev split, all of them of the class.
        attenuation: From strength and share of the pool to the edits; none: nothing is attenuated.
        base: What ``classify`` gives without edits, if it is known.

    Raises:
        DataError: the texts are of another split.
    """
    truth = torch.tensor(dev.only("dev").truth)
    base = classify(dev, ()) if base is None else base
    changes: list[float] = []
    edits: Sequence[Edit] = ()
    for trial in schedule.trials:
        edits = attenuation(*trial)
        masked = classify(dev, edits) if edits else base
        changes.append(float(gains(masked, base, truth).mean()))
        if changes[-1] <= -schedule.fall:
            return Course(tuple(changes), True, edits)
    return Course(tuple(changes), False, edits)


@dataclass(frozen=True, eq=False)
class Adaptive(Effects):
    """The end of every loop on test texts, and its course on dev texts."""

    dose: tuple[int, ...]
    """Steps of the loop."""
    random: Float[Tensor, "draw label"]
    """Change on test texts of the own class after the same loop on a random pool."""
    p: Float[Tensor, " label"]
    """(1 + random pools whose change is at least as low) / (1 + random pools)."""
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
    per_label: int = 200,
    draws: int = 20,
) -> Adaptive:
    """Run the loop for every class and for random pools, then look at test texts once.

    The pool of a class are its selected neurons; random pools have as many in every layer, none of
    them selected for the class, and are ranked by the same statistic.

    Args:
        texts: The loops are given dev texts; test texts are read after the last loop has ended.
        profile: Gives the statistic by which a pool is ranked, and the largest activations.
        kind: By the activation at hand (``attenuate``), or by the class's mean (``static``).
        per_label: Test texts of every class, at most.
        draws: Random pools.

    Raises:
        AxisError: a class of the selection is none of the texts' labels, or the kind is unknown.
        DataError: a class has no dev or no test texts.
        ModelError: a layer has too few other neurons for random pools.
    """
    if kind not in ("attenuate", "static"):
        raise AxisError(f"masks that grow are attenuate and static, not {kind!r}")
    schedule, classify = schedule or Schedule(), classifier(model, texts.request)
    dev = taken(texts.dev, "dev", schedule.per_label, selection)
    pools = torch.cat([selection.chosen[:, None], random_sets(selection, draws)], 1)
    loops: list[list[Course]] = []
    for label, own in zip(selection.label, pools, strict=True):
        some, gap = dev.of(label), gaps(profile, label)
        base = classify(some, ())

        def attenuating(
            alpha: float, tau: float, *, pool: Tensor, label: str = label, gap: Tensor = gap
        ) -> list[Edit]:
            return edits_of(Mask(kind, alpha), core(gap, pool, tau), profile, label)

        loops.append(
            [
                attenuate_until(classify, some, partial(attenuating, pool=pool), schedule, base)
                for pool in own
            ]
        )

    test = taken(texts.test, "test", per_label, selection)
    truth, base = torch.tensor(test.truth), classify(test, ())
    differences, random = [], []
    for label, (own, *others) in zip(selection.label, loops, strict=True):
        masked = classify(test, own.edits) if own.edits else base
        differences.append(gains(masked, base, truth))
        rows = places_of(test, label)
        some, before = at(test, rows), base[rows]
        after = [classify(some, each.edits) if each.edits else before for each in others]
        random.append(gains(torch.stack(after), before, truth[rows]).mean(-1))

    classes, changes = len(test.label), torch.stack(differences)
    low, high = interval(changes, truth, classes)
    change, baseline = by_class(changes, truth, classes), torch.stack(random, 1)
    places = [test.label.index(label) for label in selection.label]
    p = below(change[range(len(loops)), places], baseline)
    trials, ends = torch.tensor(schedule.trials), [len(own[0].changes) - 1 for own in loops]
    course = torch.full((1 + draws, len(loops), schedule.steps), torch.nan)
    for place, own in enumerate(loops):
        for pool, each in enumerate(own):
            course[pool, place, : len(each.changes)] = torch.tensor(each.changes)
    success = torch.tensor([[each.success for each in own] for own in loops]).T
    n_core = [
        core(gaps(profile, label), own, schedule.trials[end][1]).sum()
        for label, own, end in zip(selection.label, selection.chosen, ends, strict=True)
    ]
    options = {**asdict(schedule), "kind": kind, "test_per_label": per_label, "draws": draws}
    return Adaptive(
        provenance=selection.provenance.child(**options, texts=texts.name, seed=in_force().seed),
        label=selection.label,
        other_label=test.label,
        dose=tuple(range(schedule.steps)),
        change=change,
        low=low,
        high=high,
        base=by_class(100.0 * hits(base, truth), truth, classes),
        random=baseline,
        p=p,
        corrected_p=corrected(p),
        success=success[0],
        random_success=success[1:],
        alpha=trials[ends, 0],
        tau=trials[ends, 1],
        n_core=torch.stack(n_core),
        trajectory=course[0],
        random_trajectory=course[1:],
        alphas=trials[:, 0].clone(),
        taus=trials[:, 1].clone(),
    )

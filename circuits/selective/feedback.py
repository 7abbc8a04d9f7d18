"""The loop of adaptive masking: attenuate more until accuracy on dev texts has fallen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.data.texts import Texts
from circuits.errors import DataError
from circuits.model.edits import Edit
from circuits.selective.asking import Ask
from circuits.selective.masks import Mask, core, edits_of
from circuits.selective.profile import Profile
from circuits.selective.statistics import gains

__all__ = ["Attenuation", "Course", "Pool", "Schedule", "attenuate_until"]


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

"""Masks on chosen neurons, and random sets of neurons to compare them with.

All masks change ``post``, the activation that a neuron's output weights are multiplied by, at all
positions of the prompt and of the reply. ``static`` and ``attenuate`` are those of Zheng et al.
(ACL 2026, arXiv 2604.17255), with the ratio clipped so that neither ever amplifies or flips a sign.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.data.prompts import questions
from circuits.data.texts import Texts
from circuits.errors import AxisError, ModelError
from circuits.model.edits import Attenuate, Edit, Replace, Scale, attenuation
from circuits.model.generation import EditsOf
from circuits.model.protocol import Model
from circuits.model.resampling import donor_values, draw_donors, resampling
from circuits.selective.profile import Profile

__all__ = [
    "Edits",
    "EditsOn",
    "KINDS",
    "Mask",
    "core",
    "edits_of",
    "gaps",
    "masking",
    "matched_sets",
]

KINDS = ("zero", "mean", "gain", "attenuate", "static", "resample")
"""``zero``: 0. ``mean``: the mean over the classes of the identification texts. ``gain``: times
1 + strength. ``attenuate``: times 1 - strength * |a| / largest |a|, token by token. ``static``: the
same with the mean of the class in place of a. ``resample``: what it is on another text."""

Edits = Sequence[Edit] | EditsOf
"""The same edits for all texts, or a function of the places of a batch."""

EditsOn = Callable[[Bool[Tensor, "layer neuron"], str, Sequence[int]], Edits]
"""Edits that do to some neurons what is done on behalf of a class, while the texts at some places
are asked about."""

_EPS = 1e-6


@dataclass(frozen=True)
class Mask:
    """What is done to the chosen neurons."""

    kind: str = "zero"
    strength: float = 1.0
    """Of ``gain`` (gamma), ``attenuate`` and ``static`` (alpha)."""

    def __post_init__(self) -> None:
        """Refuse unknown kinds and strengths that would flip a sign."""
        if self.kind not in KINDS:
            raise AxisError(f"no mask is called {self.kind!r}; masks are {', '.join(KINDS)}")
        lowest, highest = (-1.0, 1e6) if self.kind == "gain" else (0.0, 1.0)
        if not lowest <= self.strength <= highest:
            raise ModelError(
                f"a mask of kind {self.kind} and strength {self.strength} was asked for; "
                f"give {lowest:g} to {highest:g}, so that no activation changes its sign"
            )


def masking(
    model: Model, mask: Mask, profile: Profile, texts: Texts, request: str, seed: int
) -> EditsOn:
    """Puts ``mask`` on neurons while some of ``texts`` are asked about.

    For ``resample`` every text has another one of them as its donor, whichever are asked about.
    """
    prompts = questions(texts.rows, request)
    donors = draw_donors(len(prompts), seed)

    def edits_on(chosen: Tensor, label: str, places: Sequence[int]) -> Edits:
        if mask.kind != "resample":
            return edits_of(mask, chosen, profile, label)
        own = [prompts[donors[place]] for place in places]
        return resampling(donor_values(model, own, chosen), range(len(own)), chosen)

    return edits_on


def edits_of(
    mask: Mask, chosen: Bool[Tensor, "layer neuron"], profile: Profile, label: str
) -> list[Edit]:
    """Edits that put the mask on the chosen neurons; layers without one get no edit.

    Args:
        mask: What is done.
        chosen: The neurons.
        profile: Gives the means and the largest activations.
        label: The class whose mean ``static`` takes.

    Raises:
        AxisError: the label was not profiled.
        ModelError: the mask needs other texts (``resample``), which edits alone do not have.
    """
    own = profile.mean[profile.index("label", label)]
    if mask.kind == "resample":
        raise ModelError("a resample mask takes activations from other texts; use masking()")
    middle, largest = profile.mean.mean(0), profile.largest.amax(0)
    edits: list[Edit] = []
    for layer in chosen.any(1).nonzero()[:, 0].tolist():
        here = chosen[layer]
        if mask.kind == "zero":
            edit = Replace("post", layer, torch.zeros(len(here)), here, "all")
        elif mask.kind == "mean":
            edit = Replace("post", layer, middle[layer], here, "all")
        elif mask.kind == "attenuate":
            edit = Attenuate("post", layer, mask.strength, largest[layer], here, "all")
        else:
            factor = _factor(mask, own[layer], largest[layer])
            edit = Scale("post", layer, factor.where(here, 1.0), "all")
        edits.append(edit)
    return edits


def _factor(mask: Mask, own: Tensor, largest: Tensor) -> Tensor:
    if mask.kind == "gain":
        return torch.full_like(own, 1 + mask.strength)
    return attenuation(own, mask.strength, largest)


def gaps(profile: Profile, label: str) -> Float[Tensor, "layer neuron"]:
    """How far the mean activation on a class is from that on the others, by its mean size.

    Zheng et al.'s statistic of dynamic filtering. The divisor is the mean of the absolute value: a
    signed mean may be near zero or negative where activations have both signs.

    Raises:
        AxisError: the label was not profiled.
    """
    own = profile.index("label", label)
    rest = [place for place in range(len(profile.label)) if place != own]
    apart = profile.mean[own] - profile.mean[rest].mean(0)
    return apart.abs() / (profile.mean_size.mean(0) + _EPS)


def core(
    gap: Float[Tensor, "layer neuron"], pool: Bool[Tensor, "layer neuron"], share: float
) -> Bool[Tensor, "layer neuron"]:
    """The share of the pool with the largest gaps, rounded up; of equal ones the first."""
    # A product such as 0.15 * 20 may lie just above the whole number that it is.
    count = math.ceil(round(share * int(pool.sum()), 9))
    order = gap.masked_fill(~pool, -torch.inf).flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(pool.numel(), dtype=torch.bool)
    kept[order[:count]] = True
    return kept.reshape(pool.shape)


def matched_sets(
    chosen: Bool[Tensor, "layer neuron"],
    draws: int,
    random: torch.Generator,
) -> Bool[Tensor, "draw layer neuron"]:
    """Random sets with as many neurons in every layer as ``chosen``, none of them chosen.

    Args:
        chosen: The set to match.
        draws: How many random sets.
        random: Decides the draws.

    Raises:
        ModelError: a layer has fewer other neurons than are chosen there.
    """
    wanted, left = chosen.sum(1), (~chosen).sum(1)
    for layer in (wanted > left).nonzero()[:, 0].tolist():
        raise ModelError(
            f"layer {layer} has {int(wanted[layer])} chosen neurons and only {int(left[layer])} "
            "others, so no random set of that size can be drawn there; choose fewer neurons"
        )
    # Chosen neurons sort last, and there are enough others.
    keys = torch.rand(draws, *chosen.shape, generator=random).masked_fill(chosen, 2.0)
    return keys.argsort(-1).argsort(-1) < wanted[:, None]

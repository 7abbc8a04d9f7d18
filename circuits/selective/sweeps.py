"""Masks on the lower, middle and upper third of the layers, and on more or fewer neurons.

Lee et al. (Findings of ACL 2025) mask 1 to 5 percent in {bottom, middle, top, all}. Their shares
can be read as shares of all neurons of the model or of the class's set; both are offered.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.data.texts import LabelledSet
from circuits.errors import AxisError, DataError
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.records import Record
from circuits.selective.asking import Answers, Asking, ask_masked, asker, places_of, taken
from circuits.selective.masks import Mask, masking
from circuits.selective.profile import Profile
from circuits.selective.selection import Selection, how_many

__all__ = [
    "DepthProfile",
    "RangeSweep",
    "Ranges",
    "Sets",
    "depth_profile",
    "layers_of",
    "range_sweep",
]


@dataclass(frozen=True, eq=False)
class RangeSweep(Record):
    """Changes of accuracy on test texts, in percentage points, by layer range and share."""

    label: tuple[str, ...]
    """The class whose neurons are masked."""
    place: tuple[str, ...]
    """``bottom``, ``middle``, ``top``: thirds of the layers; ``all``."""
    dose: tuple[float, ...]
    """Shares."""
    own: Float[Tensor, "label place dose"]
    """Change on the class itself."""
    largest_other: Float[Tensor, "label place dose"]
    """The lowest change on another class."""
    random_own: Float[Tensor, "label place dose"]
    """Change on the class itself with random neurons of the same layers, a mean over draws."""
    n_neurons: Int[Tensor, "label place dose"]
    """Masked neurons."""
    base: Float[Tensor, " label"]
    """Accuracy without a mask, in percent."""
    ratio_of: str
    """``all_neurons``: the dose is a share of the model's neurons. ``emotion_set``: of the class's
    set."""
    match_counts: bool
    """Were as many neurons masked in every range?"""
    mask: str = "zero"
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class DepthProfile(Record):
    """How many of every class's neurons lie in each layer."""

    label: tuple[str, ...]
    layer: tuple[int, ...]
    count: Int[Tensor, "label layer"]


Sets = Selection | Callable[[float], Selection]
"""A selection, of whose sets shares are masked (``emotion_set``), or what gives the selection of a
share of all neurons (``all_neurons``)."""


@dataclass(frozen=True)
class Ranges:
    """What is swept."""

    shares: tuple[float, ...] = (0.01, 0.02, 0.03, 0.04, 0.05)
    places: tuple[str, ...] = ("bottom", "middle", "top", "all")
    match_counts: bool = False
    """Mask as many neurons in every range, the best of that range, whether or not the class's set
    has so many there. Else the part of the set that lies in the range."""

    def __post_init__(self) -> None:
        """Refuse shares and ranges that do not exist."""
        known = ("bottom", "middle", "top", "all")
        if not self.places or not set(self.places) <= set(known):
            raise AxisError(f"ranges are {', '.join(known)}, found {', '.join(self.places)}")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise DataError(f"shares lie above 0 and are at most 1, found {self.shares}")


def range_sweep(
    model: Model,
    texts: LabelledSet,
    sets: Sets,
    profile: Profile,
    mask: Mask,
    *,
    ranges: Ranges | None = None,
    how: Asking | None = None,
    progress: Progress | None = None,
) -> RangeSweep:
    """Mask every class's neurons range by range and share by share.

    Args:
        model: The model.
        texts: Test texts are asked about.
        sets: The neurons: shares of a selection's sets, or selections of shares of all neurons.
        profile: What the mask takes means and largest activations from.
        mask: What is done to the neurons.
        ranges: Ranges of layers and shares.
        how: How many texts of a class (by default 30), and how many random sets (5).
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts.
        ModelError: a layer has too few other neurons for random sets.
    """
    how, ranges = how or Asking(per_label=30, draws=5), ranges or Ranges()
    asked = taken(texts.test, "test", how.per_label)
    ask = asker(model, texts.request, how, progress)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    base = ask(asked, ())

    def cell(place: str, share: float) -> Answers:
        part = _part(sets, share, place, ranges.match_counts)
        return ask_masked(
            ask, asked, part, edits_on, how, beside=lambda label: places_of(asked, label), base=base
        )

    cells = [[cell(place, share) for share in ranges.shares] for place in ranges.places]
    return _record(cells, sets, mask, ranges, how, texts.name)


def _record(
    cells: Sequence[Sequence[Answers]],
    sets: Sets,
    mask: Mask,
    ranges: Ranges,
    how: Asking,
    name: str,
) -> RangeSweep:
    def stacked(value: Callable[[Answers], Tensor]) -> Tensor:
        return torch.stack([torch.stack([value(c) for c in row], -1) for row in cells], 1)

    first = cells[0][0]
    source = sets if isinstance(sets, Selection) else sets(ranges.shares[0])
    ratio_of = "emotion_set" if isinstance(sets, Selection) else "all_neurons"
    return RangeSweep(
        provenance=source.provenance.child(
            **asdict(ranges), ratio_of=ratio_of, mask=mask.kind, strength=mask.strength, texts=name,
            per_label=how.per_label, draws=how.draws, seed=how.seed, normalised=how.normalised,
        ),
        label=first.label,
        place=ranges.places,
        dose=ranges.shares,
        own=stacked(lambda c: c.change[range(len(c.own)), c.own]),
        largest_other=stacked(_largest_other),
        random_own=stacked(lambda c: c.random_change.mean(0)),
        n_neurons=stacked(lambda c: c.n_neurons),
        base=first.accuracy[first.own],
        ratio_of=ratio_of,
        match_counts=ranges.match_counts,
        mask=mask.kind,
        strength=mask.strength,
    )  # fmt: skip


def _largest_other(answers: Answers) -> Float[Tensor, " label"]:
    change = answers.change
    change[range(len(answers.own)), answers.own] = torch.inf
    return change.amin(1)


def _part(sets: Sets, share: float, place: str, match_counts: bool) -> Selection:
    """The neurons of every class that are masked in one cell."""
    if isinstance(sets, Selection):
        sizes = [how_many(share, int(own.sum())) if own.any() else 0 for own in sets.chosen]
        selection, chosen = sets, _best(sets.score, sets.chosen, sizes)
    else:
        selection = sets(share)
        chosen = selection.chosen
    here = torch.zeros_like(chosen)
    here[:, layers_of(place, chosen.shape[1])] = True
    if match_counts:
        allowed = here & (selection.score > -torch.inf)
        return replace(
            selection, chosen=_best(selection.score, allowed, chosen.sum((1, 2)).tolist())
        )
    return replace(selection, chosen=chosen & here)


def _best(
    score: Float[Tensor, "label layer neuron"],
    allowed: Bool[Tensor, "label layer neuron"],
    sizes: Sequence[int],
) -> Bool[Tensor, "label layer neuron"]:
    """The highest-scoring of the allowed neurons; of equal ones the first."""
    order = score.masked_fill(~allowed, -torch.inf).flatten(1)
    ranks = order.argsort(dim=1, descending=True, stable=True).argsort(1)
    kept = ranks < torch.tensor(sizes)[:, None]
    return kept.reshape(score.shape) & allowed


def layers_of(place: str, n_layers: int) -> slice:
    """Layers of a third of the model, or all: ``[0, L // 3)``, ``[L // 3, 2 L // 3)``, the rest.

    >>> layers_of("middle", 32)
    slice(10, 21, None)
    """
    first, second = n_layers // 3, 2 * n_layers // 3
    ends = {"bottom": (0, first), "middle": (first, second), "top": (second, n_layers)}
    return slice(*ends.get(place, (0, n_layers)))


def depth_profile(selection: Selection) -> DepthProfile:
    """Count every class's neurons layer by layer."""
    return DepthProfile(
        provenance=selection.provenance.child(counted="layer"),
        label=selection.label,
        layer=selection.layer,
        count=selection.chosen.sum(2),
    )

"""Do emotion directions hold beyond the contexts that they were made from?

Three answers per sublayer and layer: the cosine between directions from two random halves of
the contexts; the cosine between a theme's own direction and the one made without that theme;
and how often the nearest direction, made without the theme, names the emotion of a context of
that theme. The control repeats the last with emotions shuffled within contexts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import DataError
from circuits.measure.contrasts import Batch
from circuits.measure.directions import centred, unit
from circuits.measure.sweep import Sweep
from circuits.names import SUBLAYERS
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["Generality", "GeneralityLook", "GeneralitySums", "direction_generality"]


@dataclass(frozen=True, eq=False)
class Generality(Record):
    """Evidence that directions do not depend on the context."""

    split_half: Float[Tensor, "emotion sublayer layer"]
    """Cosine between the directions of two random halves, averaged over splits."""
    split_half_low: Float[Tensor, "emotion sublayer layer"]
    """The 2.5th percentile over splits."""
    without_theme: Float[Tensor, "emotion sublayer layer theme"]
    """Cosine between the direction made from a theme and the one made without it."""
    accuracy: Float[Tensor, "sublayer layer"]
    """Share of held-out prompts whose nearest direction is that of their emotion."""
    control: Float[Tensor, "sublayer layer"]
    """The same, emotions shuffled within the contexts that the directions are made from."""

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    theme: tuple[str, ...]
    n_splits: int


def direction_generality(
    sweep: Sweep, provenance: Provenance, *, n_splits: int = 50, seed: int = 0
) -> Generality:
    """Measure how far the directions generalise; only complete contexts are used.

    Looks at the values of the sweep once.

    Raises:
        DataError: fewer than two themes have a complete context.
    """
    look = GeneralityLook(sweep, n_splits=n_splits, seed=seed)
    for batch in sweep.values:
        look.update(batch)
    return look.result(provenance)


@dataclass(frozen=True, eq=False)
class GeneralitySums:
    """What was seen so far; parts are merged."""

    first: Float[Tensor, "split emotion sublayer layer d_model"]
    """Of every split's first half."""
    right: Float[Tensor, "sublayer layer"]
    by_chance: Float[Tensor, "sublayer layer"]

    def merge(self, other: "GeneralitySums") -> None:
        """Add what another one has seen."""
        self.first.add_(other.first)
        self.right.add_(other.right)
        self.by_chance.add_(other.by_chance)


class GeneralityLook:
    """Measures generality while batches of values are shown, every one once.

    Holds sums per split and directions per theme, whatever the number of contexts.

    Raises:
        DataError: fewer than two themes have a complete context.
    """

    def __init__(self, sweep: Sweep, *, n_splits: int = 50, seed: int = 0) -> None:
        sums, self._emotions = sweep.contrasts, sweep.grid.emotions
        self._themes, self._n = sums.themes, int(sums.count.sum())
        if len(sums.count) < 2:
            raise DataError(
                f"generality needs complete contexts of at least two themes, found "
                f"{len(sums.count)}"
            )
        self._total = sums.apart.sum(0).float()
        self._within = _made_of(sums.apart, sums.count)
        self._without = _made_without(sums.apart, sums.count)
        self._shuffled = _made_without(sums.shuffled, sums.count)
        others = (self._n - sums.count)[:, None, None, None]
        self._middle = ((sums.middle.sum(0) - sums.middle) / others).float()
        own = self._total.shape
        self.sums = GeneralitySums(
            torch.zeros(n_splits, *own), torch.zeros(own[1:3]), torch.zeros(own[1:3])
        )
        self._in_first = _halves(list(sums.themes.of), n_splits, seed)

    def update(self, batch: Batch) -> None:
        """Add the complete contexts of a batch."""
        for place, streams in batch.whole():
            theme = self._themes.of[place]
            moved = streams - self._middle[theme]
            self.sums.right.add_(_named(moved, self._without[theme]))
            self.sums.by_chance.add_(_named(moved, self._shuffled[theme]))
            apart = streams - streams.mean(dim=0)
            for split in self._in_first[place]:
                self.sums.first[split] += apart

    def result(self, provenance: Provenance) -> Generality:
        """What was measured."""
        halves = torch.stack([_cosine(first, self._total - first) for first in self.sums.first])
        n_prompts = self._n * len(self._emotions)
        return Generality(
            provenance=provenance,
            split_half=halves.mean(0),
            split_half_low=halves.quantile(0.025, dim=0),
            without_theme=(self._within * self._without).sum(-1).movedim(0, -1),
            accuracy=self.sums.right / n_prompts,
            control=self.sums.by_chance / n_prompts,
            emotion=self._emotions,
            sublayer=SUBLAYERS,
            layer=tuple(range(self._total.shape[2])),
            theme=self._themes.theme,
            n_splits=len(self.sums.first),
        )


def _halves(places: list[int], n_splits: int, seed: int) -> dict[int, list[int]]:
    """Place of a context -> the splits in whose first half it is."""
    random = torch.Generator().manual_seed(seed)
    found: dict[int, list[int]] = {place: [] for place in places}
    for split in range(n_splits):
        for chosen in torch.randperm(len(places), generator=random)[: len(places) // 2].tolist():
            found[places[chosen]].append(split)
    return found


def _made_of(
    apart: Float[Tensor, "theme emotion sublayer layer d_model"], count: Int[Tensor, " theme"]
) -> Float[Tensor, "theme emotion sublayer layer d_model"]:
    """Directions from each theme's own sums."""
    made = [unit(centred(own, int(n)))[0] for own, n in zip(apart, count, strict=True)]
    return torch.stack(made)


def _made_without(
    apart: Float[Tensor, "theme emotion sublayer layer d_model"], count: Int[Tensor, " theme"]
) -> Float[Tensor, "theme emotion sublayer layer d_model"]:
    """Directions from all themes' sums but each theme's own."""
    return _made_of(apart.sum(0) - apart, count.sum() - count)


def _cosine(
    one: Float[Tensor, "*rest d_model"], other: Float[Tensor, "*rest d_model"]
) -> Float[Tensor, "*rest"]:
    return (unit(one)[0] * unit(other)[0]).sum(-1)


def _named(
    streams: Float[Tensor, "emotion sublayer layer d_model"],
    directions: Float[Tensor, "other_emotion sublayer layer d_model"],
) -> Float[Tensor, "sublayer layer"]:
    """How many emotions' streams lie nearest to their own emotion's direction."""
    scores = torch.einsum("esld,osld->sleo", streams, directions)
    return (scores.argmax(-1) == torch.arange(len(streams))).sum(-1).float()

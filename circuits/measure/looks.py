"""The second look at the values of a sweep: effects of heads and generality, in one go.

Values that were kept are looked at here. Others are made again, shard by shard, where the engine
says, and only sums come back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from circuits.measure.contrasts import Batch
from circuits.measure.directions import Directions
from circuits.measure.generality import GeneralityLook, GeneralitySums
from circuits.measure.heads import HeadLook, HeadReadout, HeadSums
from circuits.measure.sweep import Again, Last, Read, Sweep
from circuits.model.engine import Here, engine, in_order, shards
from circuits.model.generation import Progress
from circuits.model.protocol import Model

__all__ = ["look_again"]

Looks = tuple[HeadLook, GeneralityLook]


def look_again(
    model: Model,
    sweep: Sweep,
    directions: Directions,
    *,
    readout: HeadReadout = "resid_mid",
    seed: int = 0,
    progress: Progress | None = None,
) -> Looks:
    """Show every batch of values to both looks once.

    Args:
        model: The model.
        sweep: Its values.
        directions: Made from the sweep.
        readout: Of the effects of heads.
        seed: Of the splits of generality.
        progress: Told after every shard how many prompts were looked at.

    Raises:
        ModelError: ``post_norm`` is asked of a model whose norm before the MLP is no RMSNorm.
        DataError: fewer than two themes have a complete context.
    """
    how = _How(replace(sweep, values=()), directions, readout, seed)
    heads, general = how.looks(model)
    if isinstance(sweep.values, Again):
        work = partial(_made_again, how=how, read=sweep.values.read, last=sweep.values.last)
        found = engine().results(model, work, shards(sweep.values.together))
    else:
        found = Here().results(model, partial(_seen, how=how), shards(tuple(sweep.values)))
    for of_heads, of_generality, count in in_order(found):
        heads.sums.merge(of_heads)
        general.sums.merge(of_generality)
        if progress:
            progress(count)
    return heads, general


@dataclass(frozen=True, eq=False)
class _How:
    sweep: Sweep
    directions: Directions
    readout: HeadReadout
    seed: int

    def looks(self, model: Model) -> Looks:
        heads = HeadLook(model, self.sweep, self.directions, readout=self.readout)
        return heads, GeneralityLook(self.sweep, seed=self.seed)


def _made_again(
    model: Model, together: tuple[tuple[int, ...], ...], *, how: _How, read: Read, last: Last
) -> tuple[HeadSums, GeneralitySums, int]:
    return _seen(model, Again(model, how.sweep.grid, read, last, together), how=how)


def _seen(
    model: Model, batches: Iterable[Batch], *, how: _How
) -> tuple[HeadSums, GeneralitySums, int]:
    """What both looks see in batches of values, and how many prompts these are of."""
    (heads, general), count = how.looks(model), 0
    for batch in batches:
        heads.update(batch)
        general.update(batch)
        count += int(batch.present.sum())
    return heads.sums, general.sums, count

"""What every call that runs a model needs, said once around the calls.

    with ec.execution(batch_size=16, memory=2.0, seed=1, progress=bar.update):
        found = ec.directions(model, prompts)

Blocks nest; what a block does not say stays as outside it. Nothing here changes what is measured,
but for the seed, which a result names among its options.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import EllipsisType

from circuits.errors import DataError

__all__ = ["Execution", "Progress", "Reporter", "advance", "execution", "in_force"]

Progress = Callable[[int], None]
"""Told how many items have just been finished."""


class Reporter:
    """Shows how far pieces of work are; this one shows nothing."""

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Progress]:
        """A piece of work with ``total`` items (0: not known); told of finished ones inside."""
        yield lambda finished: None


@dataclass(frozen=True)
class Execution:
    """How work is carried out."""

    batch_size: int | None = None
    """Sequences in one forward pass at most; ``None`` leaves it to each function."""
    memory: float = 1.0
    """Gigabytes beside the weights for cached activations and for those of one pass."""
    seed: int = 0
    """Of whatever is drawn: random baselines, resampled contexts, sampled tokens."""
    progress: Progress | None = None
    """Told after every batch how many items it has finished."""

    def rows(self, default: int = 96) -> int:
        """Sequences in one pass of a function that takes ``default`` of its own."""
        return default if self.batch_size is None else self.batch_size


_AS_IT_IS = Execution()
_IN_FORCE: ContextVar[Execution] = ContextVar("execution", default=_AS_IT_IS)


def in_force() -> Execution:
    """How work is carried out here."""
    return _IN_FORCE.get()


@contextmanager
def execution(
    *,
    batch_size: int | EllipsisType | None = ...,
    memory: float | EllipsisType = ...,
    seed: int | EllipsisType = ...,
    progress: Progress | EllipsisType | None = ...,
) -> Iterator[Execution]:
    """Carry out the work of a block in another way; what is not given stays as it is.

    Args:
        batch_size: Sequences in one forward pass at most; ``None`` leaves it to each function.
        memory: Gigabytes beside the weights for cached activations and for those of one pass.
        seed: Of whatever is drawn.
        progress: Told after every batch how many items it has finished.

    Raises:
        DataError: For a batch of less than one or a budget of nothing.

    Example:
        >>> import circuits as ec
        >>> with ec.execution(batch_size=16, seed=3) as how:
        ...     how.rows(96), how.seed
        (16, 3)
    """
    said = {"batch_size": batch_size, "memory": memory, "seed": seed, "progress": progress}
    given = {name: value for name, value in said.items() if value is not ...}
    how = replace(in_force(), **given)  # type: ignore[arg-type]
    if how.batch_size is not None and how.batch_size < 1:
        raise DataError(f"a batch of {how.batch_size} sequences holds nothing; give 1 or more")
    if not how.memory > 0:
        raise DataError(f"a memory budget of {how.memory:g} GB holds nothing; give more than 0")
    token = _IN_FORCE.set(how)
    try:
        yield how
    finally:
        _IN_FORCE.reset(token)


def advance(items: int) -> None:
    """Tell whoever asked that so many items are finished."""
    progress = in_force().progress
    if progress:
        progress(items)

"""Where the parts of a piece of work on a model are done: here in turn, or by several workers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, runtime_checkable

from circuits.model.protocol import Model

__all__ = ["SHARDS", "Engine", "Here", "engine", "in_order", "shards", "working_on"]

SHARDS = 32
"""Parts that a sum over contexts is made of, at most. Neither it nor what is in a part depends on
the number of workers, so that the sums are the same to the last bit for any number, where every
process has the same kind of processor, as many threads and the same versions of the libraries."""

P = TypeVar("P")
R = TypeVar("R")


@runtime_checkable
class Engine(Protocol):
    """Does parts of a piece of work; what they cost is charged to the receipts open here."""

    def results(
        self, model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
    ) -> Iterator[tuple[int, R]]:
        """``(place, work(model, part))`` of every part, in the order in which they are ready.

        What a part cost is charged while its result is being waited for, and nothing else is.
        """
        ...


class Here:
    """This process, one part after the other."""

    def results(
        self, model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
    ) -> Iterator[tuple[int, R]]:
        """The results in the order of the parts, each made when it is asked for."""
        return ((place, work(model, part)) for place, part in enumerate(parts))


_HERE = Here()
_ENGINE: ContextVar[Engine] = ContextVar("engine")


def engine() -> Engine:
    """What does the work; this process unless :func:`working_on` says otherwise."""
    return _ENGINE.get(_HERE)


def in_order(results: Iterable[tuple[int, R]]) -> Iterator[R]:
    """Results in the order of their places; those that come early are held until it is their turn.

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    early: dict[int, R] = {}
    due = 0
    for place, result in results:
        early[place] = result
        while due in early:
            yield early.pop(due)
            due += 1


def shards(items: Sequence[P]) -> list[tuple[P, ...]]:
    """Items in :data:`SHARDS` parts of neighbours, or in as many parts as there are items.

    >>> [len(part) for part in shards(range(70))][:8]
    [2, 2, 2, 2, 2, 3, 2, 2]
    """
    count = min(SHARDS, len(items))
    edges = [place * len(items) // count for place in range(count + 1)] if count else [0]
    return [tuple(items[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


@contextmanager
def working_on(chosen: Engine) -> Iterator[None]:
    """Have the work inside the block done by another engine."""
    token = _ENGINE.set(chosen)
    try:
        yield
    finally:
        _ENGINE.reset(token)

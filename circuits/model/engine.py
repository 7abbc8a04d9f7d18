"""Where the parts of a piece of work on a model are done: here in turn, or by several workers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, runtime_checkable

from circuits.model.protocol import Model

__all__ = ["Engine", "Here", "engine", "working_on"]

P = TypeVar("P")
R = TypeVar("R")


@runtime_checkable
class Engine(Protocol):
    """Does parts of a piece of work; what they cost is charged to the receipts open here."""

    def results(
        self, model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
    ) -> Iterator[tuple[int, R]]:
        """``(place, work(model, part))`` of every part, in the order in which they are ready."""
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


@contextmanager
def working_on(chosen: Engine) -> Iterator[None]:
    """Have the work inside the block done by another engine."""
    token = _ENGINE.set(chosen)
    try:
        yield
    finally:
        _ENGINE.reset(token)

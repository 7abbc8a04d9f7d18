"""What a file may not decide: running code of a model's own, and sending a key to a judge's server.

A run folder, a plan, a circuit or a file of hooks may come from anybody, and each may name a model
or a judge. So what stands in it does not decide either; who opens it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

__all__ = ["Trust", "trusted", "trusting"]

Trust = Literal["code", "judge"]
"""``code``: run what comes with a model. ``judge``: send the key to a server that a file names."""

_ASKED: ContextVar[frozenset[Trust]] = ContextVar("trust", default=frozenset())


def trusted(what: Trust) -> bool:
    """Was it asked for, around this call?"""
    return what in _ASKED.get()


@contextmanager
def trusting(*what: Trust) -> Iterator[None]:
    """Inside the block, do this also where run folders, plans and circuits are what names it."""
    asked: frozenset[Trust] = frozenset(what)
    before = _ASKED.set(_ASKED.get() | asked)
    try:
        yield
    finally:
        _ASKED.reset(before)

"""Whether code that comes with a model may run: never because a file says so.

A run folder, a circuit or a file of hooks may come from anybody, and each names its model. So the
plan of a run that is opened again does not decide it; who opens it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["trusted", "trusting"]

_ASKED: ContextVar[bool] = ContextVar("trust_remote_code", default=False)


def trusted() -> bool:
    """Was it asked, around this call, to run code that comes with models?"""
    return _ASKED.get()


@contextmanager
def trusting() -> Iterator[None]:
    """Run code that comes with the models of run folders and circuits that are opened inside."""
    before = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(before)

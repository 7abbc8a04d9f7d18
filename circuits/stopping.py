"""Stopping between two batches: somebody asks, and the work ends where nothing is lost."""

import threading

from circuits.errors import Stopped

__all__ = ["ask_to_stop", "go_on", "stop_if_asked", "stopping"]

_ASKED = threading.Event()


def ask_to_stop() -> None:
    """Have the work end after the batch that is being done; may be called by a signal handler."""
    _ASKED.set()


def go_on() -> None:
    """Forget that anybody asked."""
    _ASKED.clear()


def stopping() -> bool:
    """Has somebody asked the work to stop?"""
    return _ASKED.is_set()


def stop_if_asked() -> None:
    """End the work here if somebody has asked for it; called after every batch.

    Raises:
        Stopped: somebody has.
    """
    if stopping():
        raise Stopped("stopped as asked, after a finished batch")

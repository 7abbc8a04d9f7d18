"""One writer per run folder: a lock of the kernel's, which a dead process does not hold."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from circuits.errors import RunError
from circuits.files import is_file, write_json

__all__ = ["HOLDER", "LOCK", "held", "holder"]

LOCK = ".lock"
"""The locked file of a run folder; it stays, empty, when nobody holds it."""
HOLDER = ".holder.json"
"""Who holds the lock; without meaning while nobody does."""

_PATIENCE = 0.2  # somebody who only looks whether it is held, holds it for a moment


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the only process that writes into ``folder``, which is made if it is not there.

    A process that holds the lock may take it again; it is free when its last block ends.

    Raises:
        RunError: another process holds it; names its id and its machine.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise RunError(
            f"{folder} is being written by {_named(_note(folder))}; "
            "wait until it is done, or end it"
        ) from error
    except OSError as error:
        raise RunError(
            f"{folder} cannot be locked: {error.strerror or error}; choose another folder"
        ) from error
    try:
        if lock.lock_counter == 1:
            write_json(folder / HOLDER, {"process": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        if lock.lock_counter == 1:
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> str | None:
    """The process that writes into ``folder`` at this moment, in words; None if none does."""
    if not is_file(folder / LOCK):
        return None
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _named(_note(folder))
    except OSError:
        return None  # a folder that may only be read has no writer among us
    lock.release()
    return None


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.resolve() / LOCK, is_singleton=True)


def _note(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # it is being written or removed at this moment
    return found if isinstance(found, dict) else {}


def _named(note: dict[str, Any]) -> str:
    if not {"process", "host"} <= note.keys():
        return "another process"
    return f"process {note['process']} on {note['host']}"

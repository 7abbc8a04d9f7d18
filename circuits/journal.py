"""Stopping a long piece of work without loss, and going on where it stopped.

Inside :func:`journal` every call that makes replies or judgements keeps what it has finished in a
file, part by part, each on the disk before the next is begun. When the same work is done again
after a kill, a full disk or a judge that gave up, those parts are read instead of made. An entry is
known by the number of the call and of the part, since the work does the same calls again in the
same order, and holds a digest of what was asked, so that it never answers another question.

A line is a checksum and a JSON object. What follows the first line that is torn or changed is
dropped, and so is the file of another key or version.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from circuits.errors import RunError, Stopped
from circuits.files import refusal, sync_folder

__all__ = [
    "Call",
    "Journal",
    "ask_to_stop",
    "begin_call",
    "forget",
    "go_on",
    "journal",
    "stop_if_asked",
    "stopping",
]

_ASKED = threading.Event()

ask_to_stop = _ASKED.set
"""Have the work end after the batch that is being done; may be called by a signal handler."""
go_on = _ASKED.clear
"""Forget that anybody asked."""
stopping = _ASKED.is_set
"""Has somebody asked the work to stop?"""


def stop_if_asked() -> None:
    """End the work here if somebody has asked for it; called after every batch.

    Raises:
        Stopped: somebody has.
    """
    if stopping():
        raise Stopped("stopped as asked, after a finished batch")


_FORMAT = 1
_OPEN: "ContextVar[Journal | None]" = ContextVar("journal", default=None)


@contextmanager
def journal(path: Path, key: str) -> "Iterator[Journal]":
    """Keep what is finished inside the block in a file, and take from it what already is.

    The file stays until :func:`forget` takes it away. A block inside another has a file of its
    own.

    Args:
        path: The file.
        key: Digest of everything that decides the results; entries of another one are discarded.

    Raises:
        RunError: the file cannot be written; says what is kept.
    """
    opened = Journal(path, key)
    token = _OPEN.set(opened)
    try:
        yield opened
    except Stopped as error:
        raise Stopped(f"{error}; {opened.kept}") from error
    finally:
        _OPEN.reset(token)
        if opened.file is not None:
            os.close(opened.file)


def begin_call() -> "Call | None":
    """The next call of the work that is kept; ``None`` where nothing is kept."""
    opened = _OPEN.get()
    if opened is None:
        return None
    opened.calls += 1
    return Call(opened, opened.calls)


def forget(path: Path) -> None:
    """Delete a journal, and its folder if nothing else is in it."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


class Journal:
    """A file of finished parts, opened for writing when there is one more."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.calls = path, -1
        self.file: int | None = None
        self.entries: dict[tuple[int, int], dict[str, Any]] = {}
        self.discarded = False
        """Was there a file of another key or version?"""
        self._head, self._size = _line({"journal": _FORMAT, "key": key}), 0
        try:
            head, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror or error}") from error
        if head != self._head:
            self.discarded = _entry(head) is not None  # a head that is torn says nothing of a key
            return
        self._size = len(head)
        for line in lines:
            entry = _entry(line)
            if entry is None:
                break
            self.entries[entry["call"], entry["part"]] = entry
            self._size += len(line)

    @property
    def kept(self) -> str:
        """How much is kept, in words."""
        parts = len(self.entries)
        return f"{parts} finished {'part is' if parts == 1 else 'parts are'} kept"

    def append(self, entry: dict[str, Any]) -> None:
        """Keep what a part gave."""
        try:
            if self.file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.ftruncate(self.file, self._size)
            if not self._size:
                self._write(self.file, self._head)
                sync_folder(self.path.parent)
            self._write(self.file, _line(entry))
        except OSError as error:
            told = refusal(self.path, error, "see to it and give the same command again")
            raise RunError(f"{told} ({self.kept})") from error
        self.entries[entry["call"], entry["part"]] = entry

    def _write(self, file: int, line: bytes) -> None:
        try:
            rest = line
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, self._size)
            raise
        self._size += len(line)


class Call:
    """One call whose parts are kept."""

    def __init__(self, opened: Journal, number: int) -> None:
        self._journal, self._number = opened, number

    def find(self, part: int, asked: str) -> Any:
        """What a part gave, if it is kept and was asked in just this way; else ``None``."""
        entry = self._journal.entries.get((self._number, part))
        return entry["gave"] if entry is not None and entry["asked"] == asked else None

    def keep(self, part: int, asked: str, gave: Any) -> None:
        """Keep what a part gave, as JSON values; it is on the disk when this returns.

        Raises:
            RunError: the file cannot be written; says what is kept.
        """
        self._journal.append({"call": self._number, "part": part, "asked": asked, "gave": gave})


def _line(value: object) -> bytes:
    # ASCII: a text may hold any character, and none of them may end a line.
    text = json.dumps(value, allow_nan=False).encode("ascii")
    return _sum(text) + b" " + text + b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != _sum(text):
        return None
    return json.loads(text)


def _sum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode("ascii")

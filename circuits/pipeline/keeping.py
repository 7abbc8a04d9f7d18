"""Results that are made once: read again if they were made in just this way before."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from circuits.files import read_json, write_json
from circuits.journal import forget, journal
from circuits.model.receipts import counted
from circuits.stopping import stop_if_asked

__all__ = ["digest_of", "kept_result"]

T = TypeVar("T")


def kept_result(
    folder: Path,
    unfinished: Path,
    key: str,
    make: Callable[[], T],
    *,
    save: Callable[[T], None],
    read: Callable[[], T],
) -> tuple[T, dict[str, int]]:
    """What is in the folder, or is made now and saved there; and what it cost to make.

    Args:
        folder: Of the result; ``key.json`` in it tells that it is whole.
        unfinished: Journal of what is being made.
        key: Digest of everything that decides the result.
        make: Makes it.
        save: Writes it into the folder.
        read: Reads it from there.

    Raises:
        Stopped: the work was asked to stop.
    """
    note = folder / "key.json"
    if note.is_file() and read_json(note)["key"] == key:
        forget(unfinished)
        return read(), read_json(note)["receipt"]
    note.unlink(missing_ok=True)
    with counted() as receipt, journal(unfinished, key):
        found = make()
    save(found)
    # The key is written last: without it the result counts as not made.
    write_json(note, {"key": key, "receipt": receipt.to_json()})
    forget(unfinished)
    stop_if_asked()
    return found, receipt.to_json()


def digest_of(value: object) -> str:
    """``sha256:`` of plain values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

"""Files written whole or not at all, and JSON read with an answer to "where is it wrong?".

A file is written to a temporary neighbour, flushed to disk and renamed, so a reader never
meets half of it. A process that is killed may leave the neighbour; :func:`remove_leftovers`
knows it by its name.
"""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from circuits.errors import DataError

__all__ = [
    "digest",
    "exists",
    "is_file",
    "is_folder",
    "is_leftover",
    "parse_json",
    "read_json",
    "read_json_lines",
    "read_text",
    "refusal",
    "remove_leftovers",
    "sync_folder",
    "write_atomically",
    "write_json",
    "write_json_lines",
    "write_text",
]

_PARTIAL = ".partial"
_LEFTOVER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_PARTIAL)}(\.[^.]*)?")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``.

    Raises:
        DataError: the folder cannot be written to, the disk is full, or the text is not Unicode.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL + path.suffix
        )
    except OSError as error:
        raise DataError(refusal(path, error, "choose another folder")) from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        raise DataError(f"cannot write {path}: {found!r} is half a character") from error
    except OSError as error:
        raise DataError(refusal(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_file(path: str | Path) -> bool:
    """Is there such a file? Not where the system will not look: a name too long, a shut folder."""
    with suppress(OSError):
        return Path(path).is_file()
    return False


def is_folder(path: str | Path) -> bool:
    """Is there such a folder? As :func:`is_file`."""
    with suppress(OSError):
        return Path(path).is_dir()
    return False


def exists(path: str | Path) -> bool:
    """Is there such a file or folder? As :func:`is_file`."""
    with suppress(OSError):
        return Path(path).exists()
    return False


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote.

    For a folder in which nobody else writes at the same time.
    """
    for path in folder.rglob(f".*{_PARTIAL}*") if is_folder(folder) else ():
        if is_leftover(path):
            path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Is it by its name a temporary file of :func:`write_atomically`?"""
    return _LEFTOVER.fullmatch(path.name) is not None


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with suppress(OSError):  # some systems cannot open a folder, some file systems cannot sync it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refusal(path: Path, error: OSError, otherwise: str = "") -> str:
    """Why ``path`` cannot be written, and what to do."""
    # NumPy tells of a file that came out too short without a number.
    if error.errno in _FULL or error.errno is None:
        otherwise = "free some space and give the same command again"
    said = f"cannot write {path}: {error.strerror or error}"
    return f"{said}; {otherwise}" if otherwise else said


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON; refuses NaN, which is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, not UTF-8 or not JSON, or has a field twice; names the path
            and, if it can, the line.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: JSON that cannot be read ({_odd(error)})") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every non-blank line.

    Raises:
        DataError: the file is missing or not UTF-8, or a line is not a JSON object or has a field
            twice.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (RecursionError, ValueError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({_odd(error)})") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: expected a JSON object, found {type(row).__name__}"
            )
        yield number, row


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: the file is missing or not UTF-8; names the path and the line.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error


def parse_json(text: str) -> Any:
    """Read JSON; of a field that is there twice, Python's own reader keeps the last one silently.

    Raises:
        ValueError: not JSON, or a field is there twice.
    """
    return json.loads(text, object_pairs_hook=_object)


def digest(*paths: Path) -> str:
    """``sha256:`` of the contents of ``paths``, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return f"sha256:{total.hexdigest()}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(f"field {twice!r} is there twice")
    return found


class _RefusedError(ValueError):
    """JSON to Python, but not to us."""


def _odd(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, _RefusedError):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")

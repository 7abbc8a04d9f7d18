"""Reading and writing files: whole or not at all, locked, and counted where something is lost.

A file is written to a temporary neighbour, flushed to disk and renamed, so a reader never
meets half of it. A process that is killed may leave the neighbour; :func:`remove_leftovers`
knows it by its name.

No text in a table starts a formula. A spreadsheet runs a cell that begins with ``=``, ``+``, ``-``,
``@``, a tab or a carriage return, whether or not the cell is quoted. Such a text gets an apostrophe
in front, and so does one that has apostrophes before the sign, so that reading takes away exactly
what writing put there. Numbers are no texts: a negative one stays as it is.
"""

import errno
import hashlib
import json
import math
import os
import re
import reprlib
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, StringConstraints, ValidationError

from circuits.errors import DataError, RunError

__all__ = [
    "HOLDER",
    "LOCK",
    "Loss",
    "PathLike",
    "Text",
    "Words",
    "add_losses",
    "digest",
    "exists",
    "guarded",
    "held",
    "holder",
    "is_file",
    "is_folder",
    "is_leftover",
    "parse_json",
    "read_json",
    "read_json_lines",
    "read_rows",
    "read_text",
    "refusal",
    "remove_leftovers",
    "resolved",
    "shipped",
    "sync_folder",
    "unguarded",
    "validated",
    "write_atomically",
    "write_json",
    "write_json_lines",
    "write_text",
]

_PARTIAL = ".partial"
_LEFTOVER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_PARTIAL)}(\.[^.]*)?")
_FULL = (errno.ENOSPC, errno.EDQUOT)

M = TypeVar("M", bound=BaseModel)

Text = Annotated[str, StringConstraints(min_length=0)]
"""A text that can be written: a plain ``str`` of pydantic may hold half a character."""
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A text with at least one character, and no space around it."""


PathLike = str | os.PathLike[str]
"""A path as text or as an object; ``~`` is the home folder."""


def resolved(path: PathLike) -> Path:
    """The path with ``~`` replaced; public functions call it once.

    >>> resolved("fear.json")
    PosixPath('fear.json')
    """
    return Path(path).expanduser()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
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
    return os.path.isfile(path)  # noqa: PTH113 - what pathlib asks raises there


def is_folder(path: str | Path) -> bool:
    """Is there such a folder? As :func:`is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: str | Path) -> bool:
    """Is there such a file or folder? As :func:`is_file`."""
    return os.path.exists(path)  # noqa: PTH110


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
    write_atomically(path, lambda own: own.write_text(text, encoding="utf-8", newline="\n"))


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
    except (RecursionError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path}{line}: not JSON ({getattr(error, 'msg', error)})") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every non-blank line.

    Raises:
        DataError: the file is missing or not UTF-8, or a line is not a JSON object or has a field
            twice.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
        except (RecursionError, ValueError) as error:
            raise DataError(f"{where}: not JSON ({getattr(error, 'msg', error)})") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def read_rows(path: Path, kind: type[M]) -> Iterator[tuple[str, M]]:
    """Yield where it stands (``FILE, line 3``), and what it holds, for every non-blank line.

    Raises:
        DataError: as :func:`read_json_lines`, or a line does not fit the model; names the field.
    """
    for number, row in read_json_lines(path):
        where = f"{path}, line {number}"
        yield where, validated(kind, row, where)


def validated(kind: type[M], values: object, where: str) -> M:
    """The values as a model of pydantic.

    Raises:
        DataError: they do not fit; names the first field that does not, and what is there.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{where}: field {field!r}: {first['msg']}, found {reprlib.repr(first['input'])}"
        ) from error


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
    """``sha256:`` of the contents of ``paths``, in the order given.

    Raises:
        DataError: one of them cannot be read.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: total)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    return f"sha256:{total.hexdigest()}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} is there twice")
    return found


def shipped(name: str) -> Path:
    """Path of a shipped file or folder, such as ``sev-mini`` or ``sev/train.jsonl``.

    Raises:
        DataError: the installation lacks it.
    """
    package = Path(__file__).parent
    for root in (package / "_assets", package.parent / "assets"):
        if (root / name).exists():
            return root / name
    raise DataError(f"this installation lacks {name}; install emotion-circuits again")


# Some programs take the full-width forms for the same signs.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


def guarded(text: str) -> str:
    """The text as a cell.

    >>> guarded("=1+1"), guarded("'=1+1"), guarded("'tis")
    ("'=1+1", "''=1+1", "'tis")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell that :func:`guarded` made.

    >>> unguarded("'=1+1"), unguarded("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


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
            f"{folder} is being written by {_noted(folder)}; wait until it is done, or end it"
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
    if is_file(folder / LOCK):
        try:
            with _lock(folder).acquire(timeout=0):
                return None
        except Timeout:
            return _noted(folder)
        except OSError:
            pass  # a folder that may only be read has no writer among us
    return None


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.resolve() / LOCK, is_singleton=True)


def _noted(folder: Path) -> str:
    try:
        note = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {note['process']} on {note['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"  # the note is being written or removed at this moment


@dataclass(frozen=True)
class Loss:
    """One thing that a file does not keep."""

    what: str
    """A short name, the same in every file of the format."""
    size: float
    """What the number is, :attr:`meaning` says. NaN if it is not known."""
    meaning: str
    """What is lost, and what the size of the loss is."""
    unit: Literal["count", "share"] = "count"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; a size that is not known is ``null``."""
        size = self.size if math.isfinite(self.size) else None
        return {
            "what": self.what,
            "size": int(size) if size is not None and self.unit == "count" else size,
            "unit": self.unit,
            "meaning": self.meaning,
        }


def add_losses(folder: Path, stem: str, losses: Mapping[str, Sequence[Loss]]) -> Path:
    """Write what files do not keep beside them, as ``anger.losses.json``.

    What is said there of other files stays.

    Args:
        folder: Where the files are.
        stem: What their names begin with.
        losses: File name -> what it does not keep; nothing, in a form that holds everything.

    Raises:
        DataError: the folder cannot be written to, or another program's file has the name.
    """
    path = folder / f"{stem}.losses.json"
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise DataError(f"{path} is no list of losses; move it away")
    kept = {name: own for name, own in found.items() if (folder / name).is_file()}
    written = {name: [loss.to_json() for loss in own] for name, own in losses.items()}
    write_json(path, {**kept, **written})
    return path

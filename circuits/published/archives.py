"""Archives of published outputs, unpacked so that nothing lands outside one temporary folder.

Only plain files and folders are taken. A member that is a link or a device, whose name leads out,
or that two systems would read differently, ends the import by name; so does an archive that is
larger unpacked than published outputs can be. Sizes are counted while writing, since what an
archive says about itself need not be so.
"""

import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from circuits.errors import DataError
from circuits.files import is_file

__all__ = ["unpacked"]

_STAGE: Final = re.compile(r"0[1-7]_")
_ZIP, _TAR = (".zip",), (".tar", ".tar.gz", ".tgz")
_MOST_BYTES: Final = 8 << 30
_MOST_FILES: Final = 100_000
_PIECE: Final = 1 << 20
_DAMAGED = (
    OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error,
    tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def unpacked(path: Path, most_bytes: int = _MOST_BYTES) -> Iterator[Path]:
    """The folder itself, or that of an archive, which is gone afterwards.

    Raises:
        DataError: the archive is damaged or too large, or a member of it is refused; names both.
    """
    if not is_file(path) or not path.name.lower().endswith((*_ZIP, *_TAR)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="emotion-circuits-") as made:
        folder = Path(made)
        try:
            _unpack(path, folder, most_bytes)
        except DataError:
            raise
        except _DAMAGED as error:
            raise DataError(f"{path}: the archive cannot be unpacked ({error})") from error
        inside = list(folder.iterdir())
        # Archives of a repository hold one folder, named after it.
        home = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
        try:
            yield folder if _STAGE.match(home.name) else home
        except DataError as error:
            # The temporary folder says nothing to anybody.
            raise DataError(str(error).replace(made, str(path))) from error


def _unpack(path: Path, folder: Path, most_bytes: int) -> None:
    left = most_bytes
    for number, (name, file) in enumerate(_members(path)):
        target = folder / _checked(path, name)
        if number >= _MOST_FILES:
            raise DataError(f"{path}: more than {_MOST_FILES:,} files; unpack it yourself")
        target.parent.mkdir(parents=True, exist_ok=True)
        with file, target.open("xb") as copy:
            while piece := file.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise DataError(
                        f"{path}: more than {most_bytes:,} bytes unpacked (at {name!r}); unpack it "
                        "yourself and import the folder"
                    )
                copy.write(piece)


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file; refuses what is neither file nor folder."""
    if path.name.lower().endswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            for own in archive.infolist():
                kind = stat.S_IFMT(own.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(path, own.filename, "is no plain file")
                _checked(path, own.filename)
                if not own.is_dir():
                    yield own.filename, archive.open(own)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if not (member.isreg() or member.isdir()):
                raise _refused(path, member.name, "is no plain file")
            _checked(path, member.name)
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file


def _checked(path: Path, name: str) -> PurePosixPath:
    parts = PurePosixPath(name)
    odd = "\\" in name or ":" in name or "\0" in name
    if odd or parts.is_absolute() or ".." in parts.parts or os.path.isabs(name):  # noqa: PTH117
        raise _refused(path, name, "leads out of the archive")
    return parts


def _refused(path: Path, name: str, why: str) -> DataError:
    return DataError(f"{path}: the member {name!r} {why}; nothing was imported")

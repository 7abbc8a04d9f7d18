"""What a file of another program's format does not keep: counted, and written beside the file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from circuits.errors import DataError
from circuits.files import read_json, write_json

__all__ = ["Loss", "add_losses", "losses_path"]

_SUFFIX = ".losses.json"


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
        size: float | int | None = self.size if math.isfinite(self.size) else None
        if size is not None and self.unit == "count":
            size = int(size)
        return {"what": self.what, "size": size, "unit": self.unit, "meaning": self.meaning}


def losses_path(folder: Path, stem: str) -> Path:
    """Where the losses of the files of one name stand: ``anger.losses.json``."""
    return folder / f"{stem}{_SUFFIX}"


def add_losses(folder: Path, stem: str, losses: Mapping[str, Sequence[Loss]]) -> Path:
    """Write what files do not keep beside them; what is said of other files there stays.

    Args:
        folder: Where the files are.
        stem: What their names begin with.
        losses: File name -> what it does not keep; nothing, in a form that holds everything.

    Raises:
        DataError: the folder cannot be written to, or another program's file has the name.
    """
    path = losses_path(folder, stem)
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise DataError(f"{path} is no list of losses; move it away")
    kept = {name: own for name, own in found.items() if (folder / name).is_file()}
    written = {name: [loss.to_json() for loss in own] for name, own in losses.items()}
    write_json(path, {**kept, **written})
    return path

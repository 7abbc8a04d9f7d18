"""The published directions, which are pickles: opened with an allow-list, never executed.

The files hold a dictionary of numpy arrays. Only what rebuilds a plain array of floating point
numbers is allowed; anything else in the file is refused by name before it is opened.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct  # type: ignore[attr-defined]

from circuits.errors import DataError
from circuits.files import write_atomically

__all__ = ["ALLOWED", "load_dictionary", "save_dictionary"]

ALLOWED: Final[tuple[Any, ...]] = (
    _reconstruct,
    # The name of the same function before numpy 2.
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Float16DType,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
)
"""All that a published pickle may name."""


def load_dictionary(path: Path) -> dict[str, Any]:
    """Open a pickled dictionary of arrays.

    Raises:
        DataError: it cannot be read, names what is not allowed, or holds no dictionary.
    """
    with torch.serialization.safe_globals(list(ALLOWED)):
        try:
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:  # a damaged pickle can fail in any way
            raise DataError(f"{path}: not a file of torch.save ({_first(error)})") from error
        if refused:
            raise DataError(
                f"{path} names {', '.join(sorted(refused))}, which arrays do not need; "
                "nothing of it was run. Get the file from its source again"
            )
        try:
            found = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged pickle can fail in any way
            raise DataError(f"{path}: cannot be opened safely ({_first(error)})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a dictionary, found a {type(found).__name__}")
    return found


def save_dictionary(values: dict[str, Any], path: Path) -> None:
    """Write a dictionary of arrays as the authors' scripts read it."""
    # The published layout is a pickle; our own records never are.
    write_atomically(path, lambda temporary: torch.save(values, temporary))  # noqa: TID251


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

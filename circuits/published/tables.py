"""The published CSV tables as records: every cell checked, every number kept as written."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from circuits.errors import DataError
from circuits.files import write_text
from circuits.provenance import Provenance
from circuits.published.columns import TABLES, Table
from circuits.published.layout import KINDS, known_emotion
from circuits.records import Record

__all__ = ["read_table", "write_table"]


_COUNTED: Final = ("layer", "head", "neuron")


def read_table(
    path: Path, kind: type[Record], provenance: Provenance, emotion: str | None = None
) -> Record:
    """Read a table; ``emotion`` is the one that the file's name says.

    Raises:
        DataError: a column lacks, a cell is no number, a row lacks or occurs twice, or an
            emotion is unknown; names file, line and column.
    """
    table = TABLES[kind]
    frame = _cells(path, table)
    columns = tuple(frame.columns)
    if "emotion" not in frame:
        frame["emotion"] = emotion
    places = {axis: _labels(path, frame, axis, own) for axis, own in table.axes.items()}
    _check_emotions(path, places["emotion"], frame, emotion)
    values = {name: _numbers(path, frame, own, table) for name, own in table.numbers.items()}
    labels = {axis: _order(path, axis, own) for axis, own in places.items()}
    cell, shape = _cell_of_row(path, places, labels)
    row = np.empty(len(frame), dtype=np.int64)
    row[cell] = np.arange(len(frame))
    tensors = {name: torch.from_numpy(value[row].reshape(shape)) for name, value in values.items()}
    make: Any = kind  # every table has these fields beside those of a record
    return make(
        provenance=provenance, row=torch.from_numpy(row.reshape(shape)), columns=columns,
        **tensors, **labels,
    )  # fmt: skip


def write_table(record: Record, path: Path) -> None:
    """Write a table with the published columns, in the order of its rows."""
    table, made = TABLES[type(record)], {}
    shape = record.axes[next(iter(table.numbers))]
    labels = [record.labels(axis) for axis in shape]
    grid = np.indices([len(own) for own in labels])
    for axis, own, index in zip(shape, labels, grid, strict=True):
        words = [KINDS.get(str(label), label) for label in own] if axis == "sublayer" else own
        made[table.axes[axis]] = np.asarray(words, dtype=object)[index.reshape(-1)]
    for name, column in table.numbers.items():
        numbers = getattr(record, name).flatten().numpy()
        # Nullable integers: a blank cell stays blank and 24 does not become 24.0.
        whole = column in table.whole
        made[column] = pd.array(numbers, dtype="Float64").astype("Int64") if whole else numbers
    wanted: Any = getattr(record, "columns")  # noqa: B009
    frame = pd.DataFrame(made)[list(wanted)]
    order = getattr(record, "row").flatten().numpy().argsort()  # noqa: B009
    write_text(path, frame.iloc[order].to_csv(index=False, lineterminator="\n"))


def _cells(path: Path, table: Table) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: not a CSV table ({str(error).splitlines()[0]})") from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            f"{path}, line 2: more cells than the {len(frame.columns)} columns of line 1"
        )
    missing = [name for name in table.columns if name not in {*frame.columns, *table.optional}]
    extra = [name for name in frame.columns if name not in table.columns]
    if missing or extra or not len(frame):
        found = ", ".join(frame.columns)
        wrong = f"lacks {', '.join(missing)}" if missing else f"has also {', '.join(extra)}"
        wrong = wrong if missing or extra else "has no rows"
        raise DataError(
            f"{path}, line 1: the table {wrong}; expected {', '.join(table.columns)}; found {found}"
        )
    return frame


def _numbers(path: Path, frame: pd.DataFrame, column: str, table: Table) -> np.ndarray:
    cells = frame[column].to_numpy(dtype=object)
    if column in table.blank:
        cells = np.where(cells == "", "nan", cells)
    try:
        # Python's own reading of a number is exact; pandas' may be off by one place.
        numbers = cells.astype(np.float64)
    except ValueError:
        numbers = np.array([_number(cell) for cell in cells])
    empty = frame[column].to_numpy(dtype=object) == ""
    wrong = ~np.isfinite(numbers) & ~(empty & (column in table.blank))
    if column in table.whole:
        wrong |= ~wrong & ~empty & (np.nan_to_num(numbers) % 1 != 0)
    if wrong.any():
        _refuse(path, frame, column, int(wrong.argmax()), "a finite number")
    return numbers


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _labels(path: Path, frame: pd.DataFrame, axis: str, column: str) -> np.ndarray:
    cells = frame[column].to_numpy(dtype=object)
    if axis == "emotion":
        return cells
    if axis == "sublayer":
        words = {word: own for own, word in KINDS.items()}
        wrong = np.array([cell not in words for cell in cells])
        if wrong.any():
            _refuse(path, frame, column, int(wrong.argmax()), " or ".join(words))
        return np.array([words[cell] for cell in cells], dtype=object)
    numbers = np.array([_number(cell) for cell in cells])
    wrong = ~np.isfinite(numbers) | (numbers < 0)
    if axis in _COUNTED:
        wrong |= np.nan_to_num(numbers) % 1 != 0
    if wrong.any():
        what = "a whole number from 0" if axis in _COUNTED else "a positive number"
        _refuse(path, frame, column, int(wrong.argmax()), what)
    return numbers.astype(np.int64) if axis in _COUNTED else numbers


def _check_emotions(
    path: Path, cells: np.ndarray, frame: pd.DataFrame, emotion: str | None
) -> None:
    for found in dict.fromkeys(cells.tolist()):
        line = int((cells == found).argmax())
        known_emotion(str(found), f"{path}, line {line + 2}, column 'emotion'")
        if emotion is not None and found != emotion:
            _refuse(path, frame, "emotion", line, f"{emotion!r}, as in the file's name")


def _order(path: Path, axis: str, cells: np.ndarray) -> tuple[Any, ...]:
    labels = tuple(dict.fromkeys(cells.tolist()))
    if axis not in _COUNTED:
        return labels
    lacking = set(range(max(labels) + 1)) - set(labels) if max(labels) < len(cells) else {0}
    if lacking:
        raise DataError(f"{path}: column {axis!r} counts to {max(labels)} but not every {axis}")
    return tuple(sorted(labels))


def _cell_of_row(
    path: Path, places: Mapping[str, np.ndarray], labels: Mapping[str, tuple[Any, ...]]
) -> tuple[np.ndarray, tuple[int, ...]]:
    shape = tuple(len(own) for own in labels.values())
    index = [
        np.searchsorted(labels[axis], cells)
        if axis in _COUNTED
        else np.array([labels[axis].index(cell) for cell in cells.tolist()])
        for axis, cells in places.items()
    ]
    cell = np.ravel_multi_index(index, shape)
    if math.prod(shape) > 100 * len(cell):
        sizes = " x ".join(f"{len(own)} {axis}s" for axis, own in labels.items())
        raise DataError(f"{path}: {len(cell)} rows are too few for {sizes}")
    counts = np.bincount(cell, minlength=math.prod(shape))
    if (counts == 1).all():
        return np.asarray(cell), shape
    first = int((counts != 1).argmax())
    where = np.unravel_index(first, shape)
    named = ", ".join(f"{a} {labels[a][i]}" for a, i in zip(labels, where, strict=True))
    lines = [str(line + 2) for line in np.flatnonzero(cell == first)[:2]]
    said = f"is on lines {' and '.join(lines)}" if lines else "lacks"
    raise DataError(f"{path}: the row of {named} {said}; every one must be there once")


def _refuse(path: Path, frame: pd.DataFrame, column: str, line: int, wanted: str) -> None:
    found = str(frame[column].iloc[line])
    raise DataError(
        f"{path}, line {line + 2}, column {column!r}: found {found[:40]!r}, expected {wanted}"
    )

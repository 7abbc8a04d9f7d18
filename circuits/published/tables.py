"""The authors' tables and vectors as records that read and write themselves.

Records hold just the quantities of the published files (Wang et al. 2025, arXiv 2510.11328), with
every number in double precision as it was written. A field of a table names its column; ``row`` is
the place of a cell in its file, counted from 0, so that a table is written in the order in which
it was read. The published directions are pickles of a dictionary of numpy arrays: only what
rebuilds a plain array of floating point numbers is allowed; anything else in the file is refused
by name before it is opened.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy._core.multiarray import _reconstruct
from torch import Tensor

from circuits.errors import DataError
from circuits.files import read_json, write_atomically, write_text
from circuits.names import EMOTIONS, SUBLAYERS
from circuits.records import Record

__all__ = [
    "ALLOWED",
    "AllocationLog",
    "Contributions",
    "DifferenceVectors",
    "HeadImportance",
    "KINDS",
    "MeanImportance",
    "ReferenceDirection",
    "Sigma",
    "SublayerImportance",
    "Table",
    "UnitDirections",
    "dumped",
    "known_emotion",
    "load_dictionary",
]

KINDS: Final = {"attn": "attention", "mlp": "mlp"}
"""Our word for a sublayer -> the word of the published files."""

_COLUMNS: Final = {"dose": "alpha", "sublayer": "kind"}
"""Axis -> its column, where that is another word."""

_Neurons = Float[Tensor, "emotion layer neuron"]
_Heads = Float[Tensor, "emotion layer head"]
_Doses = Float[Tensor, "emotion dose sublayer layer"]
_Sublayers = Float[Tensor, "emotion sublayer layer"]


def _column(name: str, *, whole: bool = False, blank: bool = False) -> Mapping[str, Any]:
    """The column of a field; it may hold whole numbers only, or blank cells too (NaN)."""
    return {"column": name, "whole": whole, "blank": blank}


T = TypeVar("T", bound="Table")


@dataclass(frozen=True, eq=False)
class Table(Record):
    """A CSV table with one row for every cell of the same axes."""

    columns: tuple[str, ...]
    """As they stand in the file."""

    @classmethod
    def header(cls) -> tuple[str, ...]:
        """All columns in the published order: axes, then numbers."""
        axes = [own.name for own in fields(cls) if own.name in cls.axes["row"]]
        numbers = [own["column"] for own in cls._numbers().values()]
        return (*(_COLUMNS.get(axis, axis) for axis in axes), *numbers)

    @classmethod
    def _numbers(cls) -> dict[str, Mapping[str, Any]]:
        return {own.name: own.metadata for own in fields(cls) if own.metadata}

    @classmethod
    def of(cls: type[T], known: Mapping[str, Any], **numbers: Tensor) -> T:
        """A table with the labels and the provenance of another record's fields, in their order."""
        labels = {axis: known[axis] for axis in cls.axes["row"]}
        shape = [len(own) for own in labels.values()]
        made: Any = cls
        return made(
            provenance=known["provenance"],
            columns=cls.header(),
            row=torch.arange(math.prod(shape)).reshape(shape),
            **labels,
            **{name: own.double().expand(shape) for name, own in numbers.items()},
        )

    @classmethod
    def read(cls: type[T], path: Path, emotion: str | None = None) -> T:
        """Read a table; ``emotion`` is the one that the file's name says.

        Raises:
            DataError: a column lacks, a cell is no number, a row lacks or occurs twice, or an
                emotion is unknown; names file, line and column.
        """
        frame = _frame(path, cls)
        columns, emotion = tuple(frame.columns), None if emotion == "all" else emotion
        if "emotion" not in frame:
            frame["emotion"] = emotion

        def refuse(column: str, wrong: pd.Series, wanted: str) -> None:
            if wrong.any():
                line = int(wrong.to_numpy().argmax())
                raise DataError(
                    f"{path}, line {line + 2}, column {column!r}: found "
                    f"{str(frame[column].iloc[line])[:40]!r}, expected {wanted}"
                )

        def numbers(column: str) -> pd.Series:
            # Python's own reading of a number is exact; pandas' may be off by one place.
            return pd.Series([_number(cell) for cell in frame[column]])

        labels: dict[str, pd.Series] = {}
        for axis in cls.axes["row"]:
            column = _COLUMNS.get(axis, axis)
            cells: Any = frame[column]
            if axis == "emotion":
                known = [emotion] if emotion else EMOTIONS
                refuse(column, ~cells.isin(known), " or ".join(map(repr, known)))
            elif axis == "sublayer":
                refuse(column, ~cells.isin([*KINDS.values()]), " or ".join(KINDS.values()))
                cells = cells.map({word: own for own, word in KINDS.items()})
            else:
                cells, whole = numbers(column), axis != "dose"
                wrong = ~cells.between(0, 1e9) | ((cells % 1 != 0) & whole)
                refuse(column, wrong, f"a {'whole ' * whole}number from 0")
                cells = cells.astype(int) if whole else cells
            labels[axis] = cells
        values: dict[str, np.ndarray] = {}
        for name, rules in cls._numbers().items():
            column = rules["column"]
            found = numbers(column)
            right = np.isfinite(found) & ((found % 1 == 0) | (not rules["whole"]))
            refuse(column, ~(right | ((frame[column] == "") & rules["blank"])), "a finite number")
            values[name] = found.to_numpy()
        row, named = _rows(path, labels)
        made: Any = cls
        return made(
            columns=columns,
            row=torch.from_numpy(row),
            **named,
            **{name: torch.from_numpy(value[row]) for name, value in values.items()},
        )

    def write(self, path: Path) -> None:
        """Write the table with the columns and in the order that it was read with."""
        frame = self.to_frame().sort_values("row")
        if "sublayer" in frame:
            frame["sublayer"] = frame["sublayer"].map(KINDS.get)
        for name, rules in self._numbers().items():
            # Nullable integers: a blank cell stays blank and 24 does not become 24.0.
            if rules["whole"]:
                frame[name] = frame[name].astype("Float64").astype("Int64")
        words = _COLUMNS | {name: rules["column"] for name, rules in self._numbers().items()}
        frame = frame.rename(columns=words)[[*self.columns]]
        write_text(path, frame.to_csv(index=False, lineterminator="\n"))


@dataclass(frozen=True, eq=False)
class Contributions(Table):
    """Neurons' contributions along the emotion's direction (stage 4.1)."""

    mean: _Neurons = field(metadata=_column("C_mean"))
    positive: _Neurons = field(metadata=_column("C_pos"))
    negative: _Neurons = field(metadata=_column("C_neg"))
    weight: _Neurons = field(metadata=_column("beta"))
    activation: _Neurons = field(metadata=_column("H_mean"))
    row: Int[Tensor, "emotion layer neuron"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class HeadImportance(Table):
    """Importance of heads by ablation, read after the next norm (stage 4.2)."""

    mean: _Heads = field(metadata=_column("mean_importance"))
    std: _Heads = field(metadata=_column("std_importance"))
    """Standard deviation over samples (ddof 0)."""
    samples: _Heads = field(metadata=_column("samples", whole=True))
    baseline: _Heads = field(metadata=_column("baseline_mean"))
    row: Int[Tensor, "emotion layer head"]

    emotion: tuple[str, ...]
    """In the file's name; a column may be absent."""
    layer: tuple[int, ...]
    head: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SublayerImportance(Table):
    """Responses to injected doses (stage 6.3); NaN where a column is blank."""

    sigma: _Doses = field(metadata=_column("sigma"))
    length: _Doses = field(metadata=_column("dose"))
    base_final: _Doses = field(metadata=_column("s_base_final"))
    final: _Doses = field(metadata=_column("s_final"))
    change_final: _Doses = field(metadata=_column("ds_final"))
    response_final: _Doses = field(metadata=_column("I_final"))
    base_anchor: _Doses = field(metadata=_column("s_base_anchor", blank=True))
    anchor: _Doses = field(metadata=_column("s_anchor", blank=True))
    change_anchor: _Doses = field(metadata=_column("ds_anchor", blank=True))
    response_anchor: _Doses = field(metadata=_column("I_anchor", blank=True))
    samples: _Doses = field(metadata=_column("n_samples", whole=True))
    row: Int[Tensor, "emotion dose sublayer layer"]

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    dose: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class MeanImportance(Table):
    """Responses averaged over doses, and their share within the emotion (stage 6.4)."""

    response: _Sublayers = field(metadata=_column("I_final"))
    share: _Sublayers = field(metadata=_column("I_final_normalized"))
    row: Int[Tensor, "emotion sublayer layer"]

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AllocationLog(Table):
    """How places were dealt out to layers (stage 6.5); NaN where a column is blank."""

    weight: _Sublayers = field(metadata=_column("w"))
    share: _Sublayers = field(metadata=_column("w_norm"))
    base: _Sublayers = field(metadata=_column("k_base", whole=True))
    added: _Sublayers = field(metadata=_column("k_add", whole=True))
    assigned: _Sublayers = field(metadata=_column("k_assigned", whole=True))
    available: _Sublayers = field(metadata=_column("available", whole=True, blank=True))
    cap: _Sublayers = field(metadata=_column("cap", whole=True, blank=True))
    used: _Sublayers = field(metadata=_column("k_used", whole=True))
    row: Int[Tensor, "emotion sublayer layer"]

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]


def _frame(path: Path, kind: type[Table]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: not a CSV table ({str(error).splitlines()[0]})") from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{path}, line 2: more cells than the {len(frame.columns)} of line 1")
    header, found = kind.header(), {*frame.columns}
    optional = {"emotion"} if kind is HeadImportance else set[str]()
    wrong = [f"lacks {name}" for name in sorted({*header} - found - optional)]
    wrong += [f"has also {name}" for name in sorted(found - {*header})]
    if wrong or not len(frame):
        said = ", ".join(wrong) or "has no rows"
        raise DataError(f"{path}, line 1: the table {said}; expected {', '.join(header)}")
    return frame


def _rows(path: Path, labels: Mapping[str, pd.Series]) -> tuple[np.ndarray, dict[str, tuple]]:
    """The row of every cell of the table that the labels span, and the labels of its axes."""
    index = pd.MultiIndex.from_arrays(list(labels.values()))
    named: dict[str, Any] = {
        axis: tuple(range(cells.max() + 1) if cells.dtype == int else cells.drop_duplicates())
        for axis, cells in labels.items()
    }
    shape = [len(own) for own in named.values()]
    if math.prod(shape) > 100 * len(index):
        sizes = " x ".join(f"{size} {axis}s" for axis, size in zip(named, shape, strict=True))
        raise DataError(f"{path}: {len(index)} rows are too few for {sizes}")
    whole = pd.MultiIndex.from_product(list(named.values()))
    twice, lacking = index[index.duplicated()], whole.difference(index)
    for odd, why in ((twice, "is on lines"), (lacking, "lacks")):
        if len(odd):
            lines = " and ".join(str(line + 2) for line in np.flatnonzero(index == odd[0])[:2])
            cell = ", ".join(f"{axis} {label}" for axis, label in zip(named, odd[0], strict=True))
            said = f"the row of {cell} {why} {lines}".strip()
            raise DataError(f"{path}: {said}; every one must be there once")
    return index.get_indexer(whole).reshape(shape), named


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


@dataclass(frozen=True, eq=False)
class UnitDirections(Record):
    """Unit directions after one kind of sublayer (stage 2.2), single precision."""

    vectors: Float[Tensor, "emotion layer d_model"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    sublayer: str

    @classmethod
    def read(cls, path: Path, sublayer: str) -> "UnitDirections":
        """Read directions.

        Raises:
            DataError: the pickle names anything but arrays, or its fields disagree.
        """
        found = load_dictionary(path)
        missing = [n for n in ("dirs", "layers", "hidden", "emotions", "type") if n not in found]
        if missing or not isinstance(found["dirs"], dict) or not found["dirs"]:
            raise DataError(f"{path}: lacks {', '.join(missing) or 'directions in the field dirs'}")
        emotions = [known_emotion(str(own), f"{path}, field 'dirs'") for own in found["dirs"]]
        if (found["type"], found["emotions"]) != (KINDS[sublayer], emotions):
            raise DataError(
                f"{path}: fields 'type' and 'emotions' say {found['type']!r} and "
                f"{found['emotions']}, the file's name and 'dirs' {KINDS[sublayer]!r} and "
                f"{emotions}"
            )
        for emotion, vectors in found["dirs"].items():
            shape = (found["layers"], found["hidden"])
            _check(f"{path}, direction of {emotion}", vectors, shape)
        stacked = torch.from_numpy(np.stack(list(found["dirs"].values())))
        return cls(stacked, tuple(emotions), tuple(range(stacked.shape[1])), sublayer)

    def write(self, path: Path) -> None:
        """Write directions as the authors' scripts read them."""
        values = {
            "dirs": dict(zip(self.emotion, self.vectors.numpy(), strict=True)),
            "layers": self.vectors.shape[1],
            "hidden": self.vectors.shape[2],
            "emotions": list(self.emotion),
            "type": KINDS[self.sublayer],
        }
        # The published layout is a pickle; our own records never are.
        write_atomically(path, lambda temporary: torch.save(values, temporary))  # noqa: TID251


_LAYER: Final = re.compile(r"(L|layer)(0|[1-9][0-9]*)\.npy")


@dataclass(frozen=True, eq=False)
class DifferenceVectors(Record):
    """What heads (all of a layer side by side) or neurons do differently (stage 5)."""

    value: Float[Tensor, "layer width"]

    emotion: str
    sublayer: str
    layer: tuple[int, ...]
    stem: str
    """``L`` or ``layer``: how the file of a layer is called."""

    @classmethod
    def read(cls, *paths: Path, emotion: str, sublayer: str) -> "DifferenceVectors":
        """Read the vectors of one emotion, one file per layer.

        Raises:
            DataError: a layer lacks, files are named in two ways, or a file holds no vector.
        """
        names = [name for path in paths if (name := _LAYER.fullmatch(path.name))]
        stems, layers = {name[1] for name in names}, sorted(int(name[2]) for name in names)
        if len(stems) != 1 or layers != list(range(len(paths))):
            raise DataError(
                f"{paths[0].parent}: expected one file for each layer from 0, named either L0.npy "
                f"or layer0.npy; found {', '.join(sorted(p.name for p in paths)[:8])}, ..."
            )
        (stem,), vectors = stems, list[np.ndarray]()
        for layer in layers:
            path = paths[0].with_name(f"{stem}{layer}.npy")
            vectors.append(_vector(path, vectors[0].shape if vectors else None))
        return cls(torch.from_numpy(np.stack(vectors)), emotion, sublayer, tuple(layers), stem)

    def write(self, folder: Path) -> None:
        """Write one file per layer, named as they were.

        Raises:
            DataError: the record names files in another way than the two that are published.
        """
        names = [f"{self.stem}{layer}.npy" for layer in self.layer]
        if wrong := [name for name in names if not _LAYER.fullmatch(name)]:
            raise DataError(f"{folder}: {wrong[0]!r} is no file of a layer, such as L0.npy")
        for name, vector in zip(names, self.value, strict=True):
            _save(vector, folder / name)


@dataclass(frozen=True, eq=False)
class ReferenceDirection(Record):
    """The unit vector that the readout projects on (stage 6.3)."""

    vector: Float[Tensor, " d_model"]

    emotion: str

    @classmethod
    def read(cls, path: Path, emotion: str) -> "ReferenceDirection":
        """Read the direction of one emotion.

        Raises:
            DataError: the file holds no vector of finite numbers.
        """
        return cls(torch.from_numpy(_vector(path)), emotion)

    def write(self, path: Path) -> None:
        """Write a plain numpy array."""
        _save(self.vector, path)


@dataclass(frozen=True, eq=False)
class Sigma(Record):
    """Root mean square of the residual stream after every sublayer (stage 6.2)."""

    rms: Float[Tensor, "sublayer layer"]

    sublayer: tuple[str, ...]
    layer: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> "Sigma":
        """Read the values of ``attention_0`` ... ``mlp_27``.

        Raises:
            DataError: a sublayer lacks, or a value is no positive number.
        """
        found = read_json(path)
        if not isinstance(found, dict) or not found:
            raise DataError(f"{path}: expected an object such as {{'attention_0': 0.02}}")
        layers = tuple(range(len(found) // 2))
        names = [f"{KINDS[own]}_{layer}" for own in SUBLAYERS for layer in layers]
        if odd := sorted({*found} ^ {*names}):
            raise DataError(
                f"{path}: {', '.join(odd)[:80]} does not fit; expected attention and mlp "
                "of every layer"
            )
        for name, value in found.items():
            if type(value) not in (int, float) or not 0 < value < np.inf:
                raise DataError(
                    f"{path}, field {name!r}: expected a positive number, found {value!r}"
                )
        values = torch.tensor([found[name] for name in names], dtype=torch.float64)
        return cls(values.reshape(2, -1), SUBLAYERS, layers)

    def write(self, path: Path) -> None:
        """Write the values under their published names."""
        names = [f"{KINDS[own]}_{layer}" for own in self.sublayer for layer in self.layer]
        write_text(path, dumped(dict(zip(names, self.rms.flatten().tolist(), strict=True))))


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
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            found = refused or torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle can fail in any way
        said = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path}: not a file of torch.save that can be opened ({said})") from error
    if refused:
        raise DataError(
            f"{path} names {', '.join(sorted(refused))}, which arrays do not need; "
            "nothing of it was run. Get the file from its source again"
        )
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a dictionary, found a {type(found).__name__}")
    return found


def dumped(value: object) -> str:
    """JSON in the layout of the published files: indented, no line end after it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def known_emotion(emotion: str, where: str) -> str:
    """The emotion itself.

    Raises:
        DataError: it is none of the six that the published layout knows.
    """
    if emotion not in EMOTIONS:
        raise DataError(f"{where}: {emotion!r} is no known emotion; known: {', '.join(EMOTIONS)}")
    return emotion


def _vector(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # numpy reads the head as Python, which can fail in any way
        raise DataError(f"{path}: not a plain numpy array ({str(error)[:80]})") from error
    if found.ndim != 1 or not found.size:
        raise DataError(f"{path}: expected one vector, found shape {found.shape}")
    _check(str(path), found, shape or found.shape)
    return found


def _check(where: str, found: Any, shape: tuple[int, ...]) -> None:
    kind = getattr(found, "dtype", type(found).__name__)
    if not isinstance(found, np.ndarray) or kind not in (np.float16, np.float32, np.float64):
        raise DataError(f"{where}: expected floating point numbers, found {kind}")
    if found.shape != shape:
        raise DataError(f"{where}: expected shape {shape}, found {found.shape}")
    if not np.isfinite(found).all():
        raise DataError(f"{where}: holds NaN or infinity")


def _save(vector: Tensor, path: Path) -> None:
    # An open file, since numpy adds a suffix to a name that has none.
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, vector.numpy(), allow_pickle=False)

    write_atomically(path, write)

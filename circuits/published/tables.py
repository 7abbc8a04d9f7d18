"""The published tables and vectors as records: all is checked, every number kept as written.

Records with just the quantities of the published files (Wang et al. 2025, arXiv 2510.11328).

Tables keep every number in double precision, as it was written. ``row`` is the place of a cell
in its file, counted from 0, so that a table is written in the order in which it was read.

The published directions, which are pickles: opened with an allow-list, never executed.

The files hold a dictionary of numpy arrays. Only what rebuilds a plain array of floating point
numbers is allowed; anything else in the file is refused by name before it is opened.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy._core.multiarray import _reconstruct
from torch import Tensor

from circuits.errors import DataError
from circuits.files import read_json, write_atomically, write_text
from circuits.names import SUBLAYERS
from circuits.published.layout import KINDS, dumped, known_emotion
from circuits.records import Record

__all__ = [
    "ALLOWED",
    "AllocationLog",
    "Contributions",
    "DifferenceVectors",
    "HeadImportance",
    "MeanImportance",
    "ReferenceDirection",
    "Sigma",
    "SublayerImportance",
    "TABLES",
    "Table",
    "UnitDirections",
    "load_dictionary",
    "read_differences",
    "read_directions",
    "read_reference",
    "read_sigma",
    "read_table",
    "save_dictionary",
    "write_differences",
    "write_directions",
    "write_reference",
    "write_sigma",
    "write_table",
]


@dataclass(frozen=True, eq=False)
class UnitDirections(Record):
    """Unit directions after one kind of sublayer (stage 2.2), single precision."""

    vectors: Float[Tensor, "emotion layer d_model"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    sublayer: str


@dataclass(frozen=True, eq=False)
class Contributions(Record):
    """Neurons' contributions along the emotion's direction (stage 4.1)."""

    mean: Float[Tensor, "emotion layer neuron"]
    positive: Float[Tensor, "emotion layer neuron"]
    negative: Float[Tensor, "emotion layer neuron"]
    weight: Float[Tensor, "emotion layer neuron"]
    activation: Float[Tensor, "emotion layer neuron"]
    row: Int[Tensor, "emotion layer neuron"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class HeadImportance(Record):
    """Importance of heads by ablation, read after the next norm (stage 4.2)."""

    mean: Float[Tensor, "emotion layer head"]
    std: Float[Tensor, "emotion layer head"]
    """Standard deviation over samples (ddof 0)."""
    samples: Float[Tensor, "emotion layer head"]
    baseline: Float[Tensor, "emotion layer head"]
    row: Int[Tensor, "emotion layer head"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SublayerImportance(Record):
    """Responses to injected doses (stage 6.3); NaN where a column is blank."""

    sigma: Float[Tensor, "emotion dose sublayer layer"]
    length: Float[Tensor, "emotion dose sublayer layer"]
    base_final: Float[Tensor, "emotion dose sublayer layer"]
    final: Float[Tensor, "emotion dose sublayer layer"]
    change_final: Float[Tensor, "emotion dose sublayer layer"]
    response_final: Float[Tensor, "emotion dose sublayer layer"]
    base_anchor: Float[Tensor, "emotion dose sublayer layer"]
    anchor: Float[Tensor, "emotion dose sublayer layer"]
    change_anchor: Float[Tensor, "emotion dose sublayer layer"]
    response_anchor: Float[Tensor, "emotion dose sublayer layer"]
    samples: Float[Tensor, "emotion dose sublayer layer"]
    row: Int[Tensor, "emotion dose sublayer layer"]

    emotion: tuple[str, ...]
    dose: tuple[float, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class MeanImportance(Record):
    """Responses averaged over doses, and their share within the emotion (stage 6.4)."""

    response: Float[Tensor, "emotion sublayer layer"]
    share: Float[Tensor, "emotion sublayer layer"]
    row: Int[Tensor, "emotion sublayer layer"]

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AllocationLog(Record):
    """How places were dealt out to layers (stage 6.5); NaN where a column is blank."""

    weight: Float[Tensor, "emotion sublayer layer"]
    share: Float[Tensor, "emotion sublayer layer"]
    base: Float[Tensor, "emotion sublayer layer"]
    added: Float[Tensor, "emotion sublayer layer"]
    assigned: Float[Tensor, "emotion sublayer layer"]
    available: Float[Tensor, "emotion sublayer layer"]
    cap: Float[Tensor, "emotion sublayer layer"]
    used: Float[Tensor, "emotion sublayer layer"]
    row: Int[Tensor, "emotion sublayer layer"]

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sigma(Record):
    """Root mean square of the residual stream after every sublayer (stage 6.2)."""

    rms: Float[Tensor, "sublayer layer"]

    sublayer: tuple[str, ...]
    layer: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DifferenceVectors(Record):
    """What heads (all of a layer side by side) or neurons do differently (stage 5)."""

    value: Float[Tensor, "layer width"]

    emotion: str
    sublayer: str
    layer: tuple[int, ...]
    stem: str
    """``L`` or ``layer``: how the file of a layer is called."""


@dataclass(frozen=True, eq=False)
class ReferenceDirection(Record):
    """The unit vector that the readout projects on (stage 6.3)."""

    vector: Float[Tensor, " d_model"]

    emotion: str


@dataclass(frozen=True)
class Table:
    """What the columns of a table mean: axes first, then numbers."""

    axes: Mapping[str, str]
    """Axis -> column."""
    numbers: Mapping[str, str]
    """Field -> column."""
    whole: frozenset[str] = frozenset()
    """Columns of whole numbers."""
    blank: frozenset[str] = frozenset()
    """Columns that may be blank."""
    optional: frozenset[str] = frozenset()
    """Columns that may be absent."""
    order: tuple[str, ...] = ()
    """Columns as they stand in the file, if axes do not simply come first."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in the published order."""
        return self.order or (*self.axes.values(), *self.numbers.values())


_SUBLAYERS = {"emotion": "emotion", "sublayer": "kind", "layer": "layer"}
_RESPONSES = {
    **{"sigma": "sigma", "length": "dose", "base_final": "s_base_final", "final": "s_final"},
    **{"change_final": "ds_final", "response_final": "I_final"},
    **{"base_anchor": "s_base_anchor", "anchor": "s_anchor"},
    **{"change_anchor": "ds_anchor", "response_anchor": "I_anchor", "samples": "n_samples"},
}
_PLACES = {
    **{"weight": "w", "share": "w_norm", "base": "k_base", "added": "k_add"},
    **{"assigned": "k_assigned", "available": "available", "cap": "cap", "used": "k_used"},
}

TABLES: Final[Mapping[type[Record], Table]] = {
    HeadImportance: Table(
        {name: name for name in ("emotion", "layer", "head")},
        {
            **{"mean": "mean_importance", "std": "std_importance"},
            **{"samples": "samples", "baseline": "baseline_mean"},
        },
        whole=frozenset({"samples"}),
        optional=frozenset({"emotion"}),
    ),
    Contributions: Table(
        {name: name for name in ("emotion", "layer", "neuron")},
        {
            **{"mean": "C_mean", "positive": "C_pos", "negative": "C_neg"},
            **{"weight": "beta", "activation": "H_mean"},
        },
    ),
    SublayerImportance: Table(
        {"emotion": "emotion", "dose": "alpha", "sublayer": "kind", "layer": "layer"},
        _RESPONSES,
        whole=frozenset({"n_samples"}),
        blank=frozenset({"s_base_anchor", "s_anchor", "ds_anchor", "I_anchor"}),
        order=("emotion", "kind", "layer", "alpha", *_RESPONSES.values()),
    ),
    MeanImportance: Table(_SUBLAYERS, {"response": "I_final", "share": "I_final_normalized"}),
    AllocationLog: Table(
        _SUBLAYERS,
        _PLACES,
        whole=frozenset({"k_base", "k_add", "k_assigned", "available", "cap", "k_used"}),
        blank=frozenset({"available", "cap"}),
    ),
}
"""Record -> its table."""


_COUNTED: Final = ("layer", "head", "neuron")


def read_table(path: Path, kind: type[Record], emotion: str | None = None) -> Record:
    """Read a table; ``emotion`` is the one that the file's name says.

    Raises:
        DataError: a column lacks, a cell is no number, a row lacks or occurs twice, or an
            emotion is unknown; names file, line and column.
    """
    table = TABLES[kind]
    frame = _read(path, table)
    columns = tuple(frame.columns)
    if "emotion" not in frame:
        frame["emotion"] = emotion

    def refuse(column: str, wrong: np.ndarray, wanted: str) -> None:
        if wrong.any():
            line = int(wrong.argmax())
            found = str(frame[column].iloc[line])[:40]
            raise DataError(
                f"{path}, line {line + 2}, column {column!r}: found {found!r}, expected {wanted}"
            )

    def numbers(column: str) -> np.ndarray:
        # Python's own reading of a number is exact; pandas' may be off by one place.
        return np.array([_number(cell) for cell in frame[column]])

    def labels(axis: str, column: str) -> pd.Series:
        cells: Any = frame[column]
        if axis == "emotion":
            for line, found in cells.drop_duplicates().items():
                known_emotion(str(found), f"{path}, line {int(str(line)) + 2}, column 'emotion'")
            if emotion is not None:
                refuse(column, (cells != emotion).to_numpy(), f"{emotion!r}, as in the file's name")
            return cells
        if axis == "sublayer":
            words = {word: own for own, word in KINDS.items()}
            refuse(column, ~cells.isin(list(words)).to_numpy(), " or ".join(words))
            return cells.map(words)
        found = numbers(column)
        wrong = ~np.isfinite(found) | (found < 0)
        if axis not in _COUNTED:
            refuse(column, wrong, "a positive number")
            return pd.Series(found)
        refuse(column, wrong | (np.nan_to_num(found) % 1 != 0), "a whole number from 0")
        return pd.Series(found.astype(np.int64))

    places = {axis: labels(axis, column) for axis, column in table.axes.items()}
    values = {}
    for name, column in table.numbers.items():
        values[name] = numbers(column)
        blank = (frame[column] == "").to_numpy() & (column in table.blank)
        wrong = ~np.isfinite(values[name]) & ~blank
        if column in table.whole:
            wrong |= np.nan_to_num(values[name]) % 1 != 0
        refuse(column, wrong, "a finite number")
    named: dict[str, tuple[Any, ...]] = {}
    for axis, cells in places.items():
        named[axis] = tuple(cells.drop_duplicates().tolist())
        if axis in _COUNTED:
            most = max(named[axis])
            if len(named[axis]) <= most:
                raise DataError(f"{path}: column {axis!r} counts to {most} but not every {axis}")
            named[axis] = tuple(range(most + 1))
    shape = tuple(len(own) for own in named.values())
    row = _rows(path, pd.MultiIndex.from_arrays(list(places.values())), named)
    tensors = {name: torch.from_numpy(value[row].reshape(shape)) for name, value in values.items()}
    make: Any = kind  # every table has these fields beside those of a record
    return make(row=torch.from_numpy(row.reshape(shape)), columns=columns, **tensors, **named)


def _rows(path: Path, found: pd.MultiIndex, named: Mapping[str, tuple[Any, ...]]) -> np.ndarray:
    """Row of every cell of the table that the labels span."""
    if math.prod(map(len, named.values())) > 100 * len(found):
        sizes = " x ".join(f"{len(own)} {axis}s" for axis, own in named.items())
        raise DataError(f"{path}: {len(found)} rows are too few for {sizes}")
    whole = pd.MultiIndex.from_product(list(named.values()))
    for odd, why in (
        (found[found.duplicated()], "is on lines"),
        (whole.difference(found), "lacks"),
    ):
        if len(odd):
            lines = " and ".join(str(line + 2) for line in np.flatnonzero(found == odd[0])[:2])
            cell = ", ".join(f"{axis} {label}" for axis, label in zip(named, odd[0], strict=True))
            said = f"the row of {cell} {why} {lines}".strip()
            raise DataError(f"{path}: {said}; every one must be there once")
    return pd.Series(np.arange(len(found)), index=found).reindex(whole).to_numpy(copy=True)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _read(path: Path, table: Table) -> pd.DataFrame:
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


_FLOATS = tuple(map(np.dtype, ("float16", "float32", "float64")))
_LAYER = re.compile(r"(L|layer)(0|[1-9][0-9]*)\.npy")
_SIGMA = re.compile(r"(attention|mlp)_(0|[1-9][0-9]*)")


def read_directions(path: Path, sublayer: str) -> UnitDirections:
    """Directions after one kind of sublayer (stage 2.2).

    Raises:
        DataError: the pickle names anything but arrays, or its fields disagree.
    """
    found = load_dictionary(path)
    missing = [
        name for name in ("dirs", "layers", "hidden", "emotions", "type") if name not in found
    ]
    if missing or not isinstance(found["dirs"], dict) or not found["dirs"]:
        raise DataError(f"{path}: lacks {', '.join(missing) or 'directions in the field dirs'}")
    emotions = tuple(known_emotion(str(own), f"{path}, field 'dirs'") for own in found["dirs"])
    if found["type"] != KINDS[sublayer] or found["emotions"] != list(emotions):
        raise DataError(
            f"{path}: fields 'type' and 'emotions' say {found['type']!r} and {found['emotions']}, "
            f"the file's name and 'dirs' {KINDS[sublayer]!r} and {list(emotions)}"
        )
    for emotion, vectors in found["dirs"].items():
        _check(f"{path}, direction of {emotion}", vectors, (found["layers"], found["hidden"]))
    stacked = np.stack(list(found["dirs"].values()))
    return UnitDirections(
        vectors=torch.from_numpy(stacked),
        emotion=emotions,
        layer=tuple(range(stacked.shape[1])),
        sublayer=sublayer,
    )


def write_directions(record: UnitDirections, path: Path) -> None:
    """Write directions as the authors' scripts read them."""
    save_dictionary(
        {
            "dirs": dict(zip(record.emotion, record.vectors.numpy(), strict=True)),
            "layers": record.vectors.shape[1],
            "hidden": record.vectors.shape[2],
            "emotions": list(record.emotion),
            "type": KINDS[record.sublayer],
        },
        path,
    )


def read_differences(paths: Sequence[Path], emotion: str, sublayer: str) -> DifferenceVectors:
    """The difference vectors of one emotion, one file per layer (stage 5).

    Raises:
        DataError: a layer lacks, files are named in two ways, or a file holds no vector.
    """
    names = {path: _LAYER.fullmatch(path.name) for path in paths}
    layers = {int(name[2]): path for path, name in names.items() if name}
    stems = sorted({name[1] for name in names.values() if name})
    if len(stems) != 1 or len(layers) != len(paths) or max(layers) != len(layers) - 1:
        raise DataError(
            f"{paths[0].parent}: expected one file for each layer from 0, named either L0.npy or "
            f"layer0.npy; found {', '.join(sorted(path.name for path in paths)[:8])}, ..."
        )
    vectors = [_vector(layers[layer]) for layer in sorted(layers)]
    for layer, vector in enumerate(vectors):
        _check(str(layers[layer]), vector, vectors[0].shape)
    return DifferenceVectors(
        value=torch.from_numpy(np.stack(vectors)),
        emotion=emotion,
        sublayer=sublayer,
        layer=tuple(sorted(layers)),
        stem=stems[0],
    )


def write_differences(record: DifferenceVectors, folder: Path) -> None:
    """Write one file per layer, named as they were.

    Raises:
        DataError: the record names files in another way than the two that are published.
    """
    names = [f"{record.stem}{layer}.npy" for layer in record.layer]
    odd = [name for name in names if not _LAYER.fullmatch(name)]
    if odd:
        raise DataError(f"{folder}: {odd[0]!r} is no file of a layer, such as L0.npy; import again")
    for name, vector in zip(names, record.value, strict=True):
        _save(vector, folder / name)


def read_reference(path: Path, emotion: str) -> ReferenceDirection:
    """The reference direction of one emotion (stage 6.3).

    Raises:
        DataError: the file holds no vector of finite numbers.
    """
    vector = _vector(path)
    _check(str(path), vector, vector.shape)
    return ReferenceDirection(torch.from_numpy(vector), emotion)


def write_reference(record: ReferenceDirection, path: Path) -> None:
    """Write a reference direction."""
    _save(record.vector, path)


def read_sigma(path: Path) -> Sigma:
    """Root mean squares ``attention_0`` ... ``mlp_27`` (stage 6.2).

    Raises:
        DataError: a sublayer lacks, or a value is no positive number.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise DataError(f"{path}: expected an object such as {{'attention_0': 0.02}}")
    odd = [name for name in found if not _SIGMA.fullmatch(name)]
    layers = len(found) // 2
    names = [f"{KINDS[own]}_{layer}" for own in SUBLAYERS for layer in range(layers)]
    missing = [name for name in names if name not in found]
    if odd or missing or len(names) != len(found):
        raise DataError(
            f"{path}: {', '.join(odd or missing)[:80] or 'the last layer'} does not fit"
        )
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise DataError(f"{path}, field {name!r}: expected a positive number, found {value!r}")
    values = torch.tensor([found[name] for name in names], dtype=torch.float64)
    values = values.reshape(2, layers)
    return Sigma(values, SUBLAYERS, tuple(range(layers)))


def write_sigma(record: Sigma, path: Path) -> None:
    """Write root mean squares under their published names."""
    values = {
        f"{KINDS[own]}_{layer}": record.at("rms", sublayer=own, layer=layer)
        for own in record.sublayer
        for layer in record.layer
    }
    write_text(path, dumped(values))


def _vector(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # numpy reads the head as Python, which can fail in any way
        raise DataError(f"{path}: not a plain numpy array ({str(error)[:80]})") from error
    if found.ndim != 1 or not found.size:
        raise DataError(f"{path}: expected one vector, found shape {found.shape}")
    return found


def _check(where: str, found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, np.ndarray) or found.dtype not in _FLOATS:
        kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise DataError(f"{where}: expected floating point numbers, found {kind}")
    if found.shape != shape:
        raise DataError(f"{where}: expected shape {shape}, found {found.shape}")
    if not np.isfinite(found).all():
        raise DataError(f"{where}: holds NaN or infinity")


def _save(vector: torch.Tensor, path: Path) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, vector.numpy(), allow_pickle=False)

    write_atomically(path, write)

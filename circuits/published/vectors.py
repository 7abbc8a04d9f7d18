"""Published vectors: directions, difference vectors, reference directions and sigma."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuits.errors import DataError
from circuits.files import read_json, write_atomically, write_text
from circuits.names import SUBLAYERS
from circuits.provenance import Provenance
from circuits.published.documents import dumped
from circuits.published.layout import KINDS, known_emotion
from circuits.published.pickles import load_dictionary, save_dictionary
from circuits.published.records import (
    DifferenceVectors,
    ReferenceDirection,
    Sigma,
    UnitDirections,
)

__all__ = [
    "read_differences",
    "read_directions",
    "read_reference",
    "read_sigma",
    "write_differences",
    "write_directions",
    "write_reference",
    "write_sigma",
]

_FLOATS = tuple(map(np.dtype, ("float16", "float32", "float64")))
_LAYER = re.compile(r"(L|layer)(0|[1-9][0-9]*)\.npy")
_SIGMA = re.compile(r"(attention|mlp)_(0|[1-9][0-9]*)")


def read_directions(path: Path, provenance: Provenance, sublayer: str) -> UnitDirections:
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
        provenance=provenance,
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


def read_differences(
    paths: Sequence[Path], provenance: Provenance, emotion: str, sublayer: str
) -> DifferenceVectors:
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
        provenance=provenance,
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


def read_reference(path: Path, provenance: Provenance, emotion: str) -> ReferenceDirection:
    """The reference direction of one emotion (stage 6.3).

    Raises:
        DataError: the file holds no vector of finite numbers.
    """
    vector = _vector(path)
    _check(str(path), vector, vector.shape)
    return ReferenceDirection(provenance, torch.from_numpy(vector), emotion)


def write_reference(record: ReferenceDirection, path: Path) -> None:
    """Write a reference direction."""
    _save(record.vector, path)


def read_sigma(path: Path, provenance: Provenance) -> Sigma:
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
    return Sigma(provenance, values.reshape(2, layers), SUBLAYERS, tuple(range(layers)))


def write_sigma(record: Sigma, path: Path) -> None:
    """Write root mean squares under their published names."""
    write_text(path, dumped(_sigma_values(record)))


def _sigma_values(record: Sigma) -> Mapping[str, float]:
    return {
        f"{KINDS[own]}_{layer}": record.at("rms", sublayer=own, layer=layer)
        for own in record.sublayer
        for layer in record.layer
    }


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

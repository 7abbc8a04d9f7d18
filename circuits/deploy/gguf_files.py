"""Control vectors as GGUF files, in the layout of repeng that llama.cpp reads.

Architecture ``controlvector``, ``controlvector.model_hint``, ``controlvector.layer_count`` and one
float32 tensor ``direction.{layer}`` per layer. Fields of ours beside them, which other programs
pass over, name the emotion and the provenance. Needs the package ``gguf`` (the extra ``gguf``).
"""

import json
from pathlib import Path
from typing import Any

import torch

from circuits.deploy.control_vectors import FIRST_LAYER, ControlVector, check_fits
from circuits.errors import DataError, RunError
from circuits.files import write_atomically
from circuits.model.protocol import Model
from circuits.provenance import Provenance

__all__ = ["read_gguf", "write_gguf"]

_KIND = "controlvector"
_TENSOR = "direction."
_EMOTION, _PROVENANCE = "emotion_circuits.emotion", "emotion_circuits.provenance"
# What numpy and the reader raise when a file ends early or holds nonsense.
_DAMAGE = (ValueError, LookupError, TypeError, OverflowError, ArithmeticError)


def write_gguf(vector: ControlVector, path: Path) -> None:
    """Write a control vector; ``--control-vector-scaled FILE 1.0`` of llama.cpp then adds it.

    Raises:
        RunError: the package ``gguf`` is not installed.
        DataError: the folder cannot be written to.
    """
    gguf = _gguf()

    def write(temporary: Path) -> None:
        file = gguf.GGUFWriter(temporary, _KIND)
        file.add_string(f"{_KIND}.model_hint", vector.model_hint)
        file.add_uint32(f"{_KIND}.layer_count", len(vector.layer))
        file.add_string(_EMOTION, vector.emotion)
        file.add_string(_PROVENANCE, json.dumps(vector.provenance.to_json()))
        for layer, values in zip(vector.layer, vector.vectors, strict=True):
            file.add_tensor(f"{_TENSOR}{layer}", values.detach().float().cpu().numpy())
        file.write_header_to_file()
        file.write_kv_data_to_file()
        file.write_tensors_to_file()
        file.close()

    write_atomically(path, write)


def read_gguf(path: Path, model: Model | None = None) -> ControlVector:
    """Read a control vector, ours or another program's.

    Args:
        path: The file.
        model: If given, what the vector must fit.

    Raises:
        DataError: the file is missing, damaged or no control vector; says what it is.
        ModelError: it was made for a model of another size.
        RunError: the package ``gguf`` is not installed.
    """
    gguf = _gguf()
    try:
        reader = gguf.GGUFReader(path)
        found = _vector(reader, path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path} is no GGUF file, or it is damaged ({error})") from error
    if model is not None:
        check_fits(found, model)
    return found


def _vector(reader: Any, path: Path) -> ControlVector:
    kind = _text(reader, "general.architecture")
    if kind != _KIND:
        raise DataError(f"{path} is no control vector: its architecture is {kind!r}, not {_KIND!r}")
    rows = {_layer(tensor, path): torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    if len({len(row) for row in rows.values()}) != 1:
        raise DataError(f"{path} holds no direction, or directions of different width")
    provenance = _text(reader, _PROVENANCE)
    return ControlVector(
        provenance=Provenance.from_json(json.loads(provenance)) if provenance else Provenance(),
        vectors=torch.stack([rows[layer] for layer in sorted(rows)]),
        layer=tuple(sorted(rows)),
        emotion=_text(reader, _EMOTION),
        model_hint=_text(reader, f"{_KIND}.model_hint"),
    )


def _layer(tensor: Any, path: Path) -> int:
    number = tensor.name.removeprefix(_TENSOR)
    if number == tensor.name or not number.isdecimal() or int(number) < FIRST_LAYER:
        raise DataError(
            f"{path}: tensor {tensor.name!r} is no direction after layer {FIRST_LAYER} or later, "
            "which is all that a control vector holds"
        )
    if tensor.data.ndim != 1 or tensor.tensor_type.name != "F32":
        raise DataError(f"{path}: {tensor.name} is not one float32 vector")
    return int(number)


def _text(reader: Any, name: str) -> str:
    field = reader.get_field(name)
    return "" if field is None else str(field.contents())


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise RunError(
            "GGUF files need the package gguf; install it with `pip install 'gguf>=0.17'`"
        ) from error
    return gguf

"""Control vectors: what they can hold of a direction or a circuit, what is lost, and their files.

A control vector is one vector per layer. llama.cpp adds ``direction.i`` to the residual stream
after layer ``i``, at every position of every call (``build_cvec`` in its graphs; repeng counts
alike). Its layers begin at 0 as ours do, so ``direction.i`` stands where ``resid_post`` of layer
``i`` is read; a ``direction.0`` it refuses. What is written in layer 0 is therefore added after
layer 1: from there on the stream holds it too, but layer 1 itself has read the stream without it.

Files are GGUF in the layout of repeng that llama.cpp reads: architecture ``controlvector``,
``controlvector.model_hint``, ``controlvector.layer_count`` and one float32 tensor
``direction.{layer}`` per layer. Fields of ours beside them, which other programs pass over, name
the emotion and the provenance. Needs the package ``gguf`` (the extra ``gguf``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.errors import CircuitError, DataError, ModelError, RunError
from circuits.files import Loss, PathLike, resolved, write_atomically
from circuits.models.edits import Add, Edit
from circuits.models.families import needs
from circuits.models.protocol import Model, blocks_of
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = [
    "FIRST_LAYER",
    "MEANINGS",
    "ControlVector",
    "Lost",
    "check_fits",
    "control_vector",
    "read_gguf",
    "write_gguf",
]

FIRST_LAYER = 1
"""The first layer after which a control vector can be added."""


Lost = Literal["positions", "layer 0", "inside a layer", "parts"]

MEANINGS: Final[Mapping[Lost, str]] = {
    "positions": "written at the last position or once, added at all positions of all calls; "
    "length of what is added, relative to the stream (largest over layers)",
    "layer 0": "written in layer 0, added after layer 1, which does not read it; share of the "
    "lengths of all components",
    "inside a layer": "written by attention, added after the layer's MLP, which does not read it; "
    "share of the lengths of all components",
    "parts": "single heads and neurons become one sum per layer; share of their lengths that "
    "cancels",
}
"""What a control vector loses, and what the size of each loss is."""


@dataclass(frozen=True, eq=False)
class ControlVector(Record):
    """What is added to the residual stream after every layer, at strength 1."""

    vectors: Float[Tensor, "layer d_model"]

    layer: tuple[int, ...]
    """Layers from :data:`FIRST_LAYER`; ``resid_post`` of the layer is what is added to."""
    emotion: str
    """Empty if the file of another program does not say."""
    model_hint: str
    """Kind of the model as Hugging Face names it, such as ``llama``."""

    def edits(self, strength: float = 1.0) -> list[Add]:
        """What llama.cpp does with the file: the same addition at all positions of all calls."""
        return [
            Add("resid_post", layer, strength * vector, "all", "every")
            for layer, vector in zip(self.layer, self.vectors, strict=True)
            if vector.any()
        ]


def control_vector(
    model: Model, edits: Sequence[Edit], emotion: str, *, rms: Float[Tensor, " layer"] | None = None
) -> tuple[ControlVector, tuple[Loss, ...]]:
    """The control vector that comes closest to some edits, and what it does not keep of them.

    Args:
        model: Its weights say what heads and neurons write.
        edits: Additions to ``z``, ``post``, ``attn_out``, ``mlp_out`` or ``resid_post``.
        emotion: What they express.
        rms: Root mean square of the residual stream after every layer, to tell how far the
            vector moves positions that the edits leave alone.

    Raises:
        CircuitError: an edit is not a constant addition to the residual stream, or nothing is
            written.
        ModelError: an edit names a layer that the model does not have, or the model has only one.
    """
    n_layers, d_model = int(model.cfg.n_layers), int(model.cfg.d_model)
    if n_layers <= FIRST_LAYER:
        raise ModelError("a control vector begins after layer 1; this model has layer 0 only")
    written = [(edit, _parts(model, edit)) for edit in edits]
    vectors = torch.zeros(n_layers, d_model)
    for edit, parts in written:
        vectors[max(edit.layer, FIRST_LAYER)] += parts.sum(0)
    if not vectors.any():
        raise CircuitError(f"nothing is written for {emotion}, so there is no control vector")
    config = getattr(getattr(model, "original_model", None), "config", None)
    found = ControlVector(
        vectors=vectors[FIRST_LAYER:],
        layer=tuple(range(FIRST_LAYER, n_layers)),
        emotion=emotion,
        model_hint=str(getattr(config, "model_type", "")),
    )
    sizes = _losses(written, vectors, rms)
    return found, tuple(Loss(what, sizes[what], MEANINGS[what], "share") for what in sizes)


def check_fits(vector: ControlVector, model: Model) -> None:
    """Refuse a control vector that was made for a model of another size.

    Raises:
        ModelError: the widths differ, or the model lacks a layer.
    """
    width, n_layers = vector.vectors.shape[1], int(model.cfg.n_layers)
    if width != model.cfg.d_model or vector.layer[-1] >= n_layers:
        raise ModelError(
            f"the control vector has width {width} and goes up to layer {vector.layer[-1]}; the "
            f"model has width {model.cfg.d_model} and layers 0 to {n_layers - 1}. "
            "Is it another model's?"
        )


def _parts(model: Model, edit: Edit) -> Float[Tensor, "part d_model"]:
    """What an edit writes into the residual stream, part by part."""
    where = f"the edit of {edit.site} in layer {edit.layer}"
    if not isinstance(edit, Add) or edit.times_rms:
        what = "multiplies by the running stream" if isinstance(edit, Add) else "replaces"
        raise CircuitError(f"{where} {what}; a control vector can only add what is always the same")
    if not 0 <= edit.layer < model.cfg.n_layers:
        raise ModelError(
            f"an edit names layer {edit.layer}; the model has layers 0 to {model.cfg.n_layers - 1}"
        )
    block, value = blocks_of(model)[edit.layer], edit.value.detach().float().cpu()
    if edit.site == "z" and value.ndim == 2:
        needs(model, "control vectors of heads", "heads")
        heads = value.any(-1)
        W_O = block.attn.W_O.detach()[heads].float().cpu()
        return einsum(value[heads], W_O, "head d_head, head d_head d_model -> head d_model")
    if edit.site == "post" and value.ndim == 1:
        needs(model, "control vectors of neurons", "neurons")
        neurons = value.nonzero()[:, 0]
        return value[neurons, None] * block.mlp.W_out.detach()[neurons].float().cpu()
    if edit.site in ("attn_out", "mlp_out", "resid_post") and value.ndim == 1:
        return value[None]
    raise CircuitError(
        f"{where} is not one addition to the residual stream; a control vector holds "
        "edits of z, post, attn_out, mlp_out and resid_post, each with one value for all rows"
    )


def _losses(
    written: Sequence[tuple[Edit, Tensor]],
    vectors: Float[Tensor, "layer d_model"],
    rms: Tensor | None,
) -> dict[Lost, float]:
    # In float64: squares of float32 underflow.
    lengths = [(edit, float(parts.double().norm(dim=-1).sum())) for edit, parts in written]
    total, sizes = sum(length for _, length in lengths), dict[Lost, float]()
    if any(edit.positions != "all" or edit.when != "every" for edit, _ in written):
        stream = torch.full((len(vectors),), float("nan")) if rms is None else rms.float().cpu()
        sizes["positions"] = float((vectors.square().mean(-1).sqrt() / stream).max())
    early = sum(length for edit, length in lengths if edit.layer < FIRST_LAYER) / total
    inside = sum(length for edit, length in lengths if edit.site in ("z", "attn_out")) / total
    sizes |= {"layer 0": early} if early else {}
    sizes |= {"inside a layer": inside} if inside else {}
    if sum(len(parts) for _, parts in written) > len(vectors.any(-1).nonzero()):
        sizes["parts"] = 1 - float(vectors.double().norm(dim=-1).sum()) / total
    return sizes


_KIND = "controlvector"
_TENSOR = "direction."
_EMOTION, _PROVENANCE = "emotion_circuits.emotion", "emotion_circuits.provenance"
# What numpy and the reader raise when a file ends early or holds nonsense.
_DAMAGE = (ValueError, LookupError, TypeError, OverflowError, ArithmeticError)


def write_gguf(vector: ControlVector, path: PathLike) -> None:
    """Write a control vector; ``--control-vector-scaled FILE 1.0`` of llama.cpp then adds it.

    Raises:
        RunError: the package ``gguf`` is not installed.
        DataError: the folder cannot be written to.
    """
    path = resolved(path)
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


def read_gguf(path: PathLike, model: Model | None = None) -> ControlVector:
    """Read a control vector, ours or another program's.

    Args:
        path: The file.
        model: If given, what the vector must fit.

    Raises:
        DataError: the file is missing, damaged or no control vector; says what it is.
        ModelError: it was made for a model of another size.
        RunError: the package ``gguf`` is not installed.
    """
    path, gguf = resolved(path), _gguf()
    try:
        found = _vector(gguf.GGUFReader(path), path)
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
    rows: dict[int, Tensor] = {}
    for tensor in reader.tensors:
        number = tensor.name.removeprefix(_TENSOR)
        if number == tensor.name or not number.isdecimal() or int(number) < FIRST_LAYER:
            raise DataError(
                f"{path}: tensor {tensor.name!r} is no direction after layer {FIRST_LAYER} or "
                "later, which is all that a control vector holds"
            )
        if tensor.data.ndim != 1 or tensor.tensor_type.name != "F32":
            raise DataError(f"{path}: {tensor.name} is not one float32 vector")
        rows[int(number)] = torch.tensor(tensor.data.copy())
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


def _text(reader: Any, name: str) -> str:
    field = reader.get_field(name)
    return "" if field is None else str(field.contents())


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise RunError(
            "GGUF files need the package gguf; install it with `pip install 'gguf>=0.17,<1'`"
        ) from error
    return gguf

"""Edits as a file that plain hooks on a Hugging Face model can apply.

One safetensors file. Its metadata hold, under ``hooks``, a JSON object: per edit the module and its
side, the site, layer and components, ``positions`` (``last`` or ``all`` of a call) and ``calls``
(``first``: as the prompt is read; ``every``: at each token of the reply too). Edit ``i`` adds
tensor ``i.value`` at the channels ``i.index`` of that input or output. Values are at strength 1.
``docs/how-to/apply_with_transformers.py`` applies such a file without this package.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuits.errors import AxisError, CircuitError, DataError, ModelError
from circuits.files import PathLike, parse_json, resolved
from circuits.models.edits import Add, Edit, When
from circuits.models.protocol import Model, shape_of
from circuits.models.tokens import DATE
from circuits.names import head_name, neuron_name
from circuits.prompts.templates import BRIEF
from circuits.provenance import Provenance, current
from circuits.records import write_tensors

__all__ = ["FORMAT", "Side", "hooks_provenance", "module_of", "read_hooks", "write_hooks"]

Side = Literal["input", "output"]

_PLACES: Final[dict[str, tuple[str, Side]]] = {
    "z": ("blocks.{layer}.attn.o", "input"),
    "attn_out": ("blocks.{layer}.attn.o", "output"),
    "post": ("blocks.{layer}.mlp.out", "input"),
    "mlp_out": ("blocks.{layer}.mlp.out", "output"),
    "resid_post": ("blocks.{layer}", "output"),
}


def module_of(model: Model, site: str, layer: int) -> tuple[str, Side]:
    """Name of the module in the Hugging Face model, and the side on which the site lies.

    Heads lie one after the other in the input of their output projection, neurons in that of the
    MLP's. For Llama ``z`` of layer 3 is the input of ``model.layers.3.self_attn.o_proj``.

    Raises:
        AxisError: the site is not an input or output of a module.
        ModelError: the model is no Hugging Face model under a bridge.
    """
    if site not in _PLACES:
        raise AxisError(
            f"{site!r} is no input or output of a Hugging Face module; {', '.join(_PLACES)} are"
        )
    adapter = getattr(model, "adapter", None)
    if adapter is None:
        raise ModelError(
            "the model does not say what its Hugging Face modules are called (a HookedTransformer "
            "has none); load it with circuits.load_model"
        )
    path, side = _PLACES[site]
    return str(adapter.translate_transformer_lens_path(path.format(layer=layer))), side


FORMAT = "emotion-circuit-hooks/1"
"""Name and version of the file's form."""

_CALLS: Mapping[When, str] = {"prompt": "first", "every": "every"}
_WHEN: Mapping[str, When] = {calls: when for when, calls in _CALLS.items()}
_DAMAGE = (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError)


def write_hooks(model: Model, edits: Sequence[Edit], emotion: str, path: PathLike) -> None:
    """Write edits with the names of the Hugging Face modules that they change.

    Raises:
        CircuitError: an edit is no constant addition with one value for all rows.
        AxisError: an edit is at a site that is no input or output of a module.
        DataError: the folder cannot be written to.
    """
    path = resolved(path)
    tensors: dict[str, Tensor] = {}
    described: list[dict[str, Any]] = []
    for number, edit in enumerate(edits):
        value = edit.value.detach().float().cpu() if isinstance(edit, Add) else None
        if (
            not isinstance(edit, Add)
            or edit.times_rms
            or edit.positions == "variant"
            or value is None
            or value.ndim != (2 if edit.site == "z" else 1)
        ):
            raise CircuitError(
                f"the edit of {edit.site} in layer {edit.layer} cannot be written: a file of hooks "
                "holds additions of one constant value for all rows"
            )
        module, side = module_of(model, edit.site, edit.layer)
        name = {"z": head_name, "post": neuron_name}.get(edit.site)
        parts = value.reshape(len(value), -1).any(-1).nonzero()[:, 0].tolist()
        flat = value.flatten()
        index = flat.nonzero()[:, 0]
        tensors[f"{number}.index"], tensors[f"{number}.value"] = index, flat[index]
        described.append(
            {
                "module": module,
                "side": side,
                "site": edit.site,
                "layer": edit.layer,
                "components": [name(edit.layer, part) for part in parts] if name else [],
                "positions": edit.positions,
                "calls": _CALLS[edit.when],
            }
        )
    values = {
        "format": FORMAT,
        "emotion": emotion,
        "system": BRIEF,
        "template": {"date_string": str(getattr(model.cfg, "date", DATE))},
        "shape": shape_of(model),
        "edits": described,
        "provenance": current().to_json(),
    }
    said = json.dumps(values)
    write_tensors(path, tensors, _metadata(said, tensors))


def read_hooks(path: PathLike, model: Model) -> tuple[str, list[Add]]:
    """The emotion and the edits of a file, for the model that it was made from.

    Raises:
        DataError: the file is missing, damaged or of another form.
        ModelError: it was made for a model of another size.
    """
    cfg, own, edits = model.cfg, shape_of(model), list[Add]()
    sizes = {"z": (cfg.n_heads, cfg.d_head), "post": (cfg.d_mlp,)}
    with _reading(resolved(path)) as (values, tensors):
        if values["shape"] != own:
            other = {name: size for name, size in values["shape"].items() if own.get(name) != size}
            raise ModelError(
                f"the hooks were made for a model of {other}; this one has "
                f"{ {name: own.get(name) for name in other} }. Is it another model's file?"
            )
        for i, said in enumerate(values["edits"]):
            whole = torch.zeros(sizes.get(said["site"], (cfg.d_model,)))
            whole.view(-1)[tensors[f"{i}.index"]] = tensors[f"{i}.value"]
            when = _WHEN[said["calls"]]
            edits.append(Add(said["site"], said["layer"], whole, said["positions"], when))
        return str(values["emotion"]), edits


def hooks_provenance(path: Path) -> Provenance:
    """Where the edits of a file come from, and of which model.

    Raises:
        DataError: the file is missing, damaged or of another form.
    """
    with _reading(path) as (values, _):
        return Provenance.from_json(values["provenance"])


@contextmanager
def _reading(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """What a file says and holds; what goes wrong with it in the block counts as damage."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            said = metadata.get("hooks", "null")
            values = parse_json(said)
            if not isinstance(values, dict) or values.get("format") != FORMAT:
                raise DataError(f"{path} holds no hooks of the form {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata != _metadata(said, tensors):
            raise DataError(f"{path} was changed after it was written; write it again")
        yield values, tensors
    except (DataError, ModelError):
        raise
    except _DAMAGE as error:
        raise DataError(f"{path} is no file of hooks, or it is damaged ({error})") from error


def _metadata(said: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    total = hashlib.sha256(said.encode())
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return {"format": "pt", "hooks": said, "digest": f"sha256:{total.hexdigest()}"}

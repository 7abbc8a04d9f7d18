"""Models by name or folder, and what they are.

A Hugging Face model, the embedded one included, is loaded raw: no weight is folded or centred,
so the residual stream is the one that the published directions live in.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging as transformers_logging

from circuits.assets import shipped
from circuits.errors import ModelError
from circuits.files import digest, exists, is_file, is_folder
from circuits.model.chat import DATE, Begin
from circuits.model.checks import check_running
from circuits.model.hooked import hooked, is_hooked_transformer
from circuits.model.loaded_as import LoadedAs
from circuits.model.missing import complete_weights
from circuits.model.protocol import Model, device_of, dtype_of, shape_of
from circuits.model.wrapping import count_neurons, is_from_disk, set_right

__all__ = [
    "DEVICE_MAPS",
    "DTYPES",
    "EMBEDDED",
    "describe_model",
    "folder_digest",
    "load_model",
    "wrap_model",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways in which accelerate spreads a model over devices."""
EMBEDDED = ("sev-mini", "sev-nano")
"""Names of the models that ship with the package."""

_FULL_DIGEST_BYTES = 1 << 30
_DAMAGE = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError, UnpicklingError,
)  # fmt: skip


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str = "float32",
    begin: Begin = "one",
    date: str = DATE,
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a Hugging Face model, by hub name or from a local folder.

    Args:
        name: ``meta-llama/Llama-3.2-3B-Instruct``, a folder in Hugging Face's layout, or
            ``sev-mini`` or ``sev-nano``, the models that ship with the package.
        revision: Branch, tag or commit on the hub.
        device: ``cuda`` if there is one, otherwise ``cpu``.
        dtype: One of :data:`DTYPES`.
        begin: How prompts begin; ``one`` begin token, or as the ``tokenizer`` has it.
        date: The date given to chat templates that write one.
        device_map: Spread the model over several devices instead: ``auto``, ``balanced``,
            ``balanced_low_0`` or ``sequential``, as of accelerate. Its weights must all be in
            memory.
        trust_remote_code: Run code that comes with the model, where it needs any.

    Raises:
        ModelError: the folder is not a model, its files are damaged or lack weights, a device map
            comes with a device or leaves weights on disk, or the model is gated, missing or out of
            reach; the message says how to log in or to give a local folder. Or the model needs
            code of its own, or its weights are a pickle that names more than tensors; nothing of
            either was run. Or the architecture has no final norm.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known; choose {', '.join(DTYPES)}")
    if str(name) in EMBEDDED and not exists(name):
        name = shipped(str(name))
    _check_folder(str(name))
    chosen = _device(device, device_map)
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with _quiet(), complete_weights(str(name)):
            model = TransformerBridge.boot_transformers(
                str(name), device=chosen, dtype=DTYPES[dtype], revision=revision,
                device_map=device_map, trust_remote_code=trust_remote_code,
            )  # fmt: skip
    except ModelError:
        raise
    except _DAMAGE as error:
        raise ModelError(_why_not(str(name), error)) from error
    _check_in_memory(model.parameters())
    model.eval()
    model.cfg.source, model.cfg.begin, model.cfg.date = str(name), begin, date
    model.cfg.loaded_as = LoadedAs(
        # Another process may stand in another folder, and a branch may move.
        str(Path(name).resolve()) if is_folder(name) else str(name),
        _commit(model) or revision, torch.device(chosen).type if chosen else None, dtype, begin,
        date, device_map, trust_remote_code,
    )  # fmt: skip
    set_right(model)
    check_running(model)
    return model


def wrap_model(hf_model: Any, tokenizer: Any = None, *, name: str = "external") -> Model:
    """Give a model that is already in memory the interface that measurements need.

    Args:
        hf_model: A Hugging Face model, or a ``HookedTransformer`` of TransformerLens 3. The latter
            must have been loaded raw (``HookedTransformer.from_pretrained_no_processing``).
            Folded norms (``fold_ln``) are allowed: they leave the residual stream and what is
            written into it as they are, but outputs of norms (``ln1_out``, ``ln2_out``, ``final``
            and what is read there) are those before the norm's gain.
        tokenizer: Its tokenizer; a HookedTransformer keeps its own if none is given.
        name: What it is called in provenances.

    Raises:
        ModelError: TransformerLens does not know the architecture, it has no final norm, or a
            HookedTransformer's weights were centred, its value biases folded, or its heads given
            inputs of their own.
    """
    if is_hooked_transformer(hf_model):
        taken = hooked(hf_model)
        taken.tokenizer = tokenizer or hf_model.tokenizer
        taken.cfg.source = name
        count_neurons(taken)
        check_running(taken)
        return taken
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(hf_model).__name__
    try:
        model = build_bridge_from_module(
            hf_model.eval(),
            architecture,
            hf_config=hf_model.config,
            tokenizer=tokenizer if is_from_disk(tokenizer) else None,
            model_name=name,
        )
        model.tokenizer = model.tokenizer or tokenizer
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"TransformerLens cannot wrap {architecture}: {error}") from error
    model.cfg.source = name
    set_right(model)
    check_running(model)
    return model


def describe_model(model: Model) -> dict[str, Any]:
    """Name, revision, sizes and dtype, for a provenance.

    A local model's revision is a digest of its weights (of their headers above 1 GiB).
    """
    source = str(getattr(model.cfg, "source", getattr(model.cfg, "model_name", "unnamed")))
    wrapped = getattr(model, "original_model", None)
    commit = _commit(model)
    folder = Path(source)
    return {
        "name": folder.name if is_folder(folder) else source,
        "revision": commit or (folder_digest(folder) if is_folder(folder) else "unknown"),
        "architecture": str(getattr(model.cfg, "architecture", None) or type(wrapped).__name__),
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "device": device_of(model).type,
        **shape_of(model),
        "n_key_value_heads": int(
            getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads
        ),
        # Said where it is so: the description of other models is as it was.
        **({"parallel_attn_mlp": True} if getattr(model.cfg, "parallel_attn_mlp", 0) else {}),
    }


def _commit(model: Model) -> str | None:
    wrapped = getattr(model, "original_model", None)
    return getattr(getattr(wrapped, "config", None), "_commit_hash", None)


def _device(device: str | None, device_map: str | None) -> str | None:
    if device_map is None:
        return device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device_map not in DEVICE_MAPS:
        raise ModelError(f"device map {device_map!r} is not known; choose {', '.join(DEVICE_MAPS)}")
    if device is not None:
        raise ModelError(
            f"device {device!r} and device map {device_map!r} are both given; give one of them"
        )
    return None


def _check_in_memory(weights: Iterable[Tensor]) -> None:
    away = sum(weight.numel() for weight in weights if weight.is_meta)
    if away:
        raise ModelError(
            f"{away:,} weights of the model do not fit into the memory of its devices and would "
            "stay on disk, where they cannot be read; use more or larger GPUs, or --dtype bfloat16"
        )


def _check_folder(name: str) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or exists(name)
    if not looks_local:
        return
    folder = Path(name)
    if not is_file(folder / "config.json"):
        found = "there is no such folder" if not is_folder(folder) else "it holds no config.json"
        raise ModelError(
            f"no model at {name}: {found}; give a folder in Hugging Face's layout "
            "(config.json, *.safetensors, tokenizer.json) or the name of a model on the hub"
        )


def _why_not(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UnpicklingError):
        # What torch says ends in advice to open the file without the check.
        return (
            f"the weights of {name} are a pickle that names more than tensors, or a damaged one; "
            "nothing of it was run. Take the model's safetensors files"
        )
    if "trust_remote_code" in text:
        return (
            f"{name} needs {_own_code(Path(name))}, which is not run unless it is asked for. Read "
            "it; then give --trust-remote-code, or trust_remote_code=True in Python"
        )
    local = "or give a local folder that holds the model"
    if "gated" in text or "401" in text or "403" in text:
        return (
            f"{name} is gated: accept its licence on its page at the hub, log in with "
            f"`hf auth login` (or set HF_TOKEN), {local}"
        )
    if "connect" in text or "offline" in text or "Max retries" in text:
        return (
            f"{name} is not on this machine and the hub is out of reach; connect to the network "
            f"(and, for a gated model, log in with `hf auth login`), {local}"
        )
    if "not a valid model identifier" in text or "404" in text or "Repo id" in text:
        return (
            f"the hub has no model called {name} that you may see; check the name, log in with "
            f"`hf auth login` if it is private, {local}"
        )
    return f"{name} cannot be loaded: {text[:300]}"


def _own_code(folder: Path) -> str:
    """The code that the files of a model folder name, as far as it is here."""
    named: set[str] = set()
    for name in ("config.json", "tokenizer_config.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map", {})
            listed = found.values() if isinstance(found, dict) else (found,)
            for own in listed:
                named |= {str(part) for part in (own if isinstance(own, list) else [own]) if part}
    return f"code of its own ({', '.join(sorted(named))})" if named else "code of its own"


def folder_digest(folder: Path) -> str:
    """Digest of a model's configuration and weights (of their headers above 1 GiB)."""
    weights = sorted(folder.glob("*.safetensors"))
    config = folder / "config.json"
    if sum(path.stat().st_size for path in weights) <= _FULL_DIGEST_BYTES:
        return digest(config, *weights)
    heads = [json.dumps([path.name, path.stat().st_size, _head(path)]) for path in weights]
    return f"{digest(config)} headers {'; '.join(heads)}"


def _head(path: Path) -> str:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(min(size, 1 << 12)).hex()[:64]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Loading bars and notices of the libraries would tear our own progress display.
    levels = {name: logging.getLogger(name).level for name in ("transformer_lens", "root")}
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)

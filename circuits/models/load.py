"""Loading a model, from the hub, a folder or an object, and trying that it runs as expected.

Results stand on things that the libraries below do without a word: that keys and values are kept
and read on from, that positions are counted from the mask, that hooks fire and what they return
is used, that attention looks back only. A release that changes one of them changes every number
and raises nothing. So each is tried on a few tokens when a model is loaded: seven short passes.

A Hugging Face model, the embedded one included, is loaded raw: no weight is folded or centred,
so the residual stream is the one that the published directions live in.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging as transformers_logging

from circuits.errors import ModelError
from circuits.files import digest, exists, is_file, is_folder, shipped
from circuits.models.memory import Receipt, counted, uncounted
from circuits.models.protocol import (
    Hook,
    Hooked,
    Model,
    device_of,
    dtype_of,
    hooked,
    hooks_of,
    is_a,
    refuse_unwrapped,
    shape_of,
    weight_of,
)
from circuits.models.run import (
    attention_window,
    cache_run,
    can_share,
    extend,
    prefill_prefix,
    resume,
    run,
)
from circuits.models.tokens import DATE, Begin, pad_left
from circuits.names import hook

__all__ = [
    "DTYPES",
    "EMBEDDED",
    "TESTED",
    "check_running",
    "describe_model",
    "folder_digest",
    "load_model",
    "loaded_as",
    "rotary_switch",
    "wrap_model",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways in which accelerate spreads a model over devices."""
EMBEDDED = ("sev-mini", "sev-nano")
"""Names of the models that ship with the package."""
TESTED = "transformer-lens==4.3.0 with transformers==5.23.0 or 5.24.0, torch==2.13.0"
"""The versions with which every test passes."""
_UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError)
_UNREADABLE += (UnpicklingError,)


def load_model(
    name: Any,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str = "float32",
    begin: Begin = "one",
    date: str = DATE,
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a Hugging Face model, by hub name or from a local folder, or take a loaded one.

    Args:
        name: ``meta-llama/Llama-3.2-3B-Instruct``, a folder in Hugging Face's layout, a model in
            memory (see :func:`wrap_model`), or ``sev-mini`` or ``sev-nano``, which ship with us.
        revision: Branch, tag or commit on the hub.
        device: ``cuda`` if there is one, otherwise ``cpu``.
        dtype: One of :data:`DTYPES`.
        begin: How prompts begin; ``one`` begin token, or as the ``tokenizer`` has it.
        date: The date given to chat templates that write one.
        device_map: Spread the model over devices instead, as accelerate does: ``auto``,
            ``balanced``, ``balanced_low_0`` or ``sequential``. All weights must be in memory.
        trust_remote_code: Run code that comes with the model, where it needs any.

    Raises:
        ModelError: the folder is not a model, its files are damaged or lack weights, or the model
            is gated, missing, out of reach, or does not run as it must; says what to do. Or it
            needs code of its own, or its weights are a pickle of more than tensors; nothing of
            either was run.
    """
    if not isinstance(name, str | Path):
        return wrap_model(name)
    name = str(Path(name).expanduser()) if str(name).startswith("~") else str(name)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known; choose {', '.join(DTYPES)}")
    if device_map is not None and device_map not in DEVICE_MAPS:
        raise ModelError(f"device map {device_map!r} is not known; choose {', '.join(DEVICE_MAPS)}")
    if device_map is not None and device is not None:
        raise ModelError(
            f"device {device!r} and device map {device_map!r} are both given; give one of them"
        )
    if name in EMBEDDED and not exists(name):
        name = str(shipped(name))
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or exists(name)
    if looks_local and not is_file(Path(name, "config.json")):
        found = "there is no such folder" if not is_folder(name) else "it holds no config.json"
        raise ModelError(
            f"no model at {name}: {found}; give a folder in Hugging Face's layout "
            "(config.json, *.safetensors, tokenizer.json) or the name of a model on the hub"
        )
    if device_map is None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with _quiet() as reports:
            model = TransformerBridge.boot_transformers(
                name,
                device=device,
                dtype=DTYPES[dtype],
                revision=revision,
                device_map=device_map,
                trust_remote_code=trust_remote_code,
            )
    except _UNREADABLE as error:
        raise ModelError(_why_not(name, error)) from error
    missing = re.findall(r"^\s*(\S+)\s*\|\s*MISSING", "\n".join(reports), re.MULTILINE)
    if missing:
        raise ModelError(
            f"{name}: the weights {', '.join(missing[:3])} are not in its files, which are damaged "
            "or another model's; get them again"
        )
    away = sum(weight.numel() for weight in model.parameters() if weight.is_meta)
    if away:
        raise ModelError(
            f"{away:,} weights of the model do not fit into the memory of its devices and would "
            "stay on disk, where they cannot be read; use more or larger GPUs, or --dtype bfloat16"
        )
    model.eval()
    model.cfg.source, model.cfg.begin, model.cfg.date = name, begin, date
    model.cfg.loaded_as = {
        # Another process may stand in another folder, and a branch may move.
        "name": str(Path(name).resolve()) if is_folder(name) else name,
        "revision": _commit(model) or revision,
        "device": torch.device(device).type if device else None,
        "dtype": dtype,
        "begin": begin,
        "date": date,
        "device_map": device_map,
        "trust_remote_code": trust_remote_code,
    }
    return _ready(model)


def loaded_as(model: Model) -> dict[str, Any] | None:
    """What ``load_model`` was given for it; ``None`` for a model that was given in memory."""
    return getattr(model.cfg, "loaded_as", None)


def wrap_model(hf_model: Any, tokenizer: Any = None, *, name: str = "external") -> Model:
    """Give a model that is already in memory the interface that measurements need.

    Args:
        hf_model: A Hugging Face model, a ``TransformerBridge``, which is taken as it is, or a
            ``HookedTransformer`` of TransformerLens 3 that was loaded raw
            (``from_pretrained_no_processing``). Folded norms (``fold_ln``) are allowed: the
            residual stream stays, but outputs of norms (``ln1_out``, ``ln2_out``, ``final``) are
            those before the norm's gain.
        tokenizer: Its tokenizer; a HookedTransformer keeps its own if none is given.
        name: What it is called in provenances.

    Raises:
        ModelError: TransformerLens does not know the architecture, it has no final norm, or a
            HookedTransformer's weights were centred, its value biases folded, or its heads given
            inputs of their own; or a bridge's weights were folded (``enable_compatibility_mode``).
    """
    if isinstance(hf_model, Hooked):  # wrapped before
        return hf_model
    if is_a(hf_model, "TransformerBridge"):
        refuse_unwrapped(hf_model)
        hf_model.tokenizer = tokenizer or hf_model.tokenizer
        if not hasattr(hf_model.cfg, "source"):
            hf_model.cfg.source = getattr(hf_model.cfg, "model_name", None) or name
        return _ready(hf_model)
    if is_a(hf_model, "HookedTransformer"):
        taken = hooked(hf_model)
        taken.tokenizer = tokenizer or hf_model.tokenizer
        taken.cfg.source = name
        return _ready(taken)
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(hf_model).__name__
    # One that was loaded by name TransformerLens loads once more; it fails for one in memory.
    from_disk = "name_or_path" in getattr(tokenizer, "init_kwargs", {})
    try:
        model = build_bridge_from_module(
            hf_model.eval(),
            architecture,
            hf_config=hf_model.config,
            tokenizer=tokenizer if from_disk else None,
            model_name=name,
        )
        model.tokenizer = model.tokenizer or tokenizer
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"TransformerLens cannot wrap {architecture}: {error}") from error
    model.cfg.source = name
    return _ready(model)


def describe_model(model: Model) -> dict[str, Any]:
    """Name, revision, sizes and dtype, for a provenance.

    A local model's revision is a digest of its weights (of their headers above 1 GiB).
    """
    source = str(getattr(model.cfg, "source", getattr(model.cfg, "model_name", "unnamed")))
    folder = Path(source) if is_folder(source) else None
    wrapped = type(getattr(model, "original_model", None)).__name__
    return {
        "name": folder.name if folder else source,
        "revision": _commit(model) or (folder_digest(folder) if folder else "unknown"),
        "architecture": str(getattr(model.cfg, "architecture", None) or wrapped),
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


def folder_digest(folder: Path) -> str:
    """Digest of a model's configuration and weights (of their headers above 1 GiB)."""
    weights, config = sorted(folder.glob("*.safetensors")), folder / "config.json"
    if sum(path.stat().st_size for path in weights) <= 1 << 30:
        return digest(config, *weights)
    heads = []
    for path in weights:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = file.read(min(size, 1 << 12)).hex()[:64]
        heads.append(json.dumps([path.name, path.stat().st_size, head]))
    return f"{digest(config)} headers {'; '.join(heads)}"


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep the libraries' bars and notices from our progress display; gives what they report."""
    # What is missing is said in a report to the log, and nowhere else.
    names = ("transformer_lens", "root", "transformers.modeling_utils")
    loggers = {logger: logger.level for logger in map(logging.getLogger, names)}
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    reports: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        reports.append(re.sub("\x1b\\[[0-9;]*m", "", record.getMessage()))
        return False

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    weights = logging.getLogger("transformers.modeling_utils")
    weights.setLevel(logging.WARNING)
    weights.addFilter(note)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield reports
    finally:
        weights.removeFilter(note)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, level in loggers.items():
            logger.setLevel(level)


def _why_not(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UnpicklingError):
        # What torch says ends in advice to open the file without the check.
        return (
            f"the weights of {name} are a pickle that names more than tensors, or a damaged one; "
            "nothing of it was run. Take the model's safetensors files"
        )
    if "trust_remote_code" in text:
        named = ", ".join(sorted(_own_code(Path(name))))
        return (
            f"{name} needs code of its own{named and f' ({named})'}, which is not run unless it is "
            "asked for. Read it; then give --trust-remote-code, or trust_remote_code=True in Python"
        )
    local = "or give a local folder that holds the model"
    for signs, advice in (
        (
            ("gated", "401", "403"),
            "is gated: accept its licence on its page at the hub, log in with `hf auth login` (or "
            "set HF_TOKEN)",
        ),
        (
            ("connect", "offline", "Max retries"),
            "is not on this machine and the hub is out of reach; connect to the network (and, for "
            "a gated model, log in with `hf auth login`)",
        ),
        (
            ("not a valid model identifier", "404", "Repo id"),
            "is no model of the hub that you may see; check the name, log in with `hf auth login` "
            "if it is private",
        ),
    ):
        if any(sign in text for sign in signs):
            return f"{name} {advice}, {local}"
    return f"{name} cannot be loaded: {text[:300]}"


def _own_code(folder: Path) -> set[str]:
    """The code that the files of a model folder name, as far as it is here."""
    named: set[str] = set()
    for name in ("config.json", "tokenizer_config.json"):
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map", {})
            for own in found.values() if isinstance(found, dict) else (found,):
                named |= {str(part) for part in (own if isinstance(own, list) else [own]) if part}
    return named


def _ready(model: Any) -> Model:
    """Refuse a model that TransformerLens wraps but cannot run; mend what can be mended; try it."""
    if not isinstance(model, Hooked):
        norm = getattr(model, "ln_final", None)
        if norm is None or norm.original_component is None:
            raise ModelError(
                f"{type(model.original_model).__name__} has no norm after its last layer "
                "(ln_final), which TransformerLens needs to run it, as variants with norms after "
                "their sublayers do; use one with norms before"
            )
        _name_cache(model)
    # TransformerLens guesses the number where it does not know a configuration's word for it, and
    # gives one for experts too, none of which has neurons that stand for the whole MLP.
    weights = [weight_of(model, i, "mlp", "W_out") for i in range(model.cfg.n_layers)]
    whole = all(weight is not None and weight.ndim == 2 for weight in weights)
    model.cfg.d_mlp = len(weights[0]) if whole and weights[0] is not None else 0
    with uncounted():
        # What that cost is noted, and is on no receipt of a result.
        model.cfg.tried = check_running(model)
    return model


def _name_cache(model: Any) -> None:
    """Let attention find its cache under the name that TransformerLens looks for."""
    # From transformers 5.24 on a layer hands it on as `cache`; the bridges of TransformerLens 4.3
    # that compute attention themselves look for `past_key_values`, find none, and keep no keys.
    # Those that leave it to the wrapped module hand on what they are given. To be removed with
    # the first TransformerLens that takes both.
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    def both(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if kwargs.get("cache") is None or kwargs.get("past_key_values") is not None:
            return None
        return args, {**kwargs, "past_key_values": kwargs["cache"]}

    for part in model.modules():
        computes = type(part).forward is not AttentionBridge.forward
        if isinstance(part, AttentionBridge) and computes:
            part.register_forward_pre_hook(both, with_kwargs=True)


_ALLOWED, _ALLOWED_16_BIT = 0.05, 0.3
"""Largest difference over largest logit (both from their mean) that rounding may make. Of the
families in the tests, right ones are below 1e-6 in float32; without a cache, or with positions
that count padding, differences are 0.5 and more."""


@torch.no_grad()
def check_running(model: Model) -> Receipt:
    """Try a model on a few tokens; what that cost is returned.

    Raises:
        ModelError: tokens read after kept keys and values, after a residual stream put in at a
            layer, or behind padding give other logits than the same tokens read at once; a hook
            does not fire or what it returns is not used; attention looks ahead or at padding.
            The message names the versions of the libraries, and the tested ones.
    """
    with counted() as receipt:
        # A longer and a shorter row, below a window and a rotary switch; none where neither fits.
        config = getattr(getattr(model, "original_model", None), "config", None)
        window, most = attention_window(model), getattr(model.cfg, "n_ctx", None)
        longest = min(6, rotary_switch(config) or 6, most or 6, (window or 7) - 1)
        if longest > 2:
            last = max(2, int(model.cfg.d_vocab) - 1)
            # Spread over the vocabulary: the first tokens may be special, and untrained.
            row = [1 + place * (last - 1) // 6 for place in range(1, longest + 1)]
            _check(model, [row, row[: min(4, longest - 1)]])
    return receipt


def rotary_switch(config: Any) -> int | None:
    """Positions above which a rotary scaling changes the angles of all positions, if it does.

    Dynamic scalings (``dynamic``, ``longrope``) choose them by the length of what is read, so that
    tokens read after a cache cannot equal the same tokens read at once across that length.
    """
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(scaling, dict):
        return None
    switches = [
        own.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or getattr(config, "max_position_embeddings", None)
        for own in (scaling, *(own for own in scaling.values() if isinstance(own, dict)))
        if own.get("rope_type", own.get("type")) in ("dynamic", "longrope")
    ]
    return min((int(switch) for switch in switches if switch), default=None)


def _check(model: Model, rows: list[list[int]]) -> None:
    tokens, device = pad_left(rows, device_of(model)), device_of(model)
    n_layers, there = model.cfg.n_layers, hooks_of(model)
    sites = ("resid_pre", "attn_out", "mlp_out", "resid_post", "pattern", "z", "post")
    last, pattern = hook("resid_post", n_layers - 1), hook("pattern", 0)
    places = [p for p in dict.fromkeys([*(hook(site, 0) for site in sites), last]) if p in there]
    seen: dict[str, Tensor] = {}
    with model.hooks(fwd_hooks=[_hold(place, seen) for place in places]):
        whole = run(model, tokens)[:, -1:]
    if not bool(torch.isfinite(whole).all()):
        return  # of which reading a prompt says more, the prompt's name among it
    for place in places:
        # Some attention has no pattern to show; what reads it says so.
        if place not in seen and place != pattern:
            raise _broken(f"the hook {place} does not fire")
    if pattern in seen:
        weights, width = seen[pattern], tokens.ids.shape[1]
        ahead = torch.ones(width, width, dtype=torch.bool, device=weights.device).triu(1)
        real = tokens.mask.to(weights.device)
        hidden = (ahead | ~real[:, None, :]) & real[:, :, None]
        weight = float(weights.masked_fill(~hidden[:, None], 0).abs().max())
        if weights.shape[-2:] != (width, width) or weight > 0:
            raise _broken(f"attention looks ahead or at padding, with a weight of {weight:.3g}")
    _check_returned(model, rows[0])

    ids, prefix = prefill_prefix(model, tokens)
    # Recurrent layers alone keep no keys, and nothing is read on from them here.
    if prefix.cache is not None:
        step, _ = extend(model, ids, prefix)
        apart = "tokens read after kept keys and values, instead of at once, change"
        _same(step[:, -1:], whole, f"{apart} the logits")
    alone = run(model, pad_left(rows[1:], device))[:, -1:]
    _same(alone, whole[1:], "padding a prompt on the left changes the logits")
    if last not in seen or not can_share(model, tokens.ids.shape[1]):
        return
    kept, middle, start = cache_run(model, tokens), n_layers // 2, tokens.ids.shape[1] - 2
    resid = kept.sites["resid_pre"][middle][:, start:]
    ends: dict[str, Tensor] = {}
    # An error is no silent fault: it comes again, in full, where something asks for such a pass.
    with suppress(RuntimeError, TypeError):
        resume(model, kept, range(len(rows)), start, middle, resid, [_hold(last, ends)])
    if last in ends:
        inside = f"going on from the kept residual stream before layer {middle} changes"
        _same(ends[last][:, -1:], seen[last][:, -1:], f"{inside} the residual stream")


def _hold(place: str, seen: dict[str, Tensor]) -> Hook:
    return place, lambda activation, hook: seen.update({place: activation.clone()})


def _check_returned(model: Model, row: list[int]) -> None:
    """What a hook returns is used: every place is changed in a row of its own."""
    # Without a weight that writes what stands there, a change of it is not seen.
    weights = (weight_of(model, 0, "attn", "W_O"), weight_of(model, 0, "mlp", "W_out"))
    seen_in = [own is not None and bool(own.any()) for own in weights]
    written = {"attn_out": True, "mlp_out": True, "z": seen_in[0], "post": seen_in[1]}
    there, after = hooks_of(model), hook("resid_post", 0)
    places = [hook(site, 0) for site, own in written.items() if own and hook(site, 0) in there]
    if not places or after not in there:
        return
    seen: dict[str, Tensor] = {}
    # The last row is left as it is.
    tokens = pad_left([row] * (len(places) + 1), device_of(model))
    hooks: list[Hook] = [(place, partial(_waved, number)) for number, place in enumerate(places)]
    with model.hooks(fwd_hooks=[*hooks, _hold(after, seen)]):
        run(model, tokens)
    untouched = seen[after][-1].float()
    # Rows of a batch differ by rounding on some processors, by less than this in most elements.
    least = min(32 * torch.finfo(seen[after].dtype).eps, 0.02)
    for found, place in zip(seen[after].float(), places, strict=False):
        apart = (found - untouched).abs() / untouched.abs().clamp_min(1e-6)
        if float(apart.median()) <= least:
            raise _broken(f"what a function at the hook {place} returns is not used")


def _waved(row: int, activation: Tensor, hook: object) -> Tensor:
    new, size = activation.clone(), activation.shape[-1]
    wave = torch.linspace(-1, 1, size, dtype=new.dtype, device=new.device)
    new[row] += wave * activation.abs().max().clamp_min(1)
    return new


def _same(found: Float[Tensor, "row 1 w"], right: Float[Tensor, "row 1 w"], what: str) -> None:
    allowed = _ALLOWED_16_BIT if found.dtype in (torch.float16, torch.bfloat16) else _ALLOWED
    found, right = found.float(), right.float().to(found.device)
    centred = right - right.mean(-1, keepdim=True)
    gap, size = float((found - right).abs().max()), float(centred.abs().max())
    # Also where one of them is not a number.
    if not gap <= allowed * size + torch.finfo(torch.float32).eps * float(right.abs().max()):
        raise _broken(f"{what} by up to {gap:.3g}, where they are up to {size:.3g}")


def _broken(what: str) -> ModelError:
    installed = []
    for name in ("torch", "transformers", "transformer-lens"):
        with suppress(PackageNotFoundError):
            installed.append(f"{name} {version(name)}")
    return ModelError(
        f"the model does not run as it must: {what}. Results would be wrong without a word. "
        f"Installed are {', '.join(installed)}; install versions that are tested "
        f"({TESTED}), or load another architecture"
    )

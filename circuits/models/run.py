"""Running a model: sites are read and replaced, prefixes kept, numbers checked.

The one place where a model is run. Keys and values are kept in Hugging Face's cache object; the
rest of the package sees a :class:`Prefix`.

Passes may begin inside the model, at a layer and at a position. A change at layer 4 and position
30 leaves layers 0 to 3 and positions 0 to 29 as they are. So a pass is kept once, its residual
stream and its keys and values, and every change is run from where it begins. This is exact for
causal attention.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from circuits.errors import ModelError
from circuits.models.memory import charge, charge_backward, not_finite, spoilt_rows, uncounted
from circuits.models.protocol import Hook, Hooked, Model, device_of, dtype_of, writes_at_once
from circuits.models.tokens import Tokens, pad_left
from circuits.names import hook as hook_name

__all__ = [
    "CachedRun",
    "Prefix",
    "Trace",
    "after_mlp",
    "branch",
    "cache_run",
    "can_run_mlp",
    "can_share",
    "capture",
    "check_logits",
    "check_values",
    "check_window",
    "during",
    "extend",
    "extend_padded",
    "layers_run",
    "observe",
    "phase",
    "prefill",
    "prefill_prefix",
    "prefill_shared",
    "read",
    "readers",
    "reading",
    "resume",
    "run",
    "token_rows",
    "trace",
    "trace_layers_dropped",
    "some_tokens",
    "watch",
    "whole",
]

Phase = Literal["prefix", "prompt", "decode"]
"""What the model reads: a prompt without its last token, a prompt to its end, or its own reply.

The last position of a prefix is not the last of the prompt, so edits of the last position are not
due there.
"""

_PHASE: ContextVar[Phase] = ContextVar("phase", default="prompt")


@dataclass(frozen=True)
class Prefix:
    """Keys and values of tokens that a model has read."""

    cache: Any
    mask: Bool[Tensor, "prompt pos"]

    def fork(self) -> "Prefix":
        """A prefix that can be read on from while this one stays as it is.

        Only the containers are copied: reading on makes new tensors, it never writes into old.
        """
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        return Prefix(cache, self.mask)

    def select(self, rows: Sequence[int]) -> "Prefix":
        """These rows, in this order and as often as they are named; this prefix stays as it is."""
        # On the CPU: layers of a model that is spread over devices have theirs elsewhere.
        cache, index = self.fork().cache, torch.tensor(rows)
        cache.batch_select_indices(index)
        return Prefix(cache, self.mask[index])


@contextmanager
def during(now: Phase) -> Iterator[None]:
    """Say what the model is doing, so that edits know whether they are due."""
    token = _PHASE.set(now)
    try:
        yield
    finally:
        _PHASE.reset(token)


def phase() -> Phase:
    """What the model is doing; a forward pass outside generation reads a prompt."""
    return _PHASE.get()


def run(model: Model, tokens: Tokens) -> Float[Tensor, "prompt pos vocab"]:
    """Logits of a plain forward pass."""
    return _run(model, tokens, return_type="logits")


def _run(model: Model, tokens: Tokens, **options: Any) -> Any:
    rows, width = tokens.ids.shape
    charge(rows, width, model.cfg.n_layers, cached=False)
    return model(tokens.ids, attention_mask=tokens.mask.long(), **options)


def read(model: Model, tokens: Tokens) -> None:
    """A plain forward pass whose logits nobody wants: what is wanted is read with hooks."""
    # Models keep keys and values of all layers unless they are told not to.
    without_cache = {"use_cache": False} if _takes(model, "use_cache") else {}
    _run(model, tokens, return_type="logits", **_last_logits(model), **without_cache)


def prefill(model: Model, tokens: Tokens) -> tuple[Float[Tensor, "prompt 1 vocab"], Prefix]:
    """Logits of the last position, and the keys and values to go on from."""
    wanted = {"use_cache": True, "return_type": "logits_and_cache"}
    logits, cache = _run(model, tokens, **wanted, **_last_logits(model))
    return logits[:, -1:], Prefix(cache, tokens.mask)


def prefill_shared(
    model: Model, rows: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "prompt 1"], Prefix]:
    """Read all but the last token of every row, equal rows once; the last tokens are returned."""
    places = {row: place for place, row in enumerate(dict.fromkeys(map(tuple, rows)))}
    last, prefix = prefill_prefix(model, pad_left(list(places), device_of(model)))
    order = [places[tuple(row)] for row in rows]
    return last[order], prefix.select(order)


def prefill_prefix(model: Model, tokens: Tokens) -> tuple[Int[Tensor, "prompt 1"], Prefix]:
    """Read all but the last token of every row; the last tokens are returned."""
    with during("prefix"):
        _, prefix = prefill(model, Tokens(tokens.ids[:, :-1], tokens.mask[:, :-1]))
    return tokens.ids[:, -1:], prefix


def extend(
    model: Model, ids: Int[Tensor, "prompt pos"], prefix: Prefix
) -> tuple[Float[Tensor, "prompt pos vocab"], Prefix]:
    """Read ``ids`` after ``prefix``, using its cache up: fork or select from it to keep it."""
    return _read_on(model, Tokens(ids, prefix.mask.new_ones(ids.shape)), prefix)


def extend_padded(
    model: Model, tokens: Tokens, prefix: Prefix
) -> tuple[Float[Tensor, "prompt 1 vocab"], Prefix]:
    """Read tails of different length after ``prefix``; the logits are those of the last position.

    The padding lies between the prefix and the tail: see :func:`can_share`.
    """
    logits, prefix = _read_on(model, tokens, prefix, **_last_logits(model))
    return logits[:, -1:], prefix


def can_share(model: Model, width: int) -> bool:
    """May rows of ``width`` positions be padded between a prefix that they share and their tails?

    They may where attention alone carries what was read, and sees only the mask and the
    positions. A window counts places in the cache, padding included; recurrent layers read the
    padding; a model that takes no positions counts them itself.
    """
    if isinstance(model, Hooked):
        return model.counts_positions_by_mask and _window(model) is None
    config, window = _config(model), _window(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    attends = kinds <= {"full_attention", "sliding_attention"}
    return attends and _takes(model, "position_ids") and (window is None or width <= window)


def _read_on(
    model: Model, tokens: Tokens, prefix: Prefix, **options: int
) -> tuple[Float[Tensor, "prompt pos vocab"], Prefix]:
    rows, width = tokens.ids.shape
    charge(rows, width, model.cfg.n_layers, cached=True)
    mask = torch.cat([prefix.mask, tokens.mask], dim=1)
    own = _with_cache(model, prefix.cache) | options
    logits, cache = model(tokens.ids, attention_mask=mask.long(), **own)
    return logits, Prefix(cache, mask)


def branch(model: Model, ids: Int[Tensor, "prompt 1"], prefix: Prefix, times: int) -> None:
    """Read each row's token after its prefix, ``times`` times side by side.

    The copies see the prefix and themselves, not each other, so every one is a run of its own:
    edits at ``positions="variant"`` tell them apart. They stand along the position axis, where
    they share the prefix's keys and values; a HookedTransformer, which takes no such mask, runs
    them as rows, and hooks see them along the position axis all the same. Nothing is returned:
    read what is wanted with hooks. The prefix stays as it is.
    """
    rows, width = prefix.mask.shape
    if isinstance(model, Hooked):
        rows_of = [row for row in range(rows) for _ in range(times)]
        with model.side_by_side(times):
            extend(model, ids.repeat_interleave(times, dim=0), prefix.select(rows_of))
        return
    check_window(model, width)
    charge(rows * times, 1, model.cfg.n_layers, cached=True)
    seen = torch.zeros(rows, 1, times, width + times, dtype=torch.bool, device=ids.device)
    seen[..., :width] = prefix.mask[:, None, None]
    seen[..., width:] = torch.eye(times, dtype=torch.bool, device=ids.device)
    dtype = dtype_of(model)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=ids.device)
    model(
        ids.expand(-1, times),
        attention_mask=hidden.masked_fill_(~seen, torch.finfo(dtype).min),
        position_ids=prefix.mask.sum(1, keepdim=True).expand(-1, times),
        **_with_cache(model, prefix.fork().cache),
        **_last_logits(model),
    )


def _config(model: Model) -> Any:
    return getattr(getattr(model, "original_model", None), "config", None)


def _window(model: Model) -> int | None:
    if isinstance(model, Hooked):
        return model.cfg.window_size if model.cfg.use_local_attn else None
    config = _config(model)
    window = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def check_window(model: Model, width: int) -> None:
    """Refuse tokens that do not fit into the model's attention window together with one more.

    Raises:
        ModelError: they are too many.
    """
    # The cache of a HookedTransformer keeps all keys, inside its window or not.
    window = None if isinstance(model, Hooked) else _window(model)
    if window is not None and width >= window:
        raise ModelError(
            f"a prompt of {width + 1} tokens is longer than the model's attention window of "
            f"{window}, inside which its tokens can be run again; use shorter contexts"
        )


def _last_logits(model: Model, count: int = 1) -> dict[str, int]:
    """The argument that asks for the logits of the last ``count`` positions only."""
    # A vocabulary times many copies is more memory than all the rest.
    return {"logits_to_keep": count} if _takes(model, "logits_to_keep") else {}


def _with_cache(model: Model, cache: Any) -> dict[str, Any]:
    """The arguments that have the model read on from kept keys and values, and give them."""
    # transformers 5.24 renamed `past_key_values`, and warns of the old name.
    own = {"cache": cache, "use_cache": True}
    kept = own if _takes(model, "cache") else {"past_key_values": cache}
    return {"return_type": "logits_and_cache", **kept}


def _takes(model: Model, option: str) -> bool:
    inner = model if isinstance(model, Hooked) else getattr(model, "original_model", None)
    return inner is not None and option in signature(inner.forward).parameters


def _not_fired(site: str, layer: int) -> ModelError:
    return ModelError(
        f"hook {hook_name(site, layer)} did not fire; this architecture has no {site} there"
    )


def _check_finite(model: Model, tokens: Tokens, value: Tensor, site: str, layer: int) -> None:
    if not bool(torch.isfinite(value).all()):
        raise not_finite(model, _named(site, layer), spoilt_rows(value), token_rows(tokens))


def check_values(
    model: Model, values: Tensor, what: str, rows: Sequence[Sequence[int]] | None = None
) -> None:
    """Refuse numbers ``[prompt ...]`` that a pass gave for its rows, if one is not finite.

    Args:
        model: The model.
        values: The numbers.
        what: What they are, for the error.
        rows: Token ids of the rows. With them, the place in the model is looked for.

    Raises:
        ModelError: one is NaN or infinite.
    """
    if not bool(torch.isfinite(values).all()):
        where = (_first_place(model, rows) if rows else None) or what
        raise not_finite(model, where, spoilt_rows(values), rows)


def check_logits(
    model: Model,
    logits: Float[Tensor, "prompt vocab"],
    rows: Sequence[Sequence[int]],
    written: Int[Tensor, "prompt pos"] | None = None,
) -> None:
    """Refuse logits from which no token can be chosen; one that is minus infinity is never chosen.

    Args:
        model: The model.
        logits: Of the next token.
        rows: What was read.
        written: What was written after it.

    Raises:
        ModelError: a row's largest logit is NaN or infinite.
    """
    bad = ~torch.isfinite(logits.amax(-1))
    if bool(bad.any()):
        tails = written.tolist() if written is not None else [[]] * len(rows)
        whole = [[*row, *tail] for row, tail in zip(rows, tails, strict=True)]
        where = _first_place(model, whole) or "the logits of the next token"
        raise not_finite(model, where, bad, rows)


def token_rows(tokens: Tokens) -> list[list[int]]:
    """The rows of a batch without their padding."""
    return [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]


@torch.no_grad()
def _first_place(model: Model, rows: Sequence[Sequence[int]]) -> str | None:
    """Where in a pass a number is first not finite; the pass is on no receipt."""
    found: list[str] = []

    def watcher(site: str, layer: int) -> Hook:
        def look(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
            if not found and not bool(torch.isfinite(activation).all()):
                found.append(_named(site, layer))

        return hook_name(site, layer), look

    sites = ("attn_out", "mlp_out", "resid_post")
    places = [("resid_pre", 0), *((s, i) for i in range(model.cfg.n_layers) for s in sites)]
    with uncounted(), during("prompt"), model.hooks(fwd_hooks=[watcher(*p) for p in places]):
        read(model, pad_left(rows, device_of(model)))
    return found[0] if found else None


def _named(site: str, layer: int) -> str:
    return f"{site} of layer {layer} ({hook_name(site, layer)})"


Pick = Callable[[Tensor], Tensor]
"""Takes what is wanted from one layer's activation ``[prompt pos ...]``."""


def whole(activation: Tensor) -> Tensor:
    """The pick of all of it."""
    return activation


Take = Callable[[int, Tensor], None]
"""Given a layer and its activation ``[prompt pos ...]``, which is not kept."""


@contextmanager
def reading(
    model: Model, picks: Mapping[str, Pick], layers: Sequence[int] | None = None
) -> Iterator[dict[str, dict[int, Tensor]]]:
    """Fill a table ``[site][layer]`` with what each site's pick takes from passes in the block.

    Raises:
        AxisError: a site is unknown.
    """
    table: dict[str, dict[int, Tensor]] = {site: {} for site in picks}
    chosen = range(model.cfg.n_layers) if layers is None else layers

    def reader(site: str, layer: int) -> list[Hook]:
        def keep(activation: Tensor) -> None:
            taken = picks[site](activation.detach())
            # A view would keep the whole activation, of all positions, in memory.
            part = taken.untyped_storage().nbytes() > taken.nbytes
            table[site][layer] = taken.clone() if part else taken

        return readers(model, site, layer, keep)

    hooks = [own for site in picks for layer in chosen for own in reader(site, layer)]
    with model.hooks(fwd_hooks=hooks):
        yield table


def readers(model: Model, site: str, layer: int, keep: Callable[[Tensor], None]) -> list[Hook]:
    """Hooks that hand on the activation of a site, or what stands for it where there is none.

    Where attention and MLP write at once, ``resid_mid`` is the stream with what attention writes.
    Where there are no neurons, ``post`` has width zero.
    """
    if site == "resid_mid" and writes_at_once(model):
        before: list[Tensor] = []

        def hold(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
            before.append(activation)

        def add(activation: Tensor, hook: object) -> None:
            keep(before.pop() + activation)

        return [(hook_name("resid_pre", layer), hold), (hook_name("attn_out", layer), add)]
    if site == "post" and not model.cfg.d_mlp:
        return [(hook_name("mlp_out", layer), lambda activation, hook: keep(activation[..., :0]))]
    return [(hook_name(site, layer), lambda activation, hook: keep(activation))]


@torch.no_grad()
def capture(
    model: Model, tokens: Tokens, picks: Mapping[str, Pick]
) -> dict[str, Float[Tensor, "..."]]:
    """One pass; site -> ``[prompt layer ...]`` in float32.

    Raises:
        ModelError: a hook point exists but did not fire, or an activation is not finite;
            names layer, hook and prompts.
    """
    with reading(model, picks) as table:
        read(model, tokens)
    found = {}
    for site in picks:
        layers = table.pop(site)
        for layer in range(model.cfg.n_layers):
            if layer not in layers:
                raise _not_fired(site, layer)
            _check_finite(model, tokens, layers[layer], site, layer)
        # A model that is spread over devices gives every layer's values where the layer is.
        home = layers[0].device
        values = [layers[i].to(home) for i in range(model.cfg.n_layers)]
        found[site] = torch.stack(values, dim=1).float()
    return found


@torch.no_grad()
def watch(model: Model, tokens: Tokens, takers: Mapping[str, Take]) -> None:
    """One pass in which every layer's activation is handed on as soon as it is there.

    Raises:
        ModelError: a hook point exists but did not fire, or an activation is not finite;
            names layer, hook and prompts.
    """
    seen: set[tuple[str, int]] = set()

    def watcher(site: str, layer: int) -> list[Hook]:
        def hand_on(activation: Tensor) -> None:
            _check_finite(model, tokens, activation, site, layer)
            seen.add((site, layer))
            takers[site](layer, activation)

        return readers(model, site, layer, hand_on)

    places = [(site, layer) for site in takers for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[own for place in places for own in watcher(*place)]):
        read(model, tokens)
    for place in places:
        if place not in seen:
            raise _not_fired(*place)


@dataclass(frozen=True, eq=False)
class CachedRun:
    """A pass that can be gone on from at any layer and position."""

    tokens: Tokens
    prefix: Prefix
    """Keys and values of all positions."""
    sites: dict[str, dict[int, Tensor]]
    """site -> layer -> activation ``[prompt pos ...]``; ``resid_pre`` is always there."""

    @property
    def width(self) -> int:
        """Positions of the pass, padding included."""
        return self.tokens.ids.shape[1]


@torch.no_grad()
def cache_run(model: Model, tokens: Tokens, sites: Sequence[str] = ()) -> CachedRun:
    """Run ``tokens`` once and keep what is needed to go on from inside, and these sites.

    Raises:
        ModelError: the tokens are more than the model's attention window.
    """
    check_window(model, tokens.ids.shape[1])
    with reading(model, dict.fromkeys(("resid_pre", *sites), whole)) as table:
        _, prefix = prefill(model, tokens)
    return CachedRun(tokens, prefix, table)


@torch.no_grad()
def resume(
    model: Model,
    kept: CachedRun,
    rows: Sequence[int],
    start: int,
    layer: int,
    resid: Float[Tensor, "row pos d_model"],
    hooks: Sequence[Hook] = (),
    *,
    ends: int = 1,
    short: bool = False,
) -> None:
    """Go on from a kept pass with another residual stream; read what is wanted with ``hooks``.

    Args:
        model: The model of the pass.
        kept: The pass.
        rows: For every new run, the row of the pass that it goes on from.
        start: The first position that differs; those before it stay as they were.
        layer: The layer that reads ``resid``; the number of layers for the final norm.
        resid: Residual stream of positions ``start`` to the last, before ``layer``.
        hooks: Hooks of this run, from ``layer`` upwards.
        ends: How many last positions get logits.
        short: Nothing but these positions is read after the last block: its MLP runs them alone.
    """
    layers = model.cfg.n_layers
    first = layer if _can_skip(model) else 0
    charge(len(rows), resid.shape[1], layers - first, cached=True)
    index = torch.tensor(rows, device=kept.tokens.ids.device)
    ids, mask = kept.tokens.ids[index, start:], kept.tokens.mask[index]
    place = hook_name("resid_pre", layer) if layer < layers else "ln_final.hook_in"
    put: Hook = (place, lambda activation, hook: resid.to(activation.dtype))
    ending = _only_ends(model, ends, resid.shape[1]) if short and layer < layers else []
    with _only_from(model, first), model.hooks(fwd_hooks=[put, *ending, *hooks]):
        model(
            ids,
            attention_mask=mask.long(),
            position_ids=(mask.long().cumsum(1) - 1).clamp_min(0)[:, start:],
            **_with_cache(model, _cut(kept.prefix, index, start, first)),
            **_last_logits(model, ends),
        )


def layers_run(model: Model, layer: int) -> int:
    """How many layers :func:`resume` runs when it goes on from ``layer``."""
    return model.cfg.n_layers - (layer if _can_skip(model) else 0)


@torch.no_grad()
def after_mlp(
    model: Any, layer: int, resid_mid: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row pos d_model"]:
    """resid_post of ``layer`` for another resid_mid; every position by itself."""
    charge(0, 0, 0, cached=True, extra=resid_mid.shape[0] * resid_mid.shape[1])
    block = model.blocks[layer]
    written = block.mlp(block.ln2(resid_mid))
    # A mixture of experts gives its router's choice as well.
    return resid_mid + (written[0] if isinstance(written, tuple) else written)


def _cut(prefix: Prefix, rows: Tensor, start: int, first: int) -> Any:
    # Layers that are skipped keep their keys: nobody reads them but to learn how many there are.
    cache = prefix.fork().cache
    for number, layer in enumerate(cache.layers):
        keys, values = layer.keys[..., :start, :], layer.values[..., :start, :]
        if hasattr(layer, "cumulative_length"):  # of a window, which counts what it has seen
            layer.cumulative_length = start
        layer.keys, layer.values = (keys[rows], values[rows]) if number >= first else (keys, values)
    return cache


@contextmanager
def _only_from(model: Model, first: int) -> Iterator[None]:
    """The model without its blocks below ``first``."""
    if first == 0:
        yield
        return
    parent, name, blocks = _blocks(model)
    parent._modules[name] = blocks[first:]
    try:
        yield
    finally:
        parent._modules[name] = blocks


def _only_ends(model: Model, ends: int, width: int) -> list[Hook]:
    """Hooks by which the last MLP runs the last positions only and writes nothing elsewhere."""
    if ends >= width:
        return []
    last = model.cfg.n_layers - 1

    def cut(activation: Tensor, hook: object) -> Tensor:
        return activation[:, -ends:]

    def widen(activation: Tensor, hook: object) -> Tensor:
        return pad(activation, (0, 0, width - ends, 0))

    return [(f"blocks.{last}.mlp.hook_in", cut), (hook_name("mlp_out", last), widen)]


def _blocks(model: Any) -> tuple[nn.Module, str, nn.ModuleList]:
    for parent in model.original_model.modules():
        for name, child in parent.named_children():
            if child is model.blocks:
                return parent, name, child
    raise AssertionError("TransformerLens keeps a model's blocks in one list")


_SKIPS: "WeakKeyDictionary[Any, bool]" = WeakKeyDictionary()
_MLPS: "WeakKeyDictionary[Any, bool]" = WeakKeyDictionary()


def can_run_mlp(model: Model) -> bool:
    """Does :func:`after_mlp` give what the model gives? Tried once per model.

    It does not where attention and MLP write at once, where a norm comes after the MLP, or where
    the MLP is no module that runs by itself.
    """
    if model not in _MLPS:
        _MLPS[model] = _same_after_mlp(model)
    return _MLPS[model]


@torch.no_grad()
def _same_after_mlp(model: Model) -> bool:
    with uncounted(), reading(model, dict.fromkeys(("resid_mid", "resid_post"), whole)) as at:
        read(model, some_tokens(model))
    try:
        with uncounted():
            found = {i: after_mlp(model, i, resid) for i, resid in at["resid_mid"].items()}
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(
        torch.allclose(own, at["resid_post"][i], rtol=1e-2, atol=1e-2 * float(own.abs().max()))
        for i, own in found.items()
    )


def some_tokens(model: Model, count: int = 6) -> Tokens:
    """One row of tokens, on which is tried what a model can do."""
    ids = torch.arange(1, count + 1, device=device_of(model))[None]
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def _can_skip(model: Model) -> bool:
    """Does the model give the same numbers when blocks are left out and their output put in?

    Some number their layers as they run them (to choose a window, say). Tried once per model.
    """
    if model not in _SKIPS:
        _SKIPS[model] = False  # while it is tried, and if it cannot be
        _SKIPS[model] = _same_without_blocks(model)
    return _SKIPS[model]


def _same_without_blocks(model: Model) -> bool:
    layers = model.cfg.n_layers
    if layers < 2:
        return False
    tokens = some_tokens(model)
    last, resid = hook_name("resid_post", layers - 1), hook_name("resid_pre", layers // 2)
    seen: list[Tensor] = []
    put: list[Hook] = []

    def see(activation: Tensor, hook: object) -> None:
        seen.append(activation)

    with torch.no_grad(), uncounted():
        with model.hooks(fwd_hooks=[(resid, see), (last, see)]):
            read(model, tokens)
        put = [(resid, lambda activation, hook: seen[0]), (last, see)]
        try:
            with _only_from(model, layers // 2), model.hooks(fwd_hooks=put):
                read(model, tokens)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return False
    return len(seen) == 3 and bool(torch.equal(seen[1], seen[2]))


Score = Callable[[Float[Tensor, "row width"]], Float[Tensor, " row"]]
"""From the activation at the last position to one number per row."""

_Table = dict[str, dict[int, Tensor]]


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass with its gradients; all tensors are detached."""

    values: Mapping[str, Mapping[int, Tensor]]
    """site -> layer -> activation ``[row pos ...]``."""
    gradients: Mapping[str, Mapping[int, Tensor]]
    """The same places: gradient of the row's readout with respect to the activation."""
    readout: Float[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class _Graph:
    """A forward pass that gradients can be asked of."""

    values: _Table
    readout: Float[Tensor, " row"]
    size: tuple[int, int, int]
    """Rows, positions, layers."""

    def trace(self, *, again: bool = False) -> Trace:
        """One backward pass; ``again``: another one will follow."""
        held = [(site, layer) for site, own in self.values.items() for layer in own]
        found = torch.autograd.grad(
            self.readout.sum(),
            [self.values[site][layer] for site, layer in held],
            allow_unused=True,
            retain_graph=again,
        )
        charge_backward(*self.size)
        gradients: _Table = {site: {} for site in self.values}
        for (site, layer), gradient in zip(held, found, strict=True):
            value = self.values[site][layer]
            # A place after everything that the readout reads has no influence on it.
            gradients[site][layer] = torch.zeros_like(value) if gradient is None else gradient
        return Trace(_detached(self.values), gradients, self.readout.detach())


def trace(
    model: Model,
    tokens: Tokens,
    sites: Mapping[str, Sequence[int]],
    score: Score,
    *,
    at: str = "resid_post",
    hooks: Sequence[Hook] = (),
    after: Prefix | None = None,
) -> Trace:
    """Run ``tokens`` forward once and backward once.

    Rows do not see each other, so the gradient of the sum of their readouts is each row's own:
    it depends on neither the batch nor the padding.

    Args:
        model: The model.
        tokens: A batch, padded on the left.
        sites: Which activations are wanted: site -> layers.
        score: The readout of every row, from the activation at the last position.
        at: What the readout reads: ``resid_post`` of the last layer, ``final`` or ``logits``.
        hooks: Hooks of this pass (interpolated inputs, other rules for the backward pass); they
            come before the reading ones.
        after: Keys and values of earlier tokens, constants from which ``tokens`` go on.

    Raises:
        ModelError: a site did not run.
    """
    with torch.enable_grad():
        graph = _forward(model, tokens, sites, score, at, hooks, prefix=after)
    return graph.trace()


def trace_layers_dropped(
    model: Model,
    tokens: Tokens,
    sites: Mapping[str, Sequence[int]],
    score: Score,
    *,
    at: str = "resid_post",
) -> Iterator[Trace]:
    """The trace, then one per layer without the gradient that goes through what it writes.

    One forward pass, and a backward pass more than there are layers. Where a layer is dropped,
    its attention's and its MLP's output count as constants for all that reads them.

    Raises:
        ModelError: a site did not run.
    """
    dropped: set[int] = set()
    layers = range(model.cfg.n_layers)
    gates = [_gate(site, i, dropped) for i in layers for site in ("attn_out", "mlp_out")]
    with torch.enable_grad():
        graph = _forward(model, tokens, sites, score, at, gates=gates, hooks=())
    yield graph.trace(again=True)
    for layer in layers:
        dropped.add(layer)
        found = graph.trace(again=layer < layers[-1])
        dropped.clear()
        yield found


@torch.no_grad()
def observe(
    model: Model,
    tokens: Tokens,
    sites: Mapping[str, Sequence[int]],
    score: Score,
    *,
    at: str = "resid_post",
    hooks: Sequence[Hook] = (),
) -> tuple[Mapping[str, Mapping[int, Tensor]], Float[Tensor, " row"]]:
    """Activations and readout of one pass, without gradients; see :func:`trace`."""
    graph = _forward(model, tokens, sites, score, at, hooks)
    return _detached(graph.values), graph.readout.detach()


def _forward(
    model: Model,
    tokens: Tokens,
    sites: Mapping[str, Sequence[int]],
    score: Score,
    at: str,
    hooks: Sequence[Hook],
    *,
    gates: Sequence[Hook] = (),
    prefix: Prefix | None = None,
) -> _Graph:
    values: _Table = {site: {} for site in sites}
    places = [(site, layer) for site, layers in sites.items() for layer in layers]
    last: list[Tensor] = []

    def hold_last(activation: Tensor, hook: object) -> None:
        last.append(activation[:, -1])

    begin: Hook = (hook_name("resid_pre", 0), lambda x, hook: x.detach().requires_grad_())
    own = [begin, *hooks, *(_holder(model, values, *place) for place in places), *gates]
    if at != "logits":
        own.append((hook_name(at, model.cfg.n_layers - 1), hold_last))
    with model.hooks(fwd_hooks=own):
        if prefix is not None:
            logits, _ = extend(model, tokens.ids, prefix.fork())
        else:
            logits = (run if at == "logits" else read)(model, tokens)
    end = logits[:, -1] if at == "logits" and logits is not None else last[0]
    for site, layer in places:
        if layer not in values[site]:
            raise _not_fired(site, layer)
    return _Graph(values, score(end), (*tokens.ids.shape, model.cfg.n_layers))


def _holder(model: Model, values: _Table, site: str, layer: int) -> Hook:
    # Where there are no neurons, their activation has width zero.
    none = site == "post" and not model.cfg.d_mlp

    def hold(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        values[site][layer] = activation[..., :0] if none else activation
        # Returned, since TransformerLens may show hooks another view than the model goes on
        # with; what is returned is what the model goes on with.
        return activation

    return hook_name("mlp_out" if none else site, layer), hold


class _Gate(torch.autograd.Function):
    """What passes is unchanged; its gradient is stopped while its layer is dropped."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, layer: int, dropped: set[int]) -> Tensor:
        ctx.layer, ctx.dropped = layer, dropped
        return activation.view_as(activation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (torch.zeros_like(gradient) if ctx.layer in ctx.dropped else gradient), None, None


def _gate(site: str, layer: int, dropped: set[int]) -> Hook:
    def gate(activation: Tensor, hook: object) -> Tensor:
        passed: Any = _Gate.apply(activation, layer, dropped)
        return passed

    return hook_name(site, layer), gate


def _detached(values: _Table) -> _Table:
    return {site: {i: v.detach() for i, v in own.items()} for site, own in values.items()}

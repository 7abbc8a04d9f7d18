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
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from circuits.errors import ModelError
from circuits.models.memory import Receipt, charge, charge_receipt, not_finite, setting, uncounted
from circuits.models.protocol import (
    Hook,
    Hooked,
    Model,
    device_of,
    dtype_of,
    once_per_model,
    writes_at_once,
)
from circuits.models.tokens import Tokens, pad_left
from circuits.names import hook as hook_name

__all__ = [
    "CachedRun",
    "Prefix",
    "Trace",
    "after_mlp",
    "attention_window",
    "branch",
    "cache_run",
    "can_run_mlp",
    "can_share",
    "capture",
    "check_values",
    "during",
    "extend",
    "layers_run",
    "observe",
    "phase",
    "prefill",
    "prefill_prefix",
    "prefill_shared",
    "read",
    "reading",
    "resume",
    "run",
    "some_tokens",
    "token_rows",
    "trace",
    "trace_layers_dropped",
    "watch",
    "whole",
]

Phase = Literal["prefix", "prompt", "decode"]
"""What the model reads: a prompt without its last token, a prompt to its end, or its own reply.

The last position of a prefix is not the last of the prompt, so edits of the last position are not
due there.
"""

_PHASE: ContextVar[Phase] = ContextVar("phase", default="prompt")

Table = dict[str, dict[int, Tensor]]
"""site -> layer -> activation ``[prompt pos ...]``, or what was taken from it."""

Pick = Callable[[Tensor], Tensor]
"""Takes what is wanted from one layer's activation ``[prompt pos ...]``."""

Take = Callable[[int, Tensor], None]
"""Given a layer and its activation ``[prompt pos ...]``, which is not kept."""


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


def during(now: Phase) -> AbstractContextManager[None]:
    """Say what the model is doing, so that edits know whether they are due."""
    return setting(_PHASE, now)


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
    _run(model, tokens, return_type="logits", **_last_logits(model, 1), **without_cache)


def prefill(model: Model, tokens: Tokens) -> tuple[Float[Tensor, "prompt 1 vocab"], Prefix]:
    """Logits of the last position, and the keys and values to go on from."""
    wanted = {"use_cache": True, "return_type": "logits_and_cache"}
    logits, cache = _run(model, tokens, **wanted, **_last_logits(model, 1))
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
    model: Model, tokens: Int[Tensor, "prompt pos"] | Tokens, prefix: Prefix, *, ends: int = 0
) -> tuple[Float[Tensor, "prompt ... vocab"], Prefix]:
    """Read ``tokens`` after ``prefix``, using its cache up: fork or select from it to keep it.

    Tails of different length are padded between the prefix and the tail; see :func:`can_share`.
    With ``ends`` only so many last positions get logits.
    """
    if isinstance(tokens, Tensor):
        tokens = Tokens(tokens, prefix.mask.new_ones(tokens.shape))
    rows, width = tokens.ids.shape
    charge(rows, width, model.cfg.n_layers, cached=True)
    mask = torch.cat([prefix.mask, tokens.mask], dim=1)
    own = _with_cache(model, prefix.cache) | (_last_logits(model, ends) if ends else {})
    logits, cache = model(tokens.ids, attention_mask=mask.long(), **own)
    return logits[:, -ends:], Prefix(cache, mask)


def can_share(model: Model, width: int) -> bool:
    """May rows of ``width`` positions be padded between a prefix that they share and their tails?

    They may where attention alone carries what was read, and sees only the mask and the
    positions. A window counts places in the cache, padding included; recurrent layers read the
    padding; a model that takes no positions counts them itself.
    """
    if isinstance(model, Hooked):
        by_mask = model.cfg.positional_embedding_type in ("standard", "rotary")
        return by_mask and not model.cfg.use_local_attn
    kinds = set(getattr(_config(model), "layer_types", None) or ())
    attends = kinds <= {"full_attention", "sliding_attention"}
    window = attention_window(model)
    return attends and _takes(model, "position_ids") and (window is None or width <= window)


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
    _check_window(model, width)
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
        **_last_logits(model, 1),
    )


def _config(model: Model) -> Any:
    return getattr(getattr(model, "original_model", None), "config", None)


def attention_window(model: Model) -> int | None:
    """How many tokens attention looks back at, where keys of earlier ones are not kept."""
    # The cache of a HookedTransformer keeps all keys, inside its window or not.
    config = None if isinstance(model, Hooked) else _config(model)
    window = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def _check_window(model: Model, width: int) -> None:
    """Refuse tokens that do not fit into the attention window together with one more."""
    window = attention_window(model)
    if window is not None and width >= window:
        raise ModelError(
            f"a prompt of {width + 1} tokens is longer than the model's attention window of "
            f"{window}, inside which its tokens can be run again; use shorter contexts"
        )


def _last_logits(model: Model, count: int) -> dict[str, int]:
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


def check_values(
    model: Model,
    values: Float[Tensor, "prompt ..."],
    what: str,
    rows: Sequence[Sequence[int]] | None = None,
    written: Int[Tensor, "prompt pos"] | None = None,
) -> None:
    """Refuse numbers that a pass gave for its rows, if one is not finite.

    With the token ids of the rows (and what was ``written`` after them), the place in the model
    is looked for and named in place of ``what``.

    Raises:
        ModelError: one is NaN or infinite.
    """
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    if rows and written is not None:
        rows = [[*row, *tail] for row, tail in zip(rows, written.tolist(), strict=True)]
    where = (_first_place(model, rows) if rows else None) or what
    raise not_finite(model, where, ~finite.reshape(len(values), -1).all(1), rows)


def token_rows(tokens: Tokens) -> list[list[int]]:
    """The rows of a batch without their padding."""
    return [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]


@torch.no_grad()
def _first_place(model: Model, rows: Sequence[Sequence[int]]) -> str | None:
    """Where in a pass a number is first not finite; the pass is on no receipt."""
    found: list[str] = []
    sites = ("attn_out", "mlp_out", "resid_post")
    places = [("resid_pre", 0), *((s, i) for i in range(model.cfg.n_layers) for s in sites)]
    hooks: list[Hook] = [(hook_name(*p), partial(_note_bad, found, _named(*p))) for p in places]
    with uncounted(), during("prompt"), model.hooks(fwd_hooks=hooks):
        read(model, pad_left(rows, device_of(model)))
    return found[0] if found else None


def _note_bad(found: list[str], place: str, activation: Tensor, hook: object) -> None:
    if not found and not bool(torch.isfinite(activation).all()):
        found.append(place)


def _named(site: str, layer: int) -> str:
    return f"{site} of layer {layer} ({hook_name(site, layer)})"


def _check_read(
    model: Model, tokens: Tokens, value: Tensor | None, site: str, layer: int
) -> Tensor:
    """What was read at a place; refused if it is not there or not finite."""
    if value is None:
        name = hook_name(site, layer)
        raise ModelError(f"hook {name} did not fire; this architecture has no {site} there")
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        bad = ~finite.flatten(1).all(1)
        raise not_finite(model, _named(site, layer), bad, token_rows(tokens))
    return value


def whole(activation: Tensor) -> Tensor:
    """The pick of all of it."""
    return activation


@contextmanager
def reading(
    model: Model, picks: Mapping[str, Pick], layers: Sequence[int] | None = None
) -> Iterator[Table]:
    """Fill a table ``[site][layer]`` with what each site's pick takes from passes in the block.

    Raises:
        AxisError: a site is unknown.
    """
    table: Table = {site: {} for site in picks}
    chosen = range(model.cfg.n_layers) if layers is None else layers

    def keep(site: str, layer: int, activation: Tensor) -> None:
        taken = picks[site](activation)
        # A view would keep the whole activation, of all positions, in memory.
        part = taken.untyped_storage().nbytes() > taken.nbytes
        table[site][layer] = taken.clone() if part else taken

    with model.hooks(fwd_hooks=_readers(model, [(s, i) for s in picks for i in chosen], keep)):
        yield table


def _readers(
    model: Model, places: Sequence[tuple[str, int]], keep: Callable[[str, int, Tensor], None]
) -> list[Hook]:
    """Hooks that hand on the activation of a site, or what stands for it where there is none.

    Where attention and MLP write at once, ``resid_mid`` is the stream with what attention writes.
    Where there are no neurons, ``post`` has width zero.
    """
    hooks: list[Hook] = []
    before: list[Tensor] = []
    for site, layer in places:
        own = partial(keep, site, layer)
        if site == "resid_mid" and writes_at_once(model):
            both = hook_name("resid_pre", layer), hook_name("attn_out", layer)
            hooks.append((both[0], lambda x, hook: before.append(x.detach())))
            hooks.append((both[1], lambda x, hook, own=own: own(before.pop() + x.detach())))
        elif site == "post" and not model.cfg.d_mlp:
            name = hook_name("mlp_out", layer)
            hooks.append((name, lambda x, hook, own=own: own(x.detach()[..., :0])))
        else:
            hooks.append((hook_name(site, layer), lambda x, hook, own=own: own(x.detach())))
    return hooks


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
        own, layers = table.pop(site), range(model.cfg.n_layers)
        values = [_check_read(model, tokens, own.get(i), site, i) for i in layers]
        # A model that is spread over devices gives every layer's values where the layer is.
        found[site] = torch.stack([value.to(values[0].device) for value in values], dim=1).float()
    return found


@torch.no_grad()
def watch(model: Model, tokens: Tokens, takers: Mapping[str, Take]) -> None:
    """One pass in which every layer and its activation are handed on as soon as they are there.

    Raises:
        ModelError: a hook point exists but did not fire, or an activation is not finite;
            names layer, hook and prompts.
    """
    places = [(site, layer) for site in takers for layer in range(model.cfg.n_layers)]
    due = dict.fromkeys(places)

    def hand_on(site: str, layer: int, activation: Tensor) -> None:
        takers[site](layer, _check_read(model, tokens, activation, site, layer))
        due.pop((site, layer), None)

    with model.hooks(fwd_hooks=_readers(model, places, hand_on)):
        read(model, tokens)
    for site, layer in due:
        _check_read(model, tokens, None, site, layer)


@dataclass(frozen=True, eq=False)
class CachedRun:
    """A pass that can be gone on from at any layer and position."""

    tokens: Tokens
    prefix: Prefix
    """Keys and values of all positions."""
    sites: Table
    """``resid_pre`` is always there."""

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
    _check_window(model, tokens.ids.shape[1])
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
        rows: For every new run, the row of the pass that it goes on from.
        start: The first position that differs; those before it stay as they were.
        layer: The layer that reads ``resid``; the number of layers for the final norm.
        resid: Residual stream of positions ``start`` to the last, before ``layer``.
        hooks: Hooks of this run, from ``layer`` upwards.
        ends: How many last positions get logits.
        short: Nothing but these positions is read after the last block: its MLP runs them alone.
    """
    layers, width = model.cfg.n_layers, resid.shape[1]
    first = layers - layers_run(model, layer)
    charge(len(rows), width, layers - first, cached=True)
    index = torch.tensor(rows, device=kept.tokens.ids.device)
    ids, mask = kept.tokens.ids[index, start:], kept.tokens.mask[index].long()
    cache = kept.prefix.fork().cache
    for number, own in enumerate(cache.layers):
        keys, values = own.keys[..., :start, :], own.values[..., :start, :]
        if hasattr(own, "cumulative_length"):  # of a window, which counts what it has seen
            own.cumulative_length = start
        # Layers that are skipped keep theirs: nobody reads them but to learn how many there are.
        own.keys, own.values = (keys[index], values[index]) if number >= first else (keys, values)
    place = hook_name("resid_pre", layer) if layer < layers else "ln_final.hook_in"
    changes: list[Hook] = [(place, lambda activation, hook: resid.to(activation.dtype))]
    if short and layer < layers and ends < width:
        # The last MLP runs the last positions only and writes nothing elsewhere.
        changes += [
            (f"blocks.{layers - 1}.mlp.hook_in", lambda x, hook: x[:, -ends:].contiguous()),
            (
                hook_name("mlp_out", layers - 1),
                lambda activation, hook: pad(activation, (0, 0, width - ends, 0)),
            ),
        ]
    with _only_from(model, first), model.hooks(fwd_hooks=[*changes, *hooks]):
        model(
            ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, start:],
            **_with_cache(model, cache),
            **_last_logits(model, ends),
        )


def layers_run(model: Model, layer: int) -> int:
    """How many layers :func:`resume` runs when it goes on from ``layer``."""
    return model.cfg.n_layers - (layer if _can_skip(model) else 0)


@contextmanager
def _only_from(model: Any, first: int) -> Iterator[None]:
    """The model without its blocks below ``first``."""
    if first == 0:
        yield
        return
    blocks = model.blocks
    parent, name = next(
        (parent, name)
        for parent in model.original_model.modules()
        for name, child in parent.named_children()
        if child is blocks
    )
    parent._modules[name] = blocks[first:]
    try:
        yield
    finally:
        parent._modules[name] = blocks


@once_per_model
def _can_skip(model: Model) -> bool:
    """Does the model give the same numbers when blocks are left out and their output put in?

    Some number their layers as they run them (to choose a window, say). Tried once per model.
    """
    layers = model.cfg.n_layers
    if layers < 2:
        return False
    tokens = some_tokens(model)
    middle, seen = hook_name("resid_pre", layers // 2), list[Tensor]()
    last: Hook = (hook_name("resid_post", layers - 1), lambda x, hook: seen.append(x))
    with torch.no_grad(), uncounted():
        with model.hooks(fwd_hooks=[(middle, last[1]), last]):
            read(model, tokens)
        put: list[Hook] = [(middle, lambda x, hook: seen[0]), last]
        try:
            with _only_from(model, layers // 2), model.hooks(fwd_hooks=put):
                read(model, tokens)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return False
    return len(seen) == 3 and bool(torch.equal(seen[1], seen[2]))


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


@once_per_model
@torch.no_grad()
def can_run_mlp(model: Model) -> bool:
    """Does :func:`after_mlp` give what the model gives? Tried once per model.

    It does not where attention and MLP write at once, where a norm comes after the MLP, or where
    the MLP is no module that runs by itself.
    """
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
    return pad_left([range(1, count + 1)], device_of(model))


Score = Callable[[Float[Tensor, "row width"]], Float[Tensor, " row"]]
"""From the activation at the last position to one number per row."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass with its gradients; all tensors are detached."""

    values: Table
    gradients: Table
    """The same places: gradient of the row's readout with respect to the activation."""
    readout: Float[Tensor, " row"]


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
    """Run ``tokens`` forward once and backward once, for the activations ``sites`` (-> layers).

    Rows do not see each other, so the gradient of the sum of their readouts is each row's own:
    it depends on neither the batch nor the padding. The readout is a ``score`` of what stands
    ``at`` the last position: ``resid_post`` of the last layer, ``final`` or ``logits``. Hooks
    come before the reading ones. ``after`` are constants from which ``tokens`` go on.

    Raises:
        ModelError: a site did not run.
    """
    with torch.enable_grad():
        values, readout = _forward(model, tokens, sites, score, at, hooks, after=after)
    return _backward(model, tokens, values, readout)


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
    dropped: list[int] = []

    def gate(layer: int, activation: Tensor, hook: object) -> Tensor:
        passed = activation.view_as(activation)
        passed.register_hook(lambda slope: torch.zeros_like(slope) if layer in dropped else slope)
        return passed

    layers = range(model.cfg.n_layers)
    gates: list[Hook] = [
        (hook_name(s, i), partial(gate, i)) for i in layers for s in ("attn_out", "mlp_out")
    ]
    with torch.enable_grad():
        values, readout = _forward(model, tokens, sites, score, at, gates=gates)
    yield _backward(model, tokens, values, readout, again=True)
    for layer in layers:
        dropped[:] = [layer]
        yield _backward(model, tokens, values, readout, again=layer < layers[-1])


@torch.no_grad()
def observe(
    model: Model,
    tokens: Tokens,
    sites: Mapping[str, Sequence[int]],
    score: Score,
    *,
    at: str = "resid_post",
    hooks: Sequence[Hook] = (),
) -> tuple[Table, Float[Tensor, " row"]]:
    """Activations and readout of one pass, without gradients; see :func:`trace`."""
    return _forward(model, tokens, sites, score, at, hooks)


def _hold(table: dict[int, Tensor], layer: int, none: bool, x: Tensor, hook: object) -> Tensor:
    table[layer] = x[..., :0] if none else x
    # Returned, since TransformerLens may show hooks another view than the model goes on with; what
    # is returned is what the model goes on with.
    return x


def _forward(
    model: Model,
    tokens: Tokens,
    sites: Mapping[str, Sequence[int]],
    score: Score,
    at: str,
    hooks: Sequence[Hook] = (),
    *,
    gates: Sequence[Hook] = (),
    after: Prefix | None = None,
) -> tuple[Table, Float[Tensor, " row"]]:
    values: Table = {site: {} for site in sites}
    last: list[Tensor] = []
    places = [(site, layer) for site, layers in sites.items() for layer in layers]
    slopes = torch.is_grad_enabled()
    own: list[Hook] = [
        (hook_name("resid_pre", 0), lambda x, hook: x.detach().requires_grad_(slopes))
    ]
    own += hooks
    for site, layer in places:
        # Where there are no neurons, their activation has width zero.
        none = site == "post" and not model.cfg.d_mlp
        name = hook_name("mlp_out" if none else site, layer)
        own.append((name, partial(_hold, values[site], layer, none)))
    own += gates
    if at != "logits":
        own.append((hook_name(at, model.cfg.n_layers - 1), lambda x, hook: last.append(x[:, -1])))
    with model.hooks(fwd_hooks=own):
        if after is not None:
            last += [extend(model, tokens.ids, after.fork())[0][:, -1]]
        elif at == "logits":
            last += [run(model, tokens)[:, -1]]
        else:
            read(model, tokens)
    for site, layer in places:
        if layer not in values[site]:
            _check_read(model, tokens, None, site, layer)
    return values, score(last[0])


def _backward(
    model: Model, tokens: Tokens, values: Table, readout: Tensor, *, again: bool = False
) -> Trace:
    """One backward pass; ``again``: another one will follow."""
    held = [(site, layer) for site, own in values.items() for layer in own]
    starts = [values[site][layer] for site, layer in held]
    found = torch.autograd.grad(readout.sum(), starts, allow_unused=True, retain_graph=again)
    rows, width = tokens.ids.shape
    each = rows * width * model.cfg.n_layers
    charge_receipt(Receipt(backward_passes=rows, backward_token_layers=each))
    gradients: Table = {site: {} for site in values}
    for (site, layer), start, gradient in zip(held, starts, found, strict=True):
        # A place after everything that the readout reads has no influence on it.
        gradients[site][layer] = torch.zeros_like(start) if gradient is None else gradient
    plain = {site: {i: value.detach() for i, value in own.items()} for site, own in values.items()}
    return Trace(plain, gradients, readout.detach())

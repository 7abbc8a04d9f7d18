"""Passes that begin inside the model: at a layer, and at a position.

A change at layer 4 and position 30 leaves layers 0 to 3 and positions 0 to 29 as they are. So a
pass is kept once, its residual stream and its keys and values, and every change is run from where
it begins. This is exact for causal attention.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from circuits.model.chat import Tokens
from circuits.model.forward import Prefix, check_window, last_logits, prefill, read, read_on
from circuits.model.protocol import Hook, Model, device_of
from circuits.model.receipts import charge, uncounted
from circuits.model.runs import reading
from circuits.names import hook

__all__ = ["Kept", "after_mlp", "can_run_mlp", "keep", "layers_run", "resume"]


@dataclass(frozen=True, eq=False)
class Kept:
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
def keep(model: Model, tokens: Tokens, sites: Sequence[str] = ()) -> Kept:
    """Run ``tokens`` once and keep what is needed to go on from inside, and these sites.

    Raises:
        ModelError: the tokens are more than the model's attention window.
    """
    check_window(model, tokens.ids.shape[1])
    wanted = dict.fromkeys(("resid_pre", *sites), _everything)
    with reading(model, wanted) as table:
        _, prefix = prefill(model, tokens)
    return Kept(tokens, prefix, table)


@torch.no_grad()
def resume(
    model: Model,
    kept: Kept,
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
    place = hook("resid_pre", layer) if layer < layers else "ln_final.hook_in"
    put: Hook = (place, lambda activation, hook: resid.to(activation.dtype))
    ending = _only_ends(model, ends, resid.shape[1]) if short and layer < layers else []
    with _only_from(model, first), model.hooks(fwd_hooks=[put, *ending, *hooks]):
        model(
            ids,
            attention_mask=mask.long(),
            position_ids=(mask.long().cumsum(1) - 1).clamp_min(0)[:, start:],
            return_type="logits_and_cache",
            **read_on(model, _cut(kept.prefix, index, start, first)),
            **last_logits(model, ends),
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
    cache = copy.copy(prefix.cache)
    cache.layers = [copy.copy(layer) for layer in prefix.cache.layers]
    for number, layer in enumerate(cache.layers):
        keys, values = layer.keys[..., :start, :], layer.values[..., :start, :]
        if hasattr(layer, "cumulative_length"):  # of a window, which counts what it has seen
            layer.cumulative_length = start
        chosen = number >= first
        layer.keys = keys[rows] if chosen else keys
        layer.values = values[rows] if chosen else values
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

    return [(f"blocks.{last}.mlp.hook_in", cut), (hook("mlp_out", last), widen)]


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
    with uncounted(), reading(model, dict.fromkeys(("resid_mid", "resid_post"), _everything)) as at:
        read(model, _some_tokens(model))
    try:
        with uncounted():
            found = {i: after_mlp(model, i, resid) for i, resid in at["resid_mid"].items()}
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(
        torch.allclose(own, at["resid_post"][i], rtol=1e-2, atol=1e-2 * float(own.abs().max()))
        for i, own in found.items()
    )


def _some_tokens(model: Model) -> Tokens:
    ids = torch.arange(1, 7, device=device_of(model))[None]
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
    tokens = _some_tokens(model)
    last, resid = hook("resid_post", layers - 1), hook("resid_pre", layers // 2)
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


def _everything(activation: Tensor) -> Tensor:
    return activation

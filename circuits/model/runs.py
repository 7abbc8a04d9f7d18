"""Activations read from a running model, at all layers and the positions that are wanted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.chat import Tokens
from circuits.model.finite import check_activation
from circuits.model.forward import read
from circuits.model.protocol import Hook, Model, writes_at_once
from circuits.names import hook

__all__ = ["Pick", "Take", "capture", "readers", "reading", "watch"]

Pick = Callable[[Tensor], Tensor]
"""Takes what is wanted from one layer's activation ``[prompt pos ...]``."""

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
            check_activation(model, tokens, layers.get(layer), site, layer)
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
            check_activation(model, tokens, activation, site, layer)
            seen.add((site, layer))
            takers[site](layer, activation)

        return readers(model, site, layer, hand_on)

    places = [(site, layer) for site in takers for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[own for place in places for own in watcher(*place)]):
        read(model, tokens)
    for place in places:
        if place not in seen:
            check_activation(model, tokens, None, *place)


def hook_name(site: str, layer: int) -> str:
    """The hook name; a function of its own because readers call their hook point ``hook``."""
    return hook(site, layer)

"""Activations read from a running model, at all layers and the positions that are wanted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.chat import Tokens
from circuits.model.finite import check_activation
from circuits.model.forward import read
from circuits.model.protocol import Hook, Model
from circuits.names import hook

__all__ = ["Pick", "Take", "capture", "reading", "watch"]

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

    def reader(site: str, layer: int) -> Hook:
        def keep(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
            taken = picks[site](activation.detach())
            # A view would keep the whole activation, of all positions, in memory.
            part = taken.untyped_storage().nbytes() > taken.nbytes
            table[site][layer] = taken.clone() if part else taken

        return hook_name(site, layer), keep

    with model.hooks(fwd_hooks=[reader(site, layer) for site in picks for layer in chosen]):
        yield table


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

    def watcher(site: str, layer: int) -> Hook:
        def hand_on(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
            check_activation(model, tokens, activation, site, layer)
            seen.add((site, layer))
            takers[site](layer, activation)

        return hook_name(site, layer), hand_on

    places = [(site, layer) for site in takers for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[watcher(*place) for place in places]):
        read(model, tokens)
    for place in places:
        if place not in seen:
            check_activation(model, tokens, None, *place)


def hook_name(site: str, layer: int) -> str:
    """The hook name; a function of its own because readers call their hook point ``hook``."""
    return hook(site, layer)

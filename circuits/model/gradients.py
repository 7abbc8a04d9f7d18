"""Passes with gradients: activations of chosen sites, and the gradient of a readout at them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens
from circuits.model.forward import read, run
from circuits.model.protocol import Hook, Model
from circuits.model.receipts import charge_backward
from circuits.names import hook

__all__ = ["Trace", "trace"]

Score = Callable[[Float[Tensor, "row width"]], Float[Tensor, " row"]]
"""From the activation at the last position to one number per row."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass with its gradients; all tensors are detached."""

    values: Mapping[str, Mapping[int, Tensor]]
    """site -> layer -> activation ``[row pos ...]``."""
    gradients: Mapping[str, Mapping[int, Tensor]]
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

    Raises:
        ModelError: a site did not run, or has no influence on the readout.
    """
    values: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    last: dict[str, Tensor] = {}

    def holder(site: str, layer: int) -> Hook:
        def hold(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
            values[site][layer] = activation
            # Returned, since TransformerLens may show hooks another view than the model goes on
            # with; what is returned is what the model goes on with.
            return activation

        return hook_at(site, layer), hold

    def hold_last(activation: Tensor, hook: object) -> None:
        last["seen"] = activation[:, -1]

    def leaf(activation: Tensor, hook: object) -> Tensor:
        return activation.detach().requires_grad_()

    readers = [holder(site, layer) for site, layers in sites.items() for layer in layers]
    begin: Hook = (hook("resid_pre", 0), leaf)
    end = [] if at == "logits" else [(hook(at, model.cfg.n_layers - 1), hold_last)]
    with torch.enable_grad(), model.hooks(fwd_hooks=[begin, *hooks, *readers, *end]):
        if at == "logits":
            last["seen"] = run(model, tokens)[:, -1]
        else:
            read(model, tokens)
        readout = score(last["seen"])
        held = [(site, layer) for site in sites for layer in sites[site]]
        _check(held, values)
        found = torch.autograd.grad(
            readout.sum(), [values[s][i] for s, i in held], allow_unused=True
        )
    rows, width = tokens.ids.shape
    charge_backward(rows, width, model.cfg.n_layers)
    gradients: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    for (site, layer), gradient in zip(held, found, strict=True):
        value = values[site][layer]
        # A place after everything that the readout reads has no influence on it.
        gradients[site][layer] = torch.zeros_like(value) if gradient is None else gradient
    values = {s: {i: v.detach() for i, v in own.items()} for s, own in values.items()}
    return Trace(values, gradients, readout.detach())


def hook_at(site: str, layer: int) -> str:
    """The hook name; a function of its own because hooks call their hook point ``hook``."""
    return hook(site, layer)


def _check(held: Sequence[tuple[str, int]], values: Mapping[str, Mapping[int, Tensor]]) -> None:
    for site, layer in held:
        if layer not in values[site]:
            raise ModelError(
                f"hook {hook(site, layer)} did not fire; this architecture has no {site} there"
            )

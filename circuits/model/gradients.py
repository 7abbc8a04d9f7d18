"""Passes with gradients: activations of chosen sites, and the gradient of a readout at them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens
from circuits.model.forward import Prefix, extend, read, run
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
        ModelError: a site did not run, or has no influence on the readout.
    """
    held = [(site, layer) for site in sites for layer in sites[site]]
    found: dict[tuple[str, int], Tensor] = {}
    last: list[Tensor] = []
    begin: Hook = (hook("resid_pre", 0), _leaf)
    end = [] if at == "logits" else [_last_holder(at, model.cfg.n_layers - 1, last)]
    readers = [_holder(place, found) for place in held]
    with torch.enable_grad(), model.hooks(fwd_hooks=[begin, *hooks, *readers, *end]):
        logits = _forward(model, tokens, after, wanted=at == "logits")
        if logits is not None:
            last.append(logits[:, -1])
        readout = score(last[0])
        _check(held, found)
        given = torch.autograd.grad(
            readout.sum(), [found[place] for place in held], allow_unused=True
        )
    rows, width = tokens.ids.shape
    charge_backward(rows, width, model.cfg.n_layers)
    values: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    gradients: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    for (site, layer), gradient in zip(held, given, strict=True):
        values[site][layer] = value = found[site, layer].detach()
        # A place after everything that the readout reads has no influence on it.
        gradients[site][layer] = torch.zeros_like(value) if gradient is None else gradient
    return Trace(values, gradients, readout.detach())


def _forward(
    model: Model, tokens: Tokens, after: Prefix | None, *, wanted: bool
) -> Float[Tensor, "row pos vocab"] | None:
    if after is not None:
        logits, _ = extend(model, tokens.ids, after.fork())
        return logits if wanted else None
    if wanted:
        return run(model, tokens)
    return read(model, tokens)


def _holder(place: tuple[str, int], found: dict[tuple[str, int], Tensor]) -> Hook:
    def hold(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        found[place] = activation
        # Returned, since TransformerLens may show hooks another view than the model goes on
        # with; what is returned is what the model goes on with.
        return activation

    return hook(*place), hold


def _last_holder(site: str, layer: int, last: list[Tensor]) -> Hook:
    def hold_last(activation: Tensor, hook: object) -> None:
        last.append(activation[:, -1])

    return hook(site, layer), hold_last


def _leaf(activation: Tensor, hook: object) -> Tensor:
    return activation.detach().requires_grad_()


def _check(held: Sequence[tuple[str, int]], found: Mapping[tuple[str, int], Tensor]) -> None:
    for site, layer in held:
        if (site, layer) not in found:
            raise ModelError(
                f"hook {hook(site, layer)} did not fire; this architecture has no {site} there"
            )

"""Passes with gradients: activations of chosen sites, and the gradient of a readout at them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens
from circuits.model.forward import Prefix, extend, read, run
from circuits.model.protocol import Hook, Model
from circuits.model.receipts import charge_backward
from circuits.names import hook

__all__ = ["Trace", "observe", "trace", "trace_layers_dropped"]

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
    last: list[Tensor] = []
    readers = [
        _holder(model, values, site, layer) for site, layers in sites.items() for layer in layers
    ]
    begin: Hook = (hook("resid_pre", 0), _leaf)
    end = [] if at == "logits" else [_last_holder(at, model.cfg.n_layers - 1, last)]
    with model.hooks(fwd_hooks=[begin, *hooks, *readers, *gates, *end]):
        logits = _logits(model, tokens, prefix, wanted=at == "logits")
        if logits is not None:
            last.append(logits[:, -1])
    _check([(site, layer) for site in sites for layer in sites[site]], values)
    rows, width = tokens.ids.shape
    return _Graph(values, score(last[0]), (rows, width, model.cfg.n_layers))


def _logits(
    model: Model, tokens: Tokens, prefix: Prefix | None, *, wanted: bool
) -> Float[Tensor, "row pos vocab"] | None:
    if prefix is not None:
        logits, _ = extend(model, tokens.ids, prefix.fork())
        return logits if wanted else None
    if wanted:
        return run(model, tokens)
    return read(model, tokens)


def _holder(model: Model, values: _Table, site: str, layer: int) -> Hook:
    # Where there are no neurons, their activation has width zero.
    none = site == "post" and not model.cfg.d_mlp

    def hold(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        values[site][layer] = activation[..., :0] if none else activation
        # Returned, since TransformerLens may show hooks another view than the model goes on
        # with; what is returned is what the model goes on with.
        return activation

    return hook("mlp_out" if none else site, layer), hold


def _last_holder(site: str, layer: int, last: list[Tensor]) -> Hook:
    def hold_last(activation: Tensor, hook: object) -> None:
        last.append(activation[:, -1])

    return hook(site, layer), hold_last


def _leaf(activation: Tensor, hook: object) -> Tensor:
    return activation.detach().requires_grad_()


class _Gate(torch.autograd.Function):
    """What passes is unchanged; its gradient is stopped while its layer is dropped."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, layer: int, dropped: set[int]) -> Tensor:
        ctx.layer, ctx.dropped = layer, dropped
        return activation.view_as(activation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0]
        closed = ctx.layer in ctx.dropped
        return torch.zeros_like(gradient) if closed else gradient, None, None


def _gate(site: str, layer: int, dropped: set[int]) -> Hook:
    def gate(activation: Tensor, hook: object) -> Tensor:
        passed: Any = _Gate.apply(activation, layer, dropped)
        return passed

    return hook(site, layer), gate


def _detached(values: _Table) -> _Table:
    return {site: {i: v.detach() for i, v in own.items()} for site, own in values.items()}


def _check(held: Sequence[tuple[str, int]], values: Mapping[str, Mapping[int, Tensor]]) -> None:
    for site, layer in held:
        if layer not in values[site]:
            raise ModelError(
                f"hook {hook(site, layer)} did not fire; this architecture has no {site} there"
            )

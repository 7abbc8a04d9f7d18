"""Gradients of a readout at the inputs of receivers, as vectors of the residual stream.

The gradient at a query, key or value is taken back through its weight to the norm's output, and
all receivers of a layer together through the norm (its Jacobian at the run's own residual stream).
"""

from collections.abc import Iterator

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.measure.path_ends import Ends, Readers
from circuits.model.gradients import Trace
from circuits.model.protocol import Model
from circuits.model.readers import input_weights, neuron_inputs, norm_pullback
from circuits.names import receiver

__all__ = ["receiver_gradients"]

_PARTS = "row pos part d_head, part d_model d_head -> part row pos d_model"
_NEURONS = "row pos neuron, neuron d_model -> neuron row pos d_model"


def receiver_gradients(
    model: Model, ends: Ends, seen: Trace, window: int
) -> Iterator[tuple[tuple[str, ...], Float[Tensor, "receiver row pos d_model"]]]:
    """Receivers of one layer and norm after the other, with their gradients in the window.

    The readout, whose gradient is that of the last residual stream, comes last.
    """
    for readers in ends.readers:
        at_norm = _attention if readers.norm == "ln1" else _mlp
        site, via = ("resid_pre", "q") if readers.norm == "ln1" else ("resid_mid", "mlp")
        resid = seen.values[site][readers.layer][:, -window:]
        gradients = at_norm(model, readers, seen, window)
        yield readers.names, norm_pullback(model, via, readers.layer, resid, gradients)
    yield ("readout",), seen.gradients["resid_post"][model.cfg.n_layers - 1][None, :, -window:]


def _attention(
    model: Model, readers: Readers, seen: Trace, window: int
) -> Float[Tensor, "receiver row pos d_model"]:
    layer = readers.layer
    parts = [
        einsum(seen.gradients[via][layer][:, -window:], input_weights(model, via, layer), _PARTS)
        for via in "qkv"
    ]
    return torch.cat(parts)


def _mlp(
    model: Model, readers: Readers, seen: Trace, window: int
) -> Float[Tensor, "receiver row pos d_model"]:
    layer = readers.layer
    whole = seen.gradients["ln2_out"][layer][None, :, -window:]
    neurons = [index for name in readers.names if (index := receiver(name).index) is not None]
    if not neurons:
        return whole
    parts = [
        einsum(seen.gradients[site][layer][:, -window:, neurons], weight, _NEURONS)
        for site, weight in neuron_inputs(model, layer, neurons).items()
    ]
    return torch.cat([whole, torch.stack(parts).sum(0)])

"""Output weights of heads and neurons, one layer at a time.

``W_O`` and ``W_out`` of a model stack the weights of all layers, which copies them; in float32
they would take more memory than the model itself.
"""

from collections.abc import Iterator

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.model.protocol import Model, blocks_of

__all__ = ["along_heads", "along_neurons", "head_weights", "neuron_weights"]


def head_weights(model: Model) -> Iterator[Float[Tensor, "head d_head d_model"]]:
    """W_O of every layer in turn, in float32."""
    for block in blocks_of(model):
        yield block.attn.W_O.detach().float().cpu()


def neuron_weights(model: Model) -> Iterator[Float[Tensor, "neuron d_model"]]:
    """W_out of every layer in turn, in float32."""
    for block in blocks_of(model):
        yield block.mlp.W_out.detach().float().cpu()


def along_heads(
    model: Model, vectors: Float[Tensor, "vector layer d_model"]
) -> Float[Tensor, "vector layer head d_head"]:
    """What a unit of each head output writes along each vector of its layer."""
    pattern = "head d_head d_model, vector d_model -> vector head d_head"
    found = [einsum(W_O, vectors[:, i], pattern) for i, W_O in enumerate(head_weights(model))]
    return torch.stack(found, dim=1)


def along_neurons(
    model: Model, vectors: Float[Tensor, "vector layer d_model"]
) -> Float[Tensor, "vector layer neuron"]:
    """What a unit of each neuron's activation writes along each vector of its layer."""
    pattern = "neuron d_model, vector d_model -> vector neuron"
    found = [einsum(W_out, vectors[:, i], pattern) for i, W_out in enumerate(neuron_weights(model))]
    return torch.stack(found, dim=1)

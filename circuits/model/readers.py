"""What reads the residual stream: norms, and the input weights of heads, groups and neurons.

Queries, keys and values are linear in the norm's output, before the rotation of positions; so are
a neuron's inputs. Key and value weights are those of the key-value groups.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.protocol import Model
from circuits.names import hook

__all__ = [
    "input_weights",
    "is_gated",
    "neuron_inputs",
    "norm_pullback",
    "normed",
    "output_weights",
    "key_value_groups",
]

READS = {"q": "ln1", "k": "ln1", "v": "ln1", "mlp": "ln2"}
"""What a reader is -> the norm whose output it reads."""

_NAMES = {"q": "W_Q", "k": "W_K", "v": "W_V"}


def normed(
    model: Model, via: str, layer: int, resid: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    """What the norm before ``q``, ``k``, ``v`` or ``mlp`` of a layer makes of a residual stream."""
    return getattr(_block(model, layer), READS[via])(resid)


def norm_pullback(
    model: Model,
    via: str,
    layer: int,
    resid: Float[Tensor, "row pos d_model"],
    gradients: Float[Tensor, "receiver row pos d_model"],
) -> Float[Tensor, "receiver row pos d_model"]:
    """Gradients at the norm's output, as gradients at its input: one vector-Jacobian product."""
    with torch.enable_grad():
        start = resid.detach().requires_grad_()
        end = normed(model, via, layer, start)
        (found,) = torch.autograd.grad(end, start, gradients.to(end.dtype), is_grads_batched=True)
    return found


def input_weights(model: Model, via: str, layer: int) -> Float[Tensor, "part d_model d_head"]:
    """Weights of the queries per head, or of the keys or values per key-value group."""
    weight = _weight(_block(model, layer).attn, _NAMES[via], layer)
    parts = model.cfg.n_heads if via == "q" else key_value_groups(model)
    # TransformerLens may repeat the groups' weights, once for every head that reads them.
    return weight[:: len(weight) // parts]


def neuron_inputs(
    model: Model, layer: int, neurons: list[int]
) -> dict[str, Float[Tensor, "neuron d_model"]]:
    """Site -> weights that lead to these neurons: ``pre``, and ``pre_linear`` of a gated MLP."""
    mlp = _block(model, layer).mlp
    names = {"pre": "W_gate", "pre_linear": "W_in"} if is_gated(model) else {"pre": "W_in"}
    return {site: _weight(mlp, name, layer)[:, neurons].T for site, name in names.items()}


def output_weights(model: Model, kind: Literal["head", "neuron"], layer: int) -> Tensor:
    """Output weights of a layer: ``[head d_head d_model]`` or ``[neuron d_model]``."""
    block = _block(model, layer)
    if kind == "head":
        return _weight(block.attn, "W_O", layer)
    return _weight(block.mlp, "W_out", layer)


def key_value_groups(model: Model) -> int:
    """Key-value groups of a layer; as many as heads where keys are not shared."""
    return getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads


def is_gated(model: Any) -> bool:
    """Have neurons two inputs, whose product they are?"""
    return hook("pre_linear", 0) in model.hook_dict


def _block(model: Any, layer: int) -> Any:
    return model.blocks[layer]


def _weight(part: Any, name: str, layer: int) -> Tensor:
    try:
        return getattr(part, name).detach()
    except (AttributeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"paths need the weight {name} of every layer; layer {layer} of this model has none. "
            "Use a dense transformer with ordinary attention"
        ) from error

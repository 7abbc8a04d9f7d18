"""Rules for the backward pass by which relevance is handed on instead of a gradient.

Layer-wise relevance propagation as RelP uses it (Rezaei Jafari et al. 2025, arXiv 2508.21258).
Values stay as they are, only gradients change:

* a norm's scale is a constant, so a norm is a linear map (centring included);
* the attention pattern is a constant, so queries and keys get nothing and values everything;
* an activation function is the factor ``act(x) / x``, a constant (identity rule);
* a gated product gives half of its relevance to either factor (half rule).

With these rules the readout is, piece by piece, a linear function of what passes: where biases
are absent, the products of value and gradient at the residual stream sum to the same number, the
readout, after every sublayer (if the readout is linear too).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.identities import need_neurons, need_sites
from circuits.model.protocol import Hook, Model, device_of, dtype_of
from circuits.names import hook

__all__ = ["relevance_rules"]


def relevance_rules(model: Model) -> list[Hook]:
    """Hooks that give one pass the rules; make new ones for every pass.

    Raises:
        ModelError: the model has no neurons, or no hooks at patterns or activation functions.
    """
    need_neurons(model, "relevance rules")
    inner = ("pre", "pre_linear") if model.cfg.gated_mlp else ("pre",)
    need_sites(model, "pattern", *inner, "post")
    rules = _norm(model, "ln_final", getattr(model, "ln_final", None))
    for layer in range(model.cfg.n_layers):
        block = model.blocks[layer]  # type: ignore[attr-defined]
        for name in ("ln1", "ln1_post", "ln2", "ln2_post"):
            norm = getattr(block, name, None)
            rules += _norm(model, f"blocks.{layer}.{name}", norm) if norm is not None else []
        rules.append((hook("pattern", layer), _constant))
        rules += _gated(layer) if model.cfg.gated_mlp else _activated(layer)
    return rules


def _constant(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
    return activation.detach()


def _norm(model: Model, name: str, norm: Any) -> list[Hook]:
    gain, centred = _gain(model, norm)
    taken: list[Tensor] = []

    def take(activation: Tensor, hook: object) -> Tensor:
        taken.append(activation)
        return activation

    def give(activation: Tensor, hook: object) -> Tensor:
        x = taken.pop()
        passed = x - x.mean(-1, keepdim=True) if centred else x
        square = passed.detach().to(gain.dtype).square().mean(-1, keepdim=True)
        factor = gain / (square + _eps(model)).sqrt()
        return _with_gradient_of(activation, passed * factor.to(passed.dtype))

    return [(f"{name}.hook_in", take), (f"{name}.hook_out", give)]


def _gain(model: Model, norm: Any) -> tuple[Float[Tensor, " d_model"], bool]:
    """What a norm multiplies by, however it keeps it, and whether it centres."""
    # A bridge wraps a norm of Hugging Face's; its own hooks must not see the probes.
    inner: Callable[[Tensor], Tensor] = getattr(norm, "original_component", norm)
    d_model, eps = int(model.cfg.d_model), _eps(model)
    probe = torch.ones(d_model, device=device_of(model), dtype=dtype_of(model))
    probe[::2] = -2.0
    with torch.no_grad():
        # The half difference of both signs is free of the norm's bias.
        odd = (inner(probe[None]) - inner(-probe[None]))[0] / 2
        shifted = (inner(probe[None] + 3) - inner(-probe[None] - 3))[0] / 2
        centred = bool(torch.allclose(odd, shifted, rtol=1e-3, atol=1e-6))
        passed = probe - probe.mean() if centred else probe
        # In the type that norms compute in (float32 for models in half precision).
        size = (passed.square().mean() + eps).sqrt()
    return (odd / (passed / size)).to(torch.promote_types(odd.dtype, torch.float32)), centred


def _eps(model: Model) -> float:
    return float(model.cfg.eps)


def _activated(layer: int) -> list[Hook]:
    taken: list[Tensor] = []

    def take(activation: Tensor, hook: object) -> Tensor:
        taken.append(activation)
        return activation

    def give(activation: Tensor, hook: object) -> Tensor:
        x = taken.pop()
        return _with_gradient_of(activation, x * _ratio(activation, x))

    return [(hook("pre", layer), take), (hook("post", layer), give)]


def _gated(layer: int) -> list[Hook]:
    taken: dict[str, Tensor] = {}

    def taker(name: str) -> Callable[..., Tensor]:
        def take(activation: Tensor, hook: object) -> Tensor:
            taken[name] = activation
            return activation

        return take

    def give(activation: Tensor, hook: object) -> Tensor:
        gate, linear = taken.pop("gate"), taken.pop("linear")
        halves = gate * _ratio(activation, gate) + linear * _ratio(activation, linear)
        return _with_gradient_of(activation, halves / 2)

    return [
        (hook("pre", layer), taker("gate")),
        (hook("pre_linear", layer), taker("linear")),
        (hook("post", layer), give),
    ]


def _ratio(product: Tensor, factor: Tensor) -> Tensor:
    """``product / factor`` as a constant; zero where the factor is zero, and carries nothing."""
    product, factor = product.detach(), factor.detach()
    zero = factor == 0
    return (product / factor.masked_fill(zero, 1)).masked_fill(zero, 0)


def _with_gradient_of(value: Tensor, path: Tensor) -> Tensor:
    return value.detach() + (path - path.detach())

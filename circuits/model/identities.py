"""Does the model obey the identities that the closed forms stand on?

Heads add up to the attention's write, neurons to the MLP's, and both writes go straight into
the residual stream. Norms after a sublayer (Gemma-2, OLMo-2), factors on a sublayer's output
(Granite), a parallel block (GPT-J) or experts (Mixtral) break one of them. That, and what breaks
it, is measured on a few tokens, not looked up by name.
"""

from collections.abc import Iterator
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens
from circuits.model.protocol import Model, blocks_of, device_of, dtype_of
from circuits.model.runs import capture
from circuits.model.weights import head_weights, neuron_weights
from circuits.names import hook

__all__ = ["check_identities", "identity_gaps"]

_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "post")
_HEADS = "prompt pos head d_head, head d_head d_model -> prompt pos d_model"
_NEURONS = "prompt pos neuron, neuron d_model -> prompt pos d_model"

_Sides = tuple[Float[Tensor, "prompt layer pos d_model"], Float[Tensor, "prompt layer pos d_model"]]
"""Left and right of an identity."""


def identity_gaps(model: Model, length: int = 8) -> dict[str, float]:
    """Largest gap of each identity on a few tokens, relative to the size of what is summed.

    Raises:
        ModelError: the model lacks a part that the identities speak of; names it.
    """
    return {name: _gap(*sides) for name, sides in _identities(model, length).items()}


def check_identities(model: Any) -> None:
    """Refuse a model for which the closed forms would be wrong, or that has no closed form.

    Any wrapped model may be asked about; one that lacks ``W_O`` or ``W_out`` is not yet a
    :class:`~circuits.model.protocol.Model`.

    Raises:
        ModelError: names the identity that does not hold and what breaks it, or the missing part.
    """
    identities = _identities(model, 8)
    allowed = _allowed(model)
    for name, (left, right) in identities.items():
        if _gap(left, right) > allowed:
            gaps = [_gap(left[:, i], right[:, i]) for i in range(left.shape[1])]
            layer = gaps.index(max(gaps))
            cause = _cause(left[:, layer], right[:, layer], name, 10 * allowed)
            raise ModelError(
                f"effects need {name}; in layer {layer} of this model it is off by "
                f"{gaps[layer]:.1%}: {cause}. Use a model whose sublayers write straight into "
                "the residual stream, such as Llama, Qwen or Mistral"
            )


def _allowed(model: Model) -> float:
    # 16-bit weights round coarsely.
    return 5e-2 if dtype_of(model) in (torch.float16, torch.bfloat16) else 1e-4


@torch.no_grad()
def _identities(model: Any, length: int) -> dict[str, _Sides]:
    _check_parts(model)
    found = {site: value.cpu() for site, value in _activations(model, length, _SITES).items()}
    heads = _summed(found["z"], head_weights(model), _HEADS)
    neurons = _summed(found["post"], neuron_weights(model), _NEURONS)
    attention = heads + _bias(model, "attn", "b_O", heads)
    mlp = neurons + _bias(model, "mlp", "b_out", neurons)
    return {
        "resid_pre + attn_out = resid_mid": (
            found["resid_pre"] + found["attn_out"],
            found["resid_mid"],
        ),
        "resid_mid + mlp_out = resid_post": (
            found["resid_mid"] + found["mlp_out"],
            found["resid_post"],
        ),
        "sum over heads of z W_O = attn_out": (attention, found["attn_out"]),
        "post W_out = mlp_out": (mlp, found["mlp_out"]),
    }


def _activations(model: Model, length: int, sites: tuple[str, ...]) -> dict[str, Tensor]:
    ids = torch.arange(1, length + 1, device=device_of(model))[None]
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    return capture(model, tokens, dict.fromkeys(sites, _everything))


def _summed(parts: Tensor, weights: Iterator[Tensor], pattern: str) -> Tensor:
    layers = [einsum(parts[:, i], weight, pattern) for i, weight in enumerate(weights)]
    return torch.stack(layers, dim=1)


def _check_parts(model: Any) -> None:
    """Refuse a model that lacks a place of the identities."""
    if not _everywhere(model, "attn", "W_O"):
        raise ModelError(
            "effects need an attention output weight (W_O) that is split by heads in every layer; "
            "this model has layers without one, such as state-space layers. Use a transformer with "
            "ordinary attention in every layer"
        )
    if not _everywhere(model, "mlp", "W_out"):
        raise ModelError(
            f"effects need one MLP output weight (W_out) per layer; {_no_mlp(model)}. "
            "Use a dense model"
        )
    places = set(getattr(model, "hook_dict", {}))
    for site in _SITES if places else ():
        if hook(site) not in places:
            why = _why_no(site, model)
            raise ModelError(f"effects need the site {site}; this model has no {hook(site)}{why}")


def _everywhere(model: Any, part: str, name: str) -> bool:
    try:
        weights = [getattr(getattr(block, part), name) for block in model.blocks]
    except (AttributeError, ValueError, NotImplementedError):
        return False
    return all(isinstance(weight, Tensor) for weight in weights)


def _no_mlp(model: Any) -> str:
    routed = sorted(
        {
            int(name.split(".")[1])
            for name in getattr(model, "hook_dict", {})
            if name.startswith("blocks.") and ("expert" in name or "router" in name)
        }
    )
    if not routed:
        return "this model has layers without an MLP that could be read as neurons"
    which = f"{len(routed)} of {model.cfg.n_layers} layers"
    return f"{which} of this model hold a mixture of experts, which has one per expert"


def _why_no(site: str, model: Any) -> str:
    if site != "resid_mid":
        return ", so the part is not one that can be read"
    sites = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    found = _activations(model, 8, sites)
    together = found["resid_pre"] + found["attn_out"] + found["mlp_out"]
    if _gap(together, found["resid_post"]) < _allowed(model):
        return (
            ": parallel attention and MLP read the same residual stream and are added at once, so "
            "nothing is written between them. Use a model with sequential sublayers"
        )
    return ": there is no residual stream between attention and MLP"


def _cause(left: Tensor, right: Tensor, name: str, allowed: float) -> str:
    """What turns the left side of an identity into the right one, found by trying."""
    part = "attention" if "attn_out" in name else "MLP"
    residual = name.startswith("resid")
    what = "sum of residual stream and" if residual else "output of the"
    factor = float((left * right).sum() / left.square().sum().clamp_min(1e-12))
    if _gap(factor * left, right) < allowed:
        return f"the {what} {part} is multiplied by {factor:.3g} before it is written"
    for normed in (_normed(left), _normed(left - left.mean(-1, keepdim=True))):
        gain = (normed * right).sum((0, 1)) / normed.square().sum((0, 1)).clamp_min(1e-12)
        if _gap(gain * normed, right) < allowed:
            where = "on the residual stream after" if residual else "after"
            return f"there is a norm {where} the {part}"
    return f"something after the {part} changes what it writes, and it is neither norm nor factor"


def _normed(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def _bias(model: Model, part: str, name: str, like: Tensor) -> Tensor:
    found = [getattr(getattr(block, part), name, None) for block in blocks_of(model)]
    none = like.new_zeros(like.shape[-1])
    biases = [none if bias is None else bias.detach().float().cpu() for bias in found]
    return torch.stack(biases)[None, :, None, :]


def _gap(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp_min(1e-12))


def _everything(activation: Tensor) -> Tensor:
    return activation

"""Does the model obey the identities that the closed forms stand on?

Heads add up to the attention's write, neurons to the MLP's, and both writes go straight into
the residual stream. Norms after a sublayer (Gemma-2, OLMo-2), a parallel block (GPT-J) or
experts (Mixtral) break one of them. It is measured, not looked up by name.
"""

import torch
from einops import einsum
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens
from circuits.model.protocol import Model, device_of
from circuits.model.runs import capture

__all__ = ["check_identities", "identity_gaps"]

_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "post")


@torch.no_grad()
def identity_gaps(model: Model, length: int = 8) -> dict[str, float]:
    """Largest gap of each identity on a few tokens, relative to the size of what is summed."""
    ids = torch.arange(1, length + 1, device=device_of(model))[None]
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    found = capture(model, tokens, dict.fromkeys(_SITES, _everything))
    W_O, W_out = model.W_O.float(), model.W_out.float()
    heads = einsum(
        found["z"],
        W_O,
        "prompt layer pos head d_head, layer head d_head d_model -> prompt layer pos d_model",
    )
    neurons = einsum(
        found["post"],
        W_out,
        "prompt layer pos neuron, layer neuron d_model -> prompt layer pos d_model",
    )
    attention_bias, mlp_bias = _bias(model, "b_O", heads), _bias(model, "b_out", neurons)
    return {
        "resid_pre + attn_out = resid_mid": _gap(
            found["resid_pre"] + found["attn_out"], found["resid_mid"]
        ),
        "resid_mid + mlp_out = resid_post": _gap(
            found["resid_mid"] + found["mlp_out"], found["resid_post"]
        ),
        "sum over heads of z W_O = attn_out": _gap(heads + attention_bias, found["attn_out"]),
        "post W_out = mlp_out": _gap(neurons + mlp_bias, found["mlp_out"]),
    }


def check_identities(model: Model) -> None:
    """Refuse a model for which the closed forms would be wrong.

    Raises:
        ModelError: names the identity that does not hold, and what usually breaks it.
    """
    allowed = 1e-4 if model.W_O.dtype == torch.float32 else 5e-2
    broken = {name: gap for name, gap in identity_gaps(model).items() if gap > allowed}
    if broken:
        name, gap = next(iter(broken.items()))
        raise ModelError(
            f"effects need {name}; in this model it is off by {gap:.1%}. Norms after a sublayer, "
            "parallel attention and MLP, and mixtures of experts break it"
        )


def _bias(model: Model, name: str, like: Tensor) -> Tensor:
    bias = getattr(model, name, None)
    return like.new_zeros(()) if bias is None else bias.float()[None, :, None, :]


def _gap(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp_min(1e-12))


def _everything(activation: Tensor) -> Tensor:
    return activation

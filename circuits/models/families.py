"""What holds for which architecture: weights, norms, and the identities that are relied on.

Weights are given one layer at a time: ``W_O`` and ``W_out`` of a model stack those of all layers,
which copies them, and in float32 would take more memory than the model itself. Queries, keys and
values are linear in the norm's output, before the rotation of positions; so are a neuron's inputs.
Key and value weights are those of the key-value groups.

Closed forms stand on identities: heads add up to the attention's write, neurons to the MLP's, and
both writes go straight into the residual stream. Norms after a sublayer (Gemma-2, OLMo-2), factors
on a sublayer's output (Granite), a parallel block (GPT-J) or experts (Mixtral) break one of them.
That, and what breaks it, is measured on a few tokens, not looked up by name. Whatever needs an
identity asks for it.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.models.memory import uncounted
from circuits.models.protocol import (
    Model,
    blocks_of,
    dtype_of,
    hooks_of,
    once_per_model,
    weight_of,
    writes_at_once,
)
from circuits.models.run import capture, some_tokens, whole
from circuits.names import hook

__all__ = [
    "Need",
    "adds_up",
    "along_heads",
    "along_neurons",
    "check_identities",
    "head_weights",
    "identity_gaps",
    "input_weights",
    "is_gated",
    "key_value_groups",
    "need_neurons",
    "need_sites",
    "needs",
    "neuron_inputs",
    "neuron_weights",
    "norm_pullback",
    "normed",
    "output_weights",
]


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


def normed(
    model: Model, via: str, layer: int, resid: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    """What the norm before ``q``, ``k``, ``v`` or ``mlp`` of a layer makes of a residual stream."""
    return getattr(blocks_of(model)[layer], "ln2" if via == "mlp" else "ln1")(resid)


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
    weight = _weight(model, layer, "attn", f"W_{via.upper()}")
    parts = model.cfg.n_heads if via == "q" else key_value_groups(model)
    # TransformerLens may repeat the groups' weights, once for every head that reads them.
    return weight[:: len(weight) // parts]


def neuron_inputs(
    model: Model, layer: int, neurons: list[int]
) -> dict[str, Float[Tensor, "neuron d_model"]]:
    """Site -> weights that lead to these neurons: ``pre``, and ``pre_linear`` of a gated MLP."""
    names = {"pre": "W_gate", "pre_linear": "W_in"} if is_gated(model) else {"pre": "W_in"}
    return {s: _weight(model, layer, "mlp", name)[:, neurons].T for s, name in names.items()}


def output_weights(model: Model, kind: Literal["head", "neuron"], layer: int) -> Tensor:
    """Output weights of a layer: ``[head d_head d_model]`` or ``[neuron d_model]``."""
    return _weight(model, layer, *(("attn", "W_O") if kind == "head" else ("mlp", "W_out")))


def key_value_groups(model: Model) -> int:
    """Key-value groups of a layer; as many as heads where keys are not shared."""
    return getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads


def is_gated(model: Any) -> bool:
    """Have neurons two inputs, whose product they are?"""
    return hook("pre_linear", 0) in model.hook_dict


def _weight(model: Model, layer: int, part: str, name: str) -> Tensor:
    weight = weight_of(model, layer, part, name)
    if weight is None:
        raise ModelError(
            f"paths need the weight {name} of every layer; layer {layer} of this model has none. "
            "Use a dense transformer with ordinary attention"
        )
    return weight


Need = Literal["attention", "mlp", "heads", "neurons", "sequence"]
"""An identity (:data:`IDENTITIES`), or that the MLP reads the stream with the attention's write."""

IDENTITIES: Final[dict[Need, str]] = {
    "attention": "resid_pre + attn_out = resid_mid",
    "mlp": "resid_mid + mlp_out = resid_post",
    "heads": "sum over heads of z W_O = attn_out",
    "neurons": "post W_out = mlp_out",
}


def identity_gaps(model: Model) -> dict[str, float]:
    """Largest gap of each identity (neurons' where there are any), relative to what is summed."""
    return {IDENTITIES[n]: _gap(*sides) for n, sides in _sides(model).items()}


def check_identities(model: Any) -> None:
    """Refuse a model for which the closed forms would be wrong, or that has no closed form.

    Any wrapped model may be asked about. Neurons may be missing (:func:`needs` refuses them).

    Raises:
        ModelError: names the identity that does not hold and what breaks it, or the missing part.
    """
    for broken in _broken(model).values():
        raise ModelError(f"effects need {broken}")


def needs(model: Any, what: str, *identities: Need) -> None:
    """Refuse ``what`` of a model that does not obey the identities that it stands on.

    Measured once per model, on a few tokens that no receipt counts.

    Raises:
        ModelError: names the identity and what breaks it, or the missing part.
    """
    if "neurons" in identities:
        need_neurons(model, what)
    if "sequence" in identities and writes_at_once(model):
        raise ModelError(
            f"{what} need the site resid_mid; this model has no blocks.0.hook_resid_mid: "
            "parallel attention and MLP read the same residual stream and are added at once, so "
            "nothing is written between them. Use a model with sequential sublayers"
        )
    for name in identities:
        if not adds_up(model, name):
            raise ModelError(f"{what} need {_known(model)[name]}")


def need_neurons(model: Any, what: str) -> None:
    """Refuse ``what`` of a model without neurons; says what it has in their place."""
    if model.cfg.d_mlp:
        return
    experts = {
        name.split(".")[1]
        for name in hooks_of(model)
        if name.startswith("blocks.") and ("expert" in name or "router" in name)
    }
    found = "this model has layers without an MLP that could be read as neurons"
    if experts:
        which = f"{len(experts)} of {model.cfg.n_layers} layers"
        found = f"{which} of this model hold a mixture of experts, which has one per expert"
    raise ModelError(
        f"{what} need one MLP output weight (W_out) per layer; {found}. Use a dense model"
    )


@once_per_model
def need_sites(model: Any, *sites: str) -> None:
    """Refuse a model in which a site exists and yet is not run through. Tried once per model."""
    with uncounted():
        capture(model, some_tokens(model), dict.fromkeys(sites, whole))


def adds_up(model: Any, identity: Need) -> bool:
    """Does an identity hold? Measured once per model."""
    return identity not in _known(model)


@once_per_model
def _known(model: Any) -> dict[Need, str]:
    with uncounted():
        return _broken(model)


def _broken(model: Any) -> dict[Need, str]:
    # 16-bit weights round coarsely.
    allowed = 5e-2 if dtype_of(model) in (torch.float16, torch.bfloat16) else 1e-4
    found: dict[Need, str] = {}
    for name, (left, right) in _sides(model).items():
        if _gap(left, right) <= allowed:
            continue
        gaps = [_gap(left[:, i], right[:, i]) for i in range(left.shape[1])]
        layer = gaps.index(max(gaps))
        cause = _cause(left[:, layer], right[:, layer], name, 10 * allowed)
        found[name] = (
            f"{IDENTITIES[name]}; in layer {layer} of this model it is off by "
            f"{gaps[layer]:.1%}: {cause}. Use a model whose sublayers write straight into the "
            "residual stream, such as Llama, Qwen or Mistral"
        )
    return found


@torch.no_grad()
def _sides(model: Any) -> dict[Need, tuple[Tensor, Tensor]]:
    """Left and right of the identities, ``[prompt layer pos d_model]`` each."""
    if any(weight_of(model, i, "attn", "W_O") is None for i in range(model.cfg.n_layers)):
        raise ModelError(
            "effects need an attention output weight (W_O) that is split by heads in every layer; "
            "this model has layers without one, such as state-space layers. Use a transformer with "
            "ordinary attention in every layer"
        )
    sites = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "post")
    read = capture(model, some_tokens(model), dict.fromkeys(sites, whole))
    found = {site: value.cpu() for site, value in read.items()}
    sides: dict[Need, tuple[Tensor, Tensor]] = {
        "attention": (found["resid_pre"] + found["attn_out"], found["resid_mid"]),
        "mlp": (found["resid_mid"] + found["mlp_out"], found["resid_post"]),
        "heads": (_written(model, "attn", found["z"].flatten(3)), found["attn_out"]),
    }
    if model.cfg.d_mlp:
        sides["neurons"] = (_written(model, "mlp", found["post"]), found["mlp_out"])
    return sides


def _written(model: Model, part: Literal["attn", "mlp"], parts: Tensor) -> Tensor:
    """What ``[prompt layer pos part]`` write, with their bias."""
    weights, bias = (head_weights, "b_O") if part == "attn" else (neuron_weights, "b_out")
    layers = []
    for i, weight in enumerate(weights(model)):
        own = parts[:, i] @ weight.flatten(0, -2)
        constant = weight_of(model, i, part, bias)
        layers.append(own if constant is None else own + constant.float().cpu())
    return torch.stack(layers, dim=1)


def _cause(left: Tensor, right: Tensor, name: Need, allowed: float) -> str:
    """What turns the left side of an identity into the right one, found by trying."""
    part = "attention" if name in ("attention", "heads") else "MLP"
    residual = name in ("attention", "mlp")
    factor = float((left * right).sum() / left.square().sum().clamp_min(1e-12))
    if _gap(factor * left, right) < allowed:
        what = "sum of residual stream and" if residual else "output of the"
        return f"the {what} {part} is multiplied by {factor:.3g} before it is written"
    for own in (left, left - left.mean(-1, keepdim=True)):
        unit = own / own.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
        gain = (unit * right).sum((0, 1)) / unit.square().sum((0, 1)).clamp_min(1e-12)
        if _gap(gain * unit, right) < allowed:
            where = "on the residual stream after" if residual else "after"
            return f"there is a norm {where} the {part}"
    return f"something after the {part} changes what it writes, and it is neither norm nor factor"


def _gap(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp_min(1e-12))

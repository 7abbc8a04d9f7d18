"""What holds for which architecture: weights, norms, and the identities that are relied on.

Output weights of heads and neurons, one layer at a time.

``W_O`` and ``W_out`` of a model stack the weights of all layers, which copies them; in float32
they would take more memory than the model itself.

What reads the residual stream: norms, and the input weights of heads, groups and neurons.

Queries, keys and values are linear in the norm's output, before the rotation of positions; so are
a neuron's inputs. Key and value weights are those of the key-value groups.

Does the model obey the identities that the closed forms stand on?

Heads add up to the attention's write, neurons to the MLP's, and both writes go straight into
the residual stream. Norms after a sublayer (Gemma-2, OLMo-2), factors on a sublayer's output
(Granite), a parallel block (GPT-J) or experts (Mixtral) break one of them. That, and what breaks
it, is measured on a few tokens, not looked up by name. Whatever needs an identity asks for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.models.memory import uncounted
from circuits.models.protocol import Model, blocks_of, dtype_of, hooks_of, writes_at_once
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


READS = {"q": "ln1", "k": "ln1", "v": "ln1", "mlp": "ln2"}
"""What a reader is -> the norm whose output it reads."""


def normed(
    model: Model, via: str, layer: int, resid: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    """What the norm before ``q``, ``k``, ``v`` or ``mlp`` of a layer makes of a residual stream."""
    return getattr(blocks_of(model)[layer], READS[via])(resid)


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
    weight = _weight(blocks_of(model)[layer].attn, f"W_{via.upper()}", layer)
    parts = model.cfg.n_heads if via == "q" else key_value_groups(model)
    # TransformerLens may repeat the groups' weights, once for every head that reads them.
    return weight[:: len(weight) // parts]


def neuron_inputs(
    model: Model, layer: int, neurons: list[int]
) -> dict[str, Float[Tensor, "neuron d_model"]]:
    """Site -> weights that lead to these neurons: ``pre``, and ``pre_linear`` of a gated MLP."""
    mlp = blocks_of(model)[layer].mlp
    names = {"pre": "W_gate", "pre_linear": "W_in"} if is_gated(model) else {"pre": "W_in"}
    return {site: _weight(mlp, name, layer)[:, neurons].T for site, name in names.items()}


def output_weights(model: Model, kind: Literal["head", "neuron"], layer: int) -> Tensor:
    """Output weights of a layer: ``[head d_head d_model]`` or ``[neuron d_model]``."""
    block = blocks_of(model)[layer]
    if kind == "head":
        return _weight(block.attn, "W_O", layer)
    return _weight(block.mlp, "W_out", layer)


def key_value_groups(model: Model) -> int:
    """Key-value groups of a layer; as many as heads where keys are not shared."""
    return getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads


def is_gated(model: Any) -> bool:
    """Have neurons two inputs, whose product they are?"""
    return hook("pre_linear", 0) in model.hook_dict


def _weight(part: Any, name: str, layer: int) -> Tensor:
    try:
        return getattr(part, name).detach()
    except (AttributeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"paths need the weight {name} of every layer; layer {layer} of this model has none. "
            "Use a dense transformer with ordinary attention"
        ) from error


Need = Literal["attention", "mlp", "heads", "neurons", "sequence"]
"""An identity (:data:`IDENTITIES`), or that the MLP reads the stream with the attention's write."""

IDENTITIES: Final[dict[Need, str]] = {
    "attention": "resid_pre + attn_out = resid_mid",
    "mlp": "resid_mid + mlp_out = resid_post",
    "heads": "sum over heads of z W_O = attn_out",
    "neurons": "post W_out = mlp_out",
}

_HEADS = "prompt pos head d_head, head d_head d_model -> prompt pos d_model"
_NEURONS = "prompt pos neuron, neuron d_model -> prompt pos d_model"
_FEW = 8

_Sides = tuple[Float[Tensor, "prompt layer pos d_model"], Float[Tensor, "prompt layer pos d_model"]]
"""Left and right of an identity."""


@dataclass(frozen=True)
class _Broken:
    """Where an identity is off, by how much, and why."""

    layer: int
    gap: float
    cause: str


_FIRED: "WeakKeyDictionary[Any, set[tuple[str, ...]]]" = WeakKeyDictionary()
_FOUND: "WeakKeyDictionary[Any, dict[Need, _Broken | None]]" = WeakKeyDictionary()


def identity_gaps(model: Model, length: int = _FEW) -> dict[str, float]:
    """Largest gap of each identity on a few tokens, relative to the size of what is summed.

    That of neurons is left out where there are none.

    Raises:
        ModelError: the model lacks a part that the identities speak of; names it.
    """
    _check_parts(model)
    return {IDENTITIES[n]: _gap(*sides) for n, sides in _sides(model, length).items()}


def check_identities(model: Any) -> None:
    """Refuse a model for which the closed forms would be wrong, or that has no closed form.

    Any wrapped model may be asked about. Neurons may be missing (:func:`needs` refuses them).

    Raises:
        ModelError: names the identity that does not hold and what breaks it, or the missing part.
    """
    _check_parts(model)
    for name, broken in _broken(model).items():
        _refuse(name, broken)


def needs(model: Any, what: str, *identities: Need) -> None:
    """Refuse ``what`` of a model that does not obey the identities that it stands on.

    Measured once per model, on a few tokens that no receipt counts.

    Raises:
        ModelError: names the identity and what breaks it, or the missing part.
    """
    if {"heads", "attention"} & {*identities}:
        _check_parts(model)
    if "neurons" in identities:
        need_neurons(model, what)
    if "sequence" in identities and writes_at_once(model):
        raise ModelError(
            f"{what} need the site resid_mid; this model has no blocks.0.hook_resid_mid: "
            "parallel attention and MLP read the same residual stream and are added at once, so "
            "nothing is written between them. Use a model with sequential sublayers"
        )
    for name in identities:
        _refuse(name, _known(model).get(name), what)


def need_neurons(model: Any, what: str) -> None:
    """Refuse ``what`` of a model that has no neurons.

    Raises:
        ModelError: says what the model has in their place.
    """
    if not model.cfg.d_mlp:
        raise ModelError(
            f"{what} need one MLP output weight (W_out) per layer; {_no_mlp(model)}. "
            "Use a dense model"
        )


def need_sites(model: Any, *sites: str) -> None:
    """Refuse a model in which a site exists and yet is not run through. Tried once per model.

    Raises:
        ModelError: names the hook that does not fire.
    """
    if sites not in _FIRED.setdefault(model, set()):
        with uncounted(), torch.no_grad():
            _activations(model, _FEW, sites)
        _FIRED[model].add(sites)


def adds_up(model: Any, identity: Need) -> bool:
    """Does an identity hold? Measured once per model."""
    return _known(model).get(identity) is None


def _known(model: Any) -> "dict[Need, _Broken | None]":
    if model not in _FOUND:
        with uncounted():
            _FOUND[model] = _broken(model)
    return _FOUND[model]


def _refuse(name: Need, broken: _Broken | None, what: str = "effects") -> None:
    if broken is not None:
        raise ModelError(
            f"{what} need {IDENTITIES[name]}; in layer {broken.layer} of this model it is off by "
            f"{broken.gap:.1%}: {broken.cause}. Use a model whose sublayers write straight into "
            "the residual stream, such as Llama, Qwen or Mistral"
        )


def _broken(model: Any) -> dict[Need, _Broken | None]:
    # 16-bit weights round coarsely.
    allowed = 5e-2 if dtype_of(model) in (torch.float16, torch.bfloat16) else 1e-4
    found: dict[Need, _Broken | None] = {}
    for name, (left, right) in _sides(model, _FEW).items():
        gaps = [_gap(left[:, i], right[:, i]) for i in range(left.shape[1])]
        layer = gaps.index(max(gaps))
        off = _gap(left, right) > allowed
        cause = _cause(left[:, layer], right[:, layer], name, 10 * allowed) if off else ""
        found[name] = _Broken(layer, gaps[layer], cause) if off else None
    return found


@torch.no_grad()
def _sides(model: Any, length: int) -> dict[Need, _Sides]:
    sites = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "post")
    found = {site: value.cpu() for site, value in _activations(model, length, sites).items()}
    heads = _summed(found["z"], head_weights(model), _HEADS)
    sides: dict[Need, _Sides] = {
        "attention": (found["resid_pre"] + found["attn_out"], found["resid_mid"]),
        "mlp": (found["resid_mid"] + found["mlp_out"], found["resid_post"]),
        "heads": (heads + _bias(model, "attn", "b_O", heads), found["attn_out"]),
    }
    if model.cfg.d_mlp:
        neurons = _summed(found["post"], neuron_weights(model), _NEURONS)
        sides["neurons"] = (neurons + _bias(model, "mlp", "b_out", neurons), found["mlp_out"])
    return sides


def _activations(model: Model, length: int, sites: tuple[str, ...]) -> dict[str, Tensor]:
    return capture(model, some_tokens(model, length), dict.fromkeys(sites, whole))


def _summed(parts: Tensor, weights: Iterator[Tensor], pattern: str) -> Tensor:
    layers = [einsum(parts[:, i], weight, pattern) for i, weight in enumerate(weights)]
    return torch.stack(layers, dim=1)


def _check_parts(model: Any) -> None:
    """Refuse a model whose attention is not split by heads."""
    try:
        weights = [block.attn.W_O for block in model.blocks]
    except (AttributeError, ValueError, NotImplementedError):
        weights = []
    if not weights or not all(isinstance(weight, Tensor) for weight in weights):
        raise ModelError(
            "effects need an attention output weight (W_O) that is split by heads in every layer; "
            "this model has layers without one, such as state-space layers. Use a transformer with "
            "ordinary attention in every layer"
        )


def _no_mlp(model: Any) -> str:
    routed = {
        name.split(".")[1]
        for name in hooks_of(model)
        if name.startswith("blocks.") and ("expert" in name or "router" in name)
    }
    if not routed:
        return "this model has layers without an MLP that could be read as neurons"
    which = f"{len(routed)} of {model.cfg.n_layers} layers"
    return f"{which} of this model hold a mixture of experts, which has one per expert"


def _cause(left: Tensor, right: Tensor, name: Need, allowed: float) -> str:
    """What turns the left side of an identity into the right one, found by trying."""
    part = "attention" if name in ("attention", "heads") else "MLP"
    residual = name in ("attention", "mlp")
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

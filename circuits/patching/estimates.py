"""Methods of attribution: gradients, integrated, with corrected softmax, or by relevance.

Denoising takes gradients in the corrupt run, noising in the clean one. Either way a component's
score is the gradient times its clean minus its corrupt activation, summed over matched positions.

Integrated gradients: gradients averaged along the way between the two runs.

Sundararajan et al. (2017, arXiv 1703.01365), over inputs as in Hanna et al. (2024, arXiv
2403.17806), over activations as in Marks et al. (2024, arXiv 2403.19647). The way is cut into
equal steps and the gradient is taken at the middle of each (midpoint rule).

Effects of queries and keys through the softmax as it is, not through its slope (AtP*).

A saturated softmax has next to no gradient, so attribution patching misses queries and keys. The
fix of Kramár et al. (2024, arXiv 2403.00745, section 3.1.1): recompute the attention pattern with
the patched query or key, and take only what follows linearly,

    sum over keys of (patched pattern - pattern) * d readout / d pattern.

A query at one position changes its own row of the pattern. A key at position s changes one score
per row; with p = pattern[t, s], c the change of that score and g the gradient at the pattern, row
t contributes  p (e^c - 1) (g[s] - sum_u g[u] pattern[t, u]) / (1 - p + p e^c).

Rules for the backward pass by which relevance is handed on instead of a gradient.

Layer-wise relevance propagation as RelP uses it (Rezaei Jafari et al. 2025, arXiv 2508.21258).
Values stay as they are, only gradients change:

* a norm's scale is a constant, so a norm is a linear map (centring included);
* the attention pattern is a constant, so queries and keys get nothing and values everything;
* an activation function is the factor ``act(x) / x``, a constant (identity rule);
* a gated product gives half of its relevance to either factor (half rule).

With these rules the readout is, piece by piece, a linear function of what passes: where biases
are absent, the products of value and gradient at the residual stream sum to the same number, the
readout, after every sublayer (if the readout is linear too).

The attribution methods: how each gets from two runs to scores, and by how many passes.

Passes per pair, with L layers and S steps (forward, backward):

=================  =============  =========  ====================================================
``atp``            2              1          gradient times difference (Nanda 2023; Syed et al.
                                             2023, arXiv 2310.10348)
``atp*``           4              L + 1      queries and keys through the softmax, and GradDrop
                                             (Kramár et al. 2024, arXiv 2403.00745)
``relp``           2              1          relevance rules instead of the gradient (Rezaei Jafari
                                             et al. 2025, arXiv 2508.21258)
``ig-inputs``      2 + S          S          gradient averaged while the inputs change (Hanna et
                                             al. 2024, arXiv 2403.17806)
``ig-activations`` 2 + 2 L S      2 L S      gradient averaged while the activation itself changes
                                             (Marks et al. 2024, arXiv 2403.19647)
=================  =============  =========  ====================================================
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.models.families import need_neurons, need_sites, needs
from circuits.models.protocol import Hook, Model, device_of, dtype_of
from circuits.models.run import Trace, hook_name, observe, trace, trace_layers_dropped
from circuits.models.tokens import Tokens
from circuits.patching.pairs import Activations, CleanCorrupt

__all__ = ["METHODS", "Method", "Terms", "compared", "pair_terms", "relevance_rules"]

_KINDS = {
    "heads": "z",
    "neurons": "post",
    "attn": "attn_out",
    "mlp": "mlp_out",
    "queries": "q",
    "keys": "k",
    "values": "v",
}
"""What is scored -> the site of its activation."""

Terms = dict[str, Tensor]
"""Kind -> ``[pair place layer unit]``; sublayers have no unit, inputs no layer either."""


def compared(model: Model) -> Mapping[str, Sequence[int]]:
    """What is compared between the runs: site -> layers."""
    return dict.fromkeys(_KINDS.values(), range(model.cfg.n_layers)) | {"resid_pre": (0,)}


def _change(runs: CleanCorrupt, site: str, layer: int, base: Tensor) -> Tensor:
    return runs.change(runs.other_seen[0][site][layer], base)


def _moved(runs: CleanCorrupt, site: str, layer: int, base: Tensor) -> Tensor:
    """The base activation, with the other run's values where matched."""
    moved = base.clone()
    moved[:, -runs.width :] += _change(runs, site, layer, base).to(base.dtype)
    return moved


def _placed(
    runs: CleanCorrupt, terms: Float[Tensor, "pair pos *unit"]
) -> Float[Tensor, "pair place *unit"]:
    """Clean minus corrupt from other minus base, summed over each place's positions."""
    masks = runs.masks.to(terms.dtype)
    return runs.sign * einsum(terms, masks, "pair pos ..., pair place pos -> pair place ...")


def _per_layer(layers: Mapping[int, Tensor], term: Callable[[int], Tensor]) -> Tensor:
    """``[pair place layer ...]`` from one term per layer."""
    return torch.stack([term(layer) for layer in layers], dim=2)


def _terms(runs: CleanCorrupt, values: Activations, gradients: Activations) -> Terms:
    """Clean minus corrupt, times gradient, of everything that has a gradient."""

    def product(layer: int, site: str) -> Tensor:
        change = _change(runs, site, layer, values[site][layer])
        found = change * gradients[site][layer][:, -runs.width :]
        return _placed(runs, found if site == "post" else found.sum(-1))

    found = {
        kind: _per_layer(gradients[site], partial(product, site=site))
        for kind, site in _KINDS.items()
        if site in gradients
    }
    if "resid_pre" in gradients:
        found["inputs"] = product(0, "resid_pre")
    return found


# Integrated gradients.

_WAYS = {"z": ("z", "attn_out"), "post": ("post", "mlp_out")}
"""Site that is moved along its way -> sites whose gradients are read.

A sublayer's output is linear in what its heads or neurons hand it, so both go the same way.
"""

TOKENS_AT_ONCE = 8192


def _over_activations(runs: CleanCorrupt, base: Activations, steps: int) -> Activations:
    """Mean gradients at heads, neurons and sublayers while each site of a layer goes its own way.

    All heads of a layer move together, and all its neurons; what follows reacts, what comes
    before stays.

    Raises:
        ModelError: sublayers are not linear in their heads or neurons (:data:`_WAYS`).
    """
    needs(runs.model, "gradients integrated over activations", "heads", "neurons")
    found: dict[str, dict[int, Tensor]] = {}
    for moved, read in _WAYS.items():
        for layer in range(runs.model.cfg.n_layers):
            sites = dict.fromkeys(read, (layer,))
            own = _mean_gradients(runs, moved, layer, base[moved][layer], sites, steps)
            for site in read:
                found.setdefault(site, {})[layer] = own[site][layer]
    return found


def _mean_gradients(
    runs: CleanCorrupt,
    moved: str,
    layer: int,
    base: Tensor,
    sites: Mapping[str, Sequence[int]],
    steps: int,
) -> dict[str, dict[int, Tensor]]:
    n_pairs, width = runs.base.ids.shape
    apart = _moved(runs, moved, layer, base) - base
    total: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    at_once = max(1, TOKENS_AT_ONCE // (n_pairs * width))
    for first in range(0, steps, at_once):
        points = range(first, min(first + at_once, steps))
        shares = torch.tensor([(step + 0.5) / steps for step in points], dtype=base.dtype)
        shares = shares.to(base.device).reshape(-1, *[1] * base.ndim)
        rows = (base + shares * apart).flatten(0, 1).detach().requires_grad_()
        tokens = [x.repeat(len(points), 1) for x in (runs.base.ids, runs.base.mask)]
        found = trace(
            runs.model, Tokens(*tokens), sites, **runs.scored, hooks=[_put(moved, layer, rows)]
        ).gradients
        for site, own in found.items():
            for i, gradient in own.items():
                part = gradient.unflatten(0, (len(points), n_pairs)).sum(0) / steps
                total[site][i] = total[site][i] + part if i in total[site] else part
    return total


def _put(site: str, layer: int, value: Tensor) -> Hook:
    return hook_name(site, layer), lambda activation, hook: value


# Queries and keys through the softmax.


def _query_key_fix(
    runs: CleanCorrupt, base: Activations
) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """Scores of a layer's queries and keys from the gradient at its pattern; two passes.

    Args:
        runs: The pairs.
        base: Queries, keys, scores and patterns of the base run, all layers.

    Raises:
        ModelError: the pattern is not the softmax of the scores.
    """
    # Change of the pattern when the row's query is patched; and at a key when it is patched, over
    # one minus its old weight.
    by_query, by_key, patterns = dict[int, Tensor](), dict[int, Tensor](), dict[int, Tensor]()
    queries, keys = _patched_scores(runs, base, "q"), _patched_scores(runs, base, "k")
    for layer, pattern in base["pattern"].items():
        plain = _finite(base["scores"][layer])
        soft = plain.softmax(-1)
        gap = float(((soft - pattern) * runs.base.mask[:, None, :, None]).abs().max())
        if not gap <= 1e-2:  # NaN too
            raise ModelError(
                f"attention patterns of layer {layer} are not the softmax of their scores (they "
                f"differ by {gap:.2g}), so queries and keys cannot be patched through it; "
                "use method 'atp' or 'ig-activations'"
            )
        by_query[layer] = (_finite(queries[layer]).softmax(-1) - soft).to(pattern.dtype)
        # Scores apart by more than e^300 count as that.
        grown = soft * (_finite(keys[layer]) - plain).clamp(max=300.0).exp()
        by_key[layer] = ((grown - soft) / (1 - soft + grown).clamp_min(1e-300)).to(pattern.dtype)
        patterns[layer] = soft.to(pattern.dtype)
    groups, last = base["k"][0].shape[2], slice(-runs.width, None)

    def scores(gradient: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        own = (by_query[layer] * gradient).sum(-1)
        mean = (gradient * patterns[layer]).sum(-1, keepdim=True)
        seen = (by_key[layer] * (gradient - mean)).sum(2)  # of all rows that see the key
        seen = seen.unflatten(1, (groups, -1)).sum(2)
        by_own, by_seen = (x[..., last].transpose(1, 2) for x in (own, seen))
        return _placed(runs, by_own), _placed(runs, by_seen)

    return scores


def _patched_scores(runs: CleanCorrupt, base: Activations, site: str) -> Mapping[int, Tensor]:
    """The model's own attention scores with all its queries, or all its keys, patched.

    Queries and keys of every layer are put in place, so rotary embeddings, norms, scales and
    masks are the model's, at the base run's positions.
    """
    hooks = [
        _put(own, i, _moved(runs, own, i, value) if own == site else value)
        for own in ("q", "k")
        for i, value in base[own].items()
    ]
    sites = {"scores": range(runs.model.cfg.n_layers)}
    seen, _ = observe(runs.model, runs.base, sites, **runs.scored, hooks=hooks)
    return seen["scores"]


def _finite(scores: Tensor) -> Tensor:
    # Masked places may hold minus infinity, whose differences are no numbers.
    return scores.double().clamp_min(torch.finfo(torch.float32).min)


# Relevance.


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
        rules.append((hook_name("pattern", layer), lambda activation, hook: activation.detach()))
        factors = [hook_name(site, layer) for site in inner]
        rules += _rule(factors, hook_name("post", layer), _shared_out)
    return rules


def _rule(
    inputs: Sequence[str], output: str, path: Callable[[Tensor, Sequence[Tensor]], Tensor]
) -> list[Hook]:
    """Hooks by which an output keeps its value, and has the gradient of ``path`` of the inputs."""
    taken: dict[str, Tensor] = {}

    def take(activation: Tensor, hook: object, name: str) -> Tensor:
        taken[name] = activation
        return activation

    def give(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        found = path(activation, [taken.pop(name) for name in inputs])
        return activation.detach() + (found - found.detach())

    return [*((name, partial(take, name=name)) for name in inputs), (output, give)]


def _shared_out(output: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Every factor as far as ``output / factor`` is a constant; a zero carries nothing."""
    parts = []
    for factor in factors:
        held = factor.detach()
        ratio = output.detach() / held.masked_fill(held == 0, 1)
        parts.append(factor * ratio.masked_fill(held == 0, 0))
    return torch.stack(parts).sum(0) / len(parts)


def _norm(model: Model, name: str, norm: Any) -> list[Hook]:
    gain, centred = _gain(model, norm)

    def scaled(output: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        passed = x - x.mean(-1, keepdim=True) if centred else x
        square = passed.detach().to(gain.dtype).square().mean(-1, keepdim=True)
        return passed * (gain / (square + float(model.cfg.eps)).sqrt()).to(passed.dtype)

    return _rule([f"{name}.hook_in"], f"{name}.hook_out", scaled)


def _gain(model: Model, norm: Any) -> tuple[Float[Tensor, " d_model"], bool]:
    """What a norm multiplies by, however it keeps it, and whether it centres."""
    # A bridge wraps a norm of Hugging Face's; its own hooks must not see the probes.
    inner: Callable[[Tensor], Tensor] = getattr(norm, "original_component", norm)
    probe = torch.ones(int(model.cfg.d_model), device=device_of(model), dtype=dtype_of(model))
    probe[::2] = -2.0
    with torch.no_grad():
        # The half difference of both signs is free of the norm's bias.
        odd = (inner(probe[None]) - inner(-probe[None]))[0] / 2
        shifted = (inner(probe[None] + 3) - inner(-probe[None] - 3))[0] / 2
        centred = bool(torch.allclose(odd, shifted, rtol=1e-3, atol=1e-6))
        passed = probe - probe.mean() if centred else probe
        # In the type that norms compute in (float32 for models in half precision).
        size = (passed.square().mean() + float(model.cfg.eps)).sqrt()
    return (odd / (passed / size)).to(torch.promote_types(odd.dtype, torch.float32)), centred


# The methods.

Method = Literal["atp", "atp*", "relp", "ig-inputs", "ig-activations"]


METHODS: Final[dict[str, Callable[[int, int], tuple[int, int]]]] = {
    "atp": lambda layers, steps: (2, 1),
    "atp*": lambda layers, steps: (4, layers + 1),
    "relp": lambda layers, steps: (2, 1),
    "ig-inputs": lambda layers, steps: (2 + steps, steps),
    "ig-activations": lambda layers, steps: (2 + 2 * layers * steps, 2 * layers * steps),
}
"""Passes per pair from layers and steps: forward (that of the other run included), backward."""


def pair_terms(
    runs: CleanCorrupt, method: Method, steps: int
) -> tuple[Terms, Float[Tensor, " pair"]]:
    """Scores of every pair, and the base run's readout."""
    if method == "atp*":
        return _atp_star(runs)
    if method in ("atp", "relp"):
        rules = relevance_rules(runs.model) if method == "relp" else ()
        seen = trace(runs.model, runs.base, runs.sites, **runs.scored, hooks=rules)
        found = _terms(runs, seen.values, seen.gradients)
        if method == "relp":
            # The pattern is a constant: queries and keys have no relevance at all.
            del found["queries"], found["keys"]
        return found, seen.readout
    base, value = observe(runs.model, runs.base, runs.sites, **runs.scored)
    if method == "ig-inputs":
        # At all sites while the first residual stream goes from base to other run.
        start = base["resid_pre"][0]
        gradients: Activations = _mean_gradients(runs, "resid_pre", 0, start, runs.sites, steps)
    else:
        gradients = _over_activations(runs, base, steps)
    return _terms(runs, base, gradients), value


def _atp_star(runs: CleanCorrupt) -> tuple[Terms, Tensor]:
    """AtP with the fix of queries and keys, and GradDrop.

    GradDrop (section 3.1.2) guards against direct and indirect effects that cancel in the
    gradient: with the gradient through layer l dropped, a score is I_l, and the size of the score
    is  1 / (L - 1) * sum over layers l of |I_l|  (a component's own layer contributes nothing).
    The paper averages sizes over prompts; here every pair's size gets the sign of the score with
    no layer dropped, and the signed scores are averaged, so that effects of opposite sign in
    different contexts cancel as they do in exact patching. A component is the same part at all
    positions of a place, as in the patching that the score estimates.
    """
    layers = range(runs.model.cfg.n_layers)
    sites = {**runs.sites, "pattern": layers, "scores": layers}
    traces = trace_layers_dropped(runs.model, runs.base, sites, **runs.scored)
    whole = next(traces)
    fix = _query_key_fix(runs, whole.values)

    def fixed(found: Trace) -> Terms:
        slopes = found.gradients["pattern"]
        both = {i: fix(slopes[i], i) for i in layers}
        return _terms(runs, found.values, found.gradients) | {
            "queries": _per_layer(slopes, lambda i: both[i][0]),
            "keys": _per_layer(slopes, lambda i: both[i][1]),
        }

    signed = fixed(whole)
    size = {kind: torch.zeros_like(own) for kind, own in signed.items()}
    for dropped in traces:
        for kind, term in fixed(dropped).items():
            size[kind] += term.abs() / (len(layers) - 1)
    return {kind: own.sign() * size[kind] for kind, own in signed.items()}, whole.readout

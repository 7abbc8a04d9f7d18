"""Methods of attribution: gradients, integrated, with corrected softmax, or by relevance.

What an attribution stands on: the run whose gradients are taken, and the run compared with it.

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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DataError, ModelError
from circuits.models.families import need_neurons, need_sites, needs
from circuits.models.protocol import Hook, Model, device_of, dtype_of
from circuits.models.run import Trace, observe, trace, trace_layers_dropped
from circuits.models.tokens import Tokens
from circuits.names import hook
from circuits.patching.pairs import (
    LogitDifference,
    Mode,
    Pair,
    Places,
    Projection,
    clean_tokens,
    corrupt_tokens,
)

__all__ = [
    "KINDS",
    "METHODS",
    "Method",
    "MethodPasses",
    "PAIRS_AT_ONCE",
    "PATHS",
    "QueryKeyFix",
    "SITES",
    "Sides",
    "Terms",
    "chunks",
    "over_activations",
    "over_inputs",
    "pair_terms",
    "per_layer",
    "picked",
    "query_key_fix",
    "refuse_equal_inputs",
    "relevance_rules",
    "sides",
    "terms",
]

PAIRS_AT_ONCE = 8

KINDS = {
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

Activations = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True, eq=False)
class Sides:
    """Some pairs' runs, padded on the left, so that matched tokens stand under each other."""

    model: Model
    readout: Projection | LogitDifference
    base: Tokens
    """The run whose gradients are taken."""
    source: Activations
    """The other run's activations, at the last :attr:`width` positions."""
    source_readout: Float[Tensor, " pair"]
    masks: Bool[Tensor, "pair place pos"]
    """Matched positions of each place, among the last :attr:`width`."""
    sign: float
    """1 in denoising, where the other run is the clean one; -1 in noising."""

    @property
    def width(self) -> int:
        """Matched positions of the widest pair."""
        return self.masks.shape[-1]

    @property
    def matched(self) -> Bool[Tensor, "pair pos"]:
        """Positions with a counterpart."""
        return self.masks[:, 0]

    def change(self, site: str, layer: int, base: Tensor) -> Tensor:
        """Other run minus base run at the matched positions, zero where there is no counterpart."""
        apart = self.source[site][layer] - base[:, -self.width :]
        return apart * self.matched.reshape(*self.matched.shape, *[1] * (apart.ndim - 2))

    def moved(self, site: str, layer: int, base: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """The base activation with a share of the way to the other run gone, where matched."""
        moved = base.clone()
        moved[:, -self.width :] += share * self.change(site, layer, base).to(base.dtype)
        return moved

    def placed(self, terms: Float[Tensor, "pair pos *unit"]) -> Float[Tensor, "pair place *unit"]:
        """Sums of each place's positions."""
        masks = self.masks.to(terms.dtype)
        return einsum(terms, masks, "pair pos ..., pair place pos -> pair place ...")


def sides(
    model: Model,
    pairs: Sequence[Pair],
    places: Places,
    readout: Projection | LogitDifference,
    mode: Mode,
    sites: Mapping[str, Sequence[int]],
) -> Sides:
    """Run the other side of some pairs once and keep what is compared with it.

    The first place must be all matched positions.
    """
    clean, corrupt = clean_tokens(model, pairs), corrupt_tokens(model, pairs)
    base, other = (corrupt, clean) if mode == "denoising" else (clean, corrupt)
    width = places.masks.shape[-1]
    seen, value = observe(model, other, sites, readout.score, at=readout.site)
    kept = {site: {i: x[:, -width:] for i, x in own.items()} for site, own in seen.items()}
    sign = 1.0 if mode == "denoising" else -1.0
    return Sides(model, readout, base, kept, value, places.masks.to(base.ids.device), sign)


def terms(side: Sides, values: Activations, gradients: Activations) -> Terms:
    """Clean minus corrupt, times gradient, of everything that has a gradient."""
    found: Terms = {}
    for kind, site in KINDS.items():
        if site in gradients:
            found[kind] = per_layer(
                gradients[site],
                lambda i, site=site: product(side, site, i, values[site][i], gradients[site][i]),
            )
    if "resid_pre" in gradients:
        found["inputs"] = product(
            side, "resid_pre", 0, values["resid_pre"][0], gradients["resid_pre"][0]
        )
    return found


def product(side: Sides, site: str, layer: int, base: Tensor, gradient: Tensor) -> Tensor:
    """One site's terms, ``[pair place unit]``, or ``[pair place]`` where it is one vector."""
    found = side.change(site, layer, base) * gradient[:, -side.width :]
    return side.sign * side.placed(found if site == "post" else found.sum(-1))


def per_layer(layers: Mapping[int, Tensor], term: Callable[[int], Tensor]) -> Tensor:
    """``[pair place layer ...]`` from one term per layer."""
    return torch.stack([term(layer) for layer in layers], dim=2)


def picked(pairs: Sequence[Pair], places: Places, chosen: Sequence[int]) -> Places:
    """The places of some of the pairs."""
    width = max(pairs[place].matched for place in chosen)
    return Places(places.names, places.masks[list(chosen), :, -width:])


PATHS = {"z": ("z", "attn_out"), "post": ("post", "mlp_out")}
"""Site that is moved along its way -> sites whose gradients are read.

A sublayer's output is linear in what its heads or neurons hand it, so both go the same way.
"""

TOKENS_AT_ONCE = 8192


def over_inputs(side: Sides, base: Activations, steps: int) -> Activations:
    """Mean gradients at all sites while the first residual stream goes from base to other run."""
    layers = range(side.model.cfg.n_layers)
    sites = {site: layers for site in base if site != "resid_pre"} | {"resid_pre": (0,)}
    return _mean_gradients(side, "resid_pre", 0, base["resid_pre"][0], sites, steps)


def over_activations(side: Sides, base: Activations, steps: int) -> Activations:
    """Mean gradients at heads, neurons and sublayers while each site of a layer goes its own way.

    All heads of a layer move together, and all its neurons; what follows reacts, what comes
    before stays.

    Raises:
        ModelError: sublayers are not linear in their heads or neurons (:data:`PATHS`).
    """
    needs(side.model, "gradients integrated over activations", "heads", "neurons")
    found: dict[str, dict[int, Tensor]] = {}
    for moved, read in PATHS.items():
        for layer in range(side.model.cfg.n_layers):
            sites = dict.fromkeys(read, (layer,))
            own = _mean_gradients(side, moved, layer, base[moved][layer], sites, steps)
            for site in read:
                found.setdefault(site, {})[layer] = own[site][layer]
    return found


def chunks(n_pairs: int, width: int, steps: int) -> Iterator[range]:
    """Steps that are run side by side."""
    at_once = max(1, TOKENS_AT_ONCE // (n_pairs * width))
    for first in range(0, steps, at_once):
        yield range(first, min(first + at_once, steps))


def refuse_equal_inputs(pairs: Sequence[Pair]) -> None:
    """Refuse pairs between whose inputs there is no way to go.

    Raises:
        DataError: all matched tokens of a pair are the same.
    """
    for pair in pairs:
        if pair.clean.ids[-pair.matched :] == pair.corrupt.ids[-pair.matched :]:
            other = pair.other or "neutral"
            raise DataError(
                f"method 'ig-inputs' moves the inputs of matched tokens, and those of context "
                f"{pair.context.id} ({pair.emotion} against {other}) are the same in both prompts; "
                "compare two emotions, or use 'ig-activations'"
            )


def _mean_gradients(
    side: Sides,
    moved: str,
    layer: int,
    base: Tensor,
    sites: Mapping[str, Sequence[int]],
    steps: int,
) -> dict[str, dict[int, Tensor]]:
    n_pairs, width = side.base.ids.shape
    target = side.moved(moved, layer, base)
    total: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    for chunk in chunks(n_pairs, width, steps):
        shares = torch.tensor([(step + 0.5) / steps for step in chunk], dtype=base.dtype)
        shares = shares.to(base.device).reshape(-1, *[1] * base.ndim)
        rows = (base + shares * (target - base)).flatten(0, 1)
        tokens = Tokens(side.base.ids.repeat(len(chunk), 1), side.base.mask.repeat(len(chunk), 1))
        found = trace(
            side.model,
            tokens,
            sites,
            side.readout.score,
            at=side.readout.site,
            hooks=[_put(moved, layer, rows)],
        ).gradients
        for site, own in found.items():
            for i, gradient in own.items():
                part = gradient.unflatten(0, (len(chunk), n_pairs)).sum(0) / steps
                total[site][i] = total[site][i] + part if i in total[site] else part
    return total


def _put(site: str, layer: int, rows: Tensor) -> Hook:
    def put(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        return rows.detach().requires_grad_()

    return hook(site, layer), put


@dataclass(frozen=True, eq=False)
class QueryKeyFix:
    """What patched queries and keys change in each layer's pattern, ready for any gradient."""

    side: Sides
    pattern: Mapping[int, Float[Tensor, "pair head query key"]]
    by_query: Mapping[int, Float[Tensor, "pair head query key"]]
    """Change of the pattern when the row's query is patched."""
    by_key: Mapping[int, Float[Tensor, "pair head query key"]]
    """Change of the pattern at a key when it is patched, over one minus its old weight."""
    groups: int

    def scores(
        self, gradient: Float[Tensor, "pair head query key"], layer: int
    ) -> tuple[Float[Tensor, "pair place head"], Float[Tensor, "pair place group"]]:
        """Of one layer's queries and keys, given the gradient at its pattern."""
        queries = (self.by_query[layer] * gradient).sum(-1)
        mean = (gradient * self.pattern[layer]).sum(-1, keepdim=True)
        keys = (self.by_key[layer] * (gradient - mean)).sum(2)  # of all rows that see the key
        keys = keys.unflatten(1, (self.groups, -1)).sum(2)
        return self._placed(queries), self._placed(keys)

    def _placed(self, found: Float[Tensor, "pair unit pos"]) -> Float[Tensor, "pair place unit"]:
        last = found[..., -self.side.width :].transpose(1, 2)
        return self.side.sign * self.side.placed(last)


def query_key_fix(side: Sides, base: Activations) -> QueryKeyFix:
    """The fix of some pairs; two forward passes.

    Args:
        side: The pairs' runs.
        base: Queries, keys, scores and patterns of the base run, all layers.

    Raises:
        ModelError: the pattern is not the softmax of the scores.
    """
    by_query, by_key, patterns = {}, {}, {}
    queries, keys = _patched_scores(side, base, "q"), _patched_scores(side, base, "k")
    for layer, pattern in base["pattern"].items():
        scores = _finite(base["scores"][layer])
        soft = scores.softmax(-1)
        _check(side, soft, pattern, layer)
        by_query[layer] = (_finite(queries[layer]).softmax(-1) - soft).to(pattern.dtype)
        # Scores apart by more than e^300 count as that.
        grown = soft * (_finite(keys[layer]) - scores).clamp(max=300.0).exp()
        by_key[layer] = ((grown - soft) / (1 - soft + grown).clamp_min(1e-300)).to(pattern.dtype)
        patterns[layer] = soft.to(pattern.dtype)
    return QueryKeyFix(side, patterns, by_query, by_key, base["k"][0].shape[2])


def _patched_scores(side: Sides, base: Activations, site: str) -> Mapping[int, Tensor]:
    """The model's own attention scores with all its queries, or all its keys, patched.

    Queries and keys of every layer are put in place, so rotary embeddings, norms, scales and
    masks are the model's, at the base run's positions.
    """
    layers, hooks = range(side.model.cfg.n_layers), []
    for own in ("q", "k"):
        for i in layers:
            value = base[own][i]
            hooks.append(_put_fixed(own, i, side.moved(own, i, value) if own == site else value))
    readout = side.readout
    seen, _ = observe(
        side.model, side.base, {"scores": layers}, readout.score, at=readout.site, hooks=hooks
    )
    return seen["scores"]


def _finite(scores: Tensor) -> Tensor:
    # Masked places may hold minus infinity, whose differences are no numbers.
    return scores.double().clamp_min(torch.finfo(torch.float32).min)


def _put_fixed(site: str, layer: int, value: Tensor) -> Hook:
    def put(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        return value

    return hook(site, layer), put


def _check(side: Sides, softmax: Tensor, pattern: Tensor, layer: int) -> None:
    gap = float(((softmax - pattern) * side.base.mask[:, None, :, None]).abs().max())
    if not gap <= 1e-2:  # NaN too
        raise ModelError(
            f"attention patterns of layer {layer} are not the softmax of their scores (they differ "
            f"by {gap:.2g}), so queries and keys cannot be patched through it; "
            "use method 'atp' or 'ig-activations'"
        )


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


Method = Literal["atp", "atp*", "relp", "ig-inputs", "ig-activations"]

SITES: Final = tuple(KINDS.values())
"""Sites that are compared between the runs, in all layers."""


@dataclass(frozen=True)
class MethodPasses:
    """How many passes a method makes per pair, from the layers and the steps."""

    passes: Callable[[int, int], tuple[int, int]]
    """Forward (that of the other run included) and backward."""
    stepwise: bool = False


METHODS: Final[dict[str, MethodPasses]] = {
    "atp": MethodPasses(lambda layers, steps: (2, 1)),
    "atp*": MethodPasses(lambda layers, steps: (4, layers + 1)),
    "relp": MethodPasses(lambda layers, steps: (2, 1)),
    "ig-inputs": MethodPasses(lambda layers, steps: (2 + steps, steps), stepwise=True),
    "ig-activations": MethodPasses(
        lambda layers, steps: (2 + 2 * layers * steps, 2 * layers * steps), stepwise=True
    ),
}

_Found = tuple[Terms, Float[Tensor, " pair"]]


def pair_terms(side: Sides, method: Method, steps: int) -> _Found:
    """Scores of every pair, and the base run's readout."""
    if method == "atp":
        return _of(side, _trace(side))
    if method == "atp*":
        return _atp_star(side)
    if method == "relp":
        found, base = _of(side, _trace(side, relevance=True))
        # The pattern is a constant: queries and keys have no relevance at all.
        return {kind: own for kind, own in found.items() if kind not in ("queries", "keys")}, base
    readout = side.readout
    base, value = observe(side.model, side.base, _sites(side), readout.score, at=readout.site)
    integrate = over_inputs if method == "ig-inputs" else over_activations
    return terms(side, base, integrate(side, base, steps)), value


def _sites(side: Sides) -> dict[str, range | tuple[int, ...]]:
    layers = range(side.model.cfg.n_layers)
    return dict.fromkeys(SITES, layers) | {"resid_pre": (0,)}


def _trace(side: Sides, *, relevance: bool = False) -> Trace:
    return trace(
        side.model,
        side.base,
        _sites(side),
        side.readout.score,
        at=side.readout.site,
        hooks=relevance_rules(side.model) if relevance else (),
    )


def _of(side: Sides, found: Trace) -> _Found:
    return terms(side, found.values, found.gradients), found.readout


def _atp_star(side: Sides) -> _Found:
    """AtP with the fix of queries and keys, and GradDrop.

    GradDrop (section 3.1.2) guards against direct and indirect effects that cancel in the
    gradient: with the gradient through layer l dropped, a score is I_l, and the size of the score
    is  1 / (L - 1) * sum over layers l of |I_l|  (a component's own layer contributes nothing).
    The paper averages sizes over prompts; here every pair's size gets the sign of the score with
    no layer dropped, and the signed scores are averaged, so that effects of opposite sign in
    different contexts cancel as they do in exact patching. A component is the same part at all
    positions of a place, as in the patching that the score estimates.
    """
    layers = range(side.model.cfg.n_layers)
    sites = _sites(side) | {"pattern": layers, "scores": layers}
    readout = side.readout
    traces = trace_layers_dropped(side.model, side.base, sites, readout.score, at=readout.site)
    whole = next(traces)
    fix = query_key_fix(side, whole.values)

    def fixed(found: Trace) -> Terms:
        own = terms(side, found.values, found.gradients)
        slopes = found.gradients["pattern"]
        both = {i: fix.scores(slopes[i], i) for i in layers}
        own["queries"] = per_layer(slopes, lambda i: both[i][0])
        own["keys"] = per_layer(slopes, lambda i: both[i][1])
        return own

    signed = fixed(whole)
    size = {kind: torch.zeros_like(own) for kind, own in signed.items()}
    for dropped in traces:
        for kind, own in fixed(dropped).items():
            size[kind] += own.abs() / (len(layers) - 1)
    return {kind: own.sign() * size[kind] for kind, own in signed.items()}, whole.readout

"""Attribution patching: effects of all components at once, estimated from gradients.

Every score estimates what exact patching of the component at all matched positions would measure.
It is a gradient times the clean minus the corrupt activation, summed over matched positions.
Passes per pair, with L layers and S steps (forward, backward):

=================  =============  =========  ====================================================
``atp``            2              1          gradient of the base run (Nanda 2023; Syed et al.
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

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) cut the way between the two runs
into equal steps and take the gradient at the middle of each.

AtP*. A saturated softmax has next to no gradient, so queries and keys go through it as it is: the
pattern is recomputed with the patched query or key, and the score is the sum over keys of (patched
pattern - pattern) * gradient at the pattern. A query at one position changes its own row. A key at
position s changes one score per row; with p = pattern[t, s], c the change of that score and g the
gradient at the pattern, row t contributes  p (e^c - 1) (g[s] - sum_u g[u] pattern[t, u]) / (1 - p +
p e^c). GradDrop guards against direct and indirect effects that cancel in the gradient: with the
gradient through layer l dropped a score is I_l, and its size is  1 / (L - 1) * sum over l of |I_l|.
The paper averages sizes over prompts; here every pair's size gets the sign of the score with no
layer dropped, so that effects of opposite sign in different contexts cancel as they do in patching.

RelP. Values stay as they are, only gradients change: a norm's scale is a constant, so is the
attention pattern, an activation function is the constant factor ``act(x) / x``, and a gated product
gives half of its relevance to either factor. So where biases are absent and the readout is linear,
value times gradient at the residual stream sums to the readout after every sublayer.

What was missed (:func:`budgeted`), after the subset diagnostic of Kramár et al. (section 3.2): the
components that were not patched are split at random into two halves, each is patched at once, and
the difference D of both effects is taken, many times. If effects add, D is the sum of all effects
with random signs, and for one of the two signs of the largest effect, of size m, |D| is at least m.
So |D| >= m with probability 1/2 or more, and m is at most the j-th largest of n values of |D|, with
confidence 1 - P(Binomial(n, 1/2) < j). Effects that cancel in sum are no problem. Where effects do
not add the bound may fail; that they add shows in both halves' effects, whose sum is always the
same then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float
from scipy.stats import binom, rankdata
from torch import Tensor

from circuits.errors import AxisError, DataError, ModelError
from circuits.models.families import key_value_groups, need_neurons, need_sites, needs
from circuits.models.protocol import Hook, Model, device_of, dtype_of
from circuits.models.run import Trace, hook_name, observe, trace, trace_layers_dropped
from circuits.models.tokens import Tokens
from circuits.names import SUBLAYERS, component, head_name, neuron_name
from circuits.patching.pairs import (
    Activations,
    By,
    CleanCorrupt,
    Mode,
    Readout,
    last_readout,
    mean_stderr,
    over_contexts,
)
from circuits.patching.patch import patch_components
from circuits.records import Record
from circuits.running import in_force

__all__ = [
    "METHODS",
    "Missed",
    "NodeScores",
    "VerifiedScores",
    "attribute",
    "budgeted",
    "missed",
    "relevance_rules",
]

Method = Literal["atp", "atp*", "relp", "ig-inputs", "ig-activations"]

METHODS: Final[dict[str, Callable[[int, int], tuple[int, int]]]] = {
    "atp": lambda layers, steps: (2, 1),
    "atp*": lambda layers, steps: (4, layers + 1),
    "relp": lambda layers, steps: (2, 1),
    "ig-inputs": lambda layers, steps: (2 + steps, steps),
    "ig-activations": lambda layers, steps: (2 + 2 * layers * steps, 2 * layers * steps),
}
"""Passes per pair from layers and steps: forward (that of the other run included), backward."""

TOKENS_AT_ONCE = 8192

Agreement = Mapping[str, Mapping[str, float | int | None]]
"""``head`` and ``neuron`` -> ``spearman`` (rank correlation; ``None`` where it is undefined),
``sign`` (share of equal signs), ``top`` (share of the quarter with the largest exact effects that
is among the quarter with the largest estimates) and ``sampled`` (how many)."""


@dataclass(frozen=True, eq=False)
class NodeScores(Record):
    """Estimated effects of components, averaged over contexts, with standard errors.

    Effect: readout with the clean value minus readout with the corrupt one, at the positions of a
    place; positive pushes towards the emotion. Unit: that of the readout. The first place is
    ``all``, all matched positions. NaN: the method has no score of this kind (queries and keys by
    ``relp``; queries, keys, values and inputs by ``ig-activations``), or, for a standard error,
    there is one context only.
    """

    heads: Float[Tensor, "place layer head"]
    """Of what a head hands to the output matrix (``z``)."""
    heads_stderr: Float[Tensor, "place layer head"]
    neurons: Float[Tensor, "place layer neuron"]
    neurons_stderr: Float[Tensor, "place layer neuron"]
    sublayers: Float[Tensor, "place layer sublayer"]
    sublayers_stderr: Float[Tensor, "place layer sublayer"]
    queries: Float[Tensor, "place layer head"]
    queries_stderr: Float[Tensor, "place layer head"]
    keys: Float[Tensor, "place layer group"]
    keys_stderr: Float[Tensor, "place layer group"]
    values: Float[Tensor, "place layer group"]
    values_stderr: Float[Tensor, "place layer group"]
    inputs: Float[Tensor, " place"]
    """Of the residual stream before layer 0."""
    inputs_stderr: Float[Tensor, " place"]
    gap: Float[Tensor, " run"]
    """Readout of the clean and of the corrupt run, averaged over contexts."""
    sampled: Float[Tensor, " component"]
    """Scores of the sampled components."""
    exact: Float[Tensor, " component"]
    """Effects of the sampled components by exact patching."""

    place: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    group: tuple[int, ...]
    """Key-value groups."""
    sublayer: tuple[str, ...]
    run: tuple[str, ...]
    component: tuple[str, ...]
    """A random sample of heads and neurons."""
    agreement: Agreement
    """Of :attr:`sampled` and :attr:`exact`."""
    emotion: str
    other: str
    method: str
    mode: str
    readout: str
    steps: int
    """Of integrated gradients; 0 for other methods."""
    n_contexts: int
    forwards: int
    """Forward passes per pair, without those of exact patching."""
    backwards: int


def attribute(
    pairs: CleanCorrupt,
    readout: Readout,
    method: Method = "atp",
    *,
    mode: Mode = "denoising",
    by: By = "all",
    steps: int = 10,
    sample: int = 24,
) -> NodeScores:
    """Score heads, neurons, sublayers, queries, keys and values.

    Args:
        pairs: Clean and corrupt prompts of one contrast, one pair per context.
        readout: What the runs are judged by: a projection or a logit difference.
        method: See the module's text.
        mode: Gradients of the corrupt run (denoising) or of the clean one (noising).
        by: Scores by place as well, beside those of all matched positions.
        steps: Steps of integrated gradients; other methods have none.
        sample: How many heads, and how many neurons, are patched exactly to see how far the
            scores can be trusted; all there are, if fewer. Drawn by the seed in force.

    Raises:
        AxisError: the method is unknown, or cannot use the readout.
        DataError: there are no pairs, they are of different contrasts, fewer than one step or
            two sampled components are asked for, or ``ig-inputs`` is given equal inputs.
        ModelError: the model has no such parts, or one layer only (``atp*``).
    """
    model, integrated = pairs.model, method.startswith("ig-")
    if method not in METHODS:
        raise AxisError(
            f"no attribution method is called {method!r}; methods are {', '.join(METHODS)}"
        )
    last_readout(readout, f"method {method!r}")
    if integrated and steps < 1:
        raise DataError(f"method {method!r} needs one step or more, found {steps}")
    if sample < 2:
        raise DataError(f"agreement needs two sampled components or more, found {sample}")
    if method == "atp*" and model.cfg.n_layers < 2:
        raise ModelError("method 'atp*' drops layers and needs two or more; use 'atp'")
    if method == "ig-inputs":
        pairs.refuse_equal_inputs(method)
    places = pairs.positions("all") + (() if by == "all" else pairs.positions(by))

    def work(runs: CleanCorrupt) -> dict[str, Tensor]:
        found, base = _pair_terms(runs, method, steps)
        heads, groups = found["heads"], key_value_groups(model)
        sizes = {"queries": heads.shape, "inputs": heads.shape[:2]}
        sizes |= dict.fromkeys(("keys", "values"), torch.Size((*heads.shape[:3], groups)))
        none = {kind: heads.new_full(size, torch.nan) for kind, size in sizes.items()}
        return {"gap": runs.ends(base, runs.other_seen[1]), **none, **found}

    sites = dict.fromkeys(_SITES.values(), range(model.cfg.n_layers)) | {"resid_pre": (0,)}
    found = over_contexts(pairs.batches(work, readout, mode, sites, places, finite="gap"))
    del found["gap_stderr"]
    names = sampled_components(model, sample)
    sampled = torch.stack([found[table][0, layer, i] for table, layer, i in map(_where, names)])
    exact = patch_components(pairs, readout, names, mode=mode).mean(0)
    forwards, backwards = METHODS[method](model.cfg.n_layers, steps)
    axes = {"head": "heads", "neuron": "neurons", "group": "keys"}
    return NodeScores(
        **found,
        **{axis: tuple(range(found[table].shape[-1])) for axis, table in axes.items()},
        layer=tuple(range(model.cfg.n_layers)),
        sublayer=SUBLAYERS,
        run=("clean", "corrupt"),
        sampled=sampled,
        exact=exact,
        place=places,
        component=names,
        agreement=agreement(names, sampled, exact),
        **pairs.described(readout, mode),
        method=method,
        steps=steps if integrated else 0,
        forwards=forwards,
        backwards=backwards,
    )


def sampled_components(model: Model, per_kind: int) -> tuple[str, ...]:
    """Names of random heads and random neurons, of every layer as many, give or take one.

    The seed is that in force: :func:`~circuits.running.execution`.
    """
    random = torch.Generator().manual_seed(in_force().seed)
    cfg, names = model.cfg, []

    def shuffled(count: int) -> list[int]:
        return torch.randperm(count, generator=random).tolist()

    for units, name in ((cfg.n_heads, head_name), (cfg.d_mlp, neuron_name)):
        orders = {layer: shuffled(units) for layer in shuffled(cfg.n_layers)}
        # The first of every layer, then the second of every layer, and so on.
        turns = [(layer, own[turn]) for turn in range(units) for layer, own in orders.items()]
        names += [name(layer, unit) for layer, unit in sorted(turns[:per_kind])]
    return tuple(names)


def _where(name: str) -> tuple[str, int, int]:
    """Table, layer and index of a head or neuron."""
    own = component(name)
    return f"{own.kind}s", own.layer or 0, own.index or 0


def agreement(
    names: Sequence[str], estimate: Float[Tensor, " component"], exact: Float[Tensor, " component"]
) -> Agreement:
    """Measures of agreement, of heads and of neurons by themselves."""
    kinds, found = [component(name).kind for name in names], {}
    for kind in dict.fromkeys(kinds):
        own = torch.tensor([other == kind for other in kinds])
        found[kind] = rank_agreement(estimate[own].double(), exact[own].double())
    return found


def rank_agreement(estimate: Tensor, exact: Tensor) -> dict[str, float | int | None]:
    """The measures of :data:`Agreement`, over all components."""
    n = len(exact)
    quarter = max(1, n // 4)
    tops = [set(values.abs().topk(quarter).indices.tolist()) for values in (estimate, exact)]
    ranks = (torch.from_numpy(rankdata(values.numpy())) for values in (estimate, exact))
    a, b = (own - own.mean() for own in ranks)
    size = float(a.norm() * b.norm())
    return {
        "spearman": float(a @ b) / size if size > 0 else None,
        "sign": float((estimate.sign() == exact.sign()).double().mean()),
        "top": len(tops[0] & tops[1]) / quarter,
        "sampled": n,
    }


# The methods.

_SITES = {
    "heads": "z",
    "neurons": "post",
    "attn": "attn_out",
    "mlp": "mlp_out",
    "queries": "q",
    "keys": "k",
    "values": "v",
}
"""What is scored -> the site of its activation."""

_Terms = dict[str, Tensor]
"""Kind -> ``[pair place layer unit]``; inputs have neither layer nor unit."""


def _pair_terms(
    runs: CleanCorrupt, method: Method, steps: int
) -> tuple[_Terms, Float[Tensor, " pair"]]:
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
        return _terms(runs, base, gradients), value
    needs(runs.model, "gradients integrated over activations", "heads", "neurons")
    own: dict[str, dict[int, Tensor]] = {}
    # All heads of a layer move together, and all its neurons; what follows reacts, what comes
    # before stays. A sublayer's output is linear in what these hand it, so both go the same way.
    for moved, read in {"z": ("z", "attn_out"), "post": ("post", "mlp_out")}.items():
        for layer, start in base[moved].items():
            sites = dict.fromkeys(read, (layer,))
            for site, of in _mean_gradients(runs, moved, layer, start, sites, steps).items():
                own.setdefault(site, {}).update(of)
    return _terms(runs, base, own), value


def _terms(runs: CleanCorrupt, values: Activations, gradients: Activations) -> _Terms:
    """Clean minus corrupt, times gradient, of everything that has a gradient."""

    def product(site: str, layer: int) -> Tensor:
        change = runs.change(runs.other_seen[0][site][layer], values[site][layer])
        found = change * gradients[site][layer][:, -runs.width :]
        return _placed(runs, found if site == "post" else found.sum(-1))

    found = {
        kind: torch.stack([product(site, layer) for layer in gradients[site]], dim=2)
        for kind, site in _SITES.items()
        if site in gradients
    }
    found["sublayers"] = torch.stack([found.pop(kind) for kind in SUBLAYERS], dim=3)
    return found | ({"inputs": product("resid_pre", 0)} if "resid_pre" in gradients else {})


def _placed(
    runs: CleanCorrupt, terms: Float[Tensor, "pair pos *unit"]
) -> Float[Tensor, "pair place *unit"]:
    """Clean minus corrupt from other minus base, summed over each place's positions."""
    masks = runs.masks.to(terms.dtype)
    return runs.sign * einsum(terms, masks, "pair pos ..., pair place pos -> pair place ...")


def _moved(runs: CleanCorrupt, site: str, layer: int, base: Tensor) -> Tensor:
    """The base activation, with the other run's values where matched."""
    moved = base.clone()
    moved[:, -runs.width :] += runs.change(runs.other_seen[0][site][layer], base).to(base.dtype)
    return moved


def _put(site: str, layer: int, value: Tensor) -> Hook:
    return hook_name(site, layer), lambda activation, hook: value


def _mean_gradients(
    runs: CleanCorrupt,
    moved: str,
    layer: int,
    base: Tensor,
    sites: Mapping[str, Sequence[int]],
    steps: int,
) -> dict[str, dict[int, Tensor]]:
    """Mean gradients at ``sites`` while one site of a layer goes from base to other run."""
    n_pairs, width = runs.base.ids.shape
    apart = _moved(runs, moved, layer, base) - base
    total: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    shares = ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps).to(base)
    for own in shares.split(max(1, TOKENS_AT_ONCE // (n_pairs * width))):
        rows = (base + own.reshape(-1, *[1] * base.ndim) * apart).flatten(0, 1)
        hooks = [_put(moved, layer, rows.detach().requires_grad_())]
        tokens = Tokens(*(x.repeat(len(own), 1) for x in (runs.base.ids, runs.base.mask)))
        found = trace(runs.model, tokens, sites, **runs.scored, hooks=hooks).gradients
        for site, layers in found.items():
            for i, gradient in layers.items():
                part = gradient.unflatten(0, (len(own), n_pairs)).sum(0) / steps
                total[site][i] = total[site][i] + part if i in total[site] else part
    return total


def _atp_star(runs: CleanCorrupt) -> tuple[_Terms, Tensor]:
    """AtP with queries and keys through the softmax, and GradDrop."""
    layers = range(runs.model.cfg.n_layers)
    sites = {**runs.sites, "pattern": layers, "scores": layers}
    traces = trace_layers_dropped(runs.model, runs.base, sites, **runs.scored)
    whole = next(traces)
    through_softmax = _query_key_fix(runs, whole.values)

    def fixed(found: Trace) -> _Terms:
        both = [through_softmax(found.gradients["pattern"][layer], layer) for layer in layers]
        queries, keys = (torch.stack(own, dim=2) for own in zip(*both, strict=True))
        terms = _terms(runs, found.values, found.gradients)
        return terms | {"queries": queries, "keys": keys}

    signed = fixed(whole)
    size = {kind: torch.zeros_like(own) for kind, own in signed.items()}
    for dropped in traces:
        for kind, term in fixed(dropped).items():
            # A component's own layer contributes nothing.
            size[kind] += term.abs() / (len(layers) - 1)
    return {kind: own.sign() * size[kind] for kind, own in signed.items()}, whole.readout


def _query_key_fix(
    runs: CleanCorrupt, base: Activations
) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """Scores of a layer's queries and keys from the gradient at its pattern; two passes."""
    # Change of the pattern when the row's query is patched; and at a key when it is patched, over
    # one minus its old weight.
    by_query, by_key, patterns = dict[int, Tensor](), dict[int, Tensor](), dict[int, Tensor]()
    queries, keys = (_patched_scores(runs, base, site) for site in ("q", "k"))
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


def relevance_rules(model: Model) -> list[Hook]:
    """Hooks that give one pass the rules of RelP; make new ones for every pass.

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
    """The rule of a norm: what it multiplies by is found by probing, however it keeps it."""
    # A bridge wraps a norm of Hugging Face's; its own hooks must not see the probes.
    inner: Callable[[Tensor], Tensor] = getattr(norm, "original_component", norm)
    probe = torch.ones(int(model.cfg.d_model), device=device_of(model), dtype=dtype_of(model))
    probe[::2] = -2.0
    with torch.no_grad():
        # The half difference of both signs is free of the norm's bias.
        odd, shifted = ((inner(x[None]) - inner(-x[None]))[0] / 2 for x in (probe, probe + 3))
        centred = bool(torch.allclose(odd, shifted, rtol=1e-3, atol=1e-6))
        passed = probe - probe.mean() if centred else probe
        # In the type that norms compute in (float32 for models in half precision).
        size = (passed.square().mean() + float(model.cfg.eps)).sqrt()
        gain = (odd / (passed / size)).to(torch.promote_types(odd.dtype, torch.float32))

    def scaled(output: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        passed = x - x.mean(-1, keepdim=True) if centred else x
        square = passed.detach().to(gain.dtype).square().mean(-1, keepdim=True)
        return passed * (gain / (square + float(model.cfg.eps)).sqrt()).to(passed.dtype)

    return _rule([f"{name}.hook_in"], f"{name}.hook_out", scaled)


# The largest scores patched, and a bound on the rest.


@dataclass(frozen=True, eq=False)
class Missed:
    """What random halves say about the components in them; see :class:`VerifiedScores`."""

    bound: float
    departure: float
    first_half: Float[Tensor, " draw"]
    second_half: Float[Tensor, " draw"]


def missed(
    effects: Callable[[Sequence[Sequence[str]]], Float[Tensor, " group"]],
    names: Sequence[str],
    *,
    draws: int = 20,
    confidence: float = 0.95,
) -> Missed:
    """Bound the largest effect among ``names`` from joint effects of random halves.

    Args:
        effects: The effect of each group when all of it is patched at once.
        names: Components whose effects are not known.
        draws: Splits into halves; two patched groups each.
        confidence: Of the bound.

    Raises:
        DataError: too few draws for the confidence (five for 95%), or fewer than two names.
    """
    place = order(draws, confidence)
    first, second = effects(halves(names, draws)).double().unflatten(0, (-1, 2)).unbind(1)
    apart, spread = (first - second).abs(), (first + second).std(correction=0)
    size = apart.square().mean().sqrt()
    return Missed(
        bound=float(apart.sort(descending=True).values[place - 1]),
        departure=float(spread / size) if size > 0 else 0.0,
        first_half=first.float(),
        second_half=second.float(),
    )


def halves(names: Sequence[str], draws: int) -> list[list[str]]:
    """Random splits, one half after the other; every name goes by the toss of a coin.

    The seed is that in force: :func:`~circuits.running.execution`.
    """
    if len(names) < 2:
        raise DataError(f"random halves need two components or more, found {len(names)}")
    random = torch.Generator().manual_seed(in_force().seed)
    found: list[list[str]] = []
    while len(found) < 2 * draws:
        tossed = list(zip(names, torch.rand(len(names), generator=random) < 0.5, strict=True))
        split = [[name for name, side in tossed if bool(side) is own] for own in (True, False)]
        if all(split):  # an empty half cannot be patched; rare unless there are very few names
            found += split
    return found


def order(draws: int, confidence: float) -> int:
    """The largest ``j`` with P(Binomial(draws, 1/2) < j) <= 1 - confidence."""
    if not 0 < confidence < 1:
        raise DataError(f"a confidence lies between 0 and 1, found {confidence}")
    place = int(binom.ppf(1 - confidence, draws, 0.5))
    if place == 0:
        raise DataError(f"{draws} random halves are too few for confidence {confidence:g}")
    return place


@dataclass(frozen=True, eq=False)
class VerifiedScores(Record):
    """Scores of heads and neurons, the largest of them exact.

    Sign and unit as in :class:`NodeScores`, at all matched positions.
    """

    heads: Float[Tensor, "layer head"]
    """Exact where :attr:`heads_exact` says so, attributed elsewhere."""
    heads_exact: Bool[Tensor, "layer head"]
    neurons: Float[Tensor, "layer neuron"]
    neurons_exact: Bool[Tensor, "layer neuron"]
    estimate: Float[Tensor, " component"]
    """What attribution said of the confirmed components."""
    effect: Float[Tensor, " component"]
    """Their exact effects."""
    stderr: Float[Tensor, " component"]
    """Standard error of the exact effects over contexts."""
    first_half: Float[Tensor, " draw"]
    """Joint effects of random halves of the unconfirmed components."""
    second_half: Float[Tensor, " draw"]

    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    component: tuple[str, ...]
    """Confirmed by exact patching, largest score first."""
    bound: float
    """With this confidence no unconfirmed component has a larger |effect|, if effects add."""
    confidence: float
    departure: float
    """Spread of the halves' sums over spread of their differences; 0 where effects add. Near 1 or
    above, interactions are as large as what is bounded, and the bound means nothing."""
    agreement: Agreement
    emotion: str
    other: str
    method: str
    mode: str
    readout: str
    n_contexts: int


def budgeted(
    pairs: CleanCorrupt,
    readout: Readout,
    method: Method = "atp",
    *,
    exact: int,
    mode: Mode = "denoising",
    steps: int = 10,
    sample: int = 24,
    draws: int = 20,
    confidence: float = 0.95,
) -> VerifiedScores:
    """Attribute, patch the ``exact`` heads and neurons with the largest scores, bound the rest.

    Args:
        pairs, readout, method, mode, steps, sample: As in :func:`attribute`.
        exact: How many heads and neurons are confirmed.
        draws: Random halves for the bound.
        confidence: Of the bound.

    Raises:
        DataError: fewer than one component is to be confirmed, or fewer than two are left over, or
            there are too few draws.
        AxisError, ModelError: as :func:`attribute`.
    """
    order(draws, confidence)
    cfg = pairs.model.cfg
    names = [head_name(layer, i) for layer in range(cfg.n_layers) for i in range(cfg.n_heads)]
    names += [neuron_name(layer, i) for layer in range(cfg.n_layers) for i in range(cfg.d_mlp)]
    if not 1 <= exact <= len(names) - 2:
        raise DataError(
            f"exact patching can confirm 1 to {len(names) - 2} of the model's {len(names)} heads "
            f"and neurons, found {exact}"
        )
    scores = attribute(pairs, readout, method, mode=mode, steps=steps, sample=sample)
    tables = {"heads": scores.heads[0].clone(), "neurons": scores.neurons[0].clone()}
    known = {kind: torch.zeros_like(table, dtype=torch.bool) for kind, table in tables.items()}
    estimates = torch.cat([table.flatten() for table in tables.values()])
    ranked = estimates.abs().argsort(descending=True)
    chosen, rest = ([names[i] for i in own] for own in ranked.tensor_split([exact]))

    def effects(groups: Sequence[str] | Sequence[Sequence[str]]) -> Float[Tensor, "pair group"]:
        return patch_components(pairs, readout, groups, mode=mode)

    effect, stderr = mean_stderr(effects(chosen))
    for (kind, *place), value in zip(map(_where, chosen), effect, strict=True):
        tables[kind][tuple(place)] = value
        known[kind][tuple(place)] = True
    bound = missed(lambda groups: effects(groups).mean(0), rest, draws=draws, confidence=confidence)
    shared = "layer head neuron agreement emotion other method mode readout n_contexts"
    return VerifiedScores(
        **tables,
        **{f"{kind}_exact": own for kind, own in known.items()},
        estimate=estimates[ranked[:exact]],
        effect=effect,
        stderr=stderr,
        **vars(bound),
        component=tuple(chosen),
        confidence=confidence,
        **{name: getattr(scores, name) for name in shared.split()},
    )

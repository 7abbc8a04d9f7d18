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
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from einops import einsum
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from circuits.errors import AxisError, DataError, ModelError
from circuits.models.families import key_value_groups, need_neurons, need_sites, needs
from circuits.models.protocol import Hook, Model, device_of, dtype_of
from circuits.models.run import Trace, hook_name, observe, trace, trace_layers_dropped
from circuits.names import SUBLAYERS, component, head_name, neuron_name
from circuits.patching.pairs import (
    Activations,
    By,
    CleanCorrupt,
    Mode,
    Readout,
    last_readout,
    over_contexts,
)
from circuits.patching.patch import patch_components
from circuits.records import Record
from circuits.running import in_force

__all__ = ["METHODS", "NodeScores", "attribute", "rank_agreement", "relevance_rules"]

Method = Literal["atp", "atp*", "relp", "ig-inputs", "ig-activations"]

METHODS: tuple[str, ...] = get_args(Method)

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
    there is one context only. Heads are what a head hands to the output matrix (``z``), groups are
    key-value groups, inputs the residual stream before layer 0.
    """

    heads: Float[Tensor, "place layer head"]
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
    inputs_stderr: Float[Tensor, " place"]
    gap: Float[Tensor, " run"]
    """Readout of the clean and of the corrupt run, averaged over contexts."""
    sampled: Float[Tensor, " component"]
    """Scores of a random sample of heads and neurons."""
    exact: Float[Tensor, " component"]
    """Their effects by exact patching."""

    place: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    group: tuple[int, ...]
    sublayer: tuple[str, ...]
    run: tuple[str, ...]
    component: tuple[str, ...]
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
    if method == "ig-activations":
        needs(model, "gradients integrated over activations", "heads", "neurons")
    places = pairs.positions("all") + (() if by == "all" else pairs.positions(by))
    cfg, groups = model.cfg, key_value_groups(model)

    def work(runs: CleanCorrupt) -> dict[str, Tensor]:
        terms, base = _pair_terms(runs, method, steps)
        none = terms["z"].new_full((*terms["z"].shape[:3], 1), torch.nan)
        widths = {"queries": ("q", cfg.n_heads), "keys": ("k", groups), "values": ("v", groups)}
        return {
            "heads": terms["z"],
            "neurons": terms["post"],
            "sublayers": torch.stack([terms["attn_out"], terms["mlp_out"]], dim=3),
            **{
                kind: terms.get(site, none.expand(-1, -1, -1, width))
                for kind, (site, width) in widths.items()
            },
            "inputs": terms.get("resid_pre", none[..., 0])[..., 0],
            "gap": runs.ends(base, runs.other_seen[1]),
        }

    layers = range(cfg.n_layers)
    sites = {**dict.fromkeys(_SITES, layers), "resid_pre": (0,)}
    found = over_contexts(pairs.batches(work, readout, mode, sites, places, finite="gap"))
    del found["gap_stderr"]
    names = sampled_components(model, sample)
    parts = [component(name) for name in names]
    sampled = torch.stack([found[f"{p.kind}s"][0, p.layer or 0, p.index or 0] for p in parts])
    exact = patch_components(pairs, readout, names, mode=mode).mean(0)
    agreement: dict[str, Mapping[str, float | int | None]] = {}
    for kind in ("head", "neuron"):
        own = torch.tensor([part.kind == kind for part in parts])
        if own.any():
            agreement[kind] = rank_agreement(sampled[own], exact[own])
    axes = {"head": "heads", "neuron": "neurons", "group": "keys"}
    return NodeScores(
        **found,
        **{axis: tuple(range(found[table].shape[-1])) for axis, table in axes.items()},
        layer=tuple(layers),
        sublayer=SUBLAYERS,
        run=("clean", "corrupt"),
        sampled=sampled,
        exact=exact,
        place=places,
        component=names,
        agreement=agreement,
        **pairs.described(readout, mode),
        method=method,
        steps=steps if integrated else 0,
    )


def sampled_components(model: Model, per_kind: int) -> tuple[str, ...]:
    """Names of random heads and neurons by the seed in force, evenly over layers."""
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


def rank_agreement(
    estimate: Float[Tensor, " component"], exact: Float[Tensor, " component"]
) -> dict[str, float | int | None]:
    """The measures of :data:`Agreement`.

    >>> rank_agreement(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-2.0, 5.0, 9.0]))
    {'spearman': 1.0, 'sign': 0.6666666666666666, 'top': 1.0, 'sampled': 3}
    """
    both, quarter = (estimate.double(), exact.double()), max(1, len(exact) // 4)
    ranks = torch.stack([torch.from_numpy(rankdata(own.numpy())) for own in both])
    tops = [set(own.abs().topk(quarter).indices.tolist()) for own in both]
    rank = float(torch.corrcoef(ranks)[0, 1])
    return {
        "spearman": rank if rank == rank else None,
        "sign": float((estimate.sign() == exact.sign()).double().mean()),
        "top": len(tops[0] & tops[1]) / quarter,
        "sampled": len(exact),
    }


_SITES = ("z", "post", "attn_out", "mlp_out", "q", "k", "v")

_Terms = dict[str, Tensor]
"""Site -> scores ``[pair place layer unit]``; sublayers and inputs have no unit."""


def _pair_terms(
    runs: CleanCorrupt, method: str, steps: int
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
            del found["q"], found["k"]
        return found, seen.readout
    base, value = observe(runs.model, runs.base, runs.sites, **runs.scored)
    if method == "ig-inputs":
        return _integrated(runs, base, "resid_pre", 0, runs.sites, steps), value
    # All heads of a layer move together, and all its neurons; what follows reacts, what comes
    # before stays. A sublayer's output is linear in what these hand it, so both go the same way.
    found = {}
    for moved, out in (("z", "attn_out"), ("post", "mlp_out")):
        rows = [
            _integrated(runs, base, moved, layer, {moved: (layer,), out: (layer,)}, steps)
            for layer in base[moved]
        ]
        found |= {site: torch.cat([row[site] for row in rows], dim=2) for site in (moved, out)}
    return found, value


def _terms(runs: CleanCorrupt, values: Activations, gradients: Activations) -> _Terms:
    """Clean minus corrupt, times gradient, summed over each place's positions."""
    found: _Terms = {}
    for site in runs.sites.keys() & gradients.keys():
        rows = []
        for layer, gradient in gradients[site].items():
            change = runs.change(runs.other_seen[0][site][layer], values[site][layer])
            terms = change * gradient[:, -runs.width :]
            rows.append(_placed(runs, terms if site == "post" else terms.sum(-1)))
        found[site] = torch.stack(rows, dim=2)
    return found


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


def _integrated(
    runs: CleanCorrupt,
    base: Activations,
    moved: str,
    layer: int,
    sites: Mapping[str, Sequence[int]],
    steps: int,
) -> _Terms:
    """Mean terms at ``sites`` while one site of a layer goes from base to other run."""
    start, found = base[moved][layer], dict[str, Tensor]()
    way = _moved(runs, moved, layer, start) - start
    for step in range(steps):
        at = (start + (step + 0.5) / steps * way).detach().requires_grad_()
        hooks = [_put(moved, layer, at)]
        seen = trace(runs.model, runs.base, sites, **runs.scored, hooks=hooks)
        for site, terms in _terms(runs, base, seen.gradients).items():
            found[site] = found.get(site, 0) + terms / steps
    return found


def _atp_star(runs: CleanCorrupt) -> tuple[_Terms, Float[Tensor, " pair"]]:
    """AtP with queries and keys through the softmax, and GradDrop."""
    layers = range(runs.model.cfg.n_layers)
    sites = {**runs.sites, "pattern": layers, "scores": layers}
    traces = trace_layers_dropped(runs.model, runs.base, sites, **runs.scored)
    whole = next(traces)
    through_softmax = _query_key_fix(runs, whole.values)

    def fixed(found: Trace) -> _Terms:
        both = [through_softmax(found.gradients["pattern"][layer], layer) for layer in layers]
        queries, keys = (torch.stack(own, dim=2) for own in zip(*both, strict=True))
        return {**_terms(runs, found.values, found.gradients), "q": queries, "k": keys}

    signed, size = fixed(whole), dict[str, Tensor]()
    for dropped in traces:
        for site, terms in fixed(dropped).items():
            # A component's own layer contributes nothing.
            size[site] = size.get(site, 0) + terms.abs() / (len(layers) - 1)
    return {site: own.sign() * size[site] for site, own in signed.items()}, whole.readout


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
    return observe(runs.model, runs.base, sites, **runs.scored, hooks=hooks)[0]["scores"]


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
    take = [(name, lambda x, hook, name=name: taken.setdefault(name, x)) for name in inputs]
    own = partial(_with_gradient, inputs=inputs, taken=taken, path=path)
    return [*take, (output, own)]


def _with_gradient(
    value: Tensor,
    hook: object,
    inputs: Sequence[str],
    taken: dict[str, Tensor],
    path: Callable[[Tensor, Sequence[Tensor]], Tensor],
) -> Tensor:
    found = path(value, [taken.pop(name) for name in inputs])
    return value.detach() + (found - found.detach())


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
    scaled = partial(_scaled, centred, gain, float(model.cfg.eps))
    return _rule([f"{name}.hook_in"], f"{name}.hook_out", scaled)


def _scaled(
    centred: bool, gain: Tensor, eps: float, output: Tensor, inputs: Sequence[Tensor]
) -> Tensor:
    """The norm of its input, with its scale a constant."""
    passed = inputs[0] - inputs[0].mean(-1, keepdim=True) if centred else inputs[0]
    square = passed.detach().to(gain.dtype).square().mean(-1, keepdim=True)
    return passed * (gain / (square + eps).sqrt()).to(passed.dtype)

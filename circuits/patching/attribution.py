"""Attribution patching of all components, checked against patching within a budget.

Attribution: effects of all components at once, estimated from gradients.

Every score estimates what exact patching of the component at all matched positions would measure:
the readout with the clean value minus the readout with the corrupt one.

A bound on the largest effect among components that were not patched one by one.

After the subset diagnostic of Kramár et al. (2024, arXiv 2403.00745, section 3.2). The components
are split at random into two halves, each half is patched at once, and the difference D of the two
effects is taken, many times. If effects add, D is the sum of all effects with random signs. Take
the component with the largest effect, of size m: whatever the other signs are, |D| is at least m
for one of its two signs, so |D| >= m with probability 1/2 or more. Hence m is at most the j-th
largest of n values of |D|, with confidence 1 - P(Binomial(n, 1/2) < j).

Assumption: effects of components that are patched together add. Where they do not, the bound may
fail: a component that others make up for when they are patched with it (or that acts only when
another one is *not* patched) shows in few halves or in none. Effects that cancel in sum are no
problem, since signs are drawn at random. That effects add can be seen from the halves
themselves: both halves' effects then sum to the same number in every split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from circuits.effects.activations import Moments, Summary
from circuits.errors import AxisError, DataError, ModelError
from circuits.models.memory import halving_tables
from circuits.models.protocol import Model
from circuits.models.run import check_values
from circuits.names import SUBLAYERS, component, head_name, neuron_name
from circuits.patching.estimates import (
    METHODS,
    PAIRS_AT_ONCE,
    SITES,
    Method,
    Terms,
    pair_terms,
    picked,
    refuse_equal_inputs,
    sides,
)
from circuits.patching.pairs import (
    By,
    LogitDifference,
    Mode,
    Pair,
    Places,
    Projection,
    Readout,
    find_places,
)
from circuits.patching.patch import patch_parts
from circuits.records import Record

__all__ = [
    "Agreement",
    "Groups",
    "Missed",
    "NodeScores",
    "VerifiedScores",
    "agreement",
    "attribute",
    "budgeted",
    "check_request",
    "estimates",
    "halves",
    "missed",
    "order",
    "sampled_parts",
]

Agreement = Mapping[str, Mapping[str, float | int | None]]
"""``head`` and ``neuron`` -> ``spearman`` (rank correlation; ``None`` where it is undefined),
``sign`` (share of equal signs), ``top`` (share of the quarter with the largest exact effects that
is among the quarter with the largest estimates) and ``sampled`` (how many)."""


def sampled_parts(model: Model, per_kind: int, seed: int = 0) -> tuple[str, ...]:
    """Names of random heads and random neurons, of every layer as many, give or take one."""
    random = torch.Generator().manual_seed(seed)
    cfg, names = model.cfg, []
    for units, name in ((cfg.n_heads, head_name), (cfg.d_mlp, neuron_name)):
        layers = _shuffled(cfg.n_layers, random)
        orders = {layer: _shuffled(units, random) for layer in layers}
        # The first of every layer, then the second of every layer, and so on.
        turns = [(layer, orders[layer][turn]) for turn in range(units) for layer in layers]
        names += [name(layer, unit) for layer, unit in sorted(turns[:per_kind])]
    return tuple(names)


def agreement(
    names: Sequence[str],
    estimate: Float[Tensor, " component"],
    exact: Float[Tensor, " component"],
) -> Agreement:
    """Measures of agreement, of heads and of neurons by themselves."""
    kinds = [component(name).kind for name in names]
    found = {}
    for kind in dict.fromkeys(kinds):
        own = torch.tensor([other == kind for other in kinds])
        found[kind] = _measures(estimate[own].double(), exact[own].double())
    return found


def _measures(estimate: Tensor, exact: Tensor) -> dict[str, float | int | None]:
    n = len(exact)
    quarter = max(1, n // 4)
    tops = [set(values.abs().topk(quarter).indices.tolist()) for values in (estimate, exact)]
    a, b = _ranks(estimate), _ranks(exact)
    size = float(a.norm() * b.norm())
    return {
        "spearman": float(a @ b) / size if size > 0 else None,
        "sign": float((estimate.sign() == exact.sign()).double().mean()),
        "top": len(tops[0] & tops[1]) / quarter,
        "sampled": n,
    }


def _ranks(values: Tensor) -> Tensor:
    ranks = torch.tensor(rankdata(values.numpy()), dtype=torch.float64)
    return ranks - ranks.mean()


def _shuffled(count: int, random: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=random).tolist()


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
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    method: Method = "atp",
    *,
    mode: Mode = "denoising",
    by: By = "all",
    steps: int = 10,
    sample: int = 24,
    seed: int = 0,
) -> NodeScores:
    """Score heads, neurons, sublayers, queries, keys and values.

    Args:
        model: The model.
        pairs: Clean and corrupt prompts of one contrast, one pair per context.
        readout: What the runs are judged by: a projection or a logit difference.
        method: See :mod:`~circuits.patching.estimates`.
        mode: Gradients of the corrupt run (denoising) or of the clean one (noising).
        by: Scores by place as well, beside those of all matched positions.
        steps: Steps of integrated gradients; other methods have none.
        sample: How many heads, and how many neurons, are patched exactly to see how far the
            scores can be trusted; all there are, if fewer.
        seed: Of the sample.

    Raises:
        AxisError: the method is unknown, or cannot use the readout.
        DataError: there are no pairs, they are of different contrasts, fewer than one step or
            two sampled components are asked for, or ``ig-inputs`` is given equal inputs.
        ModelError: the model has no such parts, or one layer only (``atp*``).
    """
    judged = check_request(model, pairs, readout, method, steps, sample)
    places = _places(pairs, by)
    found = _averaged(model, pairs, judged, places, method, mode, steps)
    names = sampled_parts(model, sample, seed)
    chosen = estimates(found["heads"], found["neurons"], names)
    exact = patch_parts(model, pairs, readout, names, mode=mode).mean(0)
    forwards, backwards = METHODS[method].passes(model.cfg.n_layers, steps)
    return NodeScores(
        **found,
        sampled=chosen,
        exact=exact,
        **_labels(found),
        place=places.names,
        component=names,
        agreement=agreement(names, chosen, exact),
        emotion=pairs[0].emotion,
        other=pairs[0].other or "neutral",
        method=method,
        mode=mode,
        readout=readout.name,
        steps=steps if METHODS[method].stepwise else 0,
        n_contexts=len(pairs),
        forwards=forwards,
        backwards=backwards,
    )


def check_request(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    method: str,
    steps: int,
    sample: int,
) -> Projection | LogitDifference:
    """The readout, if the method can be used as asked; raises as :func:`attribute` does."""
    if method not in METHODS:
        raise AxisError(
            f"no attribution method is called {method!r}; methods are {', '.join(METHODS)}"
        )
    if not isinstance(readout, Projection | LogitDifference):
        raise AxisError(
            f"method {method!r} cannot use the readout {readout.name!r}, which reads replies; "
            "use a projection or a logit difference, or exact patching (patch_parts)"
        )
    if METHODS[method].stepwise and steps < 1:
        raise DataError(f"method {method!r} needs one step or more, found {steps}")
    if sample < 2:
        raise DataError(f"agreement needs two sampled components or more, found {sample}")
    if method == "atp*" and model.cfg.n_layers < 2:
        raise ModelError("method 'atp*' drops layers and needs two or more; use 'atp'")
    if method == "ig-inputs":
        refuse_equal_inputs(pairs)
    return readout


def estimates(heads: Tensor, neurons: Tensor, names: Sequence[str]) -> Float[Tensor, " component"]:
    """Scores of named heads and neurons at all matched positions."""
    found = []
    for name in names:
        part = component(name)
        table = heads if part.kind == "head" else neurons
        found.append(table[0, part.layer, part.index])
    return torch.stack(found)


def _labels(found: Mapping[str, Tensor]) -> dict[str, Any]:
    tables = {"head": "heads", "neuron": "neurons", "group": "keys"}
    labels = {axis: tuple(range(found[table].shape[-1])) for axis, table in tables.items()}
    layers = tuple(range(found["heads"].shape[1]))
    return {**labels, "layer": layers, "sublayer": SUBLAYERS, "run": ("clean", "corrupt")}


def _places(pairs: Sequence[Pair], by: By) -> Places:
    everything = find_places(pairs, "all")
    if by == "all":
        return everything
    more = find_places(pairs, by)
    return Places(
        (*everything.names, *more.names), torch.cat([everything.masks, more.masks], dim=1)
    )


def _averaged(
    model: Model,
    pairs: Sequence[Pair],
    readout: Projection | LogitDifference,
    places: Places,
    method: Method,
    mode: Mode,
    steps: int,
) -> dict[str, Any]:
    moments: dict[str, Moments] = {}
    gaps, layers = [], range(model.cfg.n_layers)
    sites = dict.fromkeys(SITES, layers) | {"resid_pre": (0,)}

    def score(some: Sequence[int]) -> dict[str, Tensor]:
        own = [pairs[place] for place in some]
        side = sides(model, own, picked(pairs, places, some), readout, mode, sites)
        found, base = pair_terms(side, method, steps)
        ends = (side.source_readout, base) if mode == "denoising" else (base, side.source_readout)
        gap = torch.stack(ends, dim=1).double().cpu()
        check_values(model, gap, f"the readout {readout.name}", [pair.clean.ids for pair in own])
        return {"gap": gap, **{name: x.cpu() for name, x in _complete(model, found).items()}}

    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = range(len(pairs))[first : first + PAIRS_AT_ONCE]
        found = halving_tables(score, some, lambda place: pairs[place].name)
        gaps.append(found.pop("gap"))
        for name, terms in found.items():
            one = moments.setdefault(name, Moments((1, *terms.shape[1:])))
            one.update(terms, torch.zeros(len(terms), dtype=torch.long))
    result: dict[str, Any] = {"gap": torch.cat(gaps).mean(0).float()}
    for name, one in moments.items():
        summary = one.result()
        result[name], result[f"{name}_stderr"] = summary.mean[0], summary.stderr[0]
    return result


def _complete(model: Model, found: Terms) -> Terms:
    """All kinds of scores, NaN where the method has none."""
    heads = found["heads"]
    groups = int(getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads)
    sizes = {"queries": heads.shape[3], "keys": groups, "values": groups}
    whole = {
        "heads": heads,
        "neurons": found["neurons"],
        "sublayers": torch.stack([found[sublayer] for sublayer in SUBLAYERS], dim=3),
    }
    for kind, units in sizes.items():
        nothing = heads.new_full((*heads.shape[:3], units), float("nan"))
        whole[kind] = found.get(kind, nothing)
    whole["inputs"] = found.get("inputs", heads.new_full(heads.shape[:2], float("nan")))
    return whole


Groups = Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Missed:
    """What random halves say about the components in them."""

    bound: float
    """Upper bound of the largest single |effect|, if effects add."""
    first: Float[Tensor, " draw"]
    """Effect of each split's first half."""
    second: Float[Tensor, " draw"]

    @property
    def departure(self) -> float:
        """Spread of the halves' sums over spread of their differences; 0 where effects add.

        Near 1 or above, interactions are as large as what is bounded, and the bound means nothing.
        """
        apart = (self.first - self.second).square().mean().sqrt()
        spread = (self.first + self.second).std(correction=0)
        return float(spread / apart) if apart > 0 else 0.0


def missed(
    effects: Callable[[Groups], Float[Tensor, " group"]],
    names: Sequence[str],
    *,
    draws: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> Missed:
    """Bound the largest effect among ``names`` from joint effects of random halves.

    Args:
        effects: The effect of each group when all of it is patched at once.
        names: Components whose effects are not known.
        draws: Splits into halves; two patched groups each.
        confidence: Of the bound.
        seed: Of the splits.

    Raises:
        DataError: too few draws for the confidence (five for 95%), or fewer than two names.
    """
    place = order(draws, confidence)
    groups = halves(names, draws, seed)
    found = effects(groups).double()
    first, second = found[0::2], found[1::2]
    apart = (first - second).abs().sort(descending=True).values
    return Missed(float(apart[place - 1]), first, second)


def halves(names: Sequence[str], draws: int, seed: int = 0) -> list[list[str]]:
    """Random splits, one half after the other; every name goes by the toss of a coin.

    Raises:
        DataError: fewer than two names.
    """
    if len(names) < 2:
        raise DataError(f"random halves need two components or more, found {len(names)}")
    random = torch.Generator().manual_seed(seed)
    found: list[list[str]] = []
    while len(found) < 2 * draws:
        side = (torch.rand(len(names), generator=random) < 0.5).tolist()
        split = [[n for n, own in zip(names, side, strict=True) if own is b] for b in (True, False)]
        if all(split):  # an empty half cannot be patched; rare unless there are very few names
            found += split
    return found


def order(draws: int, confidence: float) -> int:
    """The largest ``j`` with P(Binomial(draws, 1/2) < j) <= 1 - confidence.

    Raises:
        DataError: there is none, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise DataError(f"a confidence lies between 0 and 1, found {confidence}")
    below, place = 0.0, 0
    while place < draws:
        below += comb(draws, place) * 0.5**draws
        if below > 1 - confidence:
            break
        place += 1
    if place == 0:
        raise DataError(f"{draws} random halves are too few for confidence {confidence:g}")
    return place


@dataclass(frozen=True, eq=False)
class VerifiedScores(Record):
    """Scores of heads and neurons, the largest of them exact.

    Sign and unit as in :class:`NodeScores`, at all matched
    positions.
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
    """With this confidence no unconfirmed component has a larger |effect|, if effects add; see
    the module's text."""
    confidence: float
    departure: float
    """How far effects are from adding; 0 where they do. Near 1 the bound means nothing."""
    agreement: Agreement
    emotion: str
    other: str
    method: str
    mode: str
    readout: str
    n_contexts: int


def budgeted(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    method: Method = "atp",
    *,
    exact: int,
    mode: Mode = "denoising",
    steps: int = 10,
    sample: int = 24,
    draws: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> VerifiedScores:
    """Attribute, patch the ``exact`` heads and neurons with the largest scores, bound the rest.

    Args:
        model: The model.
        pairs: Clean and corrupt prompts of one contrast.
        readout: What the runs are judged by.
        method: The attribution; its options are those of
            :func:`attribute`.
        exact: How many heads and neurons are confirmed.
        mode: Clean values into the corrupt run, or the other way round.
        steps: Of integrated gradients.
        sample: Heads, and neurons, sampled for the agreement.
        draws: Random halves for the bound.
        confidence: Of the bound.
        seed: Of sample and halves.

    Raises:
        DataError: fewer than one component is to be confirmed, or fewer than two are left over, or
            there are too few draws.
        AxisError, ModelError: as :func:`attribute`.
    """
    order(draws, confidence)
    _check(model, exact)
    scores = attribute(
        model, pairs, readout, method, mode=mode, steps=steps, sample=sample, seed=seed
    )
    names = _ranked(scores)
    chosen, rest = names[:exact], names[exact:]
    effects = _over_contexts(patch_parts(model, pairs, readout, chosen, mode=mode))

    def joint(groups: Groups) -> Float[Tensor, " group"]:
        return patch_parts(model, pairs, readout, groups, mode=mode).mean(0)

    bound = missed(joint, rest, draws=draws, confidence=confidence, seed=seed)
    return VerifiedScores(
        **_confirmed(scores, chosen, effects.mean[0]),
        estimate=estimates(scores.heads, scores.neurons, chosen),
        effect=effects.mean[0],
        stderr=effects.stderr[0],
        **_bounded(bound),
        component=chosen,
        confidence=confidence,
        **{name: getattr(scores, name) for name in _SHARED},
    )


_SHARED = (
    "layer",
    "head",
    "neuron",
    "agreement",
    "emotion",
    "other",
    "method",
    "mode",
    "readout",
    "n_contexts",
)


def _check(model: Model, exact: int) -> None:
    total = model.cfg.n_layers * (model.cfg.n_heads + model.cfg.d_mlp)
    if not 1 <= exact <= total - 2:
        raise DataError(
            f"exact patching can confirm 1 to {total - 2} of the model's {total} heads and "
            f"neurons, found {exact}"
        )


def _ranked(scores: NodeScores) -> tuple[str, ...]:
    """Names of all heads and neurons, largest score first."""
    names, sizes = [], []
    for table, name in ((scores.heads[0], head_name), (scores.neurons[0], neuron_name)):
        sizes.append(table.abs().flatten())
        names += [name(layer, unit) for layer in scores.layer for unit in range(table.shape[1])]
    return tuple(names[i] for i in torch.cat(sizes).argsort(descending=True).tolist())


def _bounded(found: Missed) -> dict[str, Any]:
    halves = {"first_half": found.first.float(), "second_half": found.second.float()}
    return {**halves, "bound": found.bound, "departure": found.departure}


def _over_contexts(effects: Float[Tensor, "pair part"]) -> Summary:
    moments = Moments((1, effects.shape[1]))
    moments.update(effects, torch.zeros(len(effects), dtype=torch.long))
    return moments.result()


def _confirmed(scores: NodeScores, chosen: Sequence[str], effects: Tensor) -> dict[str, Tensor]:
    """Scores with exact effects in their places, and which they are."""
    tables = {"heads": scores.heads[0].clone(), "neurons": scores.neurons[0].clone()}
    known = {kind: torch.zeros_like(table, dtype=torch.bool) for kind, table in tables.items()}
    for name, effect in zip(chosen, effects, strict=True):
        part = component(name)
        tables[f"{part.kind}s"][part.layer, part.index] = effect
        known[f"{part.kind}s"][part.layer, part.index] = True
    return tables | {f"{kind}_exact": own for kind, own in known.items()}

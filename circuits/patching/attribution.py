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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import binom, rankdata
from torch import Tensor

from circuits.errors import AxisError, DataError, ModelError
from circuits.models.families import key_value_groups
from circuits.models.protocol import Model
from circuits.names import SUBLAYERS, component, head_name, neuron_name
from circuits.patching.estimates import METHODS, Method, Terms, compared, pair_terms
from circuits.patching.pairs import By, CleanCorrupt, Mode, Readout, last_readout, over_contexts
from circuits.patching.patch import patch_components
from circuits.records import Record
from circuits.running import in_force

__all__ = [
    "Agreement",
    "Groups",
    "Missed",
    "NodeScores",
    "VerifiedScores",
    "agreement",
    "attribute",
    "budgeted",
    "halves",
    "missed",
    "order",
    "rank_agreement",
    "sampled_components",
]

Agreement = Mapping[str, Mapping[str, float | int | None]]
"""``head`` and ``neuron`` -> ``spearman`` (rank correlation; ``None`` where it is undefined),
``sign`` (share of equal signs), ``top`` (share of the quarter with the largest exact effects that
is among the quarter with the largest estimates) and ``sampled`` (how many)."""


def sampled_components(model: Model, per_kind: int) -> tuple[str, ...]:
    """Names of random heads and random neurons, of every layer as many, give or take one.

    The seed is that in force: :func:`~circuits.running.execution`.
    """
    random = torch.Generator().manual_seed(in_force().seed)
    cfg, names = model.cfg, []

    def shuffled(count: int) -> list[int]:
        return torch.randperm(count, generator=random).tolist()

    for units, name in ((cfg.n_heads, head_name), (cfg.d_mlp, neuron_name)):
        layers = shuffled(cfg.n_layers)
        orders = {layer: shuffled(units) for layer in layers}
        # The first of every layer, then the second of every layer, and so on.
        turns = [(layer, orders[layer][turn]) for turn in range(units) for layer in layers]
        names += [name(layer, unit) for layer, unit in sorted(turns[:per_kind])]
    return tuple(names)


def agreement(
    names: Sequence[str], estimate: Float[Tensor, " component"], exact: Float[Tensor, " component"]
) -> Agreement:
    """Measures of agreement, of heads and of neurons by themselves."""
    kinds = [component(name).kind for name in names]
    found = {}
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
        method: See :mod:`~circuits.patching.estimates`.
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
    _check_request(pairs, readout, method, steps, sample)
    model, places = pairs.model, pairs.positions("all")
    places += pairs.positions(by) if by != "all" else ()

    def work(runs: CleanCorrupt) -> dict[str, Tensor]:
        found, base = pair_terms(runs, method, steps)
        return {"gap": runs.ends(base, runs.other_seen[1]), **_complete(model, found)}

    sites = compared(model)
    found = over_contexts(pairs.batches(work, readout, mode, sites, places, finite="gap"))
    del found["gap_stderr"]
    names = sampled_components(model, sample)
    sampled = torch.stack([found[table][0, layer, i] for table, layer, i in _located(names)])
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
        steps=steps if method.startswith("ig-") else 0,
        forwards=forwards,
        backwards=backwards,
    )


def _check_request(
    pairs: CleanCorrupt, readout: Readout, method: str, steps: int, sample: int
) -> None:
    if method not in METHODS:
        raise AxisError(
            f"no attribution method is called {method!r}; methods are {', '.join(METHODS)}"
        )
    last_readout(readout, f"method {method!r}")
    if method.startswith("ig-") and steps < 1:
        raise DataError(f"method {method!r} needs one step or more, found {steps}")
    if sample < 2:
        raise DataError(f"agreement needs two sampled components or more, found {sample}")
    if method == "atp*" and pairs.model.cfg.n_layers < 2:
        raise ModelError("method 'atp*' drops layers and needs two or more; use 'atp'")
    if method == "ig-inputs":
        pairs.refuse_equal_inputs(method)


def _located(names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Table, layer and index of heads and neurons."""
    for own in map(component, names):
        yield f"{own.kind}s", own.layer or 0, own.index or 0


def _complete(model: Model, found: Terms) -> Terms:
    """All kinds of scores, NaN where the method has none."""
    shape, groups = found["heads"].shape, key_value_groups(model)
    sizes = {"queries": shape, "inputs": shape[:2]}
    sizes |= dict.fromkeys(("keys", "values"), torch.Size((*shape[:3], groups)))
    whole = {kind: found["heads"].new_full(size, torch.nan) for kind, size in sizes.items()}
    whole |= {kind: own for kind, own in found.items() if kind not in SUBLAYERS}
    return whole | {"sublayers": torch.stack([found[kind] for kind in SUBLAYERS], dim=3)}


Groups = Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Missed:
    """What random halves say about the components in them."""

    bound: float
    """Upper bound of the largest single |effect|, if effects add."""
    departure: float
    """Spread of the halves' sums over spread of their differences; 0 where effects add.

    Near 1 or above, interactions are as large as what is bounded, and the bound means nothing.
    """
    first_half: Float[Tensor, " draw"]
    second_half: Float[Tensor, " draw"]
    """Effects of each split's halves."""


def missed(
    effects: Callable[[Groups], Float[Tensor, " group"]],
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
    groups = halves(names, draws)
    found = effects(groups).double()
    first, second = found[0::2], found[1::2]
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

    Raises:
        DataError: fewer than two names.
    """
    if len(names) < 2:
        raise DataError(f"random halves need two components or more, found {len(names)}")
    random = torch.Generator().manual_seed(in_force().seed)
    found: list[list[str]] = []
    while len(found) < 2 * draws:
        heads = (torch.rand(len(names), generator=random) < 0.5).tolist()
        split = [
            [n for n, own in zip(names, heads, strict=True) if own is b] for b in (True, False)
        ]
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
    place = 0
    while place < draws and binom.cdf(place, draws, 0.5) <= 1 - confidence:
        place += 1
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
    total = cfg.n_layers * (cfg.n_heads + cfg.d_mlp)
    if not 1 <= exact <= total - 2:
        raise DataError(
            f"exact patching can confirm 1 to {total - 2} of the model's {total} heads and "
            f"neurons, found {exact}"
        )
    scores = attribute(pairs, readout, method, mode=mode, steps=steps, sample=sample)
    tables = {"heads": scores.heads[0], "neurons": scores.neurons[0]}
    names = [
        name(layer, unit)
        for table, name in zip(tables.values(), (head_name, neuron_name), strict=True)
        for layer in scores.layer
        for unit in range(table.shape[1])
    ]
    sizes = torch.cat([table.abs().flatten() for table in tables.values()])
    ranked = [names[i] for i in sizes.argsort(descending=True).tolist()]
    chosen, rest = tuple(ranked[:exact]), ranked[exact:]

    def joint(groups: Groups) -> Float[Tensor, " group"]:
        return patch_components(pairs, readout, groups, mode=mode).mean(0)

    found = over_contexts([{"effect": patch_components(pairs, readout, chosen, mode=mode)}])
    bound = missed(joint, rest, draws=draws, confidence=confidence)
    known = {kind: torch.zeros_like(table, dtype=torch.bool) for kind, table in tables.items()}
    verified = {kind: table.clone() for kind, table in tables.items()}
    for (kind, *place), effect in zip(_located(chosen), found["effect"], strict=True):
        verified[kind][tuple(place)] = effect
        known[kind][tuple(place)] = True
    return VerifiedScores(
        **verified,
        **{f"{kind}_exact": own for kind, own in known.items()},
        estimate=torch.stack([tables[kind][layer, i] for kind, layer, i in _located(chosen)]),
        effect=found["effect"],
        stderr=found["effect_stderr"],
        **vars(bound),
        component=chosen,
        confidence=confidence,
        **{name: getattr(scores, name) for name in _SHARED.split()},
    )


_SHARED = "layer head neuron agreement emotion other method mode readout n_contexts"

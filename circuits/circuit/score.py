"""Scores of a circuit: faithfulness, completeness, minimality, beside random circuits.

Areas under the curve of faithfulness over circuit size.

CPR and CMD are those of MIB's code (Mueller et al. 2025, arXiv 2504.13151): sizes are nominal
shares of all components, the integral is the trapezoid rule on these shares. Nearly all of its
weight lies at circuits of a fifth of the model and more, so the same mean over the logarithm of
the size is given too, and the smallest size that is faithful enough.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit.ablate import (
    Ablation,
    Masks,
    Positions,
    random_masks,
    run_circuits,
    shuffled,
    stand,
)
from circuits.circuit.circuit import LOWER_IS_BETTER, Circuit, CircuitScores, Score
from circuits.effects.activations import NeutralMeans
from circuits.errors import CircuitError, DataError
from circuits.models.engines import engine, in_order
from circuits.models.protocol import Model
from circuits.patching.pairs import LogitDifference, Projection, make_pairs
from circuits.patching.totals import TotalEstimates
from circuits.prompts.sev import Context
from circuits.prompts.templates import Template
from circuits.running import advance, in_force

__all__ = [
    "SIZES",
    "SUBSETS",
    "Rows",
    "Scoring",
    "area",
    "bootstrap_counts",
    "bootstrap_means",
    "check_held_out",
    "count_rows",
    "greedy_rows",
    "judge",
    "log_area",
    "nested",
    "relative",
    "relative_gaps",
    "rows_of",
    "score_circuits",
    "scores_of",
    "size_at",
]

_DRAWS = 2000


def bootstrap_counts(
    count: int, random: torch.Generator, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "draw context"]:
    """How often each of ``count`` contexts is in every draw of ``count``.

    >>> bootstrap_counts(3, torch.Generator().manual_seed(0)).shape
    torch.Size([2000, 3])
    """
    drawn = torch.randint(count, (_DRAWS, count), generator=random)
    counts = torch.zeros(_DRAWS, count, dtype=dtype)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Nominal shares of all components (MIB's)."""


def nested(scores: Float[Tensor, " component"]) -> Bool[Tensor, "size component"]:
    """The ``int(k N)`` components with the largest scores, for every size k.

    Ties go to the earlier component. For CPR give signed scores, for CMD absolute ones.
    """
    place = scores.argsort(descending=True, stable=True).argsort()
    counts = torch.tensor([int(size * len(scores)) for size in SIZES])
    return place < counts[:, None]


def area(curve: Float[Tensor, "*rest size"]) -> Float[Tensor, "*rest"]:
    """Trapezoid integral over the nominal sizes.

    Of faithfulness it is CPR (higher is better), of ``|1 - faithfulness|`` CMD (lower is better).
    """
    return torch.trapezoid(curve, torch.tensor(SIZES, dtype=curve.dtype))


def log_area(curve: Float[Tensor, "*rest size"]) -> Float[Tensor, "*rest"]:
    """Mean height over the logarithm of the size, from the smallest to the whole model."""
    logs = torch.tensor([math.log(size) for size in SIZES], dtype=curve.dtype)
    return torch.trapezoid(curve, logs) / (logs[-1] - logs[0])


def size_at(curve: Float[Tensor, "*rest size"], level: float = 0.8) -> Float[Tensor, "*rest"]:
    """The smallest of the sizes from which on the curve stays at ``level`` or above."""
    below = (curve < level).flip(-1).cummax(-1).values.flip(-1)
    sizes = torch.tensor(SIZES, dtype=curve.dtype)
    # The whole model is the last size, and it is faithful by definition.
    first = (~below).to(torch.long).argmax(-1).where(~below.all(-1), len(SIZES) - 1)
    return sizes[first]


SUBSETS = 8
"""Random subsets K for completeness."""

_CURVE = len(SIZES) - 1
"""Sizes that are run: the last is the whole model."""

_GREEDY = (8, 4, 2)
"""Greedy subsets are an eighth, a quarter and half of the nodes."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Circuits to run, and where each group of them is."""

    masks: Masks
    at: dict[str, slice]


def rows_of(
    own: Masks,
    others: Masks,
    ranking: Float[Tensor, " component"],
    draws: int,
    random: torch.Generator,
) -> Rows:
    """The rows for one emotion.

    Args:
        own: Its circuit, one row.
        others: The circuits of the other emotions.
        ranking: Estimated effect of every component, heads then neurons, in flat form.
        draws: Random circuits.
        random: Decides everything random.
    """
    groups = dict(_groups(own, others, ranking, draws, random))
    at, first = {}, 0
    for name, flat in groups.items():
        at[name] = slice(first, first + len(flat))
        first += len(flat)
    return Rows(own.like(torch.cat(list(groups.values()))), at)


def greedy_rows(own: Masks, gaps: Float[Tensor, " node"]) -> Masks:
    """The circuit, then the model, without the nodes whose single gaps are largest."""
    flat = own.flat[0]
    order = flat.nonzero()[:, 0][gaps.argsort(descending=True, stable=True)]
    inside = flat.repeat(len(_GREEDY), 1)
    for row, part in enumerate(_GREEDY):
        inside[row, order[: max(1, len(order) // part)]] = False
    removed = flat & ~inside
    return own.like(torch.cat([inside, ~removed]))


def count_rows(n_nodes: int, n_others: int, draws: int) -> int:
    """How many circuits are run in all, greedy subsets included."""
    plain = 3 + n_others + 2 * n_nodes + 2 * SUBSETS + 2 * _CURVE
    return plain + draws * (3 + _CURVE) + 2 * len(_GREEDY)


def _groups(
    own: Masks,
    others: Masks,
    ranking: Float[Tensor, " component"],
    draws: int,
    random: torch.Generator,
) -> Iterator[tuple[str, Bool[Tensor, "row component"]]]:
    flat = own.flat
    nodes = torch.nn.functional.one_hot(flat[0].nonzero()[:, 0], flat.shape[1]).bool()
    yield "model", torch.ones_like(flat)
    yield "empty", torch.zeros_like(flat)
    yield "own", flat
    yield "others", others.flat
    yield "without_node", flat & ~nodes
    yield "model_without_node", ~nodes
    subsets = _halves(flat.expand(SUBSETS, -1), random)
    yield "without_subset", flat & ~subsets
    yield "model_without_subset", ~subsets
    signed = nested(ranking)[:_CURVE]
    yield "curve", signed
    yield "absolute_curve", nested(ranking.abs())[:_CURVE]
    baselines = random_masks(own, draws, random).flat
    yield "random", baselines
    half = _halves(baselines, random)
    yield "random_without_subset", baselines & ~half
    yield "model_without_controls_subset", ~half
    yield "random_curves", shuffled(own.like(signed), draws, random).flatten(0, 1)


def _halves(
    masks: Bool[Tensor, "row component"], random: torch.Generator
) -> Bool[Tensor, "row component"]:
    """Half of every row's members at random, rounded up: never none."""
    order = torch.rand(masks.shape, generator=random).masked_fill(~masks, 2.0)
    place = order.argsort(dim=1).argsort(dim=1)
    return place < (masks.sum(1, keepdim=True) + 1) // 2


_ROUNDING = 1e-5
_UNITS = 32
"""Units of float32's precision that a readout may be off by, at the size of the largest one."""


def judge(
    name: str,
    value: float,
    resampled: Float[Tensor, " other_draw"],
    baselines: Float[Tensor, " draw"],
    rounding: float = _ROUNDING,
) -> Score:
    """A score with its interval and its baselines, in the direction in which it is better.

    Baselines that differ from the score by no more than ``rounding`` are as good as it is.
    """
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    lower = name in LOWER_IS_BETTER
    # Equal circuits may differ by rounding, since they stand in other batches.
    as_good = (baselines <= value + rounding) if lower else (baselines >= value - rounding)
    return Score(
        value,
        low,
        high,
        float(baselines.quantile(0.01 if lower else 0.99)),
        (1 + int(as_good.sum())) / (1 + len(baselines)),
    )


def scores_of(
    circuit: Circuit, own: Masks, rows: Rows, m: Tensor, greedy: Tensor, how: "Scoring"
) -> CircuitScores:
    """The scores of a circuit, given the readouts of :func:`rows_of` and :func:`greedy_rows`.

    Raises:
        CircuitError: asking does not move the readout beyond rounding.
    """
    at, mean = rows.at, m.mean(1)
    gap = float((mean[at["model"]] - mean[at["empty"]]).abs())
    off = _UNITS * torch.finfo(torch.float32).eps * float(m.abs().max())
    if gap <= off:
        raise CircuitError(
            f"asking for {circuit.emotion!r} does not move its readout on these contexts, so "
            "nothing can be faithful to that; use another readout or other contexts"
        )
    f = relative(mean, at)
    values = _statistics(f, at)
    spread = _statistics(relative(bootstrap_means(m[: at["random"].start]), at), at)
    baselines = _baseline_statistics(f, at)
    rounding = max(_ROUNDING, off / gap)
    scores = {
        name: judge(name, float(values[name]), spread[name], baselines[name], rounding)
        for name in values
    }
    gaps = _greedy_gaps(greedy.mean(1), mean, at)
    worst = torch.cat([relative_gaps(f, at, "node"), relative_gaps(f, at, "subset"), gaps]).max()
    loses = _loses(circuit, own, f, at)
    return CircuitScores(
        emotion=circuit.emotion,
        scores=scores,
        heads_fraction=float(own.heads.double().mean()),
        neurons_fraction=float(own.neurons.double().mean()) if own.neurons.numel() else 0.0,
        size=float(own.flat.double().mean()),
        worst_gap=float(worst),
        **_curves(f, at),
        loses=loses,
        needed_share=sum(fall > 0 for fall in loses.values()) / len(loses),
        n_contexts=m.shape[1],
        n_baselines=how.draws,
        ablation=how.ablation,
        positions=how.positions,
    )


def bootstrap_means(m: Float[Tensor, "row context"]) -> Float[Tensor, "draw row"]:
    """Means over contexts drawn with replacement."""
    random = torch.Generator().manual_seed(in_force().seed)
    return (bootstrap_counts(m.shape[1], random, m.dtype) / m.shape[1]) @ m.T


def relative(
    mean: Float[Tensor, "*rest row"], at: Mapping[str, slice]
) -> Float[Tensor, "*rest row"]:
    """Faithfulness of every row, given its mean readout."""
    empty = mean[..., at["empty"]]
    return (mean - empty) / (mean[..., at["model"]] - empty)


def _statistics(f: Tensor, at: Mapping[str, slice]) -> dict[str, Tensor]:
    own = f[..., at["own"].start]
    # With one emotion there is no other circuit, and specificity is faithfulness.
    others = f[..., at["others"]].mean(-1) if at["others"].start < at["others"].stop else 0.0
    return {
        "faithfulness": own,
        "completeness": relative_gaps(f, at, "subset").mean(-1),
        "minimality": (own[..., None] - f[..., at["without_subset"]]).mean(-1) / _half(at),
        "specificity": own - others,
        "cpr": area(_curve(f, at, "curve")),
        "cmd": area((1 - _curve(f, at, "absolute_curve")).abs()),
    }


def _baseline_statistics(f: Tensor, at: Mapping[str, slice]) -> dict[str, Tensor]:
    """The same of random circuits.

    Completeness and minimality are of one random half of each, so these baselines spread more,
    and are harder to beat, than means over several halves.
    """
    own, curves = f[at["random"]], _curve(f, at, "random_curves")
    others = f[at["others"]].mean() if at["others"].start < at["others"].stop else 0.0
    inside, outside = f[at["random_without_subset"]], f[at["model_without_controls_subset"]]
    return {
        "faithfulness": own,
        "completeness": (inside - outside).abs(),
        "minimality": (own - inside) / _half(at),
        "specificity": own - others,
        "cpr": area(curves),
        "cmd": area((1 - curves).abs()),
    }


def _curves(f: Tensor, at: Mapping[str, slice]) -> dict[str, Any]:
    curve, baselines = _curve(f, at, "curve"), _curve(f, at, "random_curves")
    low, high = baselines.quantile(torch.tensor([0.025, 0.975], dtype=f.dtype), dim=0)
    return {
        "log_area": float(log_area(curve)),
        "size_at_80": float(size_at(curve)),
        "sizes": SIZES,
        "curve": tuple(curve.tolist()),
        "curve_low": tuple(low.tolist()),
        "curve_high": tuple(high.tolist()),
    }


def _half(at: Mapping[str, slice]) -> int:
    """Nodes of a random half: a random circuit has as many nodes as the circuit."""
    nodes = at["without_node"]
    return (nodes.stop - nodes.start + 1) // 2


def relative_gaps(f: Tensor, at: Mapping[str, slice], what: str) -> Tensor:
    """Gap in faithfulness of leaving things out of the circuit, and of the model."""
    return (f[..., at[f"without_{what}"]] - f[..., at[f"model_without_{what}"]]).abs()


def _greedy_gaps(greedy: Tensor, mean: Tensor, at: Mapping[str, slice]) -> Tensor:
    inside, outside = greedy.chunk(2)
    return ((inside - outside) / (mean[at["model"]] - mean[at["empty"]])).abs()


def _curve(f: Tensor, at: Mapping[str, slice], name: str) -> Tensor:
    """Faithfulness at every size; the whole model's is 1."""
    run = f[..., at[name]].unflatten(-1, (-1, len(SIZES) - 1))
    curve = torch.cat([run, torch.ones_like(run[..., :1])], dim=-1)
    return curve if name == "random_curves" else curve.squeeze(-2)


def _loses(circuit: Circuit, own: Masks, f: Tensor, at: Mapping[str, slice]) -> dict[str, float]:
    places: dict[str, int] = {}
    heads, (layers, width) = own.heads.shape[2], own.neurons.shape[1:]
    for node, (layer, index) in zip(circuit.of_kind("head"), circuit.heads, strict=True):
        places[node.id] = layer * heads + index
    for node, (layer, index) in zip(circuit.of_kind("neuron"), circuit.neurons, strict=True):
        places[node.id] = layers * heads + layer * width + index
    order = sorted(places, key=lambda name: places[name])
    fall = (f[at["own"].start] - f[at["without_node"]]).tolist()
    return dict(zip(order, fall, strict=True))


_FEWEST = 2


@dataclass(frozen=True)
class Scoring:
    """How circuits are scored."""

    ablation: Ablation = "resample"
    positions: Positions = "last"
    draws: int = 100
    """Random circuits."""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise DataError(f"{self.draws} random circuits are too few; give 100 or more")


def check_held_out(contexts: Sequence[Context], train: Sequence[Context]) -> None:
    """Refuse contexts that circuits were made from.

    Raises:
        DataError: there are fewer than two contexts, or one of them is a train context.
    """
    if len(contexts) < _FEWEST:
        raise DataError(
            f"scores need held-out contexts, {_FEWEST} or more for their intervals; "
            f"found {len(contexts)}"
        )
    known = {(context.situation, context.event) for context in train}
    for context in contexts:
        if (context.situation, context.event) in known:
            raise DataError(
                f"context {context.id} is one that the circuits were made from; "
                "score them on others"
            )


def score_circuits(
    model: Model,
    circuits: Mapping[str, Circuit],
    contexts: Sequence[Context],
    readouts: Mapping[str, Projection | LogitDifference],
    ranking: TotalEstimates,
    *,
    how: Scoring | None = None,
    means: NeutralMeans | None = None,
    template: str | Template = "published",
) -> dict[str, CircuitScores]:
    """Score the circuit of every emotion; progress counts emotions.

    Args:
        model: The model that the circuits are of.
        circuits: Emotion -> circuit.
        contexts: Held out from everything that made the circuits.
        readouts: Emotion -> what its runs are judged by.
        ranking: Estimated total effects, by which circuits of all sizes are made.
        how: Ablation, positions, number of baselines.
        means: For mean ablation.
        template: How contexts become prompts.

    Raises:
        CircuitError: a circuit is another model's, is empty, or asking moves no readout.
        DataError: too few contexts.
    """
    how = how or Scoring()
    check_held_out(contexts, ())
    named = Masks.of(model, list(circuits.values())).flat.any(dim=1).tolist()
    for emotion, filled in zip(circuits, named, strict=True):
        if not filled:
            raise CircuitError(f"the circuit of {emotion!r} has neither heads nor neurons")
    work = partial(
        _score,
        circuits=dict(circuits),
        contexts=contexts,
        readouts=dict(readouts),
        ranking=ranking,
        how=how,
        means=means,
        template=template,
    )
    found = {}
    done = in_order(engine().results(model, work, tuple(circuits)))
    for emotion, scores in zip(circuits, done, strict=True):
        found[emotion] = scores
        advance(1)
    return found


def _score(
    model: Model,
    emotion: str,
    *,
    circuits: Mapping[str, Circuit],
    contexts: Sequence[Context],
    readouts: Mapping[str, Projection | LogitDifference],
    ranking: TotalEstimates,
    how: Scoring,
    means: NeutralMeans | None,
    template: str | Template,
) -> CircuitScores:
    """Score one circuit; the others are among its baselines."""
    masks, e = Masks.of(model, list(circuits.values())), list(circuits).index(emotion)
    others = masks[[i for i in range(len(masks)) if i != e]]
    place = ranking.index("emotion", emotion)
    effects = torch.cat(
        [ranking.head_effect[place].flatten(), ranking.neuron_effect[place].flatten()]
    )
    random = torch.Generator().manual_seed(in_force().seed)
    rows = rows_of(masks[[e]], others, effects, how.draws, random)
    on = stand(
        model,
        make_pairs(model, contexts, emotion, template=template),
        ablation=how.ablation,
        positions=how.positions,
        means=means,
    )
    readout = [readouts[emotion]]
    m = run_circuits(on, rows.masks, readout)[..., 0]
    gaps = relative_gaps(relative(m.mean(1), rows.at), rows.at, "node")
    greedy = run_circuits(on, greedy_rows(masks[[e]], gaps), readout)[..., 0]
    return scores_of(circuits[emotion], masks[[e]], rows, m.double(), greedy.double(), how)

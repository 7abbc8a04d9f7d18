"""Scores of a circuit on contexts it was not made from, beside random circuits of its size.

With f(C) = (m(C) - m(empty)) / (m(model) - m(empty)), where m is the mean readout over contexts
and the empty circuit is the run with every head and neuron ablated (as MIB does; under resample
ablation at the last position it equals the corrupt run):

* faithfulness: f(circuit); 1 is the whole model.
* completeness: mean over random halves K of the circuit of
  |f(circuit without K) - f(model without K)|; lower is better (Wang et al. 2022, arXiv 2211.00593).
* minimality: what f loses per node that leaves, mean over the same halves; what it loses when a
  node leaves alone is listed node by node.
* specificity: f(circuit) minus the mean of f over the circuits of the other emotions, all in runs
  and by the readout of this emotion. Readouts of other emotions are no measure of it: their
  directions are relative to each other, so that they move without any part being shared.
* cpr, cmd: areas of f, and of |1 - f|, over circuit size, as in MIB's code (Mueller et al. 2025,
  arXiv 2504.13151): sizes are nominal shares of all components, the integral is the trapezoid rule
  on these shares. Nearly all of its weight lies at circuits of a fifth of the model and more, so
  the same mean over the logarithm of the size is given too, and the smallest size that is faithful
  enough.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    "area",
    "bootstrap_counts",
    "bootstrap_means",
    "check_held_out",
    "judge",
    "log_area",
    "nested",
    "score_circuits",
    "scores_of",
    "size_at",
]

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Nominal shares of all components (MIB's)."""

_DRAWS = 2000
_SUBSETS = 8
"""Random halves of a circuit, for completeness."""
_CURVE = len(SIZES) - 1
"""Sizes that are run: the last is the whole model."""
_GREEDY = (8, 4, 2)
"""Greedy subsets are an eighth, a quarter and half of the nodes."""
_ROUNDING = 1e-5
_UNITS = 32
"""Units of float32's precision that a readout may be off by, at the size of the largest one."""


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


def bootstrap_means(m: Float[Tensor, "row context"]) -> Float[Tensor, "draw row"]:
    """Means over contexts drawn with replacement; the seed in force decides the draws."""
    random = torch.Generator().manual_seed(in_force().seed)
    return (bootstrap_counts(m.shape[1], random, m.dtype) / m.shape[1]) @ m.T


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
    emotion: str,
    own: Masks,
    others: Masks,
    ranking: Float[Tensor, " component"],
    run: Callable[[Masks], Float[Tensor, "row context"]],
    draws: int,
) -> CircuitScores:
    """The scores of a circuit, given a way to run circuits; the seed in force decides the draws.

    Args:
        emotion: What the readout is of.
        own: The circuit, one row.
        others: The circuits of the other emotions.
        ranking: Estimated effect of every component, heads then neurons, in flat form.
        run: The readout of every circuit in every context, float64.
        draws: Random circuits.

    Raises:
        CircuitError: asking does not move the readout beyond rounding.
    """
    sets = _sets(own, others, ranking, draws, torch.Generator().manual_seed(in_force().seed))
    found = run(own.like(torch.cat(list(sets.values()))))
    m = dict(zip(sets, found.split([len(rows) for rows in sets.values()]), strict=True))
    mean = {name: rows.mean(1) for name, rows in m.items()}
    gap = float((mean["model"] - mean["empty"]).abs())
    off = _UNITS * torch.finfo(torch.float32).eps * float(found.abs().max())
    if gap <= off:
        raise CircuitError(
            f"asking for {emotion!r} does not move its readout on these contexts, so "
            "nothing can be faithful to that; use another readout or other contexts"
        )
    f = _faithful(mean)
    curves = _whole(f["random_curves"].unflatten(0, (draws, -1)))
    nodes = len(f["without_node"])
    values = _six(f, nodes)
    drawn = {name: bootstrap_means(rows) for name, rows in m.items() if "random" not in name}
    spread = _six(_faithful(drawn), nodes)
    # Completeness and minimality are of one random half of each random circuit, so that these
    # baselines spread more, and are harder to beat, than means over several halves.
    as_own = {
        "own": f["random"][:, None],
        "others": f["others"],
        "without_subset": f["random_without_subset"][:, None],
        "model_without_subset": f["model_without_random_subset"][:, None],
        "curve": curves[:, :-1],
        "absolute_curve": curves[:, :-1],
    }
    baselines = _six(as_own, nodes)
    rounding = max(_ROUNDING, off / gap)
    scores = {
        name: judge(name, float(values[name]), spread[name], baselines[name], rounding)
        for name in values
    }
    gaps = [
        (f[f"without_{what}"] - f[f"model_without_{what}"]).abs() for what in ("node", "subset")
    ]
    inside, outside = run(_greedy(own, gaps[0])).mean(1).chunk(2)
    gaps.append((inside - outside).abs() / gap)
    loses = dict(zip(own.names, (f["own"] - f["without_node"]).tolist(), strict=True))
    curve = _whole(f["curve"])
    low, high = curves.quantile(torch.tensor([0.025, 0.975], dtype=f["own"].dtype), dim=0)
    return CircuitScores(
        emotion=emotion,
        scores=scores,
        heads_fraction=float(own.heads.double().mean()),
        neurons_fraction=float(own.neurons.double().mean()) if own.neurons.numel() else 0.0,
        size=float(own.flat.double().mean()),
        worst_gap=float(torch.cat(gaps).max()),
        log_area=float(log_area(curve)),
        size_at_80=float(size_at(curve)),
        sizes=SIZES,
        curve=tuple(curve.tolist()),
        curve_low=tuple(low.tolist()),
        curve_high=tuple(high.tolist()),
        loses=loses,
        needed_share=sum(fall > 0 for fall in loses.values()) / nodes,
        n_contexts=found.shape[1],
        n_baselines=draws,
    )


def _sets(
    own: Masks,
    others: Masks,
    ranking: Float[Tensor, " component"],
    draws: int,
    random: torch.Generator,
) -> dict[str, Bool[Tensor, "row component"]]:
    """The circuits that are run for one emotion, by what they are for."""
    flat = own.flat
    nodes = torch.nn.functional.one_hot(flat[0].nonzero()[:, 0], flat.shape[1]).bool()
    halves = _halves(flat.expand(_SUBSETS, -1), random)
    curve = nested(ranking)[:_CURVE]
    baselines = random_masks(own, draws, random).flat
    random_halves = _halves(baselines, random)
    return {
        "model": torch.ones_like(flat),
        "empty": torch.zeros_like(flat),
        "own": flat,
        "others": others.flat,
        "without_node": flat & ~nodes,
        "model_without_node": ~nodes,
        "without_subset": flat & ~halves,
        "model_without_subset": ~halves,
        "curve": curve,
        "absolute_curve": nested(ranking.abs())[:_CURVE],
        "random": baselines,
        "random_without_subset": baselines & ~random_halves,
        "model_without_random_subset": ~random_halves,
        "random_curves": shuffled(own.like(curve), draws, random).flatten(0, 1),
    }


def _halves(
    masks: Bool[Tensor, "row component"], random: torch.Generator
) -> Bool[Tensor, "row component"]:
    """Half of every row's members at random, rounded up: never none."""
    order = torch.rand(masks.shape, generator=random).masked_fill(~masks, 2.0)
    place = order.argsort(dim=1).argsort(dim=1)
    return place < (masks.sum(1, keepdim=True) + 1) // 2


def _greedy(own: Masks, gaps: Float[Tensor, " node"]) -> Masks:
    """The circuit, then the model, without the nodes whose single gaps are largest."""
    flat = own.flat[0]
    order = flat.nonzero()[:, 0][gaps.argsort(descending=True, stable=True)]
    inside = flat.repeat(len(_GREEDY), 1)
    for row, part in enumerate(_GREEDY):
        inside[row, order[: max(1, len(order) // part)]] = False
    return own.like(torch.cat([inside, ~(flat & ~inside)]))


def _faithful(mean: Mapping[str, Float[Tensor, "..."]]) -> dict[str, Float[Tensor, "..."]]:
    """Faithfulness of every set ``[... row]``, given its mean readout."""
    empty = mean["empty"]
    return {name: (own - empty) / (mean["model"] - empty) for name, own in mean.items()}


def _whole(curve: Float[Tensor, "*rest size"]) -> Float[Tensor, "*rest other_size"]:
    """Faithfulness at every size; the whole model's is 1."""
    return torch.cat([curve, torch.ones_like(curve[..., :1])], dim=-1)


def _six(f: Mapping[str, Float[Tensor, "..."]], nodes: int) -> dict[str, Float[Tensor, "..."]]:
    """The scores, given the faithfulness of their sets: one of each along the last axis."""
    own, inside = f["own"], f["without_subset"]
    # With one emotion there is no other circuit, and specificity is faithfulness.
    others = f["others"].mean(-1) if f["others"].shape[-1] else 0.0
    return {
        "faithfulness": own[..., 0],
        "completeness": (inside - f["model_without_subset"]).abs().mean(-1),
        "minimality": (own - inside).mean(-1) / ((nodes + 1) // 2),
        "specificity": own[..., 0] - others,
        "cpr": area(_whole(f["curve"])),
        "cmd": area((1 - _whole(f["absolute_curve"])).abs()),
    }


def check_held_out(contexts: Sequence[Context], train: Sequence[Context]) -> None:
    """Refuse contexts that circuits were made from.

    Raises:
        DataError: there are fewer than two contexts, or one of them is a train context.
    """
    if len(contexts) < 2:
        raise DataError(
            f"scores need held-out contexts, {2} or more for their intervals; found {len(contexts)}"
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
    ablation: Ablation = "resample",
    positions: Positions = "last",
    draws: int = 100,
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
        ablation: What stands for what a circuit does not have.
        positions: Where.
        draws: Random circuits.
        means: For mean ablation.
        template: How contexts become prompts.

    Raises:
        CircuitError: a circuit is another model's, is empty, or asking moves no readout.
        DataError: too few contexts, or no random circuit.
    """
    check_held_out(contexts, ())
    if draws < 1:
        raise DataError(f"{draws} random circuits are too few; give 100 or more")
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
        draws=draws,
        template=template,
        how={"ablation": ablation, "positions": positions},
        means=means,
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
    draws: int,
    template: str | Template,
    how: Mapping[str, Any],
    means: NeutralMeans | None,
) -> CircuitScores:
    """Score one circuit; the others are among its baselines."""
    masks, e = Masks.of(model, list(circuits.values())), list(circuits).index(emotion)
    others = masks[[i for i in range(len(masks)) if i != e]]
    place = ranking.index("emotion", emotion)
    effects = [table[place].flatten() for table in (ranking.head_effect, ranking.neuron_effect)]
    on = stand(model, make_pairs(model, contexts, emotion, template=template), means=means, **how)

    def run(rows: Masks) -> Tensor:
        return run_circuits(on, rows, [readouts[emotion]])[..., 0].double()

    found = scores_of(emotion, masks[[e]], others, torch.cat(effects), run, draws)
    return replace(found, **how)

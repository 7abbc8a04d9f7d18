"""Scoring circuits on held-out contexts: all runs in a few batches, then arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.data.sev import Context
from circuits.errors import CircuitError, DataError
from circuits.graph.ablation import Ablation, Positions, ablation_cost, run_circuits, stand
from circuits.graph.areas import SIZES, area, log_area, size_at
from circuits.graph.circuit import Circuit
from circuits.graph.masks import Masks
from circuits.graph.score_rows import Rows, count_rows, greedy_rows, rows_of
from circuits.graph.scores import LOWER_IS_BETTER, CircuitScores, Score
from circuits.measure.means import PlainMeans
from circuits.measure.pairs import Pair, make_pairs
from circuits.measure.readouts import LogitDifference, Projection
from circuits.measure.totals import TotalEstimates
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.model.receipts import Cost

__all__ = ["Scoring", "check_held_out", "judge", "score_circuits", "score_cost"]

_BOOTSTRAP = 2000
_FEWEST = 2


@dataclass(frozen=True)
class Scoring:
    """How circuits are scored."""

    ablation: Ablation = "resample"
    positions: Positions = "last"
    draws: int = 100
    """Random circuits."""
    seed: int = 0

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
    means: PlainMeans | None = None,
    progress: Progress | None = None,
) -> dict[str, CircuitScores]:
    """Score the circuit of every emotion.

    Args:
        model: The model that the circuits are of.
        circuits: Emotion -> circuit.
        contexts: Held out from everything that made the circuits.
        readouts: Emotion -> what its runs are judged by.
        ranking: Estimated total effects, by which circuits of all sizes are made.
        how: Ablation, positions, number of controls.
        means: For mean ablation.
        progress: Told after every emotion.

    Raises:
        CircuitError: a circuit is another model's, is empty, or asking moves no readout.
        DataError: too few contexts.
    """
    how = how or Scoring()
    check_held_out(contexts, ())
    masks = Masks.of(model, list(circuits.values()))
    found = {}
    for e, (emotion, circuit) in enumerate(circuits.items()):
        if not masks.flat[e].any():
            raise CircuitError(f"the circuit of {emotion!r} has neither heads nor neurons")
        others = masks[[i for i in range(len(masks)) if i != e]]
        place = ranking.index("emotion", emotion)
        effects = torch.cat(
            [ranking.head_effect[place].flatten(), ranking.neuron_effect[place].flatten()]
        )
        random = torch.Generator().manual_seed(how.seed)
        rows = rows_of(masks[[e]], others, effects, how.draws, random)
        on = stand(
            model, make_pairs(model, contexts, emotion),
            ablation=how.ablation, positions=how.positions, means=means,
        )  # fmt: skip
        readout = [readouts[emotion]]
        m = run_circuits(on, rows.masks, readout)[..., 0]
        gaps = _gaps(_relative(m.mean(1), rows.at), rows.at, "node")
        greedy = run_circuits(on, greedy_rows(masks[[e]], gaps), readout)[..., 0]
        found[emotion] = _scores(circuit, masks[[e]], rows, m.double(), greedy.double(), how)
        if progress:
            progress(1)
    return found


def score_cost(
    model: Model,
    circuits: Mapping[str, Circuit],
    pairs: Mapping[str, Sequence[Pair]],
    how: Scoring | None = None,
) -> Cost:
    """What :func:`score_circuits` will need, given the pairs of every emotion."""
    how, cost = how or Scoring(), Cost()
    for emotion, circuit in circuits.items():
        nodes = len(set(circuit.heads)) + len(set(circuit.neurons))
        count = count_rows(nodes, len(circuits) - 1, how.draws)
        cost += ablation_cost(
            model, pairs[emotion], count, ablation=how.ablation, positions=how.positions
        )
    return cost


def judge(
    name: str,
    value: float,
    resampled: Float[Tensor, " draw"],
    controls: Float[Tensor, " draw"],
) -> Score:
    """A score with its interval and its controls, in the direction in which it is better."""
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    lower = name in LOWER_IS_BETTER
    as_good = (controls <= value) if lower else (controls >= value)
    return Score(
        value,
        low,
        high,
        float(controls.quantile(0.01 if lower else 0.99)),
        (1 + int(as_good.sum())) / (1 + len(controls)),
    )


def _scores(
    circuit: Circuit, own: Masks, rows: Rows, m: Tensor, greedy: Tensor, how: Scoring
) -> CircuitScores:
    at, mean = rows.at, m.mean(1)
    if mean[at["model"]] == mean[at["empty"]]:
        raise CircuitError(
            f"asking for {circuit.emotion!r} does not move its readout on these contexts, so "
            "nothing can be faithful to that; use another readout or other contexts"
        )
    f = _relative(mean, at)
    values = _statistics(f, at)
    spread = _statistics(_relative(_resampled(m[: at["controls"].start], how.seed), at), at)
    controls = _control_statistics(f, at)
    scores = {
        name: judge(name, float(values[name]), spread[name], controls[name]) for name in values
    }
    curve, random_curves = _curve(f, at, "curve"), _curve(f, at, "control_curves")
    low, high = random_curves.quantile(torch.tensor([0.025, 0.975], dtype=f.dtype), dim=0)
    worst = torch.cat(
        [_gaps(f, at, "node"), _gaps(f, at, "subset"), _greedy_gaps(greedy.mean(1), mean, at)]
    ).max()
    loses = _loses(circuit, own, f, at)
    return CircuitScores(
        emotion=circuit.emotion,
        scores=scores,
        heads_fraction=float(own.heads.double().mean()),
        neurons_fraction=float(own.neurons.double().mean()),
        size=float(own.flat.double().mean()),
        worst_gap=float(worst),
        log_area=float(log_area(curve)),
        size_at_80=float(size_at(curve)),
        sizes=SIZES,
        curve=tuple(curve.tolist()),
        curve_low=tuple(low.tolist()),
        curve_high=tuple(high.tolist()),
        loses=loses,
        needed_share=sum(fall > 0 for fall in loses.values()) / len(loses),
        n_contexts=m.shape[1],
        n_controls=how.draws,
        ablation=how.ablation,
        positions=how.positions,
    )


def _resampled(m: Float[Tensor, "row context"], seed: int) -> Float[Tensor, "draw row"]:
    """Means over contexts drawn with replacement."""
    random, count = torch.Generator().manual_seed(seed), m.shape[1]
    drawn = torch.randint(count, (_BOOTSTRAP, count), generator=random)
    weights = torch.nn.functional.one_hot(drawn, count).sum(1).to(m.dtype) / count
    return weights @ m.T


def _relative(
    mean: Float[Tensor, "*rest row"], at: Mapping[str, slice]
) -> Float[Tensor, "*rest row"]:
    empty = mean[..., at["empty"]]
    return (mean - empty) / (mean[..., at["model"]] - empty)


def _statistics(f: Tensor, at: Mapping[str, slice]) -> dict[str, Tensor]:
    own = f[..., at["own"].start]
    # With one emotion there is no other circuit, and specificity is faithfulness.
    others = f[..., at["others"]].mean(-1) if at["others"].start < at["others"].stop else 0.0
    return {
        "faithfulness": own,
        "completeness": _gaps(f, at, "subset").mean(-1),
        "minimality": (own[..., None] - f[..., at["without_subset"]]).mean(-1) / _half(at),
        "specificity": own - others,
        "cpr": area(_curve(f, at, "curve")),
        "cmd": area((1 - _curve(f, at, "absolute_curve")).abs()),
    }


def _control_statistics(f: Tensor, at: Mapping[str, slice]) -> dict[str, Tensor]:
    """The same of random circuits.

    Completeness and minimality are of one random half of each, so these controls spread more,
    and are harder to beat, than means over several halves.
    """
    own, curves = f[at["controls"]], _curve(f, at, "control_curves")
    others = f[at["others"]].mean() if at["others"].start < at["others"].stop else 0.0
    inside, outside = f[at["controls_without_subset"]], f[at["model_without_controls_subset"]]
    return {
        "faithfulness": own,
        "completeness": (inside - outside).abs(),
        "minimality": (own - inside) / _half(at),
        "specificity": own - others,
        "cpr": area(curves),
        "cmd": area((1 - curves).abs()),
    }


def _half(at: Mapping[str, slice]) -> int:
    """Nodes of a random half: a random circuit has as many nodes as the circuit."""
    nodes = at["without_node"]
    return (nodes.stop - nodes.start + 1) // 2


def _gaps(f: Tensor, at: Mapping[str, slice], what: str) -> Tensor:
    return (f[..., at[f"without_{what}"]] - f[..., at[f"model_without_{what}"]]).abs()


def _greedy_gaps(greedy: Tensor, mean: Tensor, at: Mapping[str, slice]) -> Tensor:
    inside, outside = greedy.chunk(2)
    return ((inside - outside) / (mean[at["model"]] - mean[at["empty"]])).abs()


def _curve(f: Tensor, at: Mapping[str, slice], name: str) -> Tensor:
    """Faithfulness at every size; the whole model's is 1."""
    run = f[..., at[name]].unflatten(-1, (-1, len(SIZES) - 1))
    curve = torch.cat([run, torch.ones_like(run[..., :1])], dim=-1)
    return curve if name == "control_curves" else curve.squeeze(-2)


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

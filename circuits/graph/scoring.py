"""Scoring circuits on held-out contexts: all runs in a few batches, then arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from circuits.data.sev import Context
from circuits.errors import CircuitError, DataError
from circuits.graph.ablation import Ablation, Positions, ablation_cost, run_circuits, stand
from circuits.graph.circuit import Circuit
from circuits.graph.masks import Masks
from circuits.graph.score_rows import count_rows, greedy_rows, rows_of
from circuits.graph.score_statistics import relative, relative_gaps, scores_of
from circuits.graph.scores import CircuitScores
from circuits.measure.means import PlainMeans
from circuits.measure.pairs import Pair, make_pairs
from circuits.measure.readouts import LogitDifference, Projection
from circuits.measure.totals import TotalEstimates
from circuits.model.engine import engine, in_order
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.model.receipts import Cost

__all__ = ["Scoring", "check_held_out", "score_circuits", "score_cost"]

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
    named = Masks.of(model, list(circuits.values())).flat.any(dim=1).tolist()
    for emotion, filled in zip(circuits, named, strict=True):
        if not filled:
            raise CircuitError(f"the circuit of {emotion!r} has neither heads nor neurons")
    work = partial(
        _score, circuits=dict(circuits), contexts=contexts, readouts=dict(readouts),
        ranking=ranking, how=how, means=means,
    )  # fmt: skip
    found = {}
    done = in_order(engine().results(model, work, tuple(circuits)))
    for emotion, scores in zip(circuits, done, strict=True):
        found[emotion] = scores
        if progress:
            progress(1)
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
    means: PlainMeans | None,
) -> CircuitScores:
    """Score one circuit; the others are among its controls."""
    masks, e = Masks.of(model, list(circuits.values())), list(circuits).index(emotion)
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
    gaps = relative_gaps(relative(m.mean(1), rows.at), rows.at, "node")
    greedy = run_circuits(on, greedy_rows(masks[[e]], gaps), readout)[..., 0]
    return scores_of(circuits[emotion], masks[[e]], rows, m.double(), greedy.double(), how)


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

"""What a judge hears when the components ranked first are ablated or enhanced."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.control.ablation import ablated, stand_in
from circuits.control.bench import Bench
from circuits.control.validation import Known
from circuits.data.replies import Judged
from circuits.graph.masks import Masks
from circuits.graph.ranked_sets import ORDERS, PartKind, ranked_sets
from circuits.measure.expression import wilson
from circuits.measure.means import Differences
from circuits.model.edits import Add
from circuits.model.generation import Progress
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["REPLY_CHANGES", "REPLY_ORDERS", "Heard", "replies_needed", "validate_replies"]

REPLY_CHANGES = ("plain mean", "enhance")
REPLY_ORDERS = ("top", "bottom", "random")


@dataclass(frozen=True, eq=False)
class Heard(Record):
    """Replies in which the judge hears the emotion, by the set that is ablated or enhanced.

    ``plain mean``: the prompt asks for the emotion, and the set is set to its mean over plain
    prompts. ``enhance``: the prompt is plain, and the set gets the emotion's differences. Both
    once, at the last position of the prompt.
    """

    judged: Float[Tensor, "emotion method order size"]
    """Percent of the replies."""
    low: Float[Tensor, "emotion method order size"]
    """Lower end of Wilson's 95% interval."""
    high: Float[Tensor, "emotion method order size"]

    emotion: tuple[str, ...]
    method: tuple[str, ...]
    order: tuple[str, ...]
    """``top`` and ``bottom`` as in :class:`~circuits.control.validation.Validation`; ``random``:
    sets with as many components in every layer as the top set, all draws together."""
    size: tuple[int, ...]
    kind: str
    """``head`` or ``neuron``."""
    n_contexts: int
    n_draws: int


def replies_needed(bench: Bench, sizes: Sequence[int], draws: int) -> int:
    """How many replies :func:`validate_replies` makes."""
    sets = len(REPLY_CHANGES) * len(sizes) * (2 + draws)
    return sets * len(bench.contexts) * len(bench.emotions)


def validate_replies(
    bench: Bench,
    known: Known,
    kind: PartKind,
    sizes: tuple[int, ...],
    provenance: Provenance,
    *,
    draws: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> Heard:
    """Reply under sets of a few sizes, and judge the replies.

    Args:
        bench: Model, contexts and judge.
        known: Ranking, means and differences.
        kind: Heads or neurons; the others stay as they are.
        sizes: How many components the sets have.
        provenance: Of the result.
        draws: Random sets of every size.
        seed: Of the draws.
        progress: Told how many replies were made.

    Raises:
        DataError: a size is not between one and the number of components.
    """
    sets = _by_emotion(bench, known, kind, sizes, draws, seed)
    shape = (len(sizes), len(bench.emotions))
    counts = torch.zeros(len(REPLY_CHANGES), len(REPLY_ORDERS), *shape)
    for place, own in enumerate(sets):
        order, size = divmod(place, len(sizes))
        order = min(order, REPLY_ORDERS.index("random"))
        for method, judged in enumerate(_replies(bench, known, own, progress)):
            matches = torch.tensor([float(row.verdict.match) for row in judged])
            by_emotion = matches.reshape(-1, len(bench.emotions)).sum(0)
            counts[method, order, size] += by_emotion
    totals = torch.tensor([1, 1, draws])[:, None, None] * len(bench.contexts)
    found = torch.stack([100 * counts / totals, *_intervals(counts, totals)])
    judged, low, high = found.movedim(-1, 1)
    return Heard(
        provenance=provenance, judged=judged, low=low, high=high,
        emotion=bench.emotions, method=REPLY_CHANGES, order=REPLY_ORDERS, size=sizes,
        kind=kind, n_contexts=len(bench.contexts), n_draws=draws,
    )  # fmt: skip


def _by_emotion(
    bench: Bench, known: Known, kind: PartKind, sizes: tuple[int, ...], draws: int, seed: int
) -> Iterator[Masks]:
    """Top, bottom, then random sets, by size; in each the rows are the emotions."""
    random = torch.Generator().manual_seed(seed)
    found = [
        ranked_sets(bench.model, known.effects(emotion, kind), kind, sizes, draws, random)
        for emotion in bench.emotions
    ]
    single = ORDERS.index("single") * len(sizes)
    for row in range(len(found[0])):
        if not single <= row < single + len(sizes):
            yield found[0].like(torch.stack([own.flat[row] for own in found]))


def _replies(
    bench: Bench, known: Known, sets: Masks, progress: Progress | None
) -> tuple[list[Judged], list[Judged]]:
    """Under ablation, and under enhancement; every context with every emotion."""
    asked = ablated(bench, sets, stand_in(bench, "mean", known.plain), progress)
    edits = [_more(sets, known.differences, e, bench.emotions[e]) for e in range(len(sets))]
    return asked, bench.changed("circuit", edits, progress)


def _more(sets: Masks, differences: Differences, row: int, emotion: str) -> list[Add]:
    e = differences.index("emotion", emotion)
    z = sets.heads[row][..., None] * differences.z[e]
    post = sets.neurons[row] * differences.post[e]
    return [
        Add(site, layer, value, when="prompt")
        for site, values in (("z", z), ("post", post))
        for layer, value in enumerate(values)
        if bool(value.any())
    ]


def _intervals(counts: Tensor, totals: Tensor) -> Tensor:
    pairs = zip(counts.flatten().tolist(), totals.expand_as(counts).flatten().tolist(), strict=True)
    limits = torch.tensor([wilson(round(matches), total) for matches, total in pairs])
    return limits.T.reshape(2, *counts.shape)

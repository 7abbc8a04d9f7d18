"""Which emotions a judge hears in replies, those that were asked for and those that were not."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.data.judges.protocol import Judge
from circuits.data.judging import hear
from circuits.data.replies import Reply
from circuits.errors import DataError
from circuits.measure.expression import wilson
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["Hearing", "hearing"]


@dataclass(frozen=True, eq=False)
class Hearing(Record):
    """How often replies to ``label`` express ``emotion``, in percent."""

    share: Float[Tensor, "label emotion"]
    low: Float[Tensor, "label emotion"]
    """Lower end of the 95% interval (Wilson 1927)."""
    high: Float[Tensor, "label emotion"]
    n: Int[Tensor, " label"]
    """Replies."""

    label: tuple[str, ...]
    """What was asked for: an emotion, or ``neutral`` where none was."""
    emotion: tuple[str, ...]
    """What the judge was asked to hear."""


def hearing(
    replies: Sequence[Reply], judge: Judge, emotions: Sequence[str], provenance: Provenance
) -> Hearing:
    """Ask the judge about every reply and every emotion, asked for or not.

    Args:
        replies: To prompts that ask for an emotion, or for none.
        judge: Says whether a text expresses an emotion; asked ``len(emotions)`` times per reply.
        emotions: What it is asked about.
        provenance: Of the result.

    Raises:
        DataError: no replies, or no emotions.
        JudgeError: the judge cannot be reached or read.
    """
    if not replies or not emotions:
        raise DataError(
            f"{len(replies)} replies and {len(emotions)} emotions; give at least one of each"
        )
    verdicts = hear(judge, [(reply.text, e) for reply in replies for e in emotions])
    heard = torch.tensor([verdict.match for verdict in verdicts]).reshape(len(replies), -1)
    labels = tuple(dict.fromkeys(reply.emotion for reply in replies))
    own = torch.tensor([labels.index(reply.emotion) for reply in replies])
    counts = torch.stack([heard[own == place].sum(0) for place in range(len(labels))])
    n = torch.bincount(own, minlength=len(labels))
    bounds = torch.tensor(
        [
            [wilson(count, total) for count in row]
            for row, total in zip(counts.tolist(), n.tolist(), strict=True)
        ]
    )
    return Hearing(
        provenance=provenance, share=100 * counts / n[:, None], low=bounds[..., 0],
        high=bounds[..., 1], n=n, label=labels, emotion=tuple(emotions),
    )  # fmt: skip

"""The class as the model writes it: greedy replies, in which the first label word counts.

A restricted choice always names some class. A reply may name none; how often that happens under a
mask says whether recognition changed or the model stopped answering.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.data.prompts import questions
from circuits.data.texts import LabelledSet
from circuits.model.choices import named
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.records import Record
from circuits.selective.asking import Asking, at, check_labels, places_of, taken
from circuits.selective.masks import Mask, masking
from circuits.selective.profile import Profile
from circuits.selective.selection import Selection

__all__ = ["Naming", "naming"]


@dataclass(frozen=True, eq=False)
class Naming(Record):
    """Greedy replies to test texts of every class, without a mask and under the class's own."""

    label: tuple[str, ...]
    """The class of the texts, whose neurons are masked."""
    base: Float[Tensor, " label"]
    """Texts whose class is written without a mask, in percent."""
    masked: Float[Tensor, " label"]
    """The same with the class's neurons masked."""
    base_silent: Float[Tensor, " label"]
    """Replies that name no class without a mask, in percent."""
    masked_silent: Float[Tensor, " label"]
    """The same with the class's neurons masked."""
    n_texts: Int[Tensor, " label"]
    mask: str = "zero"
    strength: float = 1.0


def naming(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    mask: Mask,
    *,
    how: Asking | None = None,
    progress: Progress | None = None,
) -> Naming:
    """Let the model write the class of test texts, as it is and with the class's neurons masked.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a class has no test texts.
    """
    how = how or Asking(per_label=40)
    asked = taken(texts.test, "test", how.per_label)
    check_labels(selection, asked)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    shares: list[list[float]] = []
    for place, label in enumerate(selection.label):
        rows = places_of(asked, label)
        prompts, own = questions(at(asked, rows).rows, texts.request), selection.chosen[place]
        both = [
            named(
                model, prompts, asked.label, edits=edits, batch_size=how.batch_size,
                progress=progress,
            )
            for edits in ((), edits_on(own, label, rows))
        ]  # fmt: skip
        shares.append([_share(written, wanted) for wanted in (label, None) for written in both])
    base, masked, base_silent, masked_silent = torch.tensor(shares).T
    return Naming(
        provenance=selection.provenance.child(
            named=texts.name, mask=mask.kind, strength=mask.strength, per_label=how.per_label
        ),
        label=selection.label,
        base=base,
        masked=masked,
        base_silent=base_silent,
        masked_silent=masked_silent,
        n_texts=torch.tensor([len(asked.of(label)) for label in selection.label]),
        mask=mask.kind,
        strength=mask.strength,
    )


def _share(written: Sequence[str | None], wanted: str | None) -> float:
    return 100.0 * sum(word == wanted for word in written) / len(written)

"""Asking a model for the class of texts, as it is and under edits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.data.prompts import questions
from circuits.data.texts import Split, Texts
from circuits.errors import AxisError, DataError
from circuits.model.choices import choice_logs
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.selective.masks import Edits, EditsOn, matched_sets
from circuits.selective.selection import Selection
from circuits.selective.statistics import by_class, gains, hits

__all__ = [
    "Answers",
    "Ask",
    "Asking",
    "ask_masked",
    "asker",
    "at",
    "check_labels",
    "places_of",
    "random_sets",
    "taken",
]

Ask = Callable[[Texts, Edits], Float[Tensor, "text label"]]
"""Log-probability (nats) of every label as the reply, under edits; in the order of the texts."""


@dataclass(frozen=True)
class Asking:
    """How much is asked, and how."""

    per_label: int = 200
    """Texts of every class, at most."""
    draws: int = 40
    """Random sets of neurons for every class."""
    seed: int = 0
    """Of random sets and of the bootstrap."""
    normalised: bool = False
    """Mean log-probability of a label's tokens in place of their sum."""
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to compare."""
        if self.per_label < 1 or self.draws < 1:
            raise DataError(
                f"{self.per_label} texts per class and {self.draws} random sets were asked for; "
                "give at least 1 of each"
            )


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answered about texts, as it is and with the neurons of each class masked."""

    texts: Texts
    label: tuple[str, ...]
    """Classes whose neurons were masked."""
    base: Float[Tensor, "text judged"]
    masked: Float[Tensor, "label text judged"]
    random: Float[Tensor, "draw label text judged"]
    """With random sets masked; NaN for texts that these were not asked about."""
    n_neurons: Int[Tensor, " label"]

    @property
    def truth(self) -> Int[Tensor, " text"]:
        """Place of every text's class."""
        return torch.tensor(self.texts.truth)

    @property
    def own(self) -> list[int]:
        """Place of every masked class among those that can be named."""
        return [self.texts.label.index(label) for label in self.label]

    @property
    def accuracy(self) -> Float[Tensor, " judged"]:
        """Accuracy on every class without a mask, in percent."""
        return by_class(100.0 * hits(self.base, self.truth), self.truth, self.base.shape[1])

    @property
    def differences(self) -> Float[Tensor, "label text"]:
        """100 for a text that only the masked model names rightly, -100 for one that it loses."""
        return gains(self.masked, self.base, self.truth)

    @property
    def change(self) -> Float[Tensor, "label judged"]:
        """Change of accuracy on every class, in percentage points."""
        return by_class(self.differences, self.truth, self.base.shape[1])

    @property
    def random_change(self) -> Float[Tensor, "draw label"]:
        """Change under random sets, on texts of the class that each stands in for."""
        truth, found = self.truth, []
        for place, own in enumerate(self.own):
            rows = truth == own
            found.append(gains(self.random[:, place, rows], self.base[rows], truth[rows]).mean(-1))
        return torch.stack(found, 1)


def asker(model: Model, request: str, how: Asking, progress: Progress | None = None) -> Ask:
    """Asks ``model`` by ``request``; ``progress`` is told how many texts were asked about."""

    def ask(texts: Texts, edits: Edits) -> Tensor:
        return choice_logs(
            model, questions(texts.rows, request), texts.label, edits=edits,
            normalised=how.normalised, batch_size=how.batch_size, progress=progress,
        ).float().cpu()  # fmt: skip

    return ask


def taken(texts: Texts, split: Split, per_label: int) -> Texts:
    """At most so many texts of every class.

    Raises:
        DataError: the texts are of another split, or a class has none.
    """
    found = texts.only(split).first(per_label)
    for label in found.label:
        if not len(found.of(label)):
            raise DataError(
                f"there are no {split} texts of class {label!r}; give texts of every class, "
                "or leave the class out of the labels"
            )
    return found


def at(texts: Texts, places: Sequence[int]) -> Texts:
    """The texts at these places, in this order."""
    return replace(texts, rows=tuple(texts.rows[place] for place in places))


def places_of(texts: Texts, label: str) -> list[int]:
    """Where the texts of a class stand."""
    return [place for place, row in enumerate(texts.rows) if row.label == label]


def ask_masked(
    ask: Ask,
    texts: Texts,
    selection: Selection,
    edits_on: EditsOn,
    how: Asking,
    *,
    beside: Callable[[str], Sequence[int]],
    base: Float[Tensor, "text judged"] | None = None,
) -> Answers:
    """Ask about all texts with each class masked, and about some with random sets masked.

    A class without selected neurons is masked by nothing: what the model answers stays.

    Args:
        ask: Asks the model.
        texts: What is asked about.
        selection: The neurons of every class.
        edits_on: The mask.
        how: Gives the number of random sets and the seed.
        beside: Places of the texts that are asked about under random sets of a class.
        base: What the model answers without a mask, if it is known.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        ModelError: a layer has too few other neurons for random sets.
    """
    check_labels(selection, texts)
    drawn = random_sets(selection, how)
    base = ask(texts, ()) if base is None else base
    masked = base.repeat(len(selection.label), 1, 1)
    others = torch.full((how.draws, *masked.shape), torch.nan)
    for place, label in enumerate(selection.label):
        chosen, rows = selection.chosen[place], list(beside(label))
        if not chosen.any():
            others[:, place, rows] = base[rows]
            continue
        masked[place] = ask(texts, edits_on(chosen, label, range(len(texts))))
        some = at(texts, rows)
        for draw, other in enumerate(drawn[place]):
            others[draw, place, rows] = ask(some, edits_on(other, label, rows))
    count = selection.chosen.sum((1, 2))
    return Answers(texts, selection.label, base, masked, others, count)


def random_sets(selection: Selection, how: Asking) -> Bool[Tensor, "label draw layer neuron"]:
    """Random neurons for those of every class, the same ones whenever they are asked for.

    Raises:
        ModelError: a layer has too few other neurons.
    """
    random = torch.Generator().manual_seed(how.seed)
    return torch.stack([matched_sets(own, how.draws, random) for own in selection.chosen])


def check_labels(selection: Selection, texts: Texts) -> None:
    """Refuse neurons of classes that the texts do not have.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
    """
    for label in selection.label:
        if label not in texts.label:
            raise AxisError(
                f"neurons of {label!r} were selected; the texts can only be named "
                f"{', '.join(texts.label)}"
            )

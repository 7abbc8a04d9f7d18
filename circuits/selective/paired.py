"""A device against its own literal paraphrase: a choice between two labels, on paired texts.

The right comparison for a rhetorical device is a text that says the same without it; a change of
the accuracy among all labels may only be a change of which device is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.data.texts import LabelledSet, Texts
from circuits.errors import DataError
from circuits.model.generation import Progress
from circuits.model.protocol import Model
from circuits.provenance import Provenance
from circuits.records import Record
from circuits.selective.asking import Answers, Asking, ask_masked, asker, at
from circuits.selective.masks import Mask, masking
from circuits.selective.profile import Profile
from circuits.selective.selection import Selection
from circuits.selective.statistics import below, corrected, interval

__all__ = ["PairedEffects", "paired_effects", "paired_of", "paired_texts"]


@dataclass(frozen=True, eq=False)
class PairedEffects(Record):
    """Accuracy of device or literal, over texts and their paraphrases; masked minus unmasked."""

    label: tuple[str, ...]
    """The device whose neurons are masked."""
    other_label: tuple[str, ...]
    """The device that is told from its literal paraphrases."""
    change: Float[Tensor, "label other_label"]
    """Change of accuracy, in percentage points."""
    low: Float[Tensor, "label other_label"]
    """Lower end of its 95% interval: paired bootstrap over pairs."""
    high: Float[Tensor, "label other_label"]
    """Upper end."""
    base: Float[Tensor, " other_label"]
    """Accuracy without a mask, in percent; chance is 50."""
    n_pairs: Int[Tensor, " other_label"]
    """Pairs of a text and its paraphrase."""
    random_change: Float[Tensor, "draw label"]
    """Change on the device itself with random neurons of the same layers masked instead, in
    percentage points."""
    random_p: Float[Tensor, " label"]
    """(1 + random sets whose change is at least as low) / (1 + random sets)."""
    corrected_p: Float[Tensor, " label"]
    """The same corrected for the number of devices (Benjamini and Hochberg 1995)."""
    literal: str
    """The label of the paraphrases."""


def paired_effects(
    model: Model,
    texts: LabelledSet,
    selection: Selection,
    profile: Profile,
    mask: Mask,
    *,
    literal: str = "literal",
    how: Asking | None = None,
    progress: Progress | None = None,
) -> PairedEffects:
    """Mask the neurons of every class, and ask: the device, or literal?

    Args:
        model: The model.
        texts: Test texts with a paraphrase in the same split are asked about.
        selection: The neurons of the devices; those of ``literal`` are not masked.
        profile: What the mask takes means and largest activations from.
        mask: What is done to the neurons.
        literal: The label of the paraphrases.
        how: How many pairs of a device, and how many random sets.
        progress: Told how many texts were asked about.

    Raises:
        AxisError: a class of the selection is none of the texts' labels.
        DataError: a device has no pair among the test texts.
        ModelError: a layer has too few other neurons for random sets.
    """
    how = how or Asking()
    devices = tuple(label for label in selection.label if label != literal)
    asked = paired_texts(texts.test.only("test"), devices, literal, how.per_label)

    def beside(label: str) -> list[int]:
        return [place for pair in _pairs(asked, label, literal) for place in pair]

    ask = asker(model, texts.request, how, progress)
    edits_on = masking(model, mask, profile, asked, texts.request, how.seed)
    chosen = selection.sel(label=devices)
    answers = ask_masked(ask, asked, chosen, edits_on, how, beside=beside)
    provenance = selection.provenance.child(
        mask=mask.kind, strength=mask.strength, texts=texts.name, paired=literal,
        per_label=how.per_label, draws=how.draws, seed=how.seed, normalised=how.normalised,
    )  # fmt: skip
    return paired_of(answers, literal, how.seed, provenance)


def paired_texts(texts: Texts, devices: Sequence[str], literal: str, per_label: int) -> Texts:
    """The first texts of every device that have a literal paraphrase, and these paraphrases.

    Raises:
        DataError: a device has none.
    """
    kept: set[int] = set()
    for device in devices:
        pairs = _pairs(texts, device, literal)[:per_label]
        if not pairs:
            raise DataError(
                f"no {texts.split} text of class {device!r} has a paraphrase of class "
                f"{literal!r}; give both the same pair"
            )
        kept |= {place for pair in pairs for place in pair}
    return at(texts, sorted(kept))


def paired_of(answers: Answers, literal: str, seed: int, provenance: Provenance) -> PairedEffects:
    """Changes of the choice between two labels, given what was answered among all.

    A label's log-probability does not depend on which other labels may be named, so the choice
    between two can be read from the answers among all.
    """
    generator = torch.Generator().manual_seed(seed)
    before = [_right(answers.base, answers.texts, own, literal) for own in answers.label]
    after = [_right(answers.masked, answers.texts, own, literal) for own in answers.label]
    changes = [masked - base for masked, base in zip(after, before, strict=True)]
    ends = [torch.stack(interval(change, generator)) for change in changes]
    change = torch.stack([own.mean(-1) for own in changes], 1)
    random = [
        (_right(answers.random[:, place], answers.texts, own, literal) - before[place]).mean(-1)
        for place, own in enumerate(answers.label)
    ]
    p = below(change.diagonal(), torch.stack(random, 1))
    return PairedEffects(
        provenance=provenance,
        label=answers.label,
        other_label=answers.label,
        change=change,
        low=torch.stack([own[0] for own in ends], 1),
        high=torch.stack([own[1] for own in ends], 1),
        base=torch.stack([own.mean() for own in before]),
        n_pairs=torch.tensor([len(own) for own in before]),
        random_change=torch.stack(random, 1),
        random_p=p,
        corrected_p=corrected(p),
        literal=literal,
    )


def _right(
    logs: Float[Tensor, "*rest text judged"], texts: Texts, device: str, literal: str
) -> Float[Tensor, "*rest pair"]:
    """Percent of the two texts of every pair for which the right one of two labels is likelier."""
    two = logs[..., [texts.label.index(device), texts.label.index(literal)]]
    first, second = torch.tensor(_pairs(texts, device, literal)).T
    named = two[..., 0] >= two[..., 1]
    return 50.0 * (named[..., first].double() + (~named[..., second]).double())


def _pairs(texts: Texts, device: str, literal: str) -> list[tuple[int, int]]:
    """Places of every text of the device and of its first literal paraphrase."""
    plain: dict[str, int] = {}
    for place, row in enumerate(texts.rows):
        if row.label == literal and row.pair is not None:
            plain.setdefault(row.pair, place)
    return [
        (place, plain[row.pair])
        for place, row in enumerate(texts.rows)
        if row.label == device and row.pair in plain
    ]

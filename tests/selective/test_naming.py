"""Classes as a model writes them."""

import pytest
import torch
from planted.plant import SelectivePlant

from circuits.models.generate import named
from circuits.neurons.mask import Asking, Mask, edits_of, naming
from circuits.neurons.profile import Profile
from circuits.neurons.select import Selection
from circuits.prompts.prompt import LabelledSet, questions


def test_shares_are_those_of_the_replies_counted_by_hand(
    planted: SelectivePlant,
    planted_set: LabelledSet,
    planted_selection: Selection,
    planted_profile: Profile,
):
    found = naming(
        planted.model, planted_set, planted_selection, planted_profile, Mask("zero"),
        how=Asking(per_label=4),
    )  # fmt: skip
    for place, label in enumerate(found.label):
        rows = planted_set.test.of(label).first(4).rows
        edits = edits_of(Mask("zero"), planted_selection.chosen[place], planted_profile, label)
        for wanted, silent, changes in (
            (found.base, found.base_silent, ()),
            (found.masked, found.masked_silent, edits),
        ):
            written = named(
                planted.model, questions(rows, planted_set.request), planted_set.label,
                edits=changes,
            )  # fmt: skip
            assert float(wanted[place]) == pytest.approx(100 * written.count(label) / len(rows))
            assert float(silent[place]) == pytest.approx(100 * written.count(None) / len(rows))
    assert found.n_texts.tolist() == [4] * len(found.label)


def test_a_mask_on_nothing_changes_nothing(
    planted: SelectivePlant,
    planted_set: LabelledSet,
    planted_selection: Selection,
    planted_profile: Profile,
):
    from dataclasses import replace

    empty = replace(planted_selection, chosen=torch.zeros_like(planted_selection.chosen))
    found = naming(
        planted.model, planted_set, empty, planted_profile, Mask("zero"), how=Asking(per_label=3)
    )
    assert torch.equal(found.base, found.masked)
    assert torch.equal(found.base_silent, found.masked_silent)

"""Classes as a model writes them."""

import pytest
import torch

from circuits.models.generate import named
from circuits.neurons.mask import Mask, edits_of
from circuits.neurons.study import naming
from circuits.prompts.prompt import questions


def test_shares_are_those_of_the_replies_counted_by_hand(parts):
    model, texts, selection, profile = parts
    found = naming(*parts, mask=Mask("zero"), per_label=4)
    for place, label in enumerate(found.label):
        prompts = questions(texts.test.of(label).first(4).rows, texts.request)
        edits = edits_of(Mask("zero"), selection.chosen[place], profile, label)
        for wanted, silent, changes in (
            (found.base, found.base_silent, ()),
            (found.masked, found.masked_silent, edits),
        ):
            written = named(model, prompts, texts.label, edits=changes)
            assert float(wanted[place]) == pytest.approx(100 * written.count(label) / 4)
            assert float(silent[place]) == pytest.approx(100 * written.count(None) / 4)
    assert found.n_texts.tolist() == [4] * len(found.label)


def test_a_mask_on_nothing_changes_nothing(no_neurons):
    found = naming(*no_neurons, mask=Mask("zero"), per_label=3)
    assert torch.equal(found.base, found.masked)
    assert torch.equal(found.base_silent, found.masked_silent)

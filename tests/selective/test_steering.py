from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.models.families import neuron_weights
from circuits.models.generate import choice_logs
from circuits.neurons.steer import (
    CrossSignal,
    Induction,
    add_class_means,
    added,
    as_long,
    cross_signal,
    times,
)
from circuits.prompts.prompt import questions

HOW: dict[str, Any] = {"per_label": 4, "draws": 3}
DOSES = (0.0, 1.0, 4.0)


@pytest.fixture(scope="module")
def steered(parts) -> Induction:
    return add_class_means(*parts, doses=DOSES, **HOW)


@pytest.fixture(scope="module")
def crossed(parts) -> CrossSignal:
    return cross_signal(*parts, doses=(0.5, 4.0), **HOW)


def named(model, texts, request: str, edits) -> list[int]:
    prompts = questions(texts.rows, request)
    return choice_logs(model, prompts, texts.label, edits=edits).argmax(-1).tolist()


def test_a_dose_of_nothing_changes_nothing(steered: Induction):
    for name in ("rate", "log_change"):
        assert getattr(steered, name)[:, 0].tolist() == [0.0] * 3
    for name in ("random_rate", "random_log_change", "vector_rate"):
        assert getattr(steered, name)[..., 0].abs().max() == 0
    assert steered.random_p[:, 0].tolist() == steered.vector_p[:, 0].tolist() == [1.0] * 3


def test_the_mean_of_a_class_on_its_planted_neurons_makes_other_texts_look_like_it(
    steered: Induction,
):
    assert bool((steered.rate[:, 2] > 90).all())
    assert bool((steered.log_change.diff(dim=1) > 0).all())
    assert steered.random_rate.abs().max() < 10
    assert steered.random_p[:, 2].tolist() == pytest.approx([1 / 4] * 3)
    assert bool((steered.low <= steered.rate).all())
    assert bool((steered.rate <= steered.high).all())


def test_rates_are_counted_over_texts_of_the_other_classes(steered: Induction, parts):
    model, labelled, selection, profile = parts
    texts = labelled.test.first(HOW["per_label"])
    for place, label in enumerate(steered.label):
        others = texts.of(*(other for other in texts.label if other != label))
        edits = times(added(profile, label, selection.chosen[place]), 1.0)
        found = named(model, others, labelled.request, edits)
        rate = 100 * sum(own == place for own in found) / len(found)
        assert float(steered.rate[place, 1]) == pytest.approx(rate)


def test_what_is_added_is_the_mean_of_the_class_at_all_positions(
    planted_profile, planted_selection
):
    chosen = planted_selection.chosen[1]
    edits = times(added(planted_profile, "fear", chosen), 2.0)
    assert {(e.site, e.positions, e.when) for e in edits} == {("post", "all", "every")}
    for edit in edits:
        expected = torch.zeros(48, dtype=torch.float64)
        for neuron in chosen[edit.layer].nonzero()[:, 0].tolist():
            total = planted_profile.total[:, 1, edit.layer, neuron].sum()
            expected[neuron] = 2 * total / planted_profile.tokens[:, 1].sum()
        torch.testing.assert_close(edit.value.double(), expected)


def test_a_random_vector_is_as_long_as_what_the_neurons_make_the_mlp_write(parts):
    model, _, selection, profile = parts
    weights = list(neuron_weights(model))
    edits = added(profile, "fear", selection.chosen.any(0))
    vectors = as_long(model, edits, 2)
    assert len(vectors) == 2
    for own in vectors:
        assert [e.layer for e in own] == [e.layer for e in edits]
        for edit, like in zip(own, edits, strict=True):
            written: Tensor = like.value.float() @ weights[edit.layer]
            assert (edit.site, edit.positions) == ("mlp_out", "all")
            assert float(edit.value.norm()) == pytest.approx(float(written.norm()), rel=1e-5)
    assert not torch.allclose(vectors[0][0].value, vectors[1][0].value)


def test_a_class_without_neurons_is_not_steered_to(no_neurons):
    found = add_class_means(*no_neurons, doses=(2.0,), **HOW)
    assert found.rate.abs().max() == found.log_change.abs().max() == 0
    assert found.vector_p.tolist() == [[1.0]] * 3


def test_a_signal_of_the_same_class_costs_its_texts_nothing_and_leans_to_it(crossed: CrossSignal):
    # Devices and emotions are the same three classes here, all of them named rightly.
    assert crossed.base.tolist() == [100.0] * 3
    assert crossed.change.diagonal().tolist() == [0.0] * 3
    assert crossed.change.max() == 0
    assert bool((crossed.low <= crossed.change).all())
    assert bool((crossed.change <= crossed.high).all())


def test_the_strength_is_the_one_that_is_best_on_dev_texts_and_the_change_that_on_test_texts(
    crossed: CrossSignal, parts
):
    model, labelled, selection, profile = parts

    def right(texts, edits) -> list[bool]:
        found = named(model, texts, labelled.request, edits)
        return [a == b for a, b in zip(found, texts.truth, strict=True)]

    dev, test = (own.first(HOW["per_label"]) for own in (labelled.dev, labelled.test))
    for d, device in enumerate(crossed.label):
        for e, emotion in enumerate(crossed.emotion):
            edits = added(profile, device, selection.chosen[e])
            reached = [sum(right(dev.of(emotion), times(edits, dose))) for dose in (0.5, 4.0)]
            dose = (0.5, 4.0)[reached.index(max(reached))]
            assert float(crossed.dose[d, e]) == dose
            others = test.of(*(other for other in test.label if other != emotion))
            for name, texts in (("change", test.of(emotion)), ("other_change", others)):
                after = right(texts, times(edits, dose))
                change = 100 * (sum(after) - sum(right(texts, ()))) / len(after)
                assert float(getattr(crossed, name)[d, e]) == pytest.approx(change)


def test_doses_modes_and_classes_that_do_not_exist_are_refused(parts, foreign):
    for study in (add_class_means, cross_signal):
        with pytest.raises(DataError, match="^there is no dose"):
            study(*parts, doses=())
    with pytest.raises(AxisError, match="^neurons of 'joy' were selected"):
        add_class_means(*foreign)

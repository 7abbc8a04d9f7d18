from dataclasses import replace

import pytest
import torch
from planted.plant import SelectivePlant
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.models.families import neuron_weights
from circuits.models.generate import choice_logs
from circuits.neurons.mask import Asking
from circuits.neurons.steer import (
    CrossSignal,
    Induction,
    added,
    as_long,
    cross_signal,
    induce,
    signal,
    times,
)
from circuits.prompts.prompt import questions

HOW = Asking(per_label=4, draws=3)
DOSES = (0.0, 1.0, 4.0)


@pytest.fixture(scope="module")
def induced(planted: SelectivePlant, planted_set, planted_selection, planted_profile) -> Induction:
    return induce(
        planted.model, planted_set, planted_selection, planted_profile, doses=DOSES, how=HOW
    )


@pytest.fixture(scope="module")
def crossed(
    planted: SelectivePlant, planted_set, planted_selection, planted_profile
) -> CrossSignal:
    return cross_signal(
        planted.model, planted_set, planted_selection, planted_profile, doses=(0.5, 4.0), how=HOW
    )


def named(planted: SelectivePlant, texts, request: str, edits) -> list[int]:
    prompts = questions(texts.rows, request)
    return choice_logs(planted.model, prompts, texts.label, edits=edits).argmax(-1).tolist()


def test_a_dose_of_nothing_changes_nothing(induced: Induction):
    for name in ("rate", "log_change"):
        assert getattr(induced, name)[:, 0].tolist() == [0.0] * 3
    for name in ("random_rate", "random_log_change", "vector_rate"):
        assert getattr(induced, name)[..., 0].abs().max() == 0
    assert induced.random_p[:, 0].tolist() == induced.vector_p[:, 0].tolist() == [1.0] * 3


def test_the_mean_of_a_class_on_its_planted_neurons_makes_other_texts_look_like_it(
    induced: Induction,
):
    assert bool((induced.rate[:, 2] > 90).all())
    assert bool((induced.log_change.diff(dim=1) > 0).all())
    assert induced.random_rate.abs().max() < 10
    assert induced.random_p[:, 2].tolist() == pytest.approx([1 / 4] * 3)
    assert bool((induced.low <= induced.rate).all())
    assert bool((induced.rate <= induced.high).all())


def test_rates_are_counted_over_texts_of_the_other_classes(
    induced: Induction, planted: SelectivePlant, planted_set, planted_selection, planted_profile
):
    texts = planted_set.test.first(HOW.per_label)
    for place, label in enumerate(induced.label):
        others = texts.of(*(other for other in texts.label if other != label))
        edits = times(added(planted_profile, label, planted_selection.chosen[place]), 1.0)
        found = named(planted, others, planted_set.request, edits)
        rate = 100 * sum(own == place for own in found) / len(found)
        assert float(induced.rate[place, 1]) == pytest.approx(rate)


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


def test_a_random_vector_is_as_long_as_what_the_neurons_make_the_mlp_write(
    planted: SelectivePlant, planted_profile, planted_selection
):
    weights = list(neuron_weights(planted.model))
    edits = added(planted_profile, "fear", planted_selection.chosen.any(0))
    vectors = as_long(planted.model, edits, 2, seed=0)
    assert len(vectors) == 2
    for own in vectors:
        assert [e.layer for e in own] == [e.layer for e in edits]
        for edit, like in zip(own, edits, strict=True):
            written: Tensor = like.value.float() @ weights[edit.layer]
            assert (edit.site, edit.positions) == ("mlp_out", "all")
            assert float(edit.value.norm()) == pytest.approx(float(written.norm()), rel=1e-5)
    assert not torch.allclose(vectors[0][0].value, vectors[1][0].value)


def test_a_class_without_neurons_induces_nothing(
    planted: SelectivePlant, planted_set, planted_selection, planted_profile
):
    empty = replace(planted_selection, chosen=torch.zeros_like(planted_selection.chosen))
    found = induce(planted.model, planted_set, empty, planted_profile, doses=(2.0,), how=HOW)
    assert found.rate.abs().max() == found.log_change.abs().max() == 0
    assert found.vector_p.tolist() == [[1.0]] * 3


def test_a_signal_of_the_same_class_costs_its_texts_nothing_and_leans_to_it(
    crossed: CrossSignal,
):
    # Devices and emotions are the same three classes here, all of them named rightly.
    assert crossed.base.tolist() == [100.0] * 3
    assert crossed.change.diagonal().tolist() == [0.0] * 3
    assert crossed.change.max() == 0
    assert bool((crossed.low <= crossed.change).all())
    assert bool((crossed.change <= crossed.high).all())


def test_among_equally_good_strengths_the_gentlest_is_chosen(crossed: CrossSignal):
    assert crossed.dose.diagonal().tolist() == [0.5] * 3


def test_the_strength_is_the_one_that_is_best_on_dev_texts_and_the_change_that_on_test_texts(
    crossed: CrossSignal,
    planted: SelectivePlant,
    planted_set,
    planted_selection,
    planted_profile,
):
    for d, device in enumerate(crossed.label):
        for e, emotion in enumerate(crossed.emotion):
            signal = added(planted_profile, device, planted_selection.chosen[e])

            def right(texts, dose: float, *, own: bool = True) -> list[bool]:
                texts = texts.first(HOW.per_label)
                others = tuple(o for o in texts.label if o != emotion)  # noqa: B023
                texts = texts.of(*((emotion,) if own else others))  # noqa: B023
                edits = times(signal, dose)  # noqa: B023
                found = named(planted, texts, planted_set.request, edits)
                return [a == b for a, b in zip(found, texts.truth, strict=True)]

            reached = [sum(right(planted_set.dev, dose)) for dose in (0.5, 4.0)]
            dose = (0.5, 4.0)[reached.index(max(reached))]
            assert float(crossed.dose[d, e]) == dose
            for name, own in (("change", True), ("other_change", False)):
                before = right(planted_set.test, 0.0, own=own)
                after = right(planted_set.test, dose, own=own)
                change = 100 * (sum(after) - sum(before)) / len(after)
                assert float(getattr(crossed, name)[d, e]) == pytest.approx(change)


def test_random_neurons_get_a_strength_of_their_own_and_corrected_p_values(crossed: CrossSignal):
    assert crossed.random_change.shape == (3, 3, 3)
    assert bool((crossed.p >= 1 / 4).all())
    assert bool((crossed.corrected_p >= crossed.p).all())


def test_a_scalar_of_the_set_is_the_mean_over_it(planted_selection, planted_profile):
    chosen = planted_selection.chosen[0]
    each = signal(planted_profile, "fear", chosen, "index")
    of_set = signal(planted_profile, "fear", chosen, "set_scalar")
    assert [edit.layer for edit in each] == [edit.layer for edit in of_set]
    values = torch.cat([edit.value[chosen[edit.layer]] for edit in each]).double()
    scalars = torch.cat([edit.value[chosen[edit.layer]] for edit in of_set]).double()
    torch.testing.assert_close(scalars, values.mean().expand(2), check_dtype=False)
    for edit in of_set:
        assert not edit.value[~chosen[edit.layer]].any()


def test_the_scalar_mode_is_written_down(
    planted: SelectivePlant, planted_set, planted_selection, planted_profile
):
    parts = planted.model, planted_set, planted_selection, planted_profile
    found = cross_signal(*parts, doses=(0.5,), mode="set_scalar", how=Asking(2, 1))
    assert found.mode == "set_scalar"


def test_doses_modes_and_classes_that_do_not_exist_are_refused(
    planted: SelectivePlant, planted_set, planted_selection, planted_profile
):
    parts = planted.model, planted_set, planted_selection, planted_profile
    with pytest.raises(DataError, match="^there is no dose"):
        induce(*parts, doses=())
    with pytest.raises(DataError, match="^there is no dose"):
        cross_signal(*parts, doses=())
    with pytest.raises(AxisError, match="^no mode is called 'mean'"):
        cross_signal(*parts, mode="mean")
    foreign = replace(planted_selection, label=("anger", "joy", "fear"))
    with pytest.raises(AxisError, match="^neurons of 'joy' were selected"):
        induce(planted.model, planted_set, foreign, planted_profile)

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted.plant import SelectivePlant

from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.neurons.mask import Asking, Mask
from circuits.neurons.recognition import (
    Ranges,
    RangeSweep,
    depth_profile,
    layers_of,
    mask_effects,
    range_sweep,
)
from circuits.neurons.select import Selection, select_neurons
from circuits.prompts.templates import emotion_prompts

quick = settings(deadline=None, max_examples=40)

HOW = Asking(per_label=6, draws=2)


@quick
@given(st.integers(1, 100))
def test_the_thirds_partition_the_layers(n_layers: int):
    thirds = [list(range(n_layers))[layers_of(p, n_layers)] for p in ("bottom", "middle", "top")]
    assert sum(thirds, []) == list(range(n_layers))
    assert list(range(n_layers))[layers_of("all", n_layers)] == list(range(n_layers))
    assert max(map(len, thirds)) - min(map(len, thirds)) <= 1


def swept(planted, planted_set, sets, planted_profile, ranges: Ranges) -> RangeSweep:
    return range_sweep(
        planted.model, planted_set, sets, planted_profile, Mask("zero"), ranges=ranges, how=HOW
    )


def test_the_whole_set_in_all_layers_has_the_effect_of_the_mask(
    planted: SelectivePlant, planted_set, planted_selection, planted_profile, contexts
):
    found = swept(planted, planted_set, planted_selection, planted_profile, Ranges((1.0,)))
    neutral = [Reply(emotion_prompts(contexts[:1])[0], "Fine.", 2, "neutral")]
    effects = mask_effects(
        planted.model, planted_set, planted_selection, planted_profile, Mask("zero"), neutral,
        how=HOW,
    )  # fmt: skip
    assert found.place == ("bottom", "middle", "top", "all")
    torch.testing.assert_close(found.own[:, 3, 0], effects.own)
    torch.testing.assert_close(found.largest_other[:, 3, 0], effects.largest_other)
    torch.testing.assert_close(found.random_own[:, 3, 0], effects.random_change.mean(0))
    torch.testing.assert_close(found.base, effects.base)
    assert (found.ratio_of, found.mask) == ("emotion_set", "zero")


def test_ranges_have_the_neurons_that_lie_in_them(
    planted: SelectivePlant, planted_set, planted_selection, planted_profile
):
    found = swept(planted, planted_set, planted_selection, planted_profile, Ranges((0.5, 1.0)))
    depth = depth_profile(planted_selection)
    assert torch.equal(found.n_neurons[:, :3, 1], depth.count)
    assert torch.equal(found.n_neurons[:, :3].sum(1), found.n_neurons[:, 3])
    assert found.n_neurons[:, 3].tolist() == [[1, 2]] * 3
    # Planted neurons lie before the last layer: there is nothing to mask, and nothing changes.
    assert found.n_neurons[:, 2].sum() == found.own[:, 2].abs().max() == 0


def test_shares_of_all_neurons_are_those_of_the_selection_of_that_share(
    planted: SelectivePlant, planted_set, planted_profile
):
    def at(share: float) -> Selection:
        return select_neurons(planted_profile, "mad", share=share)

    found = swept(planted, planted_set, at, planted_profile, Ranges((0.02, 0.05)))
    counts = [at(share).chosen.sum((1, 2)).tolist() for share in found.dose]
    assert found.n_neurons[:, 3].T.tolist() == counts
    assert found.ratio_of == "all_neurons"


def test_matched_counts_are_the_same_in_every_range_and_the_best_of_it(
    planted: SelectivePlant, planted_set, planted_profile
):
    selection = select_neurons(planted_profile, "mad", share=0.03)
    ranges = Ranges((1.0,), match_counts=True)
    found = swept(planted, planted_set, selection, planted_profile, ranges)
    size = int(selection.chosen[0].sum())
    assert found.n_neurons.flatten().tolist() == [size] * 12
    assert found.match_counts


def test_a_depth_profile_counts_neurons_by_layer(planted_selection: Selection):
    found = depth_profile(planted_selection)
    for place, label in enumerate(found.label):
        names = planted_selection.neurons_of(label)
        by_hand = [sum(name.startswith(f"L{layer}N") for name in names) for layer in found.layer]
        assert found.count[place].tolist() == by_hand


def test_ranges_and_shares_that_do_not_exist_are_refused(
    planted, planted_set, planted_selection, planted_profile
):
    with pytest.raises(AxisError, match="^ranges are bottom, middle, top, all, found left"):
        Ranges(places=("left",))
    with pytest.raises(DataError, match="^shares lie above 0 and are at most 1"):
        Ranges((0.0,))
    foreign = replace(planted_selection, label=("anger", "joy", "fear"))
    with pytest.raises(AxisError, match="^neurons of 'joy' were selected"):
        swept(planted, planted_set, foreign, planted_profile, Ranges((1.0,)))

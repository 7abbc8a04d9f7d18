from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.neurons.mask import Mask
from circuits.neurons.select import Selection, depth_profile, select_neurons
from circuits.neurons.study import RangeSweep, layers_of, mask_effects, range_sweep
from circuits.prompts.templates import emotion_prompts

quick = settings(deadline=None, max_examples=40)

HOW: dict[str, Any] = {"per_label": 6, "draws": 2}


@quick
@given(st.integers(1, 100))
def test_the_thirds_partition_the_layers(n_layers: int):
    thirds = [list(range(n_layers))[layers_of(p, n_layers)] for p in ("bottom", "middle", "top")]
    assert sum(thirds, []) == list(range(n_layers))
    assert list(range(n_layers))[layers_of("all", n_layers)] == list(range(n_layers))
    assert max(map(len, thirds)) - min(map(len, thirds)) <= 1


def swept(parts, shares, sets: Any = None, **options: Any) -> RangeSweep:
    model, texts, selection, profile = parts
    sets = selection if sets is None else sets
    return range_sweep(model, texts, sets, profile, Mask("zero"), shares=shares, **options, **HOW)


def test_the_whole_set_in_all_layers_has_the_effect_of_the_mask(parts, contexts):
    found = swept(parts, (1.0,))
    neutral = [Reply(emotion_prompts(contexts[:1])[0], "Fine.", 2, "neutral")]
    effects = mask_effects(*parts, mask=Mask("zero"), neutral=neutral, **HOW)
    assert found.place == ("bottom", "middle", "top", "all")
    torch.testing.assert_close(found.own[:, 3, 0], effects.own)
    torch.testing.assert_close(found.largest_other[:, 3, 0], effects.largest_other)
    torch.testing.assert_close(found.random_own[:, 3, 0], effects.random_change.mean(0))
    torch.testing.assert_close(found.base, effects.base)
    assert (found.ratio_of, found.mask) == ("emotion_set", "zero")


def test_ranges_have_the_neurons_that_lie_in_them(parts, planted_selection):
    found = swept(parts, (0.5, 1.0))
    assert torch.equal(found.n_neurons[:, :3, 1], depth_profile(planted_selection).count)
    assert torch.equal(found.n_neurons[:, :3].sum(1), found.n_neurons[:, 3])
    assert found.n_neurons[:, 3].tolist() == [[1, 2]] * 3
    # Planted neurons lie before the last layer: there is nothing to mask, and nothing changes.
    assert found.n_neurons[:, 2].sum() == found.own[:, 2].abs().max() == 0


def test_shares_of_all_neurons_are_those_of_the_selection_of_that_share(parts, planted_profile):
    def at(share: float) -> Selection:
        return select_neurons(planted_profile, "mad", share=share)

    found = swept(parts, (0.02, 0.05), at)
    counts = [at(share).chosen.sum((1, 2)).tolist() for share in found.dose]
    assert found.n_neurons[:, 3].T.tolist() == counts
    assert found.ratio_of == "all_neurons"


def test_a_depth_profile_counts_neurons_by_layer(planted_selection: Selection):
    found = depth_profile(planted_selection)
    for place, label in enumerate(found.label):
        names = planted_selection.neurons_of(label)
        by_hand = [sum(name.startswith(f"L{layer}N") for name in names) for layer in found.layer]
        assert found.count[place].tolist() == by_hand


def test_shares_and_classes_that_do_not_exist_are_refused(parts, foreign):
    with pytest.raises(DataError, match="^shares lie above 0 and are at most 1"):
        swept(parts, (0.0,))
    with pytest.raises(AxisError, match="^neurons of 'joy' were selected"):
        swept(foreign, (1.0,))

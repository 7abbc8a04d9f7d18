from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuits.errors import AxisError, ModelError
from circuits.models.generate import choice_logs
from circuits.models.protocol import Model
from circuits.neurons.mask import Mask, core, edits_of, gaps, masking, random_sets
from circuits.neurons.profile import Profile
from circuits.prompts.prompt import EMOTION_REQUEST, Texts, questions
from circuits.running import execution

quick = settings(deadline=None, max_examples=40)


def some_neurons(profile: Profile, count: int = 9, seed: int = 0) -> Tensor:
    shape = (len(profile.layer), len(profile.neuron))
    order = torch.randperm(shape[0] * shape[1], generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(shape, dtype=torch.bool)
    chosen.view(-1)[order[:count]] = True
    return chosen


def some_activation(profile: Profile) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, len(profile.neuron), generator=random)


def masked_by_hand(mask: Mask, profile: Profile, label: str, value: float, unit: tuple[int, int]):
    """One activation of one neuron, as the specification words it."""
    tokens = profile.tokens.sum(0)
    means = [float(profile.total[:, e, *unit].sum() / tokens[e]) for e in range(len(profile.label))]
    largest = float(profile.largest[:, *unit].max())
    size = value if mask.kind == "attenuate" else means[profile.label.index(label)]
    ratio = 0.0 if largest == 0 else min(1.0, abs(size) / largest)
    fixed = {"zero": 0.0, "mean": sum(means) / len(means), "gain": (1 + mask.strength) * value}
    return fixed.get(mask.kind, value * (1 - mask.strength * ratio))


KINDS = ("zero", "mean", "gain", "attenuate", "static")
MASKS = [Mask(kind, strength) for kind in KINDS for strength in (0.0, 0.7)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("silent", [False, True])
def test_a_mask_changes_the_chosen_neurons_as_its_formula_says_and_no_other(
    profile: Profile, mask: Mask, silent: bool
):
    # A neuron that was never active is not attenuated.
    profile = replace(profile, peak=0 * profile.peak) if silent else profile
    chosen, activation = some_neurons(profile), some_activation(profile)
    edits = edits_of(mask, chosen, profile, "fear")
    assert [edit.layer for edit in edits] == chosen.any(1).nonzero()[:, 0].tolist()
    assert {(edit.site, edit.positions, edit.when) for edit in edits} == {("post", "all", "every")}
    for edit in edits:
        expected = activation.clone()
        for neuron in chosen[edit.layer].nonzero()[:, 0].tolist():
            for row, pos in [(r, p) for r in range(2) for p in range(4)]:
                value = float(activation[row, pos, neuron])
                unit = (edit.layer, neuron)
                expected[row, pos, neuron] = masked_by_hand(mask, profile, "fear", value, unit)
        torch.testing.assert_close(edit.apply(activation), expected)


@pytest.mark.parametrize("kind", ["attenuate", "static"])
def test_attenuation_neither_amplifies_nor_flips_a_sign(profile: Profile, kind):
    # Activations far above the largest one that was seen.
    activation = 100 * some_activation(profile)
    for edit in edits_of(Mask(kind, 1.0), some_neurons(profile, 40), profile, "fear"):
        masked = edit.apply(activation)
        assert bool((masked.abs() <= activation.abs()).all())
        assert bool((masked * activation >= 0).all())


def test_full_static_attenuation_of_a_neuron_at_its_largest_is_the_zero_mask(profile: Profile):
    mean = profile.mean[profile.index("label", "fear")].abs()
    steady = replace(profile, peak=mean.expand_as(profile.peak).clone())
    chosen, activation = some_neurons(profile), some_activation(profile)
    pairs = zip(
        edits_of(Mask("static", 1.0), chosen, steady, "fear"),
        edits_of(Mask("zero"), chosen, steady, "fear"),
        strict=True,
    )
    for full, zero in pairs:
        torch.testing.assert_close(full.apply(activation), zero.apply(activation))


def test_masks_that_do_not_exist_or_would_flip_signs_are_refused(profile: Profile):
    with pytest.raises(AxisError, match="^no mask is called 'blur'; masks are zero, mean"):
        Mask("blur")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ModelError, match="^a mask of kind attenuate and strength 1.1 was asked for"
    ):
        Mask("attenuate", 1.1)
    with pytest.raises(ModelError, match="give -1 to 1e\\+06"):
        Mask("gain", -1.5)
    with pytest.raises(AxisError, match="has no label 'joy'"):
        edits_of(Mask("zero"), some_neurons(profile), profile, "joy")
    with pytest.raises(ModelError, match="takes activations from other texts; use masking"):
        edits_of(Mask("resample"), some_neurons(profile), profile, "fear")


def test_resampling_gives_a_text_the_activations_of_its_donor_whoever_else_is_asked_about(
    llama: Model, profile: Profile, make_texts
):
    texts: Texts = make_texts((2, 2, 2), split="test")
    chosen = some_neurons(profile, 60)
    with execution(seed=3):
        edits_on = masking(llama, Mask("resample"), profile, texts, EMOTION_REQUEST)
    prompts = questions(texts.rows, EMOTION_REQUEST)

    def answers(places: list[int]) -> Tensor:
        edits = edits_on(chosen, "fear", places)
        return choice_logs(llama, [prompts[i] for i in places], texts.label, edits=edits)

    everyone, some = answers(list(range(6))), answers([4, 1])
    torch.testing.assert_close(some, everyone[[4, 1]], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(everyone, choice_logs(llama, prompts, texts.label), atol=1e-2)


@quick
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 5))
def test_random_sets_have_the_same_layers_and_share_no_neuron_with_the_set(
    make_selection, seed: int, count: int, draws: int
):
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(2, 4, 16, dtype=torch.bool)
    chosen[0].view(-1)[order[:count]] = chosen[1].view(-1)[order[-count:]] = True
    if bool((chosen.sum(-1) > 8).any()):
        return
    with execution(seed=seed):
        drawn = random_sets(make_selection(chosen), draws)
        assert torch.equal(drawn, random_sets(make_selection(chosen), draws))
    assert torch.equal(drawn.sum(-1), chosen.sum(-1)[:, None].expand(2, draws, 4))
    assert not bool((drawn & chosen[:, None]).any())


def test_random_sets_are_drawn_from_all_others_alike(make_selection):
    drawn = random_sets(make_selection([[1, 1, 0, 0, 0, 0]]), 3000)
    rate = drawn.double().mean(1)[0, 0]
    assert rate[:2].tolist() == [0, 0]
    assert rate[2:].tolist() == pytest.approx([0.5] * 4, abs=0.04)


def test_a_layer_with_too_few_others_is_named(make_selection):
    chosen = torch.zeros(1, 3, 8, dtype=torch.bool)
    chosen[0, 1, :5] = True
    with pytest.raises(ModelError, match="^layer 1 has 5 chosen neurons and only 3 others"):
        random_sets(make_selection(chosen), 2)


def test_a_gap_is_the_distance_of_the_means_over_the_mean_size(profile: Profile):
    found = gaps(profile, "fear")
    tokens = profile.tokens.sum(0)
    for layer, neuron in [(0, 0), (1, 7), (2, 47)]:
        means = [float(profile.total[:, e, layer, neuron].sum() / tokens[e]) for e in range(3)]
        sizes = [float(profile.absolute[:, e, layer, neuron].sum() / tokens[e]) for e in range(3)]
        own = profile.label.index("fear")
        others = [mean for e, mean in enumerate(means) if e != own]
        expected = abs(means[own] - sum(others) / 2) / (sum(sizes) / 3 + 1e-6)
        assert float(found[layer, neuron]) == pytest.approx(expected)


@quick
@given(st.integers(0, 100), st.integers(0, 20))
def test_a_larger_share_of_the_pool_contains_the_smaller_one(seed: int, steps: int):
    random = torch.Generator().manual_seed(seed)
    gap, pool = torch.rand(3, 20, generator=random), torch.rand(3, 20, generator=random) < 0.4
    few, many = core(gap, pool, steps / 20), core(gap, pool, min(1.0, (steps + 1) / 20))
    assert not bool((few & ~many).any())
    assert not bool((many & ~pool).any())
    assert int(few.sum()) == -(-steps * int(pool.sum()) // 20)
    if bool(few.any()) and bool((pool & ~few).any()):
        assert gap[few].min() >= gap[pool & ~few].max()

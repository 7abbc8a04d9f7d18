"""Edits change what they say, where they say, and leave no trace."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import ModelError
from circuits.models.edits import Add, Attenuate, Replace, Scale, attenuation, by_row, edited
from circuits.models.run import capture, during, run
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import neutral_prompts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(llama, contexts):
    return pad_left([encode(llama, p) for p in neutral_prompts(contexts[:2])], CPU)


def final(model, tokens):
    return capture(model, tokens, {"resid_post": lambda x: x})["resid_post"]


def test_an_edit_of_the_last_position_moves_nothing_before_it(llama, tokens):
    before = final(llama, tokens)
    with edited(llama, [Add("attn_out", 0, torch.ones(llama.cfg.d_model))]):
        after = final(llama, tokens)
    for row, real in enumerate(tokens.mask):  # padding attends to whatever it likes
        earlier = real.nonzero()[:-1, 0]
        torch.testing.assert_close(after[row][:, earlier], before[row][:, earlier])
    assert not torch.allclose(after[:, :, -1], before[:, :, -1])


def test_an_added_vector_arrives_as_it_is(llama, tokens):
    push = torch.randn(llama.cfg.d_model)
    before = final(llama, tokens)
    with edited(llama, [Add("mlp_out", 2, push)]):
        after = final(llama, tokens)
    expected = push.expand(2, -1)
    torch.testing.assert_close(after[:, 2, -1] - before[:, 2, -1], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("site", "size"), [("z", (4, 8)), ("post", (48,))])
def test_chosen_parts_are_replaced_and_others_kept(llama, tokens, site, size):
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[1] = True
    edit = Replace(site, 1, torch.full(size, 7.0), chosen)
    before = capture(llama, tokens, {site: lambda x: x})[site][:, 1]
    with edited(llama, [edit]):
        after = capture(llama, tokens, {site: lambda x: x})[site][:, 1]
    assert bool((after[:, -1][:, chosen] == 7.0).all())
    assert torch.equal(after[:, -1][:, ~chosen], before[:, -1][:, ~chosen])
    assert torch.equal(after[:, :-1], before[:, :-1])


def test_a_model_is_bit_identical_after_an_exception_inside_the_block(llama, tokens):
    before, size = run(llama, tokens), llama.cfg.d_mlp
    zero = [edit for some in (0, 1) for edit in zeroing(torch.arange(size) % 3 == some)]

    def interrupted(edits):
        with edited(llama, edits):
            run(llama, tokens)
            raise RuntimeError("on purpose")

    # The last one does not fit.
    for edits in ([Add("z", 0, torch.ones(4, 8))], zero, [Add("z", 0, torch.ones(3))]):
        with pytest.raises(RuntimeError):
            interrupted(edits)
        assert torch.equal(run(llama, tokens), before)


def test_an_edit_for_the_prompt_is_idle_while_decoding(llama, tokens):
    before = run(llama, tokens)
    with edited(llama, [Add("resid_post", 0, torch.ones(32), when="prompt")]), during("decode"):
        assert torch.equal(run(llama, tokens), before)
    with edited(llama, [Add("resid_post", 0, torch.ones(32), when="every")]), during("decode"):
        assert not torch.equal(run(llama, tokens), before)


def test_edits_by_row_equal_each_groups_edits_on_its_row(llama, tokens):
    groups = [
        [Add("resid_post", 0, torch.ones(32)), Add("z", 1, torch.ones(4, 8))],
        [Add("resid_post", 0, -torch.ones(32)), Add("resid_post", 0, 2 * torch.ones(32))],
    ]
    with edited(llama, by_row(groups, [1, 0])):
        together = run(llama, tokens)
    for row, group in ((0, 1), (1, 0)):
        with edited(llama, groups[group]):
            torch.testing.assert_close(run(llama, tokens)[row], together[row])


def test_a_layer_that_is_not_there_is_refused(llama):
    with (
        pytest.raises(ModelError, match="names layer 9; the model has layers 0 to 2"),
        edited(llama, [Add("z", 9, torch.zeros(4, 8))]),
    ):
        pass


@pytest.fixture
def masked(llama):
    """A third of the neurons of layer 1."""
    return torch.arange(llama.cfg.d_mlp) % 3 == 0


def zeroing(masked):
    return [
        Replace("post", 1, torch.zeros(len(masked)), masked, "all"),
        Scale("post", 1, (~masked).float(), "all"),
        Attenuate("post", 1, 1.0, torch.full((len(masked),), 1e-30), masked, "all"),
    ]


@pytest.mark.parametrize("way", range(3))
def test_zeroing_neurons_their_gates_and_their_output_weights_is_one_thing(
    llama, tokens, masked, way
):
    with edited(llama, [zeroing(masked)[way]]):
        found = run(llama, tokens)
    # s = silu(g) is zero where g is; nothing else of the neuron is touched.
    gate = Replace("pre", 1, torch.zeros(len(masked)), masked, "all")
    with edited(llama, [gate]):
        torch.testing.assert_close(run(llama, tokens), found, atol=1e-5, rtol=1e-5)
    weights = llama.original_model.model.layers[1].mlp.down_proj.weight
    whole = weights.detach().clone()
    try:
        with torch.no_grad():
            weights[:, masked] = 0
        torch.testing.assert_close(run(llama, tokens), found, atol=1e-5, rtol=1e-5)
    finally:
        with torch.no_grad():
            weights.copy_(whole)
    assert (run(llama, tokens) - found).abs().max() > 0.01


numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9).map(torch.tensor)


@given(numbers, st.floats(0, 1), st.data())
def test_attenuation_never_adds_nor_turns_a_sign(values, strength, data):
    size = len(values)
    sizes = st.lists(st.floats(0, 1e6, width=32), min_size=size, max_size=size)
    largest = torch.tensor(data.draw(sizes))
    factor = attenuation(values, strength, largest)
    assert bool(((factor >= 1 - strength - 1e-6) & (factor <= 1)).all())
    assert bool((factor[largest == 0] == 1).all())
    every = torch.ones(size, dtype=torch.bool)
    changed = Attenuate("post", 0, strength, largest, every, "all").apply(values[None, None])[0, 0]
    assert bool((changed.abs() <= values.abs()).all())
    assert bool((changed * values >= 0).all())
    assert torch.equal(changed, values * factor)
    untouched = Attenuate("post", 0, 0.0, largest, every, "all").apply(values[None, None])[0, 0]
    assert torch.equal(untouched, values)


@pytest.mark.parametrize("width", [2, 5, 7])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_values_with_positions_are_aligned_at_the_right_end(width, positions):
    activation, value = torch.randn(2, 5, 4), torch.randn(2, width, 4)
    chosen = torch.tensor([True, False, True, False])
    changed = Replace("post", 0, value, chosen, positions).apply(activation)
    expected = activation.clone()
    for back in range(1, 1 + (min(5, width) if positions == "all" else 1)):
        expected[:, -back, chosen] = value[:, -back, chosen]
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_that_would_turn_signs_is_refused(strength):
    with pytest.raises(ModelError, match=r"give one in \[0, 1\]"):
        Attenuate("post", 0, strength, torch.ones(2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ModelError, match=r"give one in \[0, 1\]"):
        attenuation(torch.ones(2), strength, torch.ones(2))


@pytest.mark.parametrize("largest", [-1.0, float("nan")])
def test_a_largest_activation_below_zero_is_refused(largest):
    with pytest.raises(ModelError, match="give the largest absolute activations"):
        Attenuate("post", 0, 0.5, torch.tensor([largest]), torch.tensor([True]))

"""Edits change what they say, where they say, and leave no trace."""

import pytest
import torch

from circuits.data.prompts import plain_prompts
from circuits.errors import ModelError
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.edits import Add, Replace, by_row, edited
from circuits.model.forward import during, run
from circuits.model.runs import capture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(llama, contexts):
    return pad_left([encode_prompt(llama, p) for p in plain_prompts(contexts[:2])], CPU)


def final(model, tokens):
    return capture(model, tokens, {"resid_post": lambda x: x})["resid_post"]


def test_opposite_edits_cancel(llama, tokens):
    push = torch.randn(llama.cfg.d_model)
    with edited(llama, [Add("resid_mid", 1, push), Add("resid_mid", 1, -push)]):
        changed = final(llama, tokens)
    torch.testing.assert_close(changed, final(llama, tokens), atol=1e-4, rtol=1e-4)


def test_an_edit_of_the_last_position_moves_nothing_before_it(llama, tokens):
    before = final(llama, tokens)
    with edited(llama, [Add("attn_out", 0, torch.ones(llama.cfg.d_model))]):
        after = final(llama, tokens)
    for row, real in enumerate(tokens.mask):  # padding attends to whatever it likes
        earlier = real.nonzero()[:-1, 0]
        torch.testing.assert_close(after[row][:, earlier], before[row][:, earlier])
    assert not torch.allclose(after[:, :, -1], before[:, :, -1])


def test_an_edit_moves_nothing_in_earlier_layers(llama, tokens):
    before = final(llama, tokens)
    with edited(llama, [Add("mlp_out", 2, torch.ones(llama.cfg.d_model), positions="all")]):
        after = final(llama, tokens)
    assert torch.equal(after[:, :2], before[:, :2])


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
    before = run(llama, tokens)

    def interrupted():
        with edited(llama, [Add("z", 0, torch.ones(4, 8))]):
            run(llama, tokens)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        interrupted()
    assert torch.equal(run(llama, tokens), before)


def test_an_edit_that_does_not_fit_leaves_no_trace(llama, tokens):
    before = run(llama, tokens)
    with pytest.raises(RuntimeError), edited(llama, [Add("z", 0, torch.ones(3))]):
        run(llama, tokens)
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

"""Traces: projections of every token, in units of how far asking moves the stream."""

import dataclasses

import pytest
import torch

from circuits.effects.inspection import TokenTrace, token_trace, trace_scale
from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.models.edits import edited
from circuits.models.memory import counted
from circuits.models.run import capture
from circuits.models.tokens import encode, encode_text, pad_left
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.running import execution
from circuits.steering.interventions import Steering, steer


@pytest.fixture(scope="module")
def scale(llama, contexts, directions):
    with execution(batch_size=5):
        return trace_scale(llama, contexts, directions)


def stream(model, ids):
    """The residual stream after every layer, plainly: [layer pos d_model]."""
    tokens = pad_left([ids], torch.device("cpu"))
    return capture(model, tokens, {"resid_post": lambda found: found})["resid_post"][0]


def by_hand(model, said, contexts, directions, emotion, layer):
    """A trace of one emotion and layer, with a loop over contexts and tokens."""
    v = directions.sel(emotion=emotion, sublayer="mlp", layer=layer).vectors[0, 0, 0]
    first, other, last, moved = [], [], [], []
    for context in contexts:
        h = stream(model, encode(model, neutral_prompt(context)))[layer]
        a = stream(model, encode(model, emotion_prompt(context, emotion)))[layer]
        first.append(h[0])
        other.append(h[1:-1].mean(0))
        last.append(h[-1])
        moved.append(float((a[-1] - h[-1]) @ v))
    zero = [torch.stack(rows).mean(0) for rows in (first, other, last)]
    unit = sum(moved) / len(moved)
    prompt = encode(model, said.prompt)
    ids = prompt + encode_text(model, said.text)
    values = []
    for i, h in enumerate(stream(model, ids)[layer]):
        place = 0 if i == 0 else 2 if i == len(prompt) - 1 else 1
        values.append(float((h - zero[place]) @ v) / unit)
    return values, unit, float(torch.tensor(moved).std()) / len(moved) ** 0.5


@pytest.mark.parametrize(("emotion", "layer"), [("fear", 0), ("anger", 2), ("disgust", 1)])
def test_a_trace_is_the_projection_that_one_computes_by_hand(
    llama, contexts, directions, scale, emotion, layer
):
    said = Reply(neutral_prompt(contexts[5]), "It was a dark day.", 5, emotion)
    values, unit, error = by_hand(llama, said, contexts, directions, emotion, layer)
    found = token_trace(llama, said, directions, scale).sel(emotion=emotion, layer=layer)
    own = scale.sel(emotion=emotion, layer=layer)
    torch.testing.assert_close(own.moved.item(), unit, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(own.stderr.item(), error, atol=1e-3, rtol=1e-3)
    if unit > 1.96 * error:
        torch.testing.assert_close(found.value[0, 0].tolist(), values, atol=2e-3, rtol=2e-3)
    else:
        assert found.value.isnan().all()


def test_plain_prompts_stand_at_zero_and_asking_ones_at_one(llama, contexts, directions, scale):
    known = scale.moved > 1.96 * scale.stderr
    assert known.float().mean() > 0.5
    zero, one = torch.zeros_like(scale.moved), torch.zeros_like(scale.moved)
    for context in contexts:
        zero += token_trace(llama, neutral_prompt(context), directions, scale).value[..., -1]
        for e, emotion in enumerate(directions.emotion):
            found = token_trace(llama, emotion_prompt(context, emotion), directions, scale)
            one[e] += found.value[e, :, -1]
    torch.testing.assert_close(zero[known] / len(contexts), 0 * zero[known], atol=1e-3, rtol=0)
    torch.testing.assert_close(
        one[known] / len(contexts), torch.ones_like(one[known]), atol=1e-3, rtol=0
    )
    assert zero[~known].isnan().all()


def test_the_first_token_is_the_same_in_every_text_and_stands_at_zero(
    llama, contexts, directions, scale
):
    for said in (emotion_prompt(contexts[3], "fear"), "I am so afraid."):
        first = token_trace(llama, said, directions, scale).value[..., 0]
        torch.testing.assert_close(first.nan_to_num(), torch.zeros_like(first), atol=1e-4, rtol=0)


def test_steering_moves_the_last_position_by_its_length(llama, contexts, directions, scale):
    prompt, before = (
        neutral_prompt(contexts[0]),
        token_trace(llama, neutral_prompt(contexts[0]), directions, scale),
    )
    e, layer = (scale.moved > 1.96 * scale.stderr).nonzero()[-1].tolist()
    with edited(llama, steer(directions, directions.emotion[e], Steering((layer,), 0.5))):
        after = token_trace(llama, prompt, directions, scale)
    moved = after.value - before.value
    expected = 0.5 * directions.norm[e, 1, layer] / scale.moved[e, layer]
    torch.testing.assert_close(moved[e, layer, -1], expected, atol=1e-3, rtol=1e-3)
    assert moved.nan_to_num()[:, :, :-1].abs().max() < 1e-4


def test_tokens_bear_their_place_and_make_up_the_text(llama, contexts, directions, scale, tmp_path):
    reply = Reply(emotion_prompt(contexts[0], "fear"), "I am so afraid, so very afraid.", 9, "fear")
    found = token_trace(llama, reply, directions, scale)
    assert "".join(found.tokens[found.n_prompt :]) == reply.text
    assert len(set(found.pos)) == len(found.pos) > found.n_prompt
    assert found.n_prompt == len(encode(llama, reply.prompt))
    assert token_trace(llama, reply.prompt, directions, scale).n_prompt == found.n_prompt
    found.save(tmp_path)
    read = TokenTrace.load(tmp_path)
    assert read.tokens == found.tokens
    assert torch.equal(read.value.nan_to_num(9), found.value.nan_to_num(9))


def test_a_text_without_a_prompt_begins_with_one_begin_token(llama, directions, scale):
    found = token_trace(llama, "I am so afraid.", directions, scale)
    assert found.tokens[0] == "<s>"
    assert "".join(found.tokens[1:]) == "I am so afraid."
    assert token_trace(llama, "<s>I am", directions, scale).tokens.count("<s>") == 1


def test_where_asking_does_not_move_the_stream_the_trace_is_not_known(
    llama, contexts, directions, scale
):
    e = directions.index("emotion", "fear")
    moved, stderr = scale.moved.clone(), scale.stderr.clone()
    moved[e, 0], moved[e, 1], stderr[e, 1], moved[e, 2], stderr[e, 2] = -1.0, 1.0, 0.6, 1.0, 0.4
    other = dataclasses.replace(scale, moved=moved, stderr=stderr)
    found = (
        token_trace(llama, neutral_prompt(contexts[0]), directions, other)
        .sel(emotion="fear")
        .value[0]
    )
    assert found.isnan().all(-1).tolist() == [True, True, False]


def test_a_trace_is_one_pass_and_a_scale_one_per_prompt(llama, contexts, directions, scale):
    with counted() as receipt:
        token_trace(llama, "I am so afraid.", directions, scale)
    assert receipt.passes == 1
    with counted() as receipt:
        trace_scale(llama, contexts[:2], directions)
    assert receipt.passes == 2 * 7


def test_what_cannot_be_traced_is_refused(llama, mini, contexts, directions, scale):
    with pytest.raises(DataError, match="an empty text has no tokens"):
        token_trace(llama, "", directions, scale)
    with pytest.raises(DataError, match="needs two contexts or more, found 1"):
        trace_scale(llama, contexts[:1], directions)
    with pytest.raises(AxisError, match=r"layers of width .*, the directions 3 of width 32"):
        token_trace(mini, "I am", directions, scale)
    with pytest.raises(AxisError, match="the scale was made with other directions"):
        token_trace(llama, "I am", directions.sel(emotion=("fear", "anger")), scale)

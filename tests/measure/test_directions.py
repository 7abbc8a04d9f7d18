"""Emotion directions: their algebra, planted signals, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import (
    direction_generality,
    emotion_directions,
    reference_direction,
    similarity,
    stable_layers,
)
from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.names import EMOTIONS
from circuits.prompts.templates import emotion_prompts


def with_streams(swept, made):
    """The same grid with other residual streams."""
    return replace(swept, resid_mid=made, resid_post=made)


def streams(swept, signal, noise, own_size=5.0):
    """Residual streams made of contexts, noise, and a signal per emotion."""
    torch.manual_seed(0)
    shape = swept.resid_mid.shape
    own = torch.randn(shape[0], 1, *shape[2:]) * own_size
    return own + noise * torch.randn(shape) + signal[None, :, None]


def planted(swept, signal, noise, own_size=5.0):
    return with_streams(swept, streams(swept, signal, noise, own_size))


def test_directions_are_unit_vectors_of_rank_five_that_repel_each_other(directions):
    torch.testing.assert_close(
        directions.vectors.norm(dim=-1), torch.ones(directions.norm.shape), atol=1e-5, rtol=0
    )
    weighted = (directions.vectors * directions.norm[..., None]).sum(0)
    torch.testing.assert_close(weighted, torch.zeros_like(weighted), atol=1e-4, rtol=0)


def test_a_planted_signal_is_found(swept):
    torch.manual_seed(1)
    signal = torch.randn(6, 32)
    found = emotion_directions(planted(swept, signal, noise=0.01))
    expected = signal - signal.mean(0)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    cosine = torch.einsum("eslw,ew->esl", found.vectors, expected)
    assert cosine.min() > 0.999


def test_what_a_context_says_in_every_emotion_cancels(swept):
    torch.manual_seed(2)
    made = streams(swept, torch.randn(6, 32), noise=0.1)
    shift = torch.randn(made.shape[0], 1, *made.shape[2:]) * 50
    one, other = (emotion_directions(with_streams(swept, x)) for x in (made, made + shift))
    torch.testing.assert_close(one.vectors, other.vectors, atol=1e-4, rtol=0)


def test_contexts_with_a_missing_emotion_are_counted_and_left_out(swept, grid):
    found = emotion_directions(swept)
    assert (found.n_contexts, found.n_left_out) == (10, 2)
    whole = grid.complete
    apart = swept.resid_post[whole] - swept.resid_post[whole].mean(1, keepdim=True)
    by_hand = apart.mean(0)
    torch.testing.assert_close(found.vectors[:, 1] * found.norm[:, 1, :, None], by_hand)


def test_no_complete_context_is_refused_and_the_lacking_emotion_named(llama, contexts):
    prompts = emotion_prompts(contexts[:2], EMOTIONS[:5])
    grid = group_by_context([Reply(p, "x", 1, p.emotion or "") for p in prompts], EMOTIONS)
    with pytest.raises(DataError, match="2 contexts 2 lack 'disgust'"):
        emotion_directions(read_activations(llama, grid))


def test_two_replies_in_one_cell_are_refused(contexts):
    prompt = emotion_prompts(contexts[:1])[0]
    with pytest.raises(DataError, match="two accepted replies for context"):
        group_by_context([Reply(prompt, "x", 1, "anger")] * 2, EMOTIONS)


def test_an_empty_reply_cannot_be_averaged_over(llama, contexts):
    prompts = emotion_prompts(contexts[:1])
    grid = group_by_context([Reply(p, "", 0, p.emotion or "") for p in prompts], EMOTIONS)
    with pytest.raises(DataError, match="a reply is empty"):
        read_activations(llama, grid, read="reply")


def test_reference_layers_scale_from_those_of_28_layers():
    assert stable_layers(28) == (21, 22, 23, 24, 25)
    assert stable_layers(6) == (4, 5)
    assert stable_layers(1) == (0,)


def test_the_reference_direction_does_not_depend_on_the_sign_of_later_layers(directions):
    vectors = directions.vectors.clone()
    vectors[:, 1, 2] *= -1
    flipped = replace(directions, vectors=vectors)
    one, other = reference_direction(directions, (1, 2)), reference_direction(flipped, (1, 2))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(6))


def test_a_reference_layer_that_is_not_there_is_refused(directions):
    with pytest.raises(AxisError, match="axis 'layer' has no label 7"):
        reference_direction(directions, (7,))


def test_similarity_of_an_emotion_with_itself_is_one(directions):
    found = similarity(directions)
    own = torch.diagonal(found, dim1=0, dim2=1)
    torch.testing.assert_close(own, torch.ones(own.shape), atol=1e-5, rtol=0)


def test_a_planted_signal_generalises_and_shuffled_emotions_do_not(swept):
    torch.manual_seed(3)
    made = planted(swept, torch.randn(6, 32), noise=0.05, own_size=0.3)
    found = direction_generality(made)
    assert found.accuracy.min() == 1.0
    assert found.split_half.min() > 0.95
    assert found.without_theme.min() > 0.95
    assert found.random_baseline.max() < 0.6


def test_without_a_signal_nothing_generalises(swept):
    made = planted(swept, torch.zeros(6, 32), noise=1.0)
    found = direction_generality(made)
    assert found.accuracy.max() < 0.5
    assert found.split_half.abs().mean() < 0.3

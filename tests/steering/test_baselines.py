"""Directions of other makes, and the neurons with the largest effects."""

import pytest
import torch

from circuits.effects.activations import component_means, differences
from circuits.errors import CircuitError, DataError
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.names import EMOTIONS
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.running import execution
from circuits.steering.interventions import (
    Interventions,
    Steering,
    other_directions,
    residuals,
    steer,
    strongest_neurons,
)


@pytest.fixture(scope="module")
def streams(llama, contexts):
    with execution(batch_size=5):
        return residuals(llama, contexts, EMOTIONS)


@pytest.fixture(scope="module")
def others(streams):
    return other_directions(streams, EMOTIONS)


def test_streams_are_those_of_one_prompt_at_a_time(llama, contexts, streams):
    assert streams.shape == (len(contexts), 7, 3, 32)
    for row, judged, prompt in (
        (2, 3, emotion_prompt(contexts[2], EMOTIONS[3])),
        (5, 6, neutral_prompt(contexts[5])),
    ):
        tokens = pad_left([encode(llama, prompt)], torch.device("cpu"))
        alone = capture(llama, tokens, {"resid_post": lambda a: a[:, -1]})["resid_post"][0]
        torch.testing.assert_close(streams[row, judged], alone, atol=1e-4, rtol=1e-4)


def test_at_strength_one_the_plain_direction_moves_the_plain_mean_to_the_asked_mean(
    streams, others
):
    (edit,) = steer(others["neutral"], "fear", Steering((2,), along="neutral"))
    e = EMOTIONS.index("fear")
    assert torch.equal(others["probe"].norm, others["neutral"].norm)
    moved = streams[:, -1, 2].mean(0) + edit.value
    torch.testing.assert_close(moved, streams[:, e, 2].mean(0), atol=1e-5, rtol=1e-4)


def test_a_probe_finds_the_one_axis_on_which_emotions_differ():
    """Streams that differ along an axis per emotion, in noise: the probe points along it."""
    random = torch.Generator().manual_seed(0)
    streams = torch.randn(40, 3, 2, 16, generator=random)
    for e in range(2):
        streams[:, e, 1, e] += 8.0
    found = other_directions(streams, ("anger", "fear"))["probe"]
    for e in range(2):
        assert found.vectors[e, 0, 1].argmax() == e
        assert found.vectors[e, 0, 1, e] > 0.7
    norms = found.vectors.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_one_context_is_too_few(streams):
    with pytest.raises(DataError, match="two or more contexts, found 1"):
        other_directions(streams[:1], EMOTIONS)


def test_the_strongest_neurons_are_those_that_tell_the_emotion_from_the_others(measured):
    found = strongest_neurons(measured.neurons, "fear", 5)
    own = measured.neurons.centred[EMOTIONS.index("fear")]
    least = min(float(own[place]) for place in found)
    assert len(set(found)) == 5
    assert int((own > least).sum()) == 4


def test_what_was_not_made_cannot_be_used(swept, directions):
    interventions = Interventions({}, differences(component_means(swept)), directions)
    with pytest.raises(CircuitError, match="no directions along 'probe'"):
        interventions.edits(Steering((0,), along="probe"))

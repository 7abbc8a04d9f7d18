"""Circuits and directions as edits."""

import pytest
import torch

from circuits.circuit.circuit import Circuit, Node
from circuits.effects.activations import component_means, differences
from circuits.errors import AxisError, CircuitError
from circuits.models.edits import edited
from circuits.models.run import run
from circuits.models.tokens import encode, pad_left
from circuits.names import head_name, neuron_name
from circuits.running import execution
from circuits.steering.interventions import Modulation, Steering, circuit_edits, random_like, steer


@pytest.fixture(scope="module")
def means(swept):
    return differences(component_means(swept))


def circuit_of(heads, neurons, emotion="fear"):
    nodes = [Node(head_name(*h), "head", h[0]) for h in heads]
    nodes += [Node(neuron_name(*n), "neuron", n[0]) for n in neurons]
    return Circuit(emotion, tuple(nodes), ())


def test_a_circuit_writes_its_own_differences_and_nothing_else(means):
    circuit = circuit_of([(0, 1), (2, 3)], [(1, 7)])
    edits = circuit_edits(circuit, means, Modulation(2.0))
    e = means.index("emotion", "fear")
    assert [(edit.site, edit.layer) for edit in edits] == [("z", 0), ("z", 2), ("post", 1)]
    torch.testing.assert_close(edits[0].value[1], 2 * means.z[e, 0, 1])
    assert int((edits[0].value.any(-1)).sum()) == 1
    assert edits[2].value.nonzero().tolist() == [[7]]


def test_strength_zero_changes_nothing(llama, contexts, means):
    from circuits.prompts.templates import neutral_prompt

    tokens = pad_left([encode(llama, neutral_prompt(contexts[0]))], torch.device("cpu"))
    circuit = circuit_of([(0, 1)], [(1, 7)])
    with edited(llama, circuit_edits(circuit, means, Modulation(0.0))):
        changed = run(llama, tokens)
    assert torch.equal(changed, run(llama, tokens))


def test_opposite_strengths_cancel(means):
    circuit = circuit_of([(0, 1)], [(1, 7)])
    up, down = (circuit_edits(circuit, means, Modulation(s)) for s in (1.0, -1.0))
    for one, other in zip(up, down, strict=True):
        assert torch.equal(one.value, -other.value)


def test_the_whole_models_differences_move_the_last_write_by_the_mean_contrast(
    llama, values, grid, directions, means, contexts
):
    """Writing all heads of a layer adds exactly the layer's mean attention contrast."""
    e = means.index("emotion", "fear")
    heads = [(2, head) for head in range(llama.cfg.n_heads)]
    (edit,) = circuit_edits(circuit_of(heads, []), means, Modulation())
    write = torch.einsum("hd,hdm->m", edit.value, llama.W_O.detach()[2])
    z = values.z[grid.complete][:, :, 2]
    contrast = (z[:, e] - z.mean(1)).mean(0)
    by_hand = torch.einsum("hd,hdm->m", contrast, llama.W_O.detach()[2])
    torch.testing.assert_close(write, by_hand, atol=1e-5, rtol=1e-4)


def test_steering_at_strength_one_adds_the_models_own_difference(directions):
    (edit,) = steer(directions, "anger", Steering((1,)))
    e = directions.index("emotion", "anger")
    expected = directions.vectors[e, 1, 1] * directions.norm[e, 1, 1]
    assert (edit.site, edit.layer) == ("resid_post", 1)
    torch.testing.assert_close(edit.value, expected)


def test_steering_at_several_layers_shares_the_strength(directions):
    one, two = steer(directions, "anger", Steering((1, 2), strength=1.0))
    half = steer(directions, "anger", Steering((1,), strength=0.5))[0]
    torch.testing.assert_close(one.value, half.value)
    assert two.layer == 2


def test_a_random_circuit_has_as_many_other_parts_in_the_same_layers(means):
    circuit = circuit_of([(0, 1), (2, 3), (2, 0)], [(1, 7), (1, 8)])
    drawn = random_like(circuit, means)
    assert [layer for layer, _ in drawn.heads] == [0, 2, 2]
    assert [layer for layer, _ in drawn.neurons] == [1, 1]
    assert not set(drawn.heads) & set(circuit.heads)
    assert not set(drawn.neurons) & set(circuit.neurons)
    assert random_like(circuit, means) == drawn
    with execution(seed=2):
        assert random_like(circuit, means) != drawn


def test_another_models_circuit_is_refused(means):
    with pytest.raises(CircuitError, match="the circuit of 'fear' names head 9 of layer 0"):
        circuit_edits(circuit_of([(0, 9)], []), means, Modulation())


def test_a_random_circuit_from_anywhere_has_as_many_other_parts(means):
    circuit = circuit_of([(0, 1), (2, 3)], [(1, 7), (1, 8)])
    drawn = random_like(circuit, means, same_layers=False)
    assert (len(drawn.heads), len(drawn.neurons)) == (2, 2)
    assert not set(drawn.heads) & set(circuit.heads)
    assert not set(drawn.neurons) & set(circuit.neurons)


def test_an_emotion_without_means_is_refused(means):
    with pytest.raises(AxisError, match="no label 'awe'"):
        circuit_edits(circuit_of([(0, 1)], [], emotion="awe"), means, Modulation())

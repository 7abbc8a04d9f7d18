"""Circuits and directions as edits, and what is said under them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import circuit_of

from circuits.effects.activations import component_means, differences
from circuits.effects.directions import own_differences
from circuits.errors import AxisError, CircuitError
from circuits.judges import LexiconJudge
from circuits.models.edits import edited
from circuits.models.generate import elicit
from circuits.models.run import run
from circuits.models.tokens import encode, pad_left
from circuits.names import EMOTIONS
from circuits.prompts.templates import neutral_prompt
from circuits.running import execution
from circuits.steering.evaluate import Evaluator, mixtures, rises, strength_sweep, suppression
from circuits.steering.interventions import (
    TIMES,
    Interventions,
    Modulation,
    NeuronSteering,
    Steering,
    blend,
    circuit_edits,
    neuron_edits,
    random_like,
    steer,
)

HEADS = {"anger": [(0, 1), (2, 3)], "fear": [(0, 1), (1, 2)]}
NEURONS = {"anger": [(1, 7)], "fear": [(1, 7), (2, 9)]}


@pytest.fixture(scope="module")
def apart(swept):
    return differences(component_means(swept))


@pytest.fixture(scope="module")
def pair():
    return {e: circuit_of(e, HEADS[e], NEURONS[e]) for e in HEADS}


@pytest.fixture(scope="module")
def own(mini, contexts):
    """What the embedded model does differently, and all of it as six circuits."""
    return own_differences(mini, contexts, EMOTIONS)


@pytest.fixture(scope="module")
def interventions(own, directions):
    heads = [(layer, head) for layer in own.layer for head in own.head]
    whole = {e: circuit_of(e, heads) for e in EMOTIONS}
    return Interventions(whole, own, directions)


def values(edits):
    return {(edit.site, edit.layer): edit.value for edit in edits}


def test_a_circuit_writes_its_own_differences_and_nothing_else(apart):
    circuit = circuit_of("fear", [(0, 1), (2, 3)], [(1, 7)])
    edits = circuit_edits(circuit, apart, Modulation(2.0))
    e = apart.index("emotion", "fear")
    assert [(edit.site, edit.layer) for edit in edits] == [("z", 0), ("z", 2), ("post", 1)]
    torch.testing.assert_close(edits[0].value[1], 2 * apart.z[e, 0, 1])
    assert int((edits[0].value.any(-1)).sum()) == 1
    assert edits[2].value.nonzero().tolist() == [[7]]


def test_strength_zero_changes_nothing(llama, contexts, apart):
    tokens = pad_left([encode(llama, neutral_prompt(contexts[0]))], torch.device("cpu"))
    circuit = circuit_of("fear", [(0, 1)], [(1, 7)])
    with edited(llama, circuit_edits(circuit, apart, Modulation(0.0))):
        changed = run(llama, tokens)
    assert torch.equal(changed, run(llama, tokens))


def test_the_whole_models_differences_move_the_last_write_by_the_mean_contrast(
    llama, swept, grid, directions, apart, contexts
):
    """Writing all heads of a layer adds exactly the layer's mean attention contrast."""
    e = apart.index("emotion", "fear")
    heads = [(2, head) for head in range(llama.cfg.n_heads)]
    (edit,) = circuit_edits(circuit_of("fear", heads), apart, Modulation())
    write = torch.einsum("hd,hdm->m", edit.value, llama.W_O.detach()[2])
    z = swept.z[grid.complete][:, :, 2]
    contrast = (z[:, e] - z.mean(1)).mean(0)
    by_hand = torch.einsum("hd,hdm->m", contrast, llama.W_O.detach()[2])
    torch.testing.assert_close(write, by_hand, atol=1e-5, rtol=1e-4)


def test_steering_at_strength_one_adds_the_models_own_difference(directions):
    (edit,) = steer(directions, "anger", Steering((1,)))
    e = directions.index("emotion", "anger")
    expected = directions.vectors[e, 1, 1] * directions.norm[e, 1, 1]
    assert (edit.site, edit.layer) == ("resid_post", 1)
    torch.testing.assert_close(edit.value, expected)
    # Several layers share it.
    one, two = steer(directions, "anger", Steering((1, 2), strength=1.0))
    half = steer(directions, "anger", Steering((1,), strength=0.5))[0]
    torch.testing.assert_close(one.value, half.value)
    assert two.layer == 2


def test_a_random_circuit_has_as_many_other_parts_in_the_same_layers(apart):
    circuit = circuit_of("fear", [(0, 1), (2, 3), (2, 0)], [(1, 7), (1, 8)])
    drawn = random_like(circuit, apart)
    assert [layer for layer, _ in drawn.heads] == [0, 2, 2]
    assert [layer for layer, _ in drawn.neurons] == [1, 1]
    assert not set(drawn.heads) & set(circuit.heads)
    assert not set(drawn.neurons) & set(circuit.neurons)
    assert random_like(circuit, apart) == drawn
    with execution(seed=2):
        assert random_like(circuit, apart) != drawn
    anywhere = random_like(circuit, apart, same_layers=False)
    assert (len(anywhere.heads), len(anywhere.neurons)) == (3, 2)
    assert not set(anywhere.heads) & set(circuit.heads)
    assert not set(anywhere.neurons) & set(circuit.neurons)


def test_another_models_circuit_or_emotion_is_refused(apart):
    with pytest.raises(CircuitError, match="the circuit of 'fear' names head 9 of layer 0"):
        circuit_edits(circuit_of("fear", [(0, 9)]), apart, Modulation())
    with pytest.raises(AxisError, match="no label 'awe'"):
        circuit_edits(circuit_of("awe", [(0, 1)]), apart, Modulation())


def test_a_mixture_writes_the_weighted_sum_of_its_circuits(pair, apart):
    both = values(blend(pair, apart, {"anger": 0.5, "fear": -2.0}, Modulation()))
    one = values(circuit_edits(pair["anger"], apart, Modulation(0.5)))
    other = values(circuit_edits(pair["fear"], apart, Modulation(-2.0)))
    assert set(both) == set(one) | set(other)
    for place, value in both.items():
        zero = torch.zeros_like(value)
        torch.testing.assert_close(value, one.get(place, zero) + other.get(place, zero))


def test_the_strength_of_an_emotion_multiplies_its_weight(pair, apart):
    how = Modulation(1.0, by_emotion=(("fear", 2.0),))
    doubled = values(blend(pair, apart, {"fear": 0.5}, how))
    alone = values(circuit_edits(pair["fear"], apart, Modulation(1.0)))
    assert all(torch.equal(doubled[place], value) for place, value in alone.items())


def test_an_emotion_without_a_circuit_is_refused(pair, apart):
    with pytest.raises(CircuitError, match="no circuit of 'awe'; there are anger, fear"):
        blend(pair, apart, {"awe": 1.0}, Modulation())


def test_induction_adds_a_multiple_of_the_neurons_own_mean(swept):
    means = component_means(swept)
    (edit,) = neuron_edits([(1, 7), (1, 3)], means, "fear", NeuronSteering(4.0, "every", "all"))
    e = means.index("emotion", "fear")
    assert (edit.site, edit.layer, edit.when, edit.positions) == ("post", 1, "every", "all")
    assert edit.value.nonzero()[:, 0].tolist() == [3, 7]
    torch.testing.assert_close(edit.value[7], 4 * means.post[e, 1, 7])
    with pytest.raises(AxisError, match="no label 99"):
        neuron_edits([(1, 99)], means, "fear", NeuronSteering())


def test_steering_writes_where_and_when_it_is_told(directions):
    how = Steering((1,), 1.0, "every", at="all", by_emotion=(("anger", 3.0),))
    (edit,) = steer(directions, "anger", how)
    (plainly,) = steer(directions, "anger", Steering((1,), 3.0))
    assert (edit.positions, edit.when, plainly.positions, plainly.when) == (
        "all",
        "every",
        "last",
        "prompt",
    )
    assert torch.equal(edit.value, plainly.value)


def test_nothing_is_left_of_a_modulation_that_ended_in_an_exception(llama, contexts, pair, apart):
    tokens = pad_left([encode(llama, neutral_prompt(contexts[0]))], torch.device("cpu"))
    before = run(llama, tokens)
    edits = blend(pair, apart, {"anger": 1.0, "fear": 1.0}, Modulation())
    with edited(llama, edits):
        assert not torch.equal(run(llama, tokens), before)
    with pytest.raises(ZeroDivisionError), edited(llama, edits):
        raise ZeroDivisionError
    assert torch.equal(run(llama, tokens), before)


@pytest.mark.parametrize(("when", "at"), TIMES)
def test_batches_and_cached_keys_make_no_difference_to_what_is_said(
    mini, contexts, interventions, when, at
):
    """The oracle reads the whole text anew for every token, without a cache, one at a time."""
    how = Modulation(1.0, when, at, at)
    edits = blend(interventions.circuits, interventions.differences, {"fear": 1.0}, how)
    prompts = [neutral_prompt(context) for context in contexts[:3]]
    together = elicit(mini, prompts, edits=lambda chosen: edits, max_new_tokens=6)
    alone = [elicit(mini, [p], edits=lambda chosen: edits, max_new_tokens=6)[0] for p in prompts]
    assert [r.text for r in together] == [r.text for r in alone]
    if (when, at) == ("every", "all"):
        assert [slowly(mini, prompt, edits, 6) for prompt in prompts] == [r.text for r in alone]


@torch.no_grad()
def slowly(model, prompt, edits, longest):
    ids = encode(model, prompt)
    start, stop = len(ids), model.tokenizer.eos_token_id
    with edited(model, edits):
        for _ in range(longest):
            logits = run(model, pad_left([ids], torch.device("cpu")))
            ids = [*ids, int(logits[0, -1].argmax())]
            if ids[-1] == stop:
                break
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def evaluator(mini, contexts, emotions=EMOTIONS):
    return Evaluator(mini, LexiconJudge(), contexts, emotions)


def test_a_sweep_says_what_its_points_say_one_by_one(mini, contexts, interventions):
    own = evaluator(mini, contexts[:3])
    points = [interventions.edits(Modulation(strength=strength)) for strength in (0.0, 0.5, -1.0)]
    told = []
    with execution(progress=told.append):
        swept = own.swept("circuit", points)
    assert swept == [own.changed("circuit", edits) for edits in points]
    assert sum(told) == 3 * 3 * 6


def test_the_strength_sweep_starts_at_the_untouched_model_and_rises(mini, contexts, interventions):
    found = strength_sweep(
        evaluator(mini, contexts[:4]), interventions, Modulation(), strengths=(0.0, 0.5, 1.0)
    )
    assert found["unchanged_at_zero"] == found["n"] == 4 * 6
    assert found["overall"][0] < 20
    assert found["overall"][2] > 90
    assert found["rises"]
    assert found["strength"] == [0.0, 0.5, 1.0]
    for emotion in EMOTIONS:
        assert len(found["by_emotion"][emotion]) == 3


def test_a_negative_strength_suppresses_what_the_prompt_asks_for(mini, contexts, interventions):
    found = suppression(evaluator(mini, contexts[:4]), interventions, Modulation())
    assert found["prompted"] > 90
    assert found["suppressed"] < 30
    assert sum(found["labels"].values()) == pytest.approx(100, abs=0.1)


def test_of_two_emotions_at_once_one_or_the_other_is_heard(mini, contexts, interventions):
    found = mixtures(evaluator(mini, contexts[:4]), interventions, Modulation())
    assert [row["emotions"][0] for row in found] == list(EMOTIONS)
    of_the_two = sum(row["labels"].get(e, 0) for row in found for e in row["emotions"])
    assert of_the_two / len(found) > 60


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_a_curve_that_never_falls_rises_whatever_its_intervals(points):
    rising = sorted(points)
    assert rises(rising, rising)
    low, high = [p - 100 for p in points], [p + 100 for p in points]
    assert rises(low, high)


def test_a_fall_that_intervals_do_not_explain_is_none_of_a_rising_curve():
    assert not rises([50.0, 10.0], [60.0, 40.0])

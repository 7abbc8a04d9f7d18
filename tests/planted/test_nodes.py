"""The planted parts have the planted effects, by one run each, and no other part has any."""

import pytest
import torch
from planted import by_hand
from planted.plant import plant

SEEDS = (1, 2)
THREE = ("anger", "fear", "happiness")


def clean_and_corrupt(planted, contexts):
    clean = by_hand.asking_rows(planted, contexts[planted.seed % len(contexts)])
    return clean, clean.roll(1, dims=0)


def smallest(planted, effects):
    """The smallest effect of a planted part on a readout that it serves."""
    return min(
        float(effects[name][place].abs())
        for place, emotion in enumerate(planted.emotions)
        for name in planted.true_nodes(emotion=emotion)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_parts_and_no_others_carry_the_difference_between_two_emotions(contexts, seed):
    planted = plant(seed, emotions=THREE)
    clean, corrupt = clean_and_corrupt(planted, contexts)
    effects = by_hand.noising(planted, clean, corrupt, by_hand.parts(planted))
    least, known = smallest(planted, effects), {node.name for node in planted.nodes}
    assert least > 0.2
    for place, emotion in enumerate(THREE):
        true = planted.true_nodes(emotion=emotion)
        found = {name for name, effect in effects.items() if abs(effect[place]) > least / 20}
        assert found == true
    assert max(float(effects[name].abs().max()) for name in set(effects) - known) < least / 50


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_parts_bring_the_emotion_into_a_prompt_that_asks_for_another(contexts, seed):
    planted = plant(seed)
    clean, corrupt = clean_and_corrupt(planted, contexts)
    names = [node.name for node in planted.nodes]
    effects = by_hand.denoising(planted, clean, corrupt, names)
    least = smallest(planted, effects)
    for place, emotion in enumerate(planted.emotions):
        found = {name for name, effect in effects.items() if abs(effect[place]) > least / 20}
        assert found == planted.true_nodes(emotion=emotion)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_relay_pushes_and_an_inhibitor_pushes_back_by_its_strength(contexts, seed):
    planted = plant(seed)
    clean, corrupt = clean_and_corrupt(planted, contexts)
    pushing = [node for node in planted.nodes if node.role in ("relay", "inhibitor")]
    effects = by_hand.noising(planted, clean, corrupt, [node.name for node in pushing])
    for node in pushing:
        for place, emotion in enumerate(planted.emotions):
            expected = node.strength if node.emotion in (None, emotion) else 0.0
            assert float(effects[node.name][place]) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_distractors_write_more_than_any_planted_part(contexts, seed):
    planted = plant(seed)
    ids = by_hand.asking_rows(planted, contexts[0])
    found = by_hand.run(planted, ids)
    size = {
        node.name: by_hand.written(planted, found, node.name)[:, -1].norm(dim=-1).max()
        for node in planted.nodes
    }
    relays = max(size[node.name] for node in planted.nodes if node.role == "relay")
    distractors = [node for node in planted.nodes if node.role == "distractor"]
    assert len(distractors) == 5
    # Most speak louder than the loudest relay; a head on topics is as loud as its words differ.
    assert sum(bool(size[node.name] > relays) for node in distractors) >= 4


@pytest.mark.parametrize("seed", range(0, 20, 2))
def test_the_asked_emotion_has_the_largest_readout_and_is_the_next_word(contexts, seed):
    planted = plant(seed)
    found = by_hand.run(planted, by_hand.asking_rows(planted, contexts[seed % len(contexts)]))
    readout = found["readout"]
    assert readout.argmax(dim=1).tolist() == list(range(len(planted.emotions)))
    others = readout[~torch.eye(len(readout), dtype=torch.bool)].reshape(len(readout), -1)
    assert bool((readout.diagonal() - others.amax(dim=1) > 0.5).all())
    vocabulary = planted.model.tokenizer.get_vocab()
    words = [vocabulary[emotion] for emotion in planted.emotions]
    assert found["logits"][:, -1].argmax(dim=-1).tolist() == words


def test_the_oracle_of_the_tests_computes_a_part_as_the_model_does(contexts):
    for seed in range(4):
        planted = plant(seed, emotions=THREE)
        found = by_hand.run(planted, by_hand.asking_rows(planted, contexts[0]))
        for node in planted.nodes:
            ours = by_hand.recomputed(planted, found, node.name)
            torch.testing.assert_close(
                ours, by_hand.activation(found, node.name), atol=1e-4, rtol=1e-3
            )

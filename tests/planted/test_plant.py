"""A plant is a value that its seed decides, and the package's prompts work on it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import by_hand
from planted.plant import Recovery, plant, recovery

from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import emotion_directions
from circuits.judges.replies import Reply
from circuits.models.families import check_identities
from circuits.models.tokens import encode
from circuits.prompts.templates import emotion_prompt, emotion_prompts, neutral_prompt


@pytest.fixture(scope="module")
def ten():
    return [plant(seed) for seed in range(10)]


def weights(planted):
    return planted.model.original_model.state_dict()


def test_equal_seeds_give_equal_models_and_others_do_not():
    first, again, other = plant(5), plant(5), plant(6)
    assert first.nodes == again.nodes
    assert first.edges == again.edges
    assert torch.equal(first.readout, again.readout)
    assert all(torch.equal(w, weights(again)[name]) for name, w in weights(first).items())
    assert first.nodes != other.nodes
    assert not torch.equal(first.readout, other.readout)


def test_plants_are_of_every_form_exact_and_without_special_axes(ten):
    assert {own.model.original_model.config.num_key_value_heads for own in ten} == {2, 4}
    for role, seen in (("inhibitor", {"head", "neuron"}), ("writer", {0, 1, 2})):
        nodes = [node for planted in ten for node in planted.nodes if node.role == role]
        assert {node.layer if role == "writer" else node.kind for node in nodes} == seen
    for planted in ten:
        check_identities(planted.model)
        gram = planted.readout @ planted.readout.T
        torch.testing.assert_close(gram, torch.eye(6), atol=1e-5, rtol=0)
        for name, weight in weights(planted).items():
            assert name.endswith("bias") or bool((weight != 0).all()), name
        # No axis of the model holds more than a good part of a readout.
        assert float(planted.readout.abs().max()) < 0.6


def test_the_norm_of_the_stream_hardly_moves(ten, contexts):
    for planted in ten[:5]:
        found = by_hand.run(planted, by_hand.asking_rows(planted, contexts[0]))
        for name, value in found.items():
            if "resid" in name:
                norms = value.norm(dim=-1)
                assert float(norms.max() / norms.min()) < 1.02
                assert float(norms[:, -1].max() / norms[:, -1].min()) < 1.001


def test_the_truth_is_told_by_kind_emotion_and_change():
    planted = plant(1)
    heads, neurons = planted.true_nodes("head"), planted.true_nodes("neuron")
    assert heads | neurons == planted.true_nodes()
    assert not heads & neurons
    each = [planted.true_nodes(emotion=emotion) for emotion in planted.emotions]
    assert frozenset().union(*each) == planted.true_nodes()
    assert all(own < planted.true_nodes() for own in each)
    backup = next(node.name for node in planted.nodes if node.role == "backup")
    assert planted.true_nodes(when="ablated") == {backup}
    assert backup not in planted.true_nodes()
    by_kind = [planted.true_edges(kind) for kind in ("q", "k", "v", "mlp", "readout")]
    assert frozenset().union(*by_kind) == planted.true_edges()
    assert {kind for _, _, kind in planted.true_edges(when="plain")} == {"q", "k"}


def test_an_emotion_word_is_one_token_and_other_words_their_first_letter():
    tokenizer = plant(0).model.tokenizer
    ids = tokenizer("in anger or danger, near fear.", add_special_tokens=False)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["i", "anger", "o", "d", ",", "n", "fear", "."]
    assert tokenizer.convert_ids_to_tokens(tokenizer("éclair")["input_ids"])[-1] == "<|unk|>"


def test_prompts_of_all_emotions_have_one_length_and_one_begin_token(contexts):
    planted = plant(0)
    begin = planted.model.tokenizer.bos_token_id
    for context in contexts:
        rows = [encode(planted.model, emotion_prompt(context, e)) for e in planted.emotions]
        assert len({len(row) for row in rows}) == 1
        assert all(row.count(begin) == 1 and row[0] == begin for row in rows)
        without = encode(planted.model, neutral_prompt(context))
        words = planted.model.tokenizer.convert_ids_to_tokens(without)
        assert not set(words) & set(planted.emotions)


@pytest.mark.parametrize("sizes", [{"n_layers": 3}, {"n_layers": 5}, {"n_heads": 6}])
def test_other_sizes_are_planted_too(contexts, sizes):
    planted = plant(7, emotions=("joy", "envy", "calm", "pride"), **sizes)
    found = by_hand.run(planted, by_hand.asking_rows(planted, contexts[0]))
    assert found["readout"].argmax(dim=1).tolist() == [0, 1, 2, 3]


@given(st.frozensets(st.integers(0, 20)), st.frozensets(st.integers(0, 20)))
def test_recovery_counts(found, truth):
    scored = recovery(found, truth)
    assert scored.precision == (len(found & truth) / len(found) if found else 1)
    assert scored.recall == (len(found & truth) / len(truth) if truth else 1)
    assert recovery(truth, truth) == Recovery(1.0, 1.0)


def test_the_packages_directions_point_along_the_planted_readouts(contexts):
    planted = plant(3)
    prompts = emotion_prompts(contexts, planted.emotions)
    grid = group_by_context(
        [Reply(p, "Fine.", 2, p.emotion or "") for p in prompts], planted.emotions
    )
    directions = emotion_directions(read_activations(planted.model, grid))
    along = directions.vectors[:, -1, -1] @ planted.readout.T
    assert along.argmax(dim=1).tolist() == list(range(len(planted.emotions)))
    assert float(along.diagonal().min()) > 0.1

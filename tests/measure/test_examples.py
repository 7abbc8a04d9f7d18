import pytest
import torch

from circuits.effects.activations import ContextGroups, read_activations
from circuits.effects.heads import head_effects
from circuits.effects.inspection import node_examples
from circuits.effects.neurons import neuron_effects
from circuits.errors import DataError
from circuits.models.memory import counted
from circuits.prompts.templates import emotion_prompt
from circuits.running import execution

NODES = ("L2N3", "L0H1", "L1N47", "L2H3", "L0N0")


@pytest.fixture(scope="module")
def whole(grid):
    """The contexts in which no emotion is missing, and nothing else."""
    kept = [c for c, full in zip(grid.contexts, grid.complete.tolist(), strict=True) if full]
    cells = {key: reply for key, reply in grid.cells.items() if key[0] in {c.id for c in kept}}
    return ContextGroups(tuple(kept), grid.emotions, cells)


@pytest.fixture(scope="module")
def rows(whole):
    return [[emotion_prompt(context, e) for e in whole.emotions] for context in whole.contexts]


@pytest.fixture(scope="module")
def examples(llama, rows, directions):
    with execution(batch_size=14):
        return node_examples(llama, rows, directions, NODES)


def test_the_mean_over_contexts_is_the_centred_effect(llama, whole, directions, examples):
    swept = read_activations(llama, whole)
    heads = head_effects(llama, swept, directions).centred
    neurons = neuron_effects(llama, swept, directions).centred
    expected = [neurons[:, 2, 3], heads[:, 0, 1], neurons[:, 1, 47], heads[:, 2, 3],
                neurons[:, 0, 0]]  # fmt: skip
    found = examples.effect.mean(0)
    assert torch.allclose(found, torch.stack(expected, dim=1), rtol=1e-3, atol=1e-5)


def test_batches_do_not_change_the_result(llama, rows, directions, examples):
    with execution(batch_size=1), counted() as receipt:
        again = node_examples(llama, rows, directions, NODES)
    assert torch.allclose(again.effect, examples.effect, rtol=1e-3, atol=1e-5)
    assert receipt.to_json()["passes"] == 6 * len(rows)


def test_contexts_are_named_with_their_words(examples, whole):
    assert examples.context == tuple(c.id for c in whole.contexts)
    assert examples.event == tuple(c.event for c in whole.contexts)
    assert examples.valence == tuple(c.valence for c in whole.contexts)


def test_heads_or_neurons_alone_are_enough(llama, rows, directions, examples):
    for names in (("L0H1",), ("L2N3",)):
        found = node_examples(llama, rows[:2], directions, names)
        own = examples.sel(node=names).effect[:2]
        assert torch.allclose(found.effect, own, rtol=1e-3, atol=1e-5)


def test_a_context_without_an_emotion_is_refused(llama, rows, directions):
    with pytest.raises(DataError, match="is not asked for anger, sadness"):
        node_examples(llama, [rows[0][1:]], directions, NODES)
    with pytest.raises(DataError, match="^no context to read examples from"):
        node_examples(llama, [], directions, NODES)

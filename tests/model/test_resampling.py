"""Donors give a prompt the activations of another one, position by position from the end."""

import pytest
import torch

from circuits.models.generate import choice_logs
from circuits.models.memory import counted
from circuits.models.tokens import encode
from circuits.names import hook
from circuits.neurons.mask import donor_values, draw_donors, resampling
from circuits.prompts.prompt import EMOTION_REQUEST, question
from circuits.running import execution

TEXTS = ("I won.", "He left me all alone in the rain again, and I cried.", "A rat! There, look!")
PROMPTS = [question(text, EMOTION_REQUEST) for text in TEXTS]
LABELS = ("anger", "fear")


@pytest.fixture
def chosen(mini):
    drawn = torch.rand(
        mini.cfg.n_layers, mini.cfg.d_mlp, generator=torch.Generator().manual_seed(0)
    )
    few = drawn < 0.05
    few[3] = False
    return few


def whole_post(model, prompt, hooks=()):
    kept = {}

    def keeper(layer):
        return hook("post", layer), lambda x, hook: kept.update({layer: x[0]})

    ids = torch.tensor([encode(model, prompt)])
    keepers = [keeper(layer) for layer in range(model.cfg.n_layers)]
    with torch.no_grad(), model.hooks(fwd_hooks=[*hooks, *keepers]):
        logits = model(ids, return_type="logits")
    return torch.stack([kept[layer] for layer in range(model.cfg.n_layers)]), logits[0, -1]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_donor_values_are_the_activations_of_single_passes(mini, chosen, batch_size):
    with counted() as receipt, execution(batch_size=batch_size):
        found = donor_values(mini, PROMPTS, chosen)
    assert receipt.passes == 3
    for prompt, value in zip(PROMPTS, found, strict=True):
        post, _ = whole_post(mini, prompt)
        expected = post.transpose(0, 1)[:, chosen]
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("donors", [[1, 2, 0], [2, 0, 1]])
def test_a_resampled_choice_is_that_of_a_pass_with_the_donors_activations(mini, chosen, donors):
    values = donor_values(mini, PROMPTS, chosen)
    edits = resampling([values[donor] for donor in donors], chosen)
    with execution(batch_size=2):
        found = choice_logs(mini, PROMPTS, LABELS, edits=edits)
    ids = [int(mini.tokenizer(label, add_special_tokens=False)["input_ids"][0]) for label in LABELS]
    for row, prompt in enumerate(PROMPTS):
        given, _ = whole_post(mini, PROMPTS[donors[row]])

        def put(layer, given=given):
            def change(x, hook):
                changed = x.clone()
                for back in range(1, 1 + min(x.shape[1], given.shape[1])):
                    for neuron in chosen[layer].nonzero()[:, 0].tolist():
                        changed[0, -back, neuron] = given[layer, -back, neuron]
                return changed

            return hook("post", layer), change

        _, logits = whole_post(mini, prompt, [put(layer) for layer in range(mini.cfg.n_layers)])
        expected = logits.log_softmax(-1)[ids]
        torch.testing.assert_close(found[row], expected, atol=3e-4, rtol=1e-4)
    assert (found - choice_logs(mini, PROMPTS, LABELS)).abs().max() > 0.01


def test_a_prompt_that_is_its_own_donor_stays_as_it_is(mini, chosen):
    values = donor_values(mini, PROMPTS, chosen)
    found = choice_logs(mini, PROMPTS, LABELS, edits=resampling(values, chosen))
    torch.testing.assert_close(found, choice_logs(mini, PROMPTS, LABELS), atol=3e-4, rtol=1e-4)


def test_no_neurons_need_no_pass_and_change_nothing(mini, chosen):
    none = torch.zeros_like(chosen)
    with counted() as receipt:
        values = donor_values(mini, PROMPTS, none)
    assert receipt.passes == 0
    assert resampling(values, none)([0, 1]) == []


@pytest.mark.parametrize("n", [2, 3, 10])
def test_every_prompt_gets_another_donor_and_each_gives_once(n):
    with execution(seed=n):
        drawn = draw_donors(n)
        assert drawn == draw_donors(n)
    assert sorted(drawn) == list(range(n))
    assert all(place != donor for place, donor in enumerate(drawn))

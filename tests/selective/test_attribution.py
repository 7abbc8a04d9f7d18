from dataclasses import replace

import pytest
import torch

from circuits.errors import DataError
from circuits.models.memory import counted
from circuits.models.tokens import encode, encode_text, pad_left
from circuits.names import hook
from circuits.neurons.profile import halves_of, label_attribution
from circuits.prompts.prompt import EMOTION_REQUEST, Texts, questions
from circuits.running import execution


@pytest.fixture(scope="module")
def found(llama, texts):
    with execution(batch_size=5):
        return label_attribution(llama, texts, EMOTION_REQUEST)


def scaled(model, ids, own, others):
    """Gradient of the margin with respect to a factor on every neuron, at one: one text alone."""
    shape = model.cfg.n_layers, model.cfg.d_mlp
    factor = torch.ones(shape, requires_grad=True)

    def times(layer):
        return lambda activation, hook: activation * factor[layer]

    hooks = [(hook("post", layer), times(layer)) for layer in range(shape[0])]
    tokens = pad_left([ids], torch.device("cpu"))
    with model.hooks(fwd_hooks=hooks):
        logits = model(tokens.ids, attention_mask=tokens.mask.long(), return_type="logits")[0, -1]
    margin = logits[own] - logits[others].exp().sum().log()
    return torch.autograd.grad(margin, factor)[0].double()


def test_it_is_the_gradient_of_a_factor_on_the_neuron(llama, texts, found):
    first = [encode_text(llama, label)[0] for label in texts.label]
    total, positive = (torch.zeros_like(found.total) for _ in range(2))
    half = {place: key[0] for key, own in halves_of(texts.truth, 0).items() for place in own}
    for place, question in enumerate(questions(texts.rows, EMOTION_REQUEST)):
        label = texts.truth[place]
        others = [token for other, token in enumerate(first) if other != label]
        each = scaled(llama, encode(llama, question), first[label], others)
        total[half[place], label] += each
        positive[half[place], label] += each.clamp_min(0)
    assert total.abs().max() > 0.01
    assert torch.allclose(found.total, total, atol=1e-4)
    assert torch.allclose(found.positive, positive, atol=1e-4)
    assert found.texts.sum(0).tolist() == [5, 7, 4]


def test_others_are_the_classes_left_counted_alike(found):
    mean = found.positive.sum(0) / found.texts.sum(0)[:, None, None]
    for label in range(3):
        rest = [mean[other] for other in range(3) if other != label]
        assert torch.allclose(found.others[label], torch.stack(rest).mean(0))
    assert bool((found.others >= 0).all())


def test_one_forward_and_one_backward_pass_per_text(llama, texts):
    with counted() as receipt:
        label_attribution(llama, texts, EMOTION_REQUEST)
    assert (receipt.passes, receipt.backward_passes) == (16, 16)


def test_labels_that_begin_alike_and_other_splits_are_refused(llama, texts, make_texts):
    with pytest.raises(DataError, match="^train texts are wanted here"):
        label_attribution(llama, make_texts(split="test"), EMOTION_REQUEST)
    label = ("anger", "anger anger")
    rows = tuple(replace(row, label=label[place % 2]) for place, row in enumerate(texts.rows))
    clash = Texts("train", label, rows)
    with pytest.raises(DataError, match="'anger' and 'anger anger' begin with the same token"):
        label_attribution(llama, clash, EMOTION_REQUEST)

"""Ablation of circuits where their emotion is asked for, on the embedded model."""

import math

import pytest
import torch

from circuits.circuit.ablate import Masks
from circuits.circuit.circuit import Circuit, Node
from circuits.effects.activations import ComponentMeans, NeutralMeans, differences
from circuits.errors import CircuitError, DataError
from circuits.judges import open_judge
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left, stop_tokens
from circuits.names import head_name, hook, neuron_name
from circuits.patching.totals import TotalEstimates
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.provenance import Provenance
from circuits.running import execution
from circuits.steering.evaluate import Evaluator
from circuits.steering.validation import (
    Known,
    ablated,
    ablation_drop,
    random_sets,
    replies_needed,
    validate_replies,
)

EMOTIONS: tuple[str, ...] = ("anger", "surprise")


def at_end(model, prompts):
    """z and post at the last position of every prompt."""
    rows = [encode(model, prompt) for prompt in prompts]
    picks = {"z": last_position, "post": last_position}
    return capture(model, pad_left(rows, torch.device("cpu")), picks)


def last_position(activation):
    return activation[:, -1]


@pytest.fixture(scope="module")
def evaluator(mini, contexts):
    return Evaluator(mini, open_judge("lexicon"), contexts[:3], EMOTIONS, max_new_tokens=14)


@pytest.fixture(scope="module")
def means(mini, contexts):
    found = at_end(mini, [neutral_prompt(context) for context in contexts])
    z, post = found["z"].mean(0), found["post"].mean(0)
    return NeutralMeans(
        provenance=Provenance(),
        z=z,
        post=post,
        layer=tuple(range(len(z))),
        head=tuple(range(z.shape[1])),
        neuron=tuple(range(post.shape[1])),
        n_contexts=len(contexts),
    )


def circuit_of(emotion, heads, neurons=()):
    nodes = [Node(head_name(*h), "head", h[0]) for h in heads]
    nodes += [Node(neuron_name(*n), "neuron", n[0]) for n in neurons]
    return Circuit(emotion, tuple(nodes), ())


def everything(mini):
    cfg = mini.cfg
    return circuit_of(
        "all",
        [(i, h) for i in range(cfg.n_layers) for h in range(cfg.n_heads)],
        [(i, n) for i in range(cfg.n_layers) for n in range(cfg.d_mlp)],
    )


def greedily(model, prompt, mask, values, length):
    """One token after the other, the whole text read anew each time."""
    ids = encode(model, prompt)
    start, written = len(ids), []

    def put(site, layer, inside):
        def change(activation, hook):
            activation = activation.clone()
            for part in inside.nonzero()[:, 0].tolist():
                activation[0, start - 1, part] = values[site][layer, part]
            return activation

        return hook(site, layer), change

    hooks = [
        put(site, layer, inside[layer])
        for site, inside in (("z", mask.heads[0]), ("post", mask.neurons[0]))
        for layer in range(len(inside))
    ]
    while len(written) < length:
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            token = int(model(torch.tensor([ids + written]))[0, -1].argmax())
        if token in stop_tokens(model):
            break
        written.append(token)
    return model.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_replies_are_those_of_plain_decoding_under_the_same_ablation(mini, evaluator, means):
    own = [circuit_of("anger", [(0, 1), (2, 3)], [(1, 7), (3, 40)]), circuit_of("x", [(1, 2)])]
    sets = Masks.of(mini, own)
    said = ablated(evaluator, sets, means)
    values = {"z": means.z, "post": means.post}
    for c, context in enumerate(evaluator.contexts[:2]):
        for e, emotion in enumerate(EMOTIONS):
            prompt = emotion_prompt(context, emotion)
            text = greedily(mini, prompt, sets[[e]], values, evaluator.max_new_tokens)
            row = said[c * len(EMOTIONS) + e].reply
            assert (row.prompt.context, row.emotion) == (context, emotion)
            assert row.text == text


def test_without_any_part_the_emotion_is_gone_and_an_empty_set_changes_nothing(
    mini, evaluator, means
):
    circuits = dict.fromkeys(EMOTIONS, everything(mini))
    found = ablation_drop(evaluator, circuits, means, draws=2)
    assert (found["asked"], found["without"], found["circuit_drop"]) == (100.0, 0.0, 100.0)
    assert (found["low"], found["high"]) == (100.0, 100.0)
    # A random set of everything is everything.
    assert (found["random_drop"], found["random_max"]) == (100.0, 100.0)
    assert (found["heads_share"], found["neurons_share"]) == (1.0, 1.0)
    assert sum(found["labels"].values()) == found["n"] == len(evaluator.contexts) * len(EMOTIONS)
    nothing = {emotion: circuit_of(emotion, []) for emotion in EMOTIONS}
    none = ablation_drop(evaluator, nothing, means, draws=1)
    assert (none["circuit_drop"], none["random_drop"]) == (0.0, 0.0)
    assert none["labels"] == {emotion: len(evaluator.contexts) for emotion in EMOTIONS}


def test_each_emotion_loses_its_own_circuit(mini, evaluator, means):
    circuits = {"anger": everything(mini), "surprise": circuit_of("surprise", [])}
    found = ablation_drop(evaluator, circuits, means, draws=1)
    assert found["by_emotion"]["anger"]["circuit_drop"] == 100.0
    assert found["by_emotion"]["surprise"]["circuit_drop"] == 0.0
    assert found["circuit_drop"] == 50.0


def test_random_sets_are_matched_emotion_by_emotion(mini):
    own = Masks.of(mini, [circuit_of("a", [(0, 1), (0, 2)], [(3, 4)]), circuit_of("b", [(5, 0)])])
    drawn = random_sets(own, 9, torch.Generator().manual_seed(0))
    assert len(drawn) == 9
    for sets in drawn:
        assert torch.equal(sets.heads.sum(-1), own.heads.sum(-1))
        assert torch.equal(sets.neurons.sum(-1), own.neurons.sum(-1))
        assert not (sets.flat & own.flat).any()
    assert len({tuple(sets.flat[0].nonzero()[:, 0].tolist()) for sets in drawn}) > 1


def test_what_is_missing_is_refused(evaluator, mini, means):
    with pytest.raises(CircuitError, match="no circuit of 'surprise'; there are anger"):
        ablation_drop(evaluator, {"anger": everything(mini)}, means)
    circuits = dict.fromkeys(EMOTIONS, everything(mini))
    with pytest.raises(DataError, match="found 0 draws and 3 contexts"):
        ablation_drop(evaluator, circuits, means, draws=0)


@pytest.fixture(scope="module")
def known(mini, means, contexts):
    cfg, shape = mini.cfg, means.z.shape[:2]
    random = torch.Generator().manual_seed(0)
    axes = {"layer": means.layer, "head": means.head, "neuron": means.neuron}
    totals = TotalEstimates(
        provenance=Provenance(),
        emotion=EMOTIONS,
        **axes,
        head_effect=torch.randn(2, *shape, generator=random),
        neuron_effect=torch.randn(2, cfg.n_layers, cfg.d_mlp, generator=random),
    )
    values = [at_end(mini, [emotion_prompt(c, emotion) for c in contexts]) for emotion in EMOTIONS]
    asked_means = ComponentMeans(
        provenance=Provenance(),
        emotion=EMOTIONS,
        n_contexts=len(contexts),
        **axes,
        z=torch.stack([own["z"].mean(0) for own in values]),
        post=torch.stack([own["post"].mean(0) for own in values]),
    )
    return Known(totals, {}, means, asked_means, differences(asked_means, means))


def test_replies_are_judged_for_every_set(evaluator, known):
    count = known.totals.head_effect[0].numel()
    told = []
    with execution(progress=told.append):
        found = validate_replies(evaluator, known, "head", (1, count), draws=2)
    assert sum(told) == replies_needed(evaluator, found.size, 2)
    # All heads at their neutral mean leave no emotion; all heads' differences bring it about.
    assert found.judged[:, found.method.index("neutral mean"), :, -1].eq(0).all()
    enhanced = found.judged[:, found.method.index("add"), :, -1]
    assert torch.equal(enhanced, enhanced[:, :1].expand_as(enhanced))
    assert enhanced.gt(60).all()
    # One head of 36 at random is not the emotion.
    assert found.judged[:, found.method.index("neutral mean"), :, 0].gt(60).all()
    assert (found.low <= found.judged).all()
    assert (found.judged <= found.high).all()
    # The random sets have twice the replies, hence narrower intervals.
    sure = found.high[:, 0, :, -1]
    assert (sure[:, 2] < sure[:, 0]).all()
    assert not math.isnan(float(found.judged.sum()))

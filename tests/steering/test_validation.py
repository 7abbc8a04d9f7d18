"""Ablation and addition of ranked sets and circuits beside plain runs and plain decoding."""

import math

import pytest
import torch
from parts import at_end, axes_of, circuit_of, means_of, plainly

from circuits.circuit.ablate import ORDERS, Masks, begin_neutral, run_added
from circuits.effects.activations import ComponentMeans, component_means, differences
from circuits.errors import CircuitError, DataError
from circuits.judges import open_judge
from circuits.models.memory import counted
from circuits.models.tokens import encode, stop_tokens
from circuits.names import hook
from circuits.patching.pairs import projection
from circuits.patching.totals import TotalEstimates
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.provenance import Provenance
from circuits.running import execution
from circuits.steering.evaluate import Evaluator
from circuits.steering.validation import (
    CHANGES,
    Known,
    ablated,
    ablation_drop,
    emotion_mean,
    random_sets,
    replies_needed,
    validate_components,
    validate_replies,
)

HOW = {"draws": 4, "steps": 4}
EMOTIONS: tuple[str, ...] = ("anger", "surprise")


@pytest.fixture(scope="module")
def known(swept, directions, measured):
    means = component_means(swept)
    random = torch.Generator().manual_seed(2)
    z, post = (torch.randn(own.shape[1:], generator=random) for own in (means.z, means.post))
    readouts = {e: projection(directions, e, (1, 2)) for e in ("anger", "fear", "disgust")}
    return Known(measured.totals, readouts, means_of(z, post), means, differences(means))


@pytest.fixture(scope="module", params=["head", "neuron"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def found(llama, contexts, known, kind):
    return validate_components(llama, contexts[:3], known, kind, **HOW)


def by_hand(model, contexts, known, kind, emotion, method, members):
    """Effect of a set of (layer, index) in each context: ``[context emotion]``."""
    e, site_of = known.differences.index("emotion", emotion), "z" if kind == "head" else "post"

    def change(site, layer, part, place, value):
        if site != site_of or (layer, part) not in members:
            return value
        if method == "add":
            return value + getattr(known.differences, site)[e, layer, part]
        if method == "zero":
            return torch.zeros_like(value)
        means = known.plain if method == "neutral mean" else emotion_mean(known.asked)
        return getattr(means, site)[layer, part]

    rows, readouts = [], known.readouts.values()
    for context in contexts:
        prompt = neutral_prompt(context) if method == "add" else emotion_prompt(context, emotion)
        ids = encode(model, prompt)
        apart = plainly(model, ids, readouts, change) - plainly(model, ids, readouts)
        rows.append(apart if method == "add" else -apart)
    return torch.stack(rows)


@pytest.mark.parametrize("method", CHANGES)
def test_effects_are_those_of_one_plain_run_per_set(llama, contexts, known, kind, found, method):
    emotion, m = "fear", CHANGES.index(method)
    e = found.emotion.index(emotion)
    effects = known.effects(emotion, kind)
    order = effects.flatten().argsort(descending=True, stable=True).tolist()
    for order_name, k in (("top", 1), ("top", 2), ("bottom", 1), ("single", 2)):
        size = found.size[k]
        chosen = {
            "top": order[:size],
            "bottom": order[len(order) - size :],
            "single": [order[size - 1]],
        }[order_name]
        members = {divmod(place, effects.shape[1]) for place in chosen}
        own = by_hand(llama, contexts[:3], known, kind, emotion, method, members)
        got = found.effect[e, m, ORDERS.index(order_name), k]
        torch.testing.assert_close(got, own.mean(0), atol=2e-4, rtol=1e-3)


def test_the_first_alone_is_the_set_of_one_and_sets_of_all_are_the_same(found):
    top, bottom, single = found.effect.unbind(2)
    torch.testing.assert_close(single[:, :, 0], top[:, :, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bottom[:, :, -1], top[:, :, -1], atol=1e-4, rtol=1e-4)
    every = found.random_baseline[:, :, :, -1]
    torch.testing.assert_close(every, top[:, :, -1][:, :, None].expand_as(every), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        found.random_baseline_low[:, :, -1], top[:, :, -1], atol=1e-4, rtol=0
    )


def test_a_set_of_all_is_everything_ablated(llama, contexts, known, kind, found):
    count = known.effects("anger", kind)
    every = {divmod(place, count.shape[1]) for place in range(count.numel())}
    own = by_hand(llama, contexts[:3], known, kind, "anger", "zero", every).mean(0)
    torch.testing.assert_close(found.effect[0, 0, 0, -1], own, atol=2e-4, rtol=1e-3)


def test_intervals_hold_the_mean_and_bands_most_of_the_random_sets(found):
    assert (found.low <= found.effect + 1e-4).all()
    assert (found.effect <= found.high + 1e-4).all()
    middle = found.random_baseline.median(2).values
    assert (found.random_baseline_low <= middle + 1e-5).all()
    assert (middle <= found.random_baseline_high + 1e-5).all()


def test_asking_moves_the_readouts_as_it_does_in_two_plain_runs(llama, contexts, known, found):
    rows = [
        plainly(llama, encode(llama, emotion_prompt(context, "disgust")), known.readouts.values())
        - plainly(llama, encode(llama, neutral_prompt(context)), known.readouts.values())
        for context in contexts[:3]
    ]
    place = found.emotion.index("disgust")
    torch.testing.assert_close(found.asked[place], torch.stack(rows).mean(0), atol=2e-4, rtol=1e-3)


def test_nothing_enhanced_is_the_plain_run(llama, contexts, known):
    none = Masks.of(llama, [circuit_of("none")] * 70)
    readouts = tuple(known.readouts.values())
    begun = begin_neutral(llama, contexts[:2])
    own = known.differences
    m = run_added(llama, begun, none, own.z[0], own.post[0], readouts)
    for c, context in enumerate(contexts[:2]):
        expected = plainly(llama, encode(llama, neutral_prompt(context)), readouts).expand(70, -1)
        torch.testing.assert_close(m[:, c], expected, atol=2e-4, rtol=1e-4)


def test_prompts_are_read_once_and_sets_cost_a_token_each(llama, contexts, known):
    with counted() as receipt:
        found = validate_components(llama, contexts[:2], known, "head", **HOW)
    sets = 1 + len(found.size) * (len(ORDERS) + HOW["draws"])
    # Three ablations of three emotions, and the neutral prompts.
    assert receipt.passes == 2 * (3 * 3 + 1)
    assert receipt.steps == 2 * 3 * len(CHANGES) * sets


def test_the_same_seed_draws_the_same_sets(llama, contexts, known, found, kind):
    again = validate_components(llama, contexts[:3], known, kind, **HOW)
    assert torch.equal(again.random_baseline, found.random_baseline)
    with execution(seed=1):
        drawn = validate_components(llama, contexts[:3], known, kind, **HOW)
    assert not torch.equal(drawn.random_baseline, found.random_baseline)
    torch.testing.assert_close(drawn.effect, found.effect)


@pytest.mark.parametrize(
    ("count", "how", "said"),
    [
        (1, {}, "two contexts or more, found 1"),
        (2, {"draws": 0}, "draws: 0 is too few"),
        (2, {"steps": 1}, "steps: 1 is too few"),
    ],
)
def test_what_cannot_be_measured_is_refused(llama, contexts, known, count, how, said):
    with pytest.raises(DataError, match=said):
        validate_components(llama, contexts[:count], known, "head", **how)


@pytest.fixture(scope="module")
def evaluator(mini, contexts):
    return Evaluator(mini, open_judge("lexicon"), contexts[:3], EMOTIONS, max_new_tokens=14)


@pytest.fixture(scope="module")
def means(mini, contexts):
    found = at_end(mini, [neutral_prompt(context) for context in contexts])
    return means_of(found["z"].mean(0), found["post"].mean(0))


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
def known_of_mini(means, mini, contexts):
    random, axes = torch.Generator().manual_seed(0), axes_of(means.z, means.post)
    totals = TotalEstimates(
        provenance=Provenance(),
        emotion=EMOTIONS,
        **axes,
        head_effect=torch.randn(2, *means.z.shape[:2], generator=random),
        neuron_effect=torch.randn(2, *means.post.shape, generator=random),
    )
    values = [at_end(mini, [emotion_prompt(c, emotion) for c in contexts]) for emotion in EMOTIONS]
    asked = ComponentMeans(
        provenance=Provenance(),
        emotion=EMOTIONS,
        n_contexts=len(contexts),
        **axes,
        z=torch.stack([own["z"].mean(0) for own in values]),
        post=torch.stack([own["post"].mean(0) for own in values]),
    )
    return Known(totals, {}, means, asked, differences(asked, means))


def test_replies_are_judged_for_every_set(evaluator, known_of_mini):
    count = known_of_mini.totals.head_effect[0].numel()
    told = []
    with execution(progress=told.append):
        found = validate_replies(evaluator, known_of_mini, "head", (1, count), draws=2)
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

"""Ablation and addition of ranked sets beside one plain run per set."""

from functools import partial

import pytest
import torch

from circuits.circuit.ablate import ORDERS, Masks, begin_neutral, run_added
from circuits.effects.activations import NeutralMeans, component_means, differences
from circuits.errors import DataError
from circuits.models.memory import counted
from circuits.models.tokens import encode
from circuits.names import hook
from circuits.patching.pairs import projection
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.running import execution
from circuits.steering.validation import CHANGES, Known, emotion_mean, validate_components

HOW = {"draws": 4, "steps": 4}


@pytest.fixture(scope="module")
def known(llama, swept, directions, measured, provenance):
    emotions = ("anger", "fear", "disgust")
    means = component_means(swept)
    random = torch.Generator().manual_seed(2)
    neutral_means = NeutralMeans(
        provenance=provenance,
        z=torch.randn(means.z.shape[1:], generator=random),
        post=torch.randn(means.post.shape[1:], generator=random),
        layer=means.layer,
        head=means.head,
        neuron=means.neuron,
        n_contexts=1,
    )
    return Known(
        measured.totals,
        {emotion: projection(directions, emotion, (1, 2)) for emotion in emotions},
        neutral_means,
        means,
        differences(means),
    )


@pytest.fixture(scope="module", params=["head", "neuron"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def found(llama, contexts, known, kind):
    return validate_components(llama, contexts[:3], known, kind, **HOW)


def as_it_is(site, layer, part, value):
    return value


def plainly(model, prompt, readouts, change=as_it_is):
    """Readouts of one pass of one prompt, one component changed after the other."""
    seen = {}

    def see(activation, hook):
        seen["last"] = activation[:, -1]

    def put(activation, hook, *, site, layer):
        activation = activation.clone()
        for part in range(activation.shape[2]):
            activation[0, -1, part] = change(site, layer, part, activation[0, -1, part])
        return activation

    layers = range(model.cfg.n_layers)
    hooks = [
        (hook(site, layer), partial(put, site=site, layer=layer))
        for site in ("z", "post")
        for layer in layers
    ]
    last = (hook("resid_post", layers[-1]), see)
    with torch.no_grad(), model.hooks(fwd_hooks=[*hooks, last]):
        model(torch.tensor([encode(model, prompt)]))
    return torch.stack([readout.score(seen["last"])[0] for readout in readouts])


def by_hand(model, contexts, known, kind, emotion, method, members):
    """Effect of a set of (layer, index) in each context: ``[context emotion]``."""
    e = known.differences.index("emotion", emotion)
    site_of = "z" if kind == "head" else "post"

    def change(site, layer, part, value):
        if site != site_of or (layer, part) not in members:
            return value
        if method == "add":
            return value + getattr(known.differences, site)[e, layer, part]
        if method == "zero":
            return torch.zeros_like(value)
        means = known.plain if method == "neutral mean" else emotion_mean(known.asked)
        return getattr(means, site)[layer, part]

    rows = []
    for context in contexts:
        prompt = neutral_prompt(context) if method == "add" else emotion_prompt(context, emotion)
        before = plainly(model, prompt, known.readouts.values())
        after = plainly(model, prompt, known.readouts.values(), change)
        rows.append(after - before if method == "add" else before - after)
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
        plainly(llama, emotion_prompt(context, "disgust"), known.readouts.values())
        - plainly(llama, neutral_prompt(context), known.readouts.values())
        for context in contexts[:3]
    ]
    place = found.emotion.index("disgust")
    torch.testing.assert_close(found.asked[place], torch.stack(rows).mean(0), atol=2e-4, rtol=1e-3)


def test_nothing_enhanced_is_the_plain_run(llama, contexts, known):
    cfg = llama.cfg
    none = Masks(
        torch.zeros(70, cfg.n_layers, cfg.n_heads, dtype=torch.bool),
        torch.zeros(70, cfg.n_layers, cfg.d_mlp, dtype=torch.bool),
    )
    readouts = tuple(known.readouts.values())
    begun = begin_neutral(llama, contexts[:2])
    own = known.differences
    m = run_added(llama, begun, none, own.z[0], own.post[0], readouts)
    for c, context in enumerate(contexts[:2]):
        expected = plainly(llama, neutral_prompt(context), readouts).expand(70, -1)
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


def test_what_cannot_be_measured_is_refused(llama, contexts, known):
    with pytest.raises(DataError, match="two contexts or more, found 1"):
        validate_components(llama, contexts[:1], known, "head")
    with pytest.raises(DataError, match="draws: 0 is too few"):
        validate_components(llama, contexts[:2], known, "head", draws=0)
    with pytest.raises(DataError, match="steps: 1 is too few"):
        validate_components(llama, contexts[:2], known, "head", steps=1)

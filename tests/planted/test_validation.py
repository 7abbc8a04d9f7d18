"""Validation of components finds in a planted model what was planted."""

import pytest
import torch
from parts import at_end, axes_of, means_of
from planted.plant import plant

from circuits.effects.activations import ComponentMeans, differences
from circuits.patching.pairs import Projection
from circuits.patching.totals import TotalEstimates
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.provenance import Provenance
from circuits.steering.validation import CHANGES, Known, validate_components

SEEDS = (0, 6)
THREE = ("anger", "fear", "joy")


def known_of(planted, contexts):
    """Means, and what each part is known to do to each readout, asked against neutral."""
    each = [at_end(planted.model, [emotion_prompt(c, e) for c in contexts]) for e in THREE]
    none = at_end(planted.model, [neutral_prompt(c) for c in contexts])
    plain = means_of(none["z"].mean(0), none["post"].mean(0))
    z, post = (torch.stack([own[site].mean(0) for own in each]) for site in ("z", "post"))
    axes = {"emotion": THREE, **axes_of(plain.z, plain.post)}
    means = ComponentMeans(provenance=Provenance(), n_contexts=1, z=z, post=post, **axes)
    effects = {"head": torch.zeros(z.shape[:3]), "neuron": torch.zeros(post.shape)}
    for node in planted.nodes:
        for e, emotion in enumerate(THREE):
            if node.when == "asked" and node.emotion in (None, emotion):
                effects[node.kind][e, node.layer, node.index] = node.strength
    totals = TotalEstimates(
        provenance=Provenance(),
        head_effect=effects["head"],
        neuron_effect=effects["neuron"],
        **axes,
    )
    readouts = {e: Projection(planted.readout[i]) for i, e in enumerate(THREE)}
    return Known(totals, readouts, plain, means, differences(means, plain))


@pytest.fixture(scope="module", params=SEEDS)
def planted(request):
    return plant(request.param, emotions=THREE)


@pytest.fixture(scope="module")
def neurons(planted, contexts):
    known = known_of(planted, contexts[:4])
    return validate_components(planted.model, contexts[4:8], known, "neuron", draws=10, steps=8)


def relays(planted, emotion):
    found = [n.strength for n in planted.nodes if n.role == "relay" and n.emotion == emotion]
    return sorted(found, reverse=True)


@pytest.mark.parametrize("method", ["zero", "neutral mean", "add"])
def test_the_relays_do_what_was_planted_and_nothing_to_other_readouts(planted, neurons, method):
    m = CHANGES.index(method)
    for e, emotion in enumerate(THREE):
        strengths = relays(planted, emotion)
        for place, size in enumerate(neurons.size):
            own = neurons.effect[e, m, :, place]
            alone = strengths[size - 1] if size <= len(strengths) else 0.0
            if size <= len(strengths):
                assert float(own[0, e]) == pytest.approx(sum(strengths[:size]), abs=0.05)
                assert float(own[2, e]) == pytest.approx(alone, abs=0.05)
                others = [i for i in range(len(THREE)) if i != e]
                assert float(own[[0, 2]][:, others].abs().max()) < 0.02


@pytest.mark.parametrize("method", ["neutral mean", "add"])
def test_neurons_ranked_last_are_the_inhibitors_if_there_are_any(planted, neurons, method):
    m = CHANGES.index(method)
    for e, emotion in enumerate(THREE):
        pushing = [
            node.strength
            for node in planted.nodes
            if node.role == "inhibitor" and node.emotion == emotion and node.kind == "neuron"
        ]
        expected = pushing[0] if pushing else 0.0
        assert float(neurons.effect[e, m, 1, 0, e]) == pytest.approx(expected, abs=0.05)


def test_a_random_neuron_does_nothing_unless_it_was_planted_too(planted, neurons):
    m = CHANGES.index("neutral mean")
    for e, emotion in enumerate(THREE):
        planted_too = [0.0] + [
            node.strength
            for node in planted.nodes
            if node.kind == "neuron" and node.when == "asked" and node.emotion == emotion
        ]
        for effect in neurons.random_baseline[e, m, :, 0, e].tolist():
            assert min(abs(effect - strength) for strength in planted_too) < 0.05
        assert float(neurons.random_baseline[e, m, :, 0, e].median()) == pytest.approx(0, abs=0.05)


def test_without_a_backup_the_writer_carries_all_that_asking_adds(contexts):
    planted = plant(1, emotions=THREE, backup=False)
    known = known_of(planted, contexts[:4])
    found = validate_components(planted.model, contexts[4:7], known, "head", draws=4, steps=4)
    m = CHANGES.index("neutral mean")
    for e in range(len(THREE)):
        assert found.asked[e, e] > 0.5
        assert found.effect[e, m, 0, 0, e] == pytest.approx(float(found.asked[e, e]), abs=0.05)

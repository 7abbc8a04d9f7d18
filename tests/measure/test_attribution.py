"""Attributions keep their sums, cost what they say, and say how far they can be trusted."""

from dataclasses import replace
from inspect import unwrap

import pytest
import torch
from scipy.stats import spearmanr

from circuits.errors import AxisError, DataError, ModelError
from circuits.models.memory import counted
from circuits.names import component
from circuits.patching import attribution
from circuits.patching.attribution import (
    METHODS,
    NodeScores,
    agreement,
    attribute,
    sampled_components,
)
from circuits.patching.pairs import (
    CleanCorrupt,
    LogitDifference,
    Projection,
    ReplyLikelihood,
    make_pairs,
)
from circuits.patching.patch import patch_components
from circuits.running import execution

MODES = ["denoising", "noising"]
GRADIENTS = ["atp", "relp", "ig-inputs", "ig-activations"]


def asked(method):
    """A method by a name that may be none."""
    return method


def rank_correlation(one, other):
    found = spearmanr(one, other)
    return float(found.statistic)


@pytest.fixture(scope="module")
def readout(llama):
    vector = torch.randn(llama.cfg.d_model, generator=torch.Generator().manual_seed(3))
    return Projection(vector / vector.norm())


@pytest.fixture(scope="module")
def pairs(llama, contexts):
    """Five pairs of different length, against another emotion."""
    return make_pairs(llama, contexts[:5], "anger", "fear")


@pytest.fixture(scope="module")
def from_plain(llama, contexts):
    return make_pairs(llama, contexts[:5], "anger")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_batches_and_their_padding_do_not_change_the_scores(pairs, readout, method, mode):
    assert len({len(pair.clean.ids) for pair in pairs}) > 1
    found = []
    for at_once in (1, 3, 5):
        with execution(batch_size=at_once):
            found.append(attribute(pairs, readout, method, mode=mode, steps=2, sample=2))
    for name in NodeScores.axes:
        one, three, five = (getattr(scores, name) for scores in found)
        near = 1e-5 * max(1.0, float(one.nan_to_num().abs().max()))
        for other in (three, five):
            torch.testing.assert_close(other, one, equal_nan=True, rtol=0, atol=near)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", GRADIENTS)
def test_heads_sum_to_their_attention_and_neurons_to_their_mlp(pairs, readout, method, mode):
    found = attribute(pairs, readout, method, mode=mode, steps=2, sample=2)
    size = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found.heads.sum(-1), found.sublayers[..., 0], **size)
    torch.testing.assert_close(found.neurons.sum(-1), found.sublayers[..., 1], **size)
    assert found.heads.abs().max() > 0.01


@pytest.mark.parametrize("method", GRADIENTS)
def test_places_of_different_roles_sum_to_all_matched_positions(llama, from_plain, readout, method):
    if method == "ig-inputs":
        from_plain = make_pairs(llama, [pair.context for pair in from_plain], "anger", "fear")
    found = attribute(from_plain, readout, method, by="role", steps=2, sample=2)
    assert found.place[0] == "all"
    assert "last" in found.place
    for name in ("heads", "neurons", "sublayers"):
        table = getattr(found, name)
        torch.testing.assert_close(table[1:].sum(0), table[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_integrated_inputs_account_for_the_whole_gap(mini, contexts, mode):
    # Both prompts have as many tokens, so that nothing unmatched differs.
    pairs = make_pairs(mini, contexts[:3], "anger", "fear")
    assert all(len(pair.clean.ids) == len(pair.corrupt.ids) for pair in pairs)
    vector = torch.randn(mini.cfg.d_model, generator=torch.Generator().manual_seed(0))
    found = attribute(pairs, Projection(vector), "ig-inputs", mode=mode, steps=24, sample=2)
    gap = float(found.gap[0] - found.gap[1])
    assert abs(gap) > 0.1
    assert float(found.inputs[0]) == pytest.approx(gap, rel=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["projection", "logits"])
@pytest.mark.parametrize("method", METHODS)
def test_passes_are_those_that_the_record_tells(pairs, readout, method, kind, mode):
    logits = LogitDifference(torch.tensor([5]), torch.tensor([9, 20]))
    judged = readout if kind == "projection" else logits
    options = {"mode": mode, "steps": 3, "sample": 5}
    with counted() as receipt:
        found = attribute(pairs, judged, method, **options)
    with counted() as exact:
        patch_components(pairs, judged, found.component)
    assert receipt.passes - exact.passes == len(pairs) * found.forwards
    assert receipt.backward_passes == len(pairs) * found.backwards


@pytest.mark.parametrize(
    ("method", "passes"),
    [("atp", (2, 1)), ("atp*", (4, 7)), ("relp", (2, 1)), ("ig-inputs", (7, 5)),
     ("ig-activations", (62, 60))],
)  # fmt: skip
def test_passes_of_each_method_with_six_layers_and_five_steps(method, passes):
    assert METHODS[method](6, 5) == passes


def test_the_record_holds_exact_effects_of_its_sample_and_their_agreement(pairs, readout):
    with execution(seed=4):
        found = attribute(pairs, readout, sample=8)
    exact = patch_components(pairs, readout, found.component).mean(0)
    torch.testing.assert_close(found.exact, exact)
    for name, score in zip(found.component, found.sampled, strict=True):
        part = component(name)
        table = found.heads if part.kind == "head" else found.neurons
        assert score == table[0, part.layer, part.index]
    for kind in ("head", "neuron"):
        own = torch.tensor([component(name).kind == kind for name in found.component])
        said = found.agreement[kind]
        assert said["sampled"] == 8
        rank = rank_correlation(found.sampled[own], exact[own])
        assert said["spearman"] == pytest.approx(rank, abs=1e-9)


def test_a_single_context_has_no_standard_error(pairs, readout):
    found = attribute(pairs[:1], readout, sample=2)
    assert bool(found.heads_stderr.isnan().all())
    assert not bool(found.heads.isnan().any())


def test_the_sample_is_spread_over_layers_and_repeats_with_its_seed(llama):
    with execution(seed=1):
        names = sampled_components(llama, 6)
        assert names == sampled_components(llama, 6)
    with execution(seed=2):
        assert names != sampled_components(llama, 6)
    assert len(set(names)) == 12
    for kind in ("head", "neuron"):
        layers = [component(name).layer or 0 for name in names if component(name).kind == kind]
        assert sorted(layers) == [0, 0, 1, 1, 2, 2]
    assert len(sampled_components(llama, 10_000)) == 3 * (4 + 48)


def test_agreement_of_known_numbers():
    names = [f"L0H{i}" for i in range(8)] + ["L0N0", "L0N1"]
    exact = torch.tensor([8.0, -7, 6, 5, 4, 3, 2, 1, 2, 3])
    estimate = torch.tensor([9.0, 7, 6, 5, 4, 3, 2, 1, 1, 1])
    found = agreement(names, estimate, exact)
    assert found["head"]["sign"] == 7 / 8
    assert found["head"]["top"] == 1.0
    expected = rank_correlation(estimate[:8], exact[:8])
    assert found["head"]["spearman"] == pytest.approx(expected)
    assert found["neuron"]["spearman"] is None  # estimates without any order
    assert agreement(names[:8], -exact[:8].flip(0), exact[:8])["head"]["top"] == 0.0


def test_what_a_method_cannot_do_is_refused_by_name(
    llama, pairs, from_plain, readout, make_llama, tokenizer
):
    replies = ReplyLikelihood({}, {})
    for method in METHODS:
        with pytest.raises(AxisError, match=f"method {method!r}".replace("*", r"\*")):
            attribute(pairs, replies, asked(method))
    with pytest.raises(AxisError, match="'eap'; methods are atp, atp"):
        unwrap(attribute)(pairs, readout, asked("eap"))
    for method in ("ig-inputs", "ig-activations"):
        with pytest.raises(DataError, match=f"'{method}' needs one step or more, found 0"):
            attribute(pairs, readout, asked(method), steps=0)
    with pytest.raises(DataError, match=r"anger against neutral\) are the same in both prompts"):
        attribute(from_plain, readout, "ig-inputs")
    with pytest.raises(DataError, match="two sampled components or more, found 1"):
        attribute(pairs, readout, sample=1)
    with pytest.raises(DataError, match="no pair"):
        attribute(pairs[:0], readout)
    with pytest.raises(DataError, match="different emotions"):
        attribute(CleanCorrupt(llama, (*pairs, *from_plain)), readout)
    with pytest.raises(ModelError, match=r"'atp\*' drops layers"):
        attribute(CleanCorrupt(make_llama(tokenizer, n_layers=1), pairs.pairs), readout, "atp*")


def test_patterns_that_are_no_softmax_are_refused(pairs, readout, monkeypatch):
    traces = attribution.trace_layers_dropped

    def doubled(*arguments, **options):
        for found in traces(*arguments, **options):
            scores = {i: 2 * own for i, own in found.values["scores"].items()}
            yield replace(found, values={**found.values, "scores": scores})

    monkeypatch.setattr(attribution, "trace_layers_dropped", doubled)
    with pytest.raises(ModelError, match="layer 0 are not the softmax of their scores"):
        attribute(pairs, readout, "atp*")

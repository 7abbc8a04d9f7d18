"""Attributions keep their sums, cost what they say, and say how far they can be trusted."""

from dataclasses import replace
from inspect import unwrap
from typing import Any

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
    attribute,
    rank_agreement,
    sampled_components,
)
from circuits.patching.pairs import CleanCorrupt, Projection, ReplyLikelihood, make_pairs
from circuits.patching.patch import patch_components
from circuits.running import execution

MODES = ["denoising", "noising"]
GRADIENTS = ["atp", "relp", "ig-inputs", "ig-activations"]


def asked(method) -> Any:
    """A method by a name that may be none."""
    return method


def rank_correlation(one, other):
    found: Any = spearmanr(one, other)
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
    size: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
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


@pytest.mark.parametrize(
    ("method", "passes"),
    [("atp", (2, 1)), ("atp*", (4, 4)), ("relp", (2, 1)), ("ig-inputs", (5, 3)),
     ("ig-activations", (20, 18))],
)  # fmt: skip
def test_passes_of_each_method_with_three_layers_and_three_steps(pairs, readout, method, passes):
    with counted() as receipt:
        found = attribute(pairs, readout, method, steps=3, sample=5)
    with counted() as exact:
        patch_components(pairs, readout, found.component)
    assert receipt.passes - exact.passes == len(pairs) * passes[0]
    assert receipt.backward_passes == len(pairs) * passes[1]


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
    exact = torch.tensor([8.0, -7, 6, 5, 4, 3, 2, 1])
    estimate = torch.tensor([9.0, 7, 6, 5, 4, 3, 2, 1])
    found = rank_agreement(estimate, exact)
    assert (found["sign"], found["top"]) == (7 / 8, 1.0)
    assert found["spearman"] == pytest.approx(rank_correlation(estimate, exact))
    assert rank_agreement(-exact.flip(0), exact)["top"] == 0.0
    assert rank_agreement(torch.ones(8), exact)["spearman"] is None  # without any order


def test_what_a_method_cannot_do_is_refused_by_name(
    llama, pairs, from_plain, readout, make_llama, tokenizer
):
    replies, small = ReplyLikelihood({}, {}), make_llama(tokenizer, n_layers=1)
    mixed = CleanCorrupt(llama, (*pairs, *from_plain))
    cases: list[Any] = [
        *((AxisError, f"method {m!r}".replace("*", r"\*"), (pairs, replies, m)) for m in METHODS),
        (AxisError, "'eap'; methods are atp, atp", (pairs, readout, "eap")),
        (DataError, r"against neutral\) are the same in both", (from_plain, readout, "ig-inputs")),
        (DataError, "no pair", (pairs[:0], readout)),
        (DataError, "different emotions", (mixed, readout)),
        (ModelError, "drops layers", (CleanCorrupt(small, pairs.pairs), readout, "atp*")),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            unwrap(attribute)(*arguments)
    for method in ("ig-inputs", "ig-activations"):
        with pytest.raises(DataError, match=f"'{method}' needs one step or more, found 0"):
            attribute(pairs, readout, asked(method), steps=0)
    with pytest.raises(DataError, match="two sampled components or more, found 1"):
        attribute(pairs, readout, sample=1)


def test_patterns_that_are_no_softmax_are_refused(pairs, readout, monkeypatch):
    traces = attribution.trace_layers_dropped

    def doubled(*arguments, **options):
        for found in traces(*arguments, **options):
            scores = {i: 2 * own for i, own in found.values["scores"].items()}
            yield replace(found, values={**found.values, "scores": scores})

    monkeypatch.setattr(attribution, "trace_layers_dropped", doubled)
    with pytest.raises(ModelError, match="layer 0 are not the softmax of their scores"):
        attribute(pairs, readout, "atp*")

"""Relevance rules leave values alone and hand on all of the readout."""

import pytest
import torch
from families.models import GROUPED, random_model

from circuits.models.load import wrap_model
from circuits.models.memory import counted
from circuits.models.run import observe, trace, trace_layers_dropped
from circuits.models.tokens import encode, pad_left
from circuits.patching.attribution import relevance_rules
from circuits.prompts.templates import neutral_prompts


@pytest.fixture(params=["Llama", "Qwen3"])
def model(request, tokenizer):
    return wrap_model(random_model(request.param, GROUPED, tokenizer), tokenizer)


@pytest.fixture
def tokens(model, contexts):
    return prompts(model, contexts)


def prompts(model, contexts):
    rows = [encode(model, prompt) for prompt in neutral_prompts(contexts[:2])]
    return pad_left(rows, torch.device("cpu"))


def test_relevance_after_the_final_norm_is_the_readout_after_every_sublayer(model, tokens):
    vector, sites = torch.randn(model.cfg.d_model), {"resid_pre": (0, 1), "resid_post": (0,)}
    rules = relevance_rules(model)
    found = trace(model, tokens, sites, lambda x: x @ vector, at="final", hooks=rules)
    for site, layers in sites.items():
        for layer in layers:
            relevance = (found.values[site][layer] * found.gradients[site][layer]).sum((1, 2))
            torch.testing.assert_close(relevance, found.readout, rtol=1e-3, atol=1e-4)
    _, plain = observe(model, tokens, {}, lambda x: x @ vector, at="final")
    torch.testing.assert_close(found.readout, plain, rtol=1e-5, atol=1e-5)
    assert found.readout.abs().min() > 0.01


def test_no_relevance_goes_through_queries_and_keys(model, tokens):
    vector = torch.randn(model.cfg.d_model)
    sites = {"q": (0, 1), "k": (0, 1), "v": (0, 1)}
    found = trace(
        model, tokens, sites, lambda x: x @ vector, hooks=relevance_rules(model)
    ).gradients
    for layer in (0, 1):
        assert not bool(found["q"][layer].any())
        assert not bool(found["k"][layer].any())
        assert bool(found["v"][layer].any())


def test_dropping_layers_is_one_forward_pass_and_a_backward_pass_each(llama, contexts):
    tokens, vector = prompts(llama, contexts), torch.randn(llama.cfg.d_model)
    sites = {"mlp_out": range(3), "attn_out": range(3)}
    with counted() as receipt:
        whole, *dropped = trace_layers_dropped(llama, tokens, sites, lambda x: x @ vector)
    assert (receipt.passes, receipt.backward_passes) == (2, 8)
    plain = trace(llama, tokens, sites, lambda x: x @ vector)
    for layer in range(3):
        expected = plain.gradients["attn_out"][layer]
        torch.testing.assert_close(whole.gradients["attn_out"][layer], expected)
        assert not bool(dropped[layer].gradients["mlp_out"][layer].any())
        assert not bool(dropped[layer].gradients["attn_out"][layer].any())
    # Nothing but the direct path is left below the last layer when there is one layer above.
    direct = dropped[2].gradients["mlp_out"][1][:, -1]
    torch.testing.assert_close(direct, vector.expand(2, -1))

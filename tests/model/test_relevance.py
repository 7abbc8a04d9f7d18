"""Relevance rules leave values alone and hand on all of the readout."""

import pytest
import torch
import transformers

from circuits.models.load import wrap_model
from circuits.models.memory import counted
from circuits.models.run import observe, trace, trace_layers_dropped
from circuits.models.tokens import encode, pad_left
from circuits.patching.attribution import relevance_rules
from circuits.prompts.templates import neutral_prompts

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# Families without biases: RMS norms with a gain or an offset gain, a centring norm, joint
# projections, normed queries.
FAMILIES = ("Llama", "Gemma", "Olmo", "Phi3", "Qwen3")


def random_model(family, tokenizer):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **SMALL)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return wrap_model(model, tokenizer)


@pytest.fixture(params=FAMILIES)
def model(request, tokenizer):
    return random_model(request.param, tokenizer)


@pytest.fixture
def tokens(model, contexts):
    prompts = [encode(model, prompt) for prompt in neutral_prompts(contexts[:2])]
    return pad_left(prompts, torch.device("cpu"))


@pytest.mark.parametrize("at", ["resid_post", "final"])
def test_relevance_is_the_readout_after_every_sublayer(model, tokens, at):
    vector = torch.randn(model.cfg.d_model)
    sites = {"resid_pre": (0, 1), "resid_post": (0,)}
    found = trace(model, tokens, sites, lambda x: x @ vector, at=at, hooks=relevance_rules(model))
    for site, layers in sites.items():
        for layer in layers:
            relevance = (found.values[site][layer] * found.gradients[site][layer]).sum((1, 2))
            torch.testing.assert_close(relevance, found.readout, rtol=1e-3, atol=1e-4)
    _, plain = observe(model, tokens, {}, lambda x: x @ vector, at=at)
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


def test_an_ungated_mlp_hands_on_all_it_gets(tokenizer, contexts):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
    )
    model = wrap_model(transformers.GPT2LMHeadModel(config), tokenizer)  # its biases are zero
    prompts = [encode(model, prompt) for prompt in neutral_prompts(contexts[:2])]
    vector = torch.randn(32)
    found = trace(
        model, pad_left(prompts, torch.device("cpu")), {"resid_pre": (0, 1)},
        lambda x: x @ vector, hooks=relevance_rules(model),
    )  # fmt: skip
    for layer in (0, 1):
        own = (found.values["resid_pre"][layer] * found.gradients["resid_pre"][layer]).sum((1, 2))
        torch.testing.assert_close(own, found.readout, rtol=1e-3, atol=1e-4)


def test_dropping_layers_is_one_forward_pass_and_a_backward_pass_each(llama, contexts):
    prompts = [encode(llama, prompt) for prompt in neutral_prompts(contexts[:2])]
    tokens, vector = pad_left(prompts, torch.device("cpu")), torch.randn(llama.cfg.d_model)
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

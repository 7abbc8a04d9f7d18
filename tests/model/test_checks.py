"""A model that does not run as everything else takes it to is refused when it is loaded."""

import re
from contextlib import contextmanager
from importlib.metadata import version

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from circuits.errors import ModelError
from circuits.models.load import TESTED, check_running, rotary_switch, wrap_model
from circuits.models.memory import counted

WORDS = 64


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return wrap_model(LlamaForCausalLM(config), name="tiny llama")


@pytest.fixture(scope="module")
def gpt2():
    """A model with learned positions: a wrong count changes every number."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4))
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(20)
    return wrap_model(model, name="tiny gpt2")


@contextmanager
def before_attention(model, change):
    """Change the arguments that every layer's attention is given."""

    def changed(module, args, kwargs):
        return args, change(kwargs)

    # Before the package's own hooks.
    hooks = [
        block.attn.register_forward_pre_hook(changed, with_kwargs=True, prepend=True)
        for block in model.blocks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def without(*names):
    return lambda kwargs: {name: value for name, value in kwargs.items() if name not in names}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_runs_as_it_must_is_taken(llama, dtype):
    model = LlamaForCausalLM(llama.original_model.config).to(dtype)
    check_running(wrap_model(model, name="right"))


def test_the_cache_reaches_attention_under_its_new_name(llama):
    """Where layers hand it on as `cache`, as those of transformers do from 5.24."""

    def renamed(kwargs):
        own = without("past_key_values")(kwargs)
        return {**own, "cache": kwargs.get("past_key_values", kwargs.get("cache"))}

    with before_attention(llama, renamed):
        check_running(llama)


def test_a_cache_that_is_not_kept_is_one_error_with_versions(llama):
    with (
        before_attention(llama, without("past_key_values", "cache")),
        pytest.raises(ModelError, match="tokens read after kept keys and values") as error,
    ):
        check_running(llama)
    said = str(error.value)
    assert f"transformers {version('transformers')}" in said
    assert f"transformer-lens {version('transformer-lens')}" in said
    assert TESTED in said


def test_positions_that_count_padding_are_refused(gpt2):
    inner = gpt2.original_model.transformer
    forward = inner.forward
    inner.forward = lambda *args, **kwargs: forward(*args, **without("position_ids")(kwargs))
    try:
        with pytest.raises(ModelError, match="padding a prompt on the left"):
            check_running(gpt2)
    finally:
        inner.forward = forward


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "z", "post"])
def test_what_a_hook_returns_must_be_used(llama, site, monkeypatch):
    """A library that copies an activation before it goes on would leave every edit unheard."""
    from circuits.names import hook

    point = llama.hook_dict[hook(site, 0)]
    forward = point.forward
    monkeypatch.setattr(point, "__class__", type("Deaf", (type(point),), {"__call__": deaf}))
    with pytest.raises(ModelError, match=re.escape(hook(site, 0)) + " returns is not used"):
        check_running(llama)
    assert point.forward == forward


def deaf(self, activation, *args, **kwargs):
    type(self).__mro__[1].__call__(self, activation, *args, **kwargs)
    return activation


def test_a_hook_that_never_fires_is_refused(llama, monkeypatch):
    from circuits.names import hook

    point = llama.hook_dict[hook("resid_post", 0)]
    silent = type("Silent", (type(point),), {"__call__": lambda self, activation: activation})
    monkeypatch.setattr(point, "__class__", silent)
    with pytest.raises(ModelError, match="resid_post does not fire|hook_out does not fire"):
        check_running(llama)


def test_the_check_costs_little_and_is_counted(llama):
    with counted() as receipt:
        cost = check_running(llama)
    assert receipt == cost
    tokens = cost.token_layers / llama.cfg.n_layers
    assert 0 < tokens <= 80


@pytest.mark.parametrize(
    ("scaling", "switch"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, None),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, None),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 5),
    ],
)
def test_a_rotary_scaling_that_switches_with_length_is_tried_below_the_switch(scaling, switch):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=5,
        rope_parameters=scaling,
    )
    assert rotary_switch(config) == switch
    check_running(wrap_model(LlamaForCausalLM(config), name="scaled"))


def test_what_loading_a_model_costs_is_noted_and_on_no_receipt(llama):
    with counted() as receipt:
        model = wrap_model(LlamaForCausalLM(llama.original_model.config), name="tried")
    assert receipt.passes == receipt.steps == 0
    assert model.cfg.tried.passes > 0

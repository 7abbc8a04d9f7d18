"""A model that does not run as everything else takes it to is refused when it is loaded."""

import re
from contextlib import contextmanager
from importlib.metadata import version

import pytest
import torch
from families.models import GROUPED, OLD, random_model
from transformers import LlamaForCausalLM

from circuits.errors import ModelError
from circuits.models.load import TESTED, check_running, rotary_switch, wrap_model
from circuits.models.memory import Receipt, counted
from circuits.names import hook


@pytest.fixture(scope="module")
def llama(tokenizer):
    return wrap_model(random_model("Llama", GROUPED, tokenizer), name="tiny llama")


@pytest.fixture(scope="module")
def gpt2(tokenizer):
    """A model with learned positions: a wrong count changes every number."""
    model = random_model("GPT2", OLD, tokenizer)
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
    point = llama.hook_dict[hook("resid_post", 0)]
    silent = type("Silent", (type(point),), {"__call__": lambda self, activation: activation})
    monkeypatch.setattr(point, "__class__", silent)
    with pytest.raises(ModelError, match="resid_post does not fire|hook_out does not fire"):
        check_running(llama)


@pytest.mark.parametrize(
    ("scaling", "switch"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, None),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, None),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 5),
    ],
)
def test_a_rotary_scaling_that_switches_with_length_is_tried_below_the_switch(
    tokenizer, scaling, switch
):
    sizes = {**GROUPED, "max_position_embeddings": 5, "rope_parameters": scaling}
    model = random_model("Llama", sizes, tokenizer)
    assert rotary_switch(model.config) == switch
    check_running(wrap_model(model, name="scaled"))


def test_what_loading_a_model_costs_is_little_noted_and_on_no_receipt(llama):
    with counted() as receipt:
        model = wrap_model(LlamaForCausalLM(llama.original_model.config), name="tried")
    assert receipt == Receipt()
    assert 0 < model.cfg.tried.token_layers / model.cfg.n_layers <= 80

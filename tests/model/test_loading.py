"""Models that load, and models that cannot, with what to do about it."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.errors import ModelError
from circuits.models.families import check_identities, identity_gaps
from circuits.models.load import _why_not, describe_model, load_model, wrap_model
from circuits.models.protocol import Model


def test_the_embedded_model_satisfies_the_protocol_and_its_identities(mini):
    assert isinstance(mini, Model)
    assert max(identity_gaps(mini).values()) < 1e-5


def test_a_description_names_the_model_its_weights_and_its_sizes(mini):
    described = describe_model(mini)
    assert described["name"] == "sev-mini"
    assert described["revision"].startswith("sha256:")
    assert described["n_layers"] == mini.cfg.n_layers


@pytest.mark.parametrize("name", ["./no/such/model", "/no/such/model"])
def test_a_folder_that_is_not_there_is_refused(name):
    with pytest.raises(ModelError, match="there is no such folder"):
        load_model(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_model(tmp_path)


def test_a_folder_with_a_damaged_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ModelError, match="dtype 'int3' is not known; choose float32"):
        load_model("x", dtype="int3")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("You are trying to access a gated repo. 401 Client Error", "accept its licence"),
        ("We couldn't connect to the hub", "out of reach"),
        ("x is not a local folder and is not a valid model identifier", "check the name"),
    ],
)
def test_what_the_hub_says_becomes_advice(said, advice):
    text = _why_not("meta-llama/Llama-3.2-3B-Instruct", OSError(said))
    assert advice in text
    assert "local folder" in text


def test_a_model_whose_sublayers_do_not_add_up_is_refused_by_name():
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=32)
    model = wrap_model(GPT2LMHeadModel(config))
    check_identities(model)
    attention = model.blocks[0].hook_attn_out  # type: ignore[attr-defined]
    name = "blocks.0.hook_attn_out"
    assert attention is not None
    with (
        model.hooks(fwd_hooks=[(name, lambda x, hook: 2 * x)]),
        pytest.raises(ModelError, match="sum over heads of z W_O = attn_out"),
    ):
        check_identities(model)

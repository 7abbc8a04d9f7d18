"""Models that load, and models that cannot, with what to do about it."""

import pytest

from circuits.errors import ModelError
from circuits.models.families import identity_gaps
from circuits.models.load import _why_not, describe_model, load_model
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

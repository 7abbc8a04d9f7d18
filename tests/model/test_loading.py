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


@pytest.mark.parametrize(
    ("config", "name", "options", "said"),
    [
        (None, "no/such/model", {}, "there is no such folder"),
        (None, "", {}, r"holds no config\.json"),
        ("{", "", {}, "cannot be loaded"),
        (None, "", {"device_map": "scattered"}, "device map .scattered. is not known; choose auto"),
        (None, "", {"device_map": "auto", "device": "cpu"}, "device map .auto. are both given"),
    ],
)
def test_what_cannot_be_loaded_is_refused(tmp_path, config, name, options, said):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=said):
        load_model(tmp_path / name, **options)


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

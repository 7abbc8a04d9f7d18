"""Models that no closed form fits, and architectures that cannot be wrapped: refused by cause."""

from typing import Any

import pytest
from families.models import EXPERTS, GROUPED, OLD, OPT, SMALL, random_model

from circuits.errors import ModelError
from circuits.models.families import check_identities, needs
from circuits.models.load import wrap_model

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Granite": ("Granite", {**GROUPED, "residual_multiplier": 0.5}, r"multiplied by 0\.5"),
    "Mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "split by heads"),
    "OPT with norms after its sublayers": (
        "OPT",
        {**OPT, "do_layer_norm_before": False},
        "OPTForCausalLM has no norm after its last",
    ),
    "OpenAI-GPT": ("OpenAIGPT", OLD, "OpenAIGPTLMHeadModel has no norm after its last layer"),
}
UNKNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "BioGPT": ("BioGpt", SMALL),
    "Phi-3.5-MoE": ("Phimoe", {**GROUPED, "num_local_experts": 4}),
}


@pytest.mark.trial("models", "{family}, asked for effects")
@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_breaks_an_identity_is_refused_with_what_breaks_it(
    family, tokenizer, trial
) -> None:
    kind, sizes, cause = REFUSED[family]
    with pytest.raises(ModelError, match=cause):
        check_identities(wrap_model(random_model(kind, sizes, tokenizer), tokenizer))
    trial(outcome="refused by what breaks it")


@pytest.mark.trial("models", "{family}, which TransformerLens does not know")
@pytest.mark.parametrize("family", UNKNOWN)
def test_a_family_that_cannot_be_wrapped_is_refused_by_name(family, tokenizer, trial) -> None:
    kind, sizes = UNKNOWN[family]
    with pytest.raises(ModelError, match=f"TransformerLens cannot wrap {kind}ForCausalLM"):
        wrap_model(random_model(kind, sizes, tokenizer), tokenizer)
    trial(outcome="refused by name")


@pytest.mark.trial("models", "experts in every other layer")
def test_neurons_are_refused_where_some_layers_hold_experts(tokenizer, trial) -> None:
    sizes = {**EXPERTS, "decoder_sparse_step": 2}
    model = wrap_model(random_model("Qwen3Moe", sizes, tokenizer), tokenizer)
    check_identities(model)
    with pytest.raises(ModelError, match=r"1 of 2 layers.*mixture of experts"):
        needs(model, "effects of neurons", "neurons")
    trial(outcome="neurons are refused, with the layers that have none")


def test_a_tokenizer_without_a_name_is_taken(tokenizer) -> None:
    from copy import deepcopy

    nameless = deepcopy(tokenizer)
    nameless.init_kwargs.pop("name_or_path", None)
    nameless.name_or_path = ""
    model = wrap_model(random_model("Llama", GROUPED, tokenizer), nameless)
    assert model.tokenizer is nameless


@pytest.mark.parametrize(
    ("site", "change", "cause"),
    [
        ("blocks.1.hook_mlp_out", lambda x, hook: 3 * x, "of the MLP is multiplied by 3"),
        ("blocks.1.hook_attn_out", lambda x, hook: 2 * x, "the attention is multiplied by 2"),
        (
            "blocks.1.hook_mlp_out",
            lambda x, hook: x / x.norm(dim=-1, keepdim=True),
            "a norm after the MLP",
        ),
        ("blocks.1.hook_mlp_out", lambda x, hook: x.sin(), "neither norm nor factor"),
        (
            "blocks.1.hook_resid_post",
            lambda x, hook: x / x.norm(dim=-1, keepdim=True),
            "on the residual stream after the MLP",
        ),
    ],
)
def test_a_changed_write_is_refused_with_its_layer_and_what_changed_it(
    tokenizer, site, change, cause
) -> None:
    model = wrap_model(random_model("Llama", GROUPED, tokenizer), tokenizer)
    changed = model.hooks(fwd_hooks=[(site, change)])
    with changed, pytest.raises(ModelError, match=f"in layer 1 .*{cause}"):
        check_identities(model)

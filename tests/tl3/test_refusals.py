"""What a HookedTransformer cannot do is refused by name; what it was loaded with is looked at."""

from typing import Any

import pytest
import torch
import transformer_lens
from families.models import Study
from hooked import hooked_transformer

from circuits.errors import ModelError
from circuits.models.edits import Add, edited
from circuits.models.families import check_identities
from circuits.models.load import describe_model, wrap_model
from circuits.models.run import branch, prefill_prefix, run
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import neutral_prompt
from circuits.steering.hook_files import module_of


@pytest.fixture
def gpt2(random_gpt2, tokenizer):
    return hooked_transformer(random_gpt2, tokenizer)


@pytest.mark.trial("models", "HookedTransformer 3.9, {how}: refused with what it means")
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("center_writing_weights", "lacks its mean.*from_pretrained_no_processing"),
        ("fold_value_biases", "writes without its bias.*from_pretrained_no_processing"),
    ],
)
def test_processed_weights_are_refused_with_what_they_mean(random_gpt2, tokenizer, how, why, trial):
    model = hooked_transformer(random_gpt2, tokenizer, **{how: True})
    with pytest.raises(ModelError, match=why):
        wrap_model(model)
    trial(outcome="refused by a named error")


@pytest.mark.trial("models", "HookedTransformer 3.9, {setting}: refused with how to switch it off")
@pytest.mark.parametrize("setting", ["use_attn_in", "use_split_qkv_input"])
def test_inputs_of_single_heads_are_refused(gpt2, setting, trial):
    getattr(gpt2, f"set_{setting}")(True)
    with pytest.raises(ModelError, match=rf"set_{setting}\(False\)"):
        wrap_model(gpt2)
    trial(outcome="refused by a named error")


@pytest.mark.trial("models", "HookedTransformer 3.9 that was not wrapped: refused")
def test_a_model_that_is_not_wrapped_is_refused(gpt2, contexts, trial):
    with pytest.raises(ModelError, match=r"circuits\.wrap_model"):
        encode(gpt2, neutral_prompt(contexts[0]))
    trial(outcome="refused by a named error")


def test_models_without_mlps_are_refused():
    tools: Any = transformer_lens
    cfg = tools.HookedTransformerConfig(
        n_layers=1, d_model=8, d_head=4, n_ctx=8, d_vocab=9, attn_only=True, device="cpu"
    )
    with pytest.warns(DeprecationWarning, match="HookedTransformer"):
        model = tools.HookedTransformer(cfg)
    with pytest.raises(ModelError, match="no MLPs"):
        wrap_model(model)


@pytest.mark.trial("models", "HookedTransformer 3.9: names of Hugging Face modules (hook files)")
def test_names_of_modules_are_refused(gpt2, trial):
    with pytest.raises(ModelError, match="HookedTransformer"):
        module_of(wrap_model(gpt2), "z", 0)
    trial(outcome="refused by a named error")


def test_places_that_it_lacks_are_refused_before_anything_runs(gpt2):
    model = wrap_model(gpt2)
    with (
        pytest.raises(ModelError, match=r"no place called blocks\.0\.hook_nothing"),
        model.hooks([("blocks.0.hook_nothing", print)]),
    ):
        pass


def test_the_users_model_stays_as_it_was(gpt2, contexts):
    before = dict(vars(gpt2.cfg))
    model = wrap_model(gpt2, name="mine")
    tokens = pad_left([encode(model, neutral_prompt(c)) for c in contexts[:2]], torch.device("cpu"))
    with edited(model, [Add("ln2_out", 0, torch.ones(32), "all")]):
        changed = run(model, tokens)
    assert (run(model, tokens) - changed).abs().max() > 1e-3
    assert vars(gpt2.cfg) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in gpt2.modules())
    assert describe_model(model)["name"] == "mine"


@pytest.mark.trial("models", "HookedTransformer 3.9, {switch}: same effects as without it")
@pytest.mark.parametrize("switch", ["fold_ln", "use_attn_result", "ungrouped"])
def test_switches_that_change_no_write_change_no_effect(
    random_llama_like, tokenizer, contexts, apart, switch, trial
):
    plainly = Study(wrap_model(hooked_transformer(random_llama_like), tokenizer), contexts[:3])
    other = hooked_transformer(random_llama_like, fold_ln=switch == "fold_ln")
    if switch == "use_attn_result":
        other.set_use_attn_result(True)
    if switch == "ungrouped":
        other.set_ungroup_grouped_query_attention(True)
    switched = Study(wrap_model(other, tokenizer), contexts[:3])
    assert apart(plainly.heads, switched.heads) < 1e-5
    assert apart(plainly.neurons, switched.neurons) < 1e-5
    assert apart(plainly.importance, switched.importance) < 5e-5
    check_identities(switched.model)
    trial(outcome="same to 1e-5")


def test_copies_of_the_last_token_are_shown_along_the_position_axis(gpt2, contexts):
    model, seen = wrap_model(gpt2), []
    rows = [encode(model, neutral_prompt(context)) for context in contexts[:2]]
    last, prefix = prefill_prefix(model, pad_left(rows, torch.device("cpu")))

    def see(activation, hook):
        seen.append(activation.shape)

    with model.hooks([("blocks.1.hook_resid_post", see), ("blocks.1.attn.hook_z", see)]):
        branch(model, last, prefix, 5)
    assert seen == [(2, 5, 4, 8), (2, 5, 32)]

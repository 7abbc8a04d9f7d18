"""Tiny random models of many families: their effects are exact, or they are refused by cause."""

from inspect import unwrap
from typing import Any

import pytest
import torch
import transformers
from einops import einsum

from circuits.data.prompts import asked_prompts, plain
from circuits.data.replies import Reply
from circuits.errors import ModelError
from circuits.measure.directions import emotion_directions
from circuits.measure.exact_paths import exact_paths
from circuits.measure.heads import head_effects
from circuits.measure.importance import sublayer_importance
from circuits.measure.neurons import neuron_effects
from circuits.measure.pairs import make_pairs
from circuits.measure.paths import path_effects
from circuits.measure.readouts import Projection
from circuits.measure.sweep import arrange, sweep
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.edits import Add, Replace, edited
from circuits.model.identities import check_identities, identity_gaps
from circuits.model.loading import wrap_model

EMOTIONS = ("anger", "fear")
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 12}
OLD: dict[str, Any] = {
    "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 512,
    "initializer_range": 0.3,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}

EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", WIDE_HEADS),
    "Llama with biases": ("Llama", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "Mistral": ("Mistral", {**WIDE_HEADS, "sliding_window": 300}),
    "Qwen2": ("Qwen2", GROUPED),
    "Qwen3": ("Qwen3", WIDE_HEADS),
    "Phi-3": ("Phi3", GROUPED),
    "Gemma": ("Gemma", WIDE_HEADS),
    "SmolLM3": ("SmolLM3", GROUPED),
    "OLMo": ("Olmo", GROUPED),
    "GPT-2": ("GPT2", OLD),
    "GPT-NeoX, sequential": ("GPTNeoX", {**SMALL, "use_parallel_residual": False}),
}
PARALLEL = "parallel attention and MLP"
NORM = "there is a norm after the attention"
MIXTURE = "mixture of experts"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "GPT-NeoX, parallel": ("GPTNeoX", SMALL, PARALLEL),
    "GPT-J": ("GPTJ", {**OLD, "rotary_dim": 4}, PARALLEL),
    "Gemma-2": ("Gemma2", WIDE_HEADS, NORM),
    "Gemma-3": ("Gemma3", WIDE_HEADS, NORM),
    "OLMo-2": ("Olmo2", GROUPED, NORM),
    "Granite": ("Granite", {**GROUPED, "residual_multiplier": 0.5}, r"multiplied by 0\.5"),
    "Mixtral": ("Mixtral", {**WIDE_HEADS, "num_local_experts": 4}, f"2 of 2 layers.*{MIXTURE}"),
    "Qwen3-MoE": ("Qwen3Moe", {**WIDE_HEADS, **EXPERTS, "num_experts": 4}, MIXTURE),
    "Qwen3-MoE, every other layer": (
        "Qwen3Moe", {**WIDE_HEADS, **EXPERTS, "num_experts": 4, "decoder_sparse_step": 2},
        f"1 of 2 layers.*{MIXTURE}",
    ),
    "Mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "split by heads"),
}  # fmt: skip
UNKNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "BioGPT": ("BioGpt", SMALL),
    "Phi-3.5-MoE": ("Phimoe", {**GROUPED, "num_local_experts": 4}),
}


def random_model(family, sizes, tokenizer):
    """A random model in which no bias is zero and no norm's gain is one."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    named = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, named)(vocab_size=len(tokenizer), **ids, **sizes)
    kind = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, kind)(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return model


def measured(model, contexts, provenance):
    replies = [Reply(p, "", 0, p.emotion or "") for p in asked_prompts(contexts[:3], EMOTIONS)]
    grid = arrange(replies, EMOTIONS)
    swept = sweep(model, grid)
    return grid, swept, emotion_directions(swept, provenance)


def by_zeroing(model, grid, directions, site, hook, layer, part):
    """Readout of one layer with a head or neuron minus without it, by running the model twice."""
    width = (model.cfg.n_heads, model.cfg.d_head) if site == "z" else (model.cfg.d_mlp,)
    chosen = torch.zeros(width, dtype=torch.bool)
    chosen[part] = True
    edit = Replace(site, layer, torch.zeros(width), chosen, positions="all")
    prompts = [grid.cells[c.id, e].prompt for c in grid.contexts for e in EMOTIONS]
    tokens = pad_left([encode_prompt(model, p) for p in prompts], torch.device("cpu"))
    whole = last_of(model, tokens, hook, layer)
    with edited(model, [edit]):
        change = whole - last_of(model, tokens, hook, layer)
    vectors = directions.vectors[:, 0 if site == "z" else 1, layer]
    apart = change.reshape(len(grid.contexts), len(EMOTIONS), -1)
    return einsum(apart, vectors, "context emotion d, emotion d -> context emotion").mean(0)


def last_of(model, tokens, hook, layer):
    kept = []
    name = hook.format(layer=layer)
    with torch.no_grad(), model.hooks([(name, lambda x, hook: kept.append(x[:, -1]))]):
        model(tokens.ids, attention_mask=tokens.mask.long())
    return kept[0]


@pytest.fixture(scope="module", params=EXACT)
def family(request, tokenizer, contexts, provenance):
    model = wrap_model(random_model(*EXACT[request.param], tokenizer), tokenizer)
    return model, *measured(model, contexts, provenance)


def test_paths_add_up_to_their_senders_and_to_their_mlp(family, contexts, provenance):
    model = family[0]
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(1))
    pairs = make_pairs(model, contexts[:2], *EMOTIONS)
    every = [(1, neuron) for neuron in range(model.cfg.d_mlp)]
    found = path_effects(model, pairs, Projection(drawn), provenance, neurons=every)
    assert found.gap < 1e-4
    own = torch.tensor([name.startswith("L1N") for name in found.receiver])
    whole = found.mean[:, found.index("receiver", "L1.mlp")]
    assert (found.mean[:, own].sum(1) - whole).abs().max() < 1e-4 * found.mean.abs().max()
    edges = [("embed", "readout"), ("L0H0", "readout")]
    exact = exact_paths(model, pairs, Projection(drawn), provenance, [*edges, ("L0H0", "L1H1.q")])
    assert torch.isfinite(exact.effect).all()
    straight = [found.at("mean", sender=s, receiver=r) for s, r in edges]
    assert exact.mean[:2].tolist() == pytest.approx(straight, rel=1e-3, abs=1e-4)


def test_every_identity_holds(family):
    gaps = identity_gaps(family[0])
    assert len(gaps) == 4
    assert max(gaps.values()) < 1e-5
    check_identities(family[0])


def test_head_effects_are_what_zeroing_the_heads_changes(family, provenance):
    model, grid, swept, directions = family
    effects = head_effects(model, swept, directions, provenance).mean
    for layer in range(2):
        for head in range(4):
            oracle = by_zeroing(
                model, grid, directions, "z", "blocks.{layer}.hook_resid_mid", layer, head
            )
            torch.testing.assert_close(effects[:, layer, head], oracle, atol=2e-5, rtol=1e-4)
    assert effects.abs().max() > 0.05


def test_post_norm_head_effects_are_what_zeroing_changes_after_the_norm(
    family, provenance, request
):
    model, grid, swept, directions = family
    if not str(model.cfg.normalization_type).startswith("RMS"):
        with pytest.raises(ModelError, match="needs an RMSNorm before the MLP"):
            head_effects(model, swept, directions, provenance, readout="post_norm")
        return
    effects = head_effects(model, swept, directions, provenance, readout="post_norm").mean
    for layer in range(2):
        for head in range(4):
            oracle = by_zeroing(
                model, grid, directions, "z", "blocks.{layer}.ln2.hook_out", layer, head
            )
            torch.testing.assert_close(effects[:, layer, head], oracle, atol=2e-5, rtol=1e-4)


def test_neuron_effects_are_what_zeroing_the_neurons_changes(family, provenance):
    model, grid, swept, directions = family
    effects = neuron_effects(model, swept, directions, provenance).mean
    for layer in range(2):
        strongest = effects[:, layer].abs().amax(0).topk(3).indices.tolist()
        for neuron in [*strongest, 0, 47]:
            oracle = by_zeroing(
                model, grid, directions, "post", "blocks.{layer}.hook_resid_post", layer, neuron
            )
            torch.testing.assert_close(effects[:, layer, neuron], oracle, atol=2e-5, rtol=1e-4)
    assert effects.abs().max() > 0.05


def test_importance_is_what_a_dose_changes_in_a_plain_run(family, provenance):
    model, grid, _, directions = family
    found, _ = sublayer_importance(
        model, grid, directions, provenance, stable=(0, 1), doses=(0.5,), n_random=0
    )
    prompts = [encode_prompt(model, plain(context)) for context in grid.contexts]
    tokens = pad_left(prompts, torch.device("cpu"))
    hook, vector = "blocks.{layer}.hook_resid_post", found.reference[0]
    base = last_of(model, tokens, hook, 1) @ vector
    for s, site in enumerate(("attn_out", "mlp_out")):
        unit = directions.vectors[0, s, 0]
        length = 0.5 * directions.rms[s, 0]
        with edited(model, [Add(site, 0, length * unit * (1 if unit @ vector >= 0 else -1))]):
            moved = last_of(model, tokens, hook, 1) @ vector
        oracle = ((moved - base) / length).mean()
        torch.testing.assert_close(found.slope[0, s, 0], oracle, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_breaks_an_identity_is_refused_with_what_breaks_it(name, tokenizer):
    family, sizes, cause = REFUSED[name]
    # Unwrapped: run-time checks of the return type would refuse a model without W_out earlier.
    model = unwrap(wrap_model)(random_model(family, sizes, tokenizer), tokenizer)
    with pytest.raises(ModelError, match=cause):
        check_identities(model)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_family_that_cannot_be_wrapped_is_refused_by_name(name, tokenizer):
    family, sizes = UNKNOWN[name]
    with pytest.raises(ModelError, match=f"TransformerLens cannot wrap {family}ForCausalLM"):
        wrap_model(random_model(family, sizes, tokenizer), tokenizer)


def altered(tokenizer, site, change):
    """A Llama whose hook at ``site`` of layer 1 changes what is written."""
    model = wrap_model(random_model("Llama", GROUPED, tokenizer), tokenizer)
    return model, model.hooks(fwd_hooks=[(site, change)])


@pytest.mark.parametrize(
    ("site", "change", "cause"),
    [
        ("blocks.1.hook_mlp_out", lambda x, hook: 3 * x, "of the MLP is multiplied by 3"),
        ("blocks.1.hook_mlp_out", lambda x, hook: x / x.norm(dim=-1, keepdim=True),
         "a norm after the MLP"),
        ("blocks.1.hook_mlp_out", lambda x, hook: x.sin(), "neither norm nor factor"),
        ("blocks.1.hook_resid_post", lambda x, hook: x / x.norm(dim=-1, keepdim=True),
         "on the residual stream after the MLP"),
    ],
)  # fmt: skip
def test_a_changed_write_is_refused_with_its_layer_and_what_changed_it(
    tokenizer, site, change, cause
):
    model, changed = altered(tokenizer, site, change)
    with changed, pytest.raises(ModelError, match=f"in layer 1 .*{cause}"):
        check_identities(model)

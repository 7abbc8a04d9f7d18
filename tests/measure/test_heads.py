"""Head effects: closed forms against really zeroing heads and running again."""

import pytest
import torch

from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.neurons import neuron_effects
from circuits.judges.replies import Reply
from circuits.models.edits import Replace, edited
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import emotion_prompts

CPU = torch.device("cpu")


def tokens_of(model, grid, emotion):
    own = [reply for (_, asked), reply in grid.cells.items() if asked == emotion]
    return pad_left([encode(model, reply.prompt) for reply in own], CPU)


def by_real_ablation(model, grid, directions, readout):
    """Zero one head at all positions, run again, read the same layer: one run per head."""
    found = torch.zeros(len(grid.emotions), model.cfg.n_layers, model.cfg.n_heads)
    for e, emotion in enumerate(grid.emotions):
        tokens = tokens_of(model, grid, emotion)
        vectors = directions.sel(emotion=emotion, sublayer="attn").vectors[0, 0]
        whole = read(model, tokens, readout)
        for layer in range(model.cfg.n_layers):
            for head in range(model.cfg.n_heads):
                chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
                chosen[head] = True
                nothing = torch.zeros(model.cfg.n_heads, model.cfg.d_head)
                edit = Replace("z", layer, nothing, chosen, positions="all")
                with edited(model, [edit]):
                    without = read(model, tokens, readout)
                # The streams are subtracted, not their projections: these are large and nearly
                # equal, and float32 would lose what differs.
                lost = (whole - without)[:, layer] @ vectors[layer]
                found[e, layer, head] = lost.mean()
    return found


def read(model, tokens, readout):
    if readout == "resid_mid":
        return capture(model, tokens, {"resid_mid": lambda x: x[:, -1]})["resid_mid"]
    kept = {}

    def hook_of(layer):
        return f"blocks.{layer}.ln2.hook_out", lambda x, hook: kept.update({layer: x[:, -1]})

    with torch.no_grad(), model.hooks([hook_of(i) for i in range(model.cfg.n_layers)]):
        model(tokens.ids, attention_mask=tokens.mask.long())
    return torch.stack([kept[i] for i in range(model.cfg.n_layers)], dim=1)


@pytest.mark.parametrize("readout", ["resid_mid", "post_norm"])
def test_on_the_embedded_model_head_effects_equal_re_runs(mini, contexts, readout):
    prompts = emotion_prompts(contexts[:2], ["anger", "fear"])
    replies = [Reply(prompt, "Fine.", 2, prompt.emotion or "") for prompt in prompts]
    grid = group_by_context(replies, ["anger", "fear"])
    found = read_activations(mini, grid)
    directions = emotion_directions(found)
    effects = head_effects(mini, found, directions, readout=readout)
    oracle = by_real_ablation(mini, grid, directions, readout)
    torch.testing.assert_close(effects.mean, oracle, atol=1e-5, rtol=0)
    assert effects.mean.abs().max() > 1


def test_head_effects_add_up_to_the_attention_write(llama, swept, grid, directions):
    effects = head_effects(llama, swept, directions)
    for e, emotion in enumerate(grid.emotions):
        tokens = tokens_of(llama, grid, emotion)
        write = capture(llama, tokens, {"attn_out": lambda x: x[:, -1]})["attn_out"]
        vectors = directions.sel(emotion=emotion, sublayer="attn").vectors[0, 0]
        along = (write * vectors).sum(-1).mean(0)
        torch.testing.assert_close(effects.mean[e].sum(-1), along, atol=1e-5, rtol=1e-4)


def test_neuron_effects_add_up_to_the_mlp_write(llama, swept, grid, directions):
    effects = neuron_effects(llama, swept, directions)
    for e, emotion in enumerate(grid.emotions):
        tokens = tokens_of(llama, grid, emotion)
        write = capture(llama, tokens, {"mlp_out": lambda x: x[:, -1]})["mlp_out"]
        vectors = directions.sel(emotion=emotion, sublayer="mlp").vectors[0, 0]
        along = (write * vectors).sum(-1).mean(0)
        torch.testing.assert_close(effects.mean[e].sum(-1), along, atol=1e-5, rtol=1e-4)


def test_neuron_effects_split_into_a_positive_and_a_negative_part(llama, swept, directions):
    effects = neuron_effects(llama, swept, directions)
    torch.testing.assert_close(effects.positive - effects.negative, effects.mean)
    assert effects.positive.min() >= -1e-7
    assert effects.negative.min() >= -1e-7


def test_centred_effects_say_how_an_emotion_differs_from_the_others(llama, swept, grid, directions):
    whole = grid.complete
    effects = head_effects(llama, swept, directions)
    W_O, e, layer, head = llama.W_O.detach(), 2, 1, 3
    v = directions.at  # the same by hand, for one head
    vector = directions.vectors[e, 0, layer]
    z = swept.z[whole][:, :, layer, head]
    by_hand = ((z[:, e] - z.mean(1)) @ W_O[layer, head] @ vector).mean()
    assert v("norm", emotion="anger", sublayer="attn", layer=0) > 0
    assert float(effects.centred[e, layer, head]) == pytest.approx(float(by_hand), abs=1e-6)


def test_standard_errors_are_over_contexts(llama, swept, directions):
    effects = head_effects(llama, swept, directions)
    e, layer, head = 1, 2, 0
    present = swept.present[:, e]
    vector = directions.vectors[e, 0, layer]
    each = swept.z[present][:, e, layer, head] @ llama.W_O.detach()[layer, head] @ vector
    expected = each.std() / len(each) ** 0.5
    assert float(effects.stderr[e, layer, head]) == pytest.approx(float(expected), rel=1e-4)
    assert effects.n_contexts[e] == int(present.sum())


def test_a_head_that_is_silenced_has_no_effect(llama, grid):
    chosen = torch.zeros(4, 8, dtype=torch.bool)
    chosen[2] = True
    with edited(llama, [Replace("z", 1, torch.zeros(4, 8), chosen, positions="all")]):
        silenced = read_activations(llama, grid)
    directions = emotion_directions(silenced)
    effects = head_effects(llama, silenced, directions)
    assert bool((effects.mean[:, 1, 2] == 0).all())
    assert bool((effects.mean[:, 1, 1] != 0).all())

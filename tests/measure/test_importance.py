"""Sublayer importance: the cached sweep against one plain run per sublayer and dose."""

import pytest
import torch

from circuits.effects.activations import component_means, differences
from circuits.effects.importance import sublayer_importance
from circuits.effects.neurons import direct_effects
from circuits.models.edits import Add, edited
from circuits.models.memory import counted
from circuits.models.run import capture, reading, run
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import neutral_prompt

CPU = torch.device("cpu")
DOSES = (0.05, 0.4)


@pytest.fixture(scope="module", params=["resid_post", "final"])
def measured(request, llama, grid, directions):
    found, _ = sublayer_importance(
        llama, grid, directions, stable=(1, 2), doses=DOSES, read_at=request.param, n_random=2,
    )  # fmt: skip
    return found


def readout(model, ids, vector, read_at, edits=()):
    end = model.cfg.n_layers - 1
    with torch.no_grad(), edited(model, edits), reading(
        model, {read_at: lambda x: x[:, -1]}, [end]
    ) as table:  # fmt: skip
        run(model, pad_left([ids], CPU))
    return table[read_at][end][0] @ vector


def by_plain_runs(model, grid, directions, measured, emotion):
    """The published procedure: one prompt at a time, one whole run per sublayer and dose."""
    vector = measured.sel(emotion=emotion).reference[0]
    own = [c for c in grid.contexts if (c.id, emotion) in grid.cells]
    found = torch.zeros(len(DOSES), 2, model.cfg.n_layers)
    for context in own:
        ids = encode(model, neutral_prompt(context))
        base = readout(model, ids, vector, measured.read_at)
        for s, site in enumerate(("attn_out", "mlp_out")):
            for layer in range(model.cfg.n_layers):
                unit = directions.vectors[directions.index("emotion", emotion), s, layer]
                unit = unit * (1.0 if unit @ vector >= 0 else -1.0)
                for d, dose in enumerate(DOSES):
                    length = dose * directions.rms[s, layer]
                    edit = Add(site, layer, length * unit)
                    moved = readout(model, ids, vector, measured.read_at, [edit])
                    found[d, s, layer] += (moved - base) / length / len(own)
    return found


@pytest.mark.parametrize("emotion", ["anger", "disgust"])
def test_importance_equals_one_plain_run_per_sublayer_and_dose(
    llama, grid, directions, measured, emotion
):
    oracle = by_plain_runs(llama, grid, directions, measured, emotion)
    found = measured.sel(emotion=emotion).response[0]
    torch.testing.assert_close(found, oracle, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(measured.sel(emotion=emotion).slope[0], found.mean(0))


def test_the_last_mlps_importance_is_the_cosine_with_the_reference(measured, directions):
    if measured.read_at != "resid_post":
        pytest.skip("linear only before the final norm")
    local = directions.vectors[:, 1, -1]
    cosine = (local * measured.reference).sum(-1).abs()
    torch.testing.assert_close(measured.slope[:, 1, -1], cosine, atol=1e-3, rtol=0)


def test_importance_costs_one_pass_per_context_and_one_token_per_variant(llama, grid, directions):
    with counted() as receipt:
        sublayer_importance(llama, grid, directions, stable=(1, 2), doses=DOSES, n_random=3)
    variants = (6 * len(DOSES) + 3) * 2 * llama.cfg.n_layers + 1  # and the prompt as it is
    assert receipt.passes == len(grid.contexts)
    assert receipt.steps == len(grid.contexts) * variants


@pytest.mark.parametrize("at_once", [1, 30, 10_000])
def test_batching_does_not_change_importance(
    llama, grid, directions, measured, monkeypatch, at_once
):
    monkeypatch.setattr("circuits.effects.importance._VARIANTS_AT_ONCE", at_once)
    monkeypatch.setattr("circuits.effects.importance._PROMPTS_AT_ONCE", 5)
    found, _ = sublayer_importance(
        llama, grid, directions, stable=(1, 2), doses=DOSES, read_at=measured.read_at, n_random=2,
    )  # fmt: skip
    torch.testing.assert_close(found.slope, measured.slope, atol=2e-3, rtol=2e-3)


def test_the_untouched_prompts_give_the_means_of_plain_prompts(llama, grid, directions):
    _, means = sublayer_importance(llama, grid, directions, stable=(1, 2), doses=(0.1,), n_random=0)
    tokens = pad_left([encode(llama, neutral_prompt(c)) for c in grid.contexts], CPU)
    found = capture(llama, tokens, {"z": lambda x: x[:, -1], "post": lambda x: x[:, -1]})
    torch.testing.assert_close(means.z, found["z"].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(means.post, found["post"].mean(0), atol=1e-5, rtol=1e-4)


def test_direct_effects_of_all_sublayers_add_up_to_the_readouts_difference(
    llama, swept, directions, measured
):
    between = differences(component_means(swept))
    found = direct_effects(llama, between, directions, measured.reference)
    total = found.sublayer_effect.sum(dim=(1, 2))
    torch.testing.assert_close(total, found.total, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.head_effect.sum(-1), found.sublayer_effect[:, 0])
    torch.testing.assert_close(found.neuron_effect.sum(-1), found.sublayer_effect[:, 1])


def test_difference_vectors_sum_to_zero_over_emotions(swept):
    between = differences(component_means(swept))
    for values in (between.z, between.post):
        torch.testing.assert_close(values.sum(0), torch.zeros_like(values[0]), atol=1e-4, rtol=0)


def test_difference_vectors_are_the_contrast_of_complete_contexts(swept, grid):
    z = swept.z[grid.complete]
    by_hand = (z - z.mean(1, keepdim=True)).mean(0)
    between = differences(component_means(swept))
    torch.testing.assert_close(between.z, by_hand, atol=1e-5, rtol=1e-4)

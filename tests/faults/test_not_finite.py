"""NaN and infinity are named with the layer, the hook and the prompt that they are in."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import emotion_directions, own_differences
from circuits.effects.importance import sublayer_importance
from circuits.errors import ModelError
from circuits.judges.replies import Reply
from circuits.models.generate import choice_logs, elicit, reply_losses
from circuits.models.tokens import encode
from circuits.names import EMOTIONS
from circuits.neurons.mask import donor_values
from circuits.neurons.profile import label_attribution, profile_texts
from circuits.patching.attribution import attribute
from circuits.patching.pairs import LogitDifference, make_pairs
from circuits.patching.patch import patch_components, patch_sites
from circuits.patching.paths import exact_paths, path_effects
from circuits.patching.totals import total_estimates
from circuits.prompts.prompt import EMOTION_REQUEST, LabelledText, Texts
from circuits.prompts.templates import emotion_prompts, neutral_prompts
from circuits.steering.interventions import residuals

READOUT = LogitDifference(torch.tensor([5, 9]), torch.tensor([100, 200]))


@pytest.fixture(scope="module")
def given(make_llama, tokenizer, contexts) -> SimpleNamespace:
    """What is measured while the model is well, and the model in which one word is not."""
    model = make_llama(tokenizer, n_layers=2)
    contexts = contexts[::3]
    replies = [Reply(p, "Fine.", 2, p.emotion or "") for p in emotion_prompts(contexts)]
    grid = group_by_context(replies, EMOTIONS)
    directions = emotion_directions(read_activations(model, grid))
    importance, _ = sublayer_importance(
        model, grid, directions, stable=(1,), doses=(0.1,), n_random=2
    )
    pairs = make_pairs(model, contexts, "anger", "fear")
    words = ("They shouted at the door.", "She hid.", "He wept by the river, late.")
    rows = [LabelledText(f"{word} {own}", own) for own in ("anger", "fear") for word in words]
    texts = Texts("train", ("anger", "fear"), tuple(rows))
    ids = [set(encode(model, prompt)) for prompt in neutral_prompts(contexts)]
    bad = min(
        ids[1]
        - ids[0]
        - ids[2]
        - ids[3]
        - set().union(*(model.tokenizer(row.text)["input_ids"] for row in texts.rows))
    )
    river = tokenizer(" river", add_special_tokens=False)["input_ids"]
    weights = model.original_model.get_input_embeddings().weight.data
    weights[bad] = torch.nan
    weights[river] = torch.inf
    return SimpleNamespace(
        model=model,
        contexts=contexts,
        grid=grid,
        directions=directions,
        importance=importance,
        pairs=pairs,
        texts=texts,
        bad=contexts[1],
    )


def plainly(given: Any) -> list[Any]:
    return neutral_prompts(given.contexts)


WORK: dict[str, Callable[[Any], Any]] = {
    "replies": lambda g: elicit(g.model, plainly(g), max_new_tokens=3),
    "likelihoods of labels": lambda g: choice_logs(g.model, plainly(g), ["Oh", "No"]),
    "likelihoods of replies": lambda g: reply_losses(g.model, plainly(g), ["Fine."] * 4),
    "activations of donors": lambda g: donor_values(
        g.model, plainly(g), torch.ones(2, 48, dtype=torch.bool)
    ),
    "residual streams": lambda g: residuals(g.model, g.contexts, ("anger",)),
    "a model's own differences": lambda g: own_differences(g.model, g.contexts, ("anger",)),
    "the sweep": lambda g: read_activations(g.model, g.grid),
    "injections": lambda g: sublayer_importance(
        g.model, g.grid, g.directions, stable=(1,), doses=(0.1,)
    ),
    "attribution": lambda g: attribute(g.pairs, READOUT, sample=2),
    "patched sites": lambda g: patch_sites(g.pairs, READOUT),
    "patched parts": lambda g: patch_components(g.pairs, READOUT, ["L0H1"]),
    "paths": lambda g: path_effects(g.pairs, READOUT),
    "exact paths": lambda g: exact_paths(g.pairs, READOUT, [("L0H1", "readout")]),
    "total effects": lambda g: total_estimates(g.model, g.contexts, g.importance, (3, 9)),
}


@pytest.mark.trial("faults", "a prompt makes NaN in: {what}")
@pytest.mark.parametrize("what", WORK)
def test_nan_of_one_prompt_is_named_with_place_and_prompt(given, trial, what):
    with pytest.raises(ModelError, match="holds NaN or infinity") as caught:
        WORK[what](given)
    said = str(caught.value)
    context = given.bad
    named = any(word in said for word in (context.id, f"{context.scenario}__{context.valence}__"))
    assert named or context.event[-30:] in said, said
    for other in given.contexts:
        if other is not context:
            assert other.id not in said
            assert f"{other.scenario}__{other.valence}__" not in said
            assert other.event[-30:] not in said
    assert "(blocks." in said, said
    trial(outcome="ModelError with layer, hook and the prompt")


@pytest.mark.trial("faults", "a text makes infinity in: {what}")
@pytest.mark.parametrize("what", ["the profile of texts", "attribution of labels"])
def test_infinity_of_one_text_is_named_with_place_and_text(given, trial, what):
    work = {"the profile of texts": profile_texts, "attribution of labels": label_attribution}[what]
    with pytest.raises(ModelError, match=r"\(blocks\..*river, late") as caught:
        work(given.model, given.texts, EMOTION_REQUEST)
    assert "She hid" not in str(caught.value)
    trial(outcome="ModelError with layer, hook and the text")


@pytest.mark.trial("faults", "one weight of the {part} of layer {layer} is not finite")
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("part", ["attention", "MLP"])
def test_a_weight_that_is_not_finite_is_traced_to_its_layer(
    make_llama, tokenizer, contexts, trial, part, layer
):
    model = make_llama(tokenizer, n_layers=2)
    own = model.original_model.model.layers[layer]
    weights = own.self_attn.o_proj if part == "attention" else own.mlp.down_proj
    place = "attn_out" if part == "attention" else "mlp_out"
    for name, parameter in weights.named_parameters():
        if name.endswith("weight"):
            parameter.data[3, 4] = torch.inf
    prompts = neutral_prompts(contexts[:2])
    for work in (
        lambda: elicit(model, prompts, max_new_tokens=2),
        lambda: reply_losses(model, prompts, ["Fine."] * 2),
    ):
        with pytest.raises(ModelError, match=rf"^{place} of layer {layer} \(blocks\.{layer}\."):
            work()
    trial(times=2, outcome="ModelError with layer and hook")


@pytest.mark.trial("numbers", "float16 overflows")
def test_infinity_in_float16_says_which_number_types_have_room(
    make_llama, tokenizer, contexts, trial
):
    model = make_llama(tokenizer, n_layers=2)
    for parameter in model.original_model.parameters():
        parameter.data = (parameter.data * 3e3).to(torch.float16)
    with pytest.raises(ModelError, match="load the model in float32 or bfloat16$"):
        elicit(model, neutral_prompts(contexts[:2]), max_new_tokens=2)
    trial(outcome="ModelError that names the number types with room")

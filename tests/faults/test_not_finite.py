"""NaN and infinity are named with the layer, the hook and the prompt that they are in."""

from types import SimpleNamespace

import pytest
import torch
from faults.work import WORK, what_it_needs

from circuits.errors import ModelError
from circuits.models.generate import elicit, reply_losses
from circuits.models.tokens import encode
from circuits.prompts.templates import neutral_prompts

OF_TEXTS = ("attribution of labels", "the profile of texts")
OF_PROMPTS = sorted(
    {*WORK}
    - {*OF_TEXTS, "replies under edits of their own", "circuits", "added to sets", "patched heads"}
    - {"the scale of traces"}
)


@pytest.fixture(scope="module")
def given(make_llama, tokenizer, contexts) -> SimpleNamespace:
    """What is measured while the model is well, and the model in which two words are not."""
    model, contexts = make_llama(tokenizer, n_layers=2), contexts[::3]
    found = what_it_needs(model, contexts)
    ids = [{*encode(model, prompt)} for prompt in found.plain]
    said = {own for row in found.texts.rows for own in tokenizer(row.text)["input_ids"]}
    river = tokenizer(" river", add_special_tokens=False)["input_ids"]
    weights = model.original_model.get_input_embeddings().weight.data
    weights[min(ids[1] - ids[0] - ids[2] - ids[3] - said)] = torch.nan
    weights[river] = torch.inf
    return found


@pytest.mark.trial("faults", "a prompt makes NaN in: {what}")
@pytest.mark.parametrize("what", OF_PROMPTS)
def test_nan_of_one_prompt_is_named_with_place_and_prompt(given, trial, what):
    with pytest.raises(ModelError, match="holds NaN or infinity") as caught:
        WORK[what](given)
    said = str(caught.value)
    for place, own in enumerate(given.contexts):
        names = (own.id, f"{own.scenario}__{own.valence}__", own.event[-30:])
        assert any(name in said for name in names) is (place == 1), said
    assert "(blocks." in said, said
    trial(outcome="ModelError with layer, hook and the prompt")


@pytest.mark.trial("faults", "a text makes infinity in: {what}")
@pytest.mark.parametrize("what", OF_TEXTS)
def test_infinity_of_one_text_is_named_with_place_and_text(given, trial, what):
    with pytest.raises(ModelError, match=r"\(blocks\..*river, late") as caught:
        WORK[what](given)
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

"""What a control vector holds of edits, by the convention of llama.cpp, and what it does not."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from circuits.errors import CircuitError, ModelError
from circuits.files import shipped
from circuits.models.edits import Add, Replace, edited
from circuits.models.run import run
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import neutral_prompt
from circuits.steering.control_vectors import MEANINGS, control_vector, write_gguf
from circuits.steering.interventions import Steering, steer

gguf = pytest.importorskip("gguf")


def vector_of(model, edits, **options):
    return control_vector(model, edits, "fear", **options)


def as_llama_cpp_does(hf, path, ids):
    """Logits of a Hugging Face model to which a file's directions are added as in llama.cpp.

    One flat buffer that begins with layer 1, read for every layer but 0, added to the layer's
    output at every position.
    """
    tensors = {t.name: torch.tensor(t.data.copy()) for t in gguf.GGUFReader(path).tensors}
    width, n_layers = hf.config.hidden_size, hf.config.num_hidden_layers
    buffer = torch.zeros(width * (n_layers - 1))
    for name, values in tensors.items():
        layer = int(name.split(".")[1])
        assert layer > 0
        buffer[width * (layer - 1) : width * layer] += values
    handles = [
        hf.model.layers[il].register_forward_hook(
            lambda module, inputs, output, il=il: output + buffer[width * (il - 1) : width * il]
        )
        for il in range(1, n_layers)
    ]
    with torch.no_grad():
        logits = hf(ids).logits
    for handle in handles:
        handle.remove()
    return logits


def test_llama_cpp_adds_the_vector_where_our_edits_of_resid_post_are(
    mini, mini_directions, contexts, tmp_path
):
    edits = steer(mini_directions, "fear", Steering((1, 3, 5)))
    vector, _ = vector_of(mini, edits)
    write_gguf(vector, tmp_path / "fear.gguf")
    tokens = pad_left([encode(mini, neutral_prompt(contexts[0]))], torch.device("cpu"))
    everywhere = [replace(edit, positions="all", when="every") for edit in edits]
    with torch.no_grad(), edited(mini, everywhere):
        ours = run(mini, tokens)
    hf = AutoModelForCausalLM.from_pretrained(shipped("sev-mini"), dtype=torch.float32)
    theirs = as_llama_cpp_does(hf, tmp_path / "fear.gguf", tokens.ids)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)
    with torch.no_grad(), edited(mini, vector.edits()):
        torch.testing.assert_close(run(mini, tokens), ours, atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        assert float((ours - run(mini, tokens)).abs().max()) > 1.0


def test_a_direction_at_strength_one_is_as_long_as_the_models_own_difference(llama, directions):
    vector, _ = vector_of(llama, steer(directions, "fear", Steering((2,))))
    e = directions.index("emotion", "fear")
    expected = directions.norm[e, 1, 2]
    torch.testing.assert_close(vector.sel(layer=2).vectors.norm(), expected)
    assert not vector.sel(layer=1).vectors.any()
    assert [edit.layer for edit in vector.edits()] == [2]
    torch.testing.assert_close(vector.edits(0.5)[0].value, 0.5 * vector.vectors[1])


@pytest.mark.parametrize(("layer", "becomes"), [(0, 1), (1, 1), (2, 2)])
def test_a_layer_keeps_its_number_and_layer_0_is_added_after_layer_1(llama, layer, becomes):
    value = torch.randn(llama.cfg.d_model)
    edit = Add("resid_post", layer, value, "all", "every")
    vector, losses = vector_of(llama, [edit])
    assert vector.layer == (1, 2)
    assert [found.layer for found in vector.edits()] == [becomes]
    assert torch.equal(vector.edits()[0].value, value)
    assert [loss.what for loss in losses] == (["layer 0"] if layer == 0 else [])


def test_a_circuit_becomes_the_sum_per_layer_of_what_its_parts_write(llama, heads_and_neurons):
    vector, _ = vector_of(llama, heads_and_neurons)
    by_hand = torch.zeros(llama.cfg.n_layers, llama.cfg.d_model)
    W_O, W_out = llama.W_O.detach(), llama.W_out.detach()
    for edit in heads_and_neurons:
        layer = max(edit.layer, 1)
        if edit.site == "z":
            for head in range(llama.cfg.n_heads):
                by_hand[layer] += edit.value[head] @ W_O[edit.layer, head]
        else:
            for neuron in range(llama.cfg.d_mlp):
                by_hand[layer] += edit.value[neuron] * W_out[edit.layer, neuron]
    torch.testing.assert_close(vector.vectors, by_hand[1:], atol=1e-6, rtol=1e-5)


def test_the_losses_of_a_circuit_are_the_shares_that_are_concerned(llama, heads_and_neurons):
    rms = torch.tensor([1.0, 2.0, 4.0])
    vector, losses = vector_of(llama, heads_and_neurons, rms=rms)
    lengths = {}
    for edit in heads_and_neurons:
        weight = (llama.W_O if edit.site == "z" else llama.W_out).detach()[edit.layer]
        for part, value in enumerate(edit.value):
            write = value @ weight[part] if edit.site == "z" else value * weight[part]
            lengths[edit.site, edit.layer, part] = float(write.norm())
    total = sum(lengths.values())
    found = {loss.what: loss.size for loss in losses}
    assert {loss.meaning for loss in losses} == set(MEANINGS.values())
    assert list(found) == ["positions", "layer 0", "inside a layer", "parts"]
    early = sum(length for (_, layer, _), length in lengths.items() if layer == 0)
    attention = sum(length for (site, _, _), length in lengths.items() if site == "z")
    assert found["layer 0"] == pytest.approx(early / total, rel=1e-4)
    assert found["inside a layer"] == pytest.approx(attention / total, rel=1e-4)
    kept = sum(float(row.norm()) for row in vector.vectors)
    assert found["parts"] == pytest.approx(1 - kept / total, rel=1e-4)
    moved = vector.vectors.square().mean(-1).sqrt() / rms[1:]
    assert found["positions"] == pytest.approx(float(moved.max()), rel=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.floats(-3, 3, width=32))
def test_a_control_vector_is_linear_in_the_strength(llama, strength):
    base = torch.linspace(-1, 1, llama.cfg.d_mlp)
    one, _ = vector_of(llama, [Add("post", 1, base)])
    if strength * base.abs().max() == 0:
        return
    many, _ = vector_of(llama, [Add("post", 1, strength * base)])
    torch.testing.assert_close(many.vectors, strength * one.vectors, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Add("resid_post", 1, torch.ones(32), times_rms=True), "multiplies by the running stream"),
        (Replace("post", 1, torch.ones(48), torch.ones(48).bool()), "replaces; a control vector"),
        (Add("q", 1, torch.ones(4, 8)), "the edit of q in layer 1 is not one addition"),
        (Add("resid_mid", 1, torch.ones(32)), "the edit of resid_mid in layer 1 is not one"),
        (Add("post", 1, torch.ones(2, 48)), "each with one value for all rows"),
        (Add("post", 1, torch.zeros(48)), "nothing is written for fear"),
    ],
)
def test_what_no_control_vector_can_hold_is_refused(llama, edit, message):
    with pytest.raises(CircuitError, match=message):
        vector_of(llama, [edit])


def test_a_model_without_the_layer_is_refused(llama, make_llama, tokenizer):
    with pytest.raises(ModelError, match="layer 7; the model has layers 0 to 2"):
        vector_of(llama, [Add("resid_post", 7, torch.ones(32))])
    model = make_llama(tokenizer, n_layers=1)
    with pytest.raises(ModelError, match="begins after layer 1; this model has layer 0 only"):
        vector_of(model, [Add("resid_post", 0, torch.ones(32))])

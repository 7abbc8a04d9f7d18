"""Edits as files of hooks, and the example that applies them with transformers alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from circuits.circuit.circuit import Circuit, Node
from circuits.errors import AxisError, CircuitError, DataError, ModelError
from circuits.files import shipped
from circuits.models.edits import Add, Replace
from circuits.models.generate import elicit
from circuits.names import head_name, neuron_name
from circuits.prompts.templates import neutral_prompt
from circuits.steering.hook_files import FORMAT, module_of, read_hooks, write_hooks
from circuits.steering.interventions import Modulation, Steering, circuit_edits, steer

EXAMPLE = Path(__file__).parents[2] / "docs" / "how-to" / "apply_with_transformers.py"
# The example in a process that has neither this package nor TransformerLens.
ALONE = """
import json, runpy, sys
sys.modules.update(dict.fromkeys(["circuits", "transformer_lens"]))
example, *runs = json.load(sys.stdin)
for words in runs:
    sys.argv = [example, *words]
    runpy.run_path(example, run_name="__main__")
    print("==")
"""


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["hooks"])


def strongest(differences, emotion):
    """Three heads and forty neurons that differ most when the emotion is asked for."""
    e = differences.index("emotion", emotion)
    heads = differences.z[e].norm(dim=-1)
    neurons = differences.post[e].abs()

    def largest(table, count):
        places = table.flatten().topk(count).indices.sort().values.tolist()
        return [divmod(place, table.shape[1]) for place in places]

    nodes = [Node(head_name(*place), "head", place[0]) for place in largest(heads, 3)]
    nodes += [Node(neuron_name(*place), "neuron", place[0]) for place in largest(neurons, 40)]
    return Circuit(emotion, tuple(nodes), ())


def test_the_example_says_with_transformers_alone_what_the_modulated_model_says(
    mini, mini_differences, mini_directions, contexts, tmp_path
):
    every = {
        "circuit": lambda e: circuit_edits(
            strongest(mini_differences, e), mini_differences, Modulation(2.0)
        ),
        "direction": lambda e: steer(mini_directions, e, Steering((1,), 2.0)),
        "often": lambda e: steer(mini_directions, e, Steering((1, 3), 0.3, "every")),
        "all": lambda e: circuit_edits(
            strongest(mini_differences, e), mini_differences, Modulation(0.5, heads_at="all")
        ),
    }
    prompts = [neutral_prompt(context) for context in contexts[:3]]
    runs, expected = [], []
    for name, emotion in (
        ("circuit", "fear"), ("circuit", "happiness"), ("direction", "disgust"),
        ("often", "surprise"), ("all", "sadness"),
    ):  # fmt: skip
        edits, path = every[name](emotion), tmp_path / f"{emotion}.safetensors"
        write_hooks(mini, edits, emotion, path)
        said = elicit(mini, prompts, edits=lambda rows, edits=edits: edits)
        expected += [*(reply.text for reply in said), "=="]
        runs.append([str(shipped("sev-mini")), str(path), "1.0", *(p.user for p in prompts)])
    # The strength is taken, and at zero nothing changes.
    path = tmp_path / "x.safetensors"
    write_hooks(mini, steer(mini_directions, "anger", Steering((2,))), "anger", path)
    for strength in ("0", "1.5"):
        half = steer(mini_directions, "anger", Steering((2,), 1.5))
        edits = half if strength == "1.5" else []
        said = elicit(mini, prompts[:1], edits=lambda rows, edits=edits: edits)
        expected += [said[0].text, "=="]
        runs.append([str(shipped("sev-mini")), str(path), strength, prompts[0].user])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE], cwd=tmp_path, text=True, check=False,
        input=json.dumps([str(EXAMPLE), *runs]), capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == expected
    untouched = {reply.text for reply in elicit(mini, prompts)}
    assert sum(text in untouched for text in expected) <= 3


def test_a_file_names_modules_components_and_positions(llama, heads_and_neurons, tmp_path):
    path = tmp_path / "x.safetensors"
    extra = Add("resid_post", 1, torch.ones(32), "all", "every")
    write_hooks(llama, [*heads_and_neurons, extra], "fear", path)
    found = metadata(path)
    assert (found["format"], found["emotion"]) == (FORMAT, "fear")
    assert found["system"] == "Keep the reply to at most two sentences."
    keys = ("module", "side", "components", "positions", "calls")
    assert [tuple(edit[key] for key in keys) for edit in found["edits"]] == [
        ("model.layers.0.self_attn.o_proj", "input", ["L0H1"], "last", "first"),
        ("model.layers.2.self_attn.o_proj", "input", ["L2H0", "L2H3"], "last", "first"),
        ("model.layers.0.mlp.down_proj", "input", ["L0N5"], "last", "first"),
        ("model.layers.1.mlp.down_proj", "input", ["L1N7", "L1N8", "L1N30"], "last", "first"),
        ("model.layers.1", "output", [], "all", "every"),
    ]
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("0.index").tolist() == list(range(8, 16))
        assert torch.equal(file.get_tensor("0.value"), heads_and_neurons[0].value[1])
        assert file.get_tensor("3.index").tolist() == [7, 8, 30]


SITES = {"z": (4, 8), "post": (48,), "attn_out": (32,), "mlp_out": (32,), "resid_post": (32,)}


@st.composite
def additions(draw):
    site = draw(st.sampled_from(sorted(SITES)))
    values = torch.zeros(SITES[site]).flatten()
    for place in draw(st.sets(st.integers(0, len(values) - 1), max_size=5)):
        values[place] = draw(st.floats(allow_nan=False, width=32))
    return Add(
        site, draw(st.integers(0, 2)), values.reshape(SITES[site]),
        draw(st.sampled_from(["last", "all"])), draw(st.sampled_from(["prompt", "every"])),
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.lists(additions(), max_size=4))
def test_what_is_written_is_read_to_the_last_bit(llama, tmp_path_factory, edits):
    path = tmp_path_factory.mktemp("hooks") / "x.safetensors"
    write_hooks(llama, edits, "fear", path)
    emotion, read = read_hooks(path, llama)
    assert emotion == "fear"
    assert len(read) == len(edits)
    for one, other in zip(edits, read, strict=True):
        assert torch.equal(one.value, other.value)
        for name in ("site", "layer", "positions", "when"):
            assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize(
    "edit",
    [
        Add("resid_post", 1, torch.ones(32), times_rms=True),
        Add("post", 1, torch.ones(2, 48)),
        Add("resid_post", 1, torch.ones(2, 32), "variant"),
        Replace("post", 1, torch.ones(48), torch.ones(48).bool()),
    ],
)
def test_what_a_constant_cannot_say_is_refused(llama, tmp_path, edit):
    with pytest.raises(CircuitError, match="cannot be written: a file of hooks holds additions"):
        write_hooks(llama, [edit], "fear", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_place_inside_a_module_is_refused(llama, tmp_path):
    with pytest.raises(AxisError, match="'resid_mid' is no input or output"):
        write_hooks(llama, [Add("resid_mid", 1, torch.ones(32))], "fear", tmp_path)


class WithoutAdapter:
    """What a model has to have, and nothing of a bridge."""

    cfg = tokenizer = W_O = W_out = None

    def parameters(self):
        raise NotImplementedError

    hooks = __call__ = parameters


def test_a_model_whose_modules_are_not_known_is_refused():
    model: Any = WithoutAdapter()
    with pytest.raises(ModelError, match=r"load it with circuits\.load_model"):
        module_of(model, "z", 0)


def test_the_modules_of_every_place_are_those_that_hugging_face_has(mini):
    from transformers import AutoModelForCausalLM

    plainly = AutoModelForCausalLM.from_pretrained(shipped("sev-mini"))
    for site in SITES:
        name, _ = module_of(mini, site, 5)
        assert plainly.get_submodule(name)


def test_another_models_file_is_refused(llama, mini, heads_and_neurons, tmp_path):
    path = tmp_path / "x.safetensors"
    write_hooks(llama, heads_and_neurons, "fear", path)
    with pytest.raises(ModelError, match=r"made for a model of .*'n_layers': 3.*another model's"):
        read_hooks(path, mini)


def test_what_is_no_file_of_hooks_is_refused(llama, heads_and_neurons, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match="is no file of hooks"):
        read_hooks(path, llama)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(DataError, match=f"holds no hooks of the form {FORMAT}"):
        read_hooks(path, llama)
    write_hooks(llama, heads_and_neurons, "fear", path)
    whole, found = path.read_bytes(), metadata(path)
    path.write_bytes(whole[:-9])
    with pytest.raises(DataError, match="or it is damaged"):
        read_hooks(path, llama)
    for change in ({"shape": 3}, {"edits": [{"site": "z"}]}, {"edits": found["edits"] * 2}):
        save_file({"0.index": torch.tensor([99]), "0.value": torch.ones(1)}, path,
                  {"hooks": json.dumps({**found, **change})})  # fmt: skip
        with pytest.raises(DataError, match="or it is damaged|was changed after it was written"):
            read_hooks(path, llama)

"""Models spread over devices; on a CPU every map puts all on one device."""

from dataclasses import replace

import pytest
import torch

from circuits.errors import ModelError, RunError
from circuits.models.edits import Add, edited
from circuits.models.generate import elicit
from circuits.models.load import load_model, loaded_as
from circuits.models.protocol import device_of
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import emotion_prompts, neutral_prompts


def read(model, contexts):
    rows = [encode(model, prompt) for prompt in neutral_prompts(contexts[:4])]
    return capture(model, pad_left(rows, device_of(model)), {"resid_post": lambda x: x[:, -1]})


@pytest.mark.parametrize("device_map", ["auto", "balanced"])
def test_a_mapped_model_gives_the_same_numbers(mini, contexts, device_map):
    mapped = load_model("sev-mini", device_map=device_map)
    if device_of(mapped).type == "cpu":
        assert torch.equal(read(mapped, contexts)["resid_post"], read(mini, contexts)["resid_post"])
    prompts = emotion_prompts(contexts[:1])
    own, plainly = (elicit(model, prompts, max_new_tokens=12) for model in (mapped, mini))
    assert [reply.text for reply in own] == [reply.text for reply in plainly]
    loaded = loaded_as(mapped)
    assert loaded is not None
    assert (loaded["device_map"], loaded["device"]) == (device_map, None)


@pytest.mark.gpu
def test_a_model_split_over_gpus_gives_the_same_numbers(contexts):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    mapped, whole = load_model("sev-mini", device_map="balanced"), load_model("sev-mini")
    assert len({weight.device for weight in mapped.parameters()}) > 1
    torch.testing.assert_close(
        read(mapped, contexts)["resid_post"].cpu(), read(whole, contexts)["resid_post"].cpu()
    )
    push = Add("resid_post", mapped.cfg.n_layers - 1, torch.ones(mapped.cfg.d_model))
    with edited(mapped, [push]), edited(whole, [push]):
        torch.testing.assert_close(
            read(mapped, contexts)["resid_post"].cpu(), read(whole, contexts)["resid_post"].cpu()
        )
    prompts = emotion_prompts(contexts[:1])
    own, plainly = (elicit(model, prompts, max_new_tokens=12) for model in (mapped, whole))
    assert [reply.text for reply in own] == [reply.text for reply in plainly]


def test_weights_that_would_stay_on_disk_are_refused(monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge

    partly = torch.nn.ParameterList([torch.empty(2), torch.empty(3, 4, device="meta")])
    monkeypatch.setattr(TransformerBridge, "boot_transformers", lambda *_, **options: partly)
    with pytest.raises(ModelError, match="^12 weights of the model do not fit into the memory"):
        load_model("sev-mini")


def test_a_plan_with_a_device_and_a_map_is_refused(tmp_path):
    from circuits.files import shipped
    from circuits.runs import Plan

    plan = Plan(
        model="sev-mini", data=shipped("sev/train.jsonl"), test=shipped("sev/test.jsonl"),
        out=tmp_path / "run", device_map="auto",
    )  # fmt: skip
    with pytest.raises(RunError, match="^--device-map: goes without --device"):
        replace(plan, device="cpu")

"""Quirks of how circuits are written, replied under and judged, and of the files in between."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import torch

from circuits.assets import shipped
from circuits.control.compare import METHODS, Bench, Tools
from circuits.control.modulation import Modulation, Where, enhance, published_steering, steer
from circuits.data import sev
from circuits.data.judges.http import HttpJudge
from circuits.data.judges.protocol import Verdict
from circuits.data.prompts import asked_prompts, plain, plain_prompts
from circuits.data.replies import Judged, Reply, read_judged, read_methods, write_rows
from circuits.errors import DataError
from circuits.files import write_json_lines
from circuits.graph.circuit import Circuit, Node
from circuits.measure.expression import accuracy_stats
from circuits.measure.means import component_means, differences
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.decoding import Decoding, chooser
from circuits.model.edits import Add, edited
from circuits.model.generation import elicit
from circuits.model.runs import capture
from circuits.pipeline import PRESETS, Plan
from circuits.pipeline.run import Silent
from circuits.pipeline.work import Run
from circuits.published.codecs import read_folder

ROOT = Path(__file__).parents[2]
CIRCUIT = Circuit("fear", (Node("L0H1", "head", 0), Node("L1N7", "neuron", 1)), ())


@pytest.fixture(scope="module")
def apart(swept, provenance):
    return differences(component_means(swept, provenance))


@pytest.fixture
def published(tmp_path):
    data, out = shipped("sev/train.jsonl"), tmp_path / "run"
    plan = Plan(model="sev-mini", data=data, test=data, out=out, judge="http:http://127.0.0.1:9")
    return replace(plan, **PRESETS["published"])


def as_study(**found: Any) -> Any:
    return SimpleNamespace(**found)


def at_positions(model, contexts, edits, site):
    tokens = pad_left([encode_prompt(model, plain(contexts[0]))], torch.device("cpu"))
    with edited(model, edits):
        return capture(model, tokens, {site: lambda activation: activation[0]})[site]


def test_file_names_disagree(tmp_path):
    import numpy as np

    folder = "05_emotion_diff_vector_computation/attention_emotion_diff/emo_diff/anger"
    (tmp_path / folder).mkdir(parents=True)
    for layer in range(2):
        np.save(tmp_path / folder / f"layer{layer}.npy", np.ones(8, "f4"))
    assert read_folder(tmp_path).misnamed == (folder,)
    for layer in range(2):
        own = tmp_path / folder / f"layer{layer}.npy"
        own.rename(own.with_name(f"L{layer}.npy"))
    assert read_folder(tmp_path).misnamed == ()
    (tmp_path / folder / "L0.npy").unlink()
    with pytest.raises(DataError, match="expected one file for each layer"):
        read_folder(tmp_path)


def test_heads_at_all_positions(llama, contexts, apart):
    untouched = at_positions(llama, contexts, [], "z")[:, 0]
    cases: tuple[tuple[Where, int], ...] = (("all", len(untouched)), ("last", 1))
    for where, written in cases:
        heads, neurons = enhance(CIRCUIT, apart, Modulation(heads_at=where))
        assert (heads.positions, neurons.positions) == (where, "last")
        changed = at_positions(llama, contexts, [heads], "z")[:, 0] - untouched
        assert int(changed.flatten(1).any(1).sum()) == written


def test_gentler_anger(apart):
    how = Modulation(1.0, by_emotion=(("anger", 0.8),))
    for emotion, strength in (("anger", 0.8), ("fear", 1.0)):
        head, _ = enhance(replace(CIRCUIT, emotion=emotion), apart, how)
        own = apart.z[apart.index("emotion", emotion), 0, 1]
        torch.testing.assert_close(head.value[1], strength * own)


def test_penalties_over_the_prompt():
    """The end token is a little more likely than another one, and stands in the prompt."""
    end, other = 1, 2
    logits = torch.tensor([[0.0, 5.0, 4.8, 0.0]])
    nothing = torch.zeros(1, 0, dtype=torch.long)

    def chosen(decoding):
        return int(chooser(decoding, [[0, end]], [end], torch.device("cpu"))(logits, nothing))

    assert chosen(Decoding()) == end
    assert chosen(Decoding(1.1)) == other


def test_methods_reply_differently(published, monkeypatch, contexts):
    loaded = []

    def load(name, *, dtype, **options):
        loaded.append(dtype)
        return dtype

    monkeypatch.setattr("circuits.pipeline.work.load_model", load)
    ways = Run(published, as_study(), Silent()).bench(contexts).ways
    found = {name: (way.model, way.decoding) for name, way in ways.items()}
    assert found == {
        "none": ("float16", Decoding(1.1, 3, 10)),
        "prompt": (None, Decoding(1.0, 0, 0)),
        "steer": (None, Decoding(1.05, 3, 10)),
        "circuit": ("float16", Decoding(1.1, 3, 10)),
    }
    assert sorted(loaded) == ["float16", "float32"]
    ours = replace(published, decoding="identical", circuit_dtype=None)
    ways = Run(ours, as_study(), Silent()).bench(contexts).ways
    assert {(way.model, way.decoding) for way in ways.values()} == {
        (None, Decoding()), ("float32", Decoding())
    }  # fmt: skip


def test_a_bench_replies_by_the_way_of_each_method(mini, llama, contexts, monkeypatch):
    asked = []

    def record(model, prompts, *, decoding, **options):
        asked.append((model, decoding, prompts[0].indented))
        return [Reply(p, "Fine.", 1, p.emotion or "fear") for p in prompts]

    monkeypatch.setattr("circuits.control.compare.elicit", record)
    published = Run.__new__(Run)
    published.plan = SimpleNamespace(  # type: ignore[assignment]
        judge="lexicon", judge_profile="robust", decoding="published", steering="published"
    )
    published.__dict__["circuit_model"] = llama
    ways = {method: published._way(method) for method in METHODS}
    judge: Any = SimpleNamespace(judge=lambda texts, _: [Verdict(False, None, "")] * len(texts))
    bench = Bench(mini, judge, contexts[:1], ("anger", "fear"), ways=ways)
    bench.untouched(None)
    bench.prompted(None)
    bench.changed("steer", [], None)
    bench.changed("random_circuit", [], None)
    assert asked == [
        (llama, Decoding(1.1, 3, 10), False), (mini, Decoding(), False),
        (mini, Decoding(1.05, 3, 10), True), (llama, Decoding(1.1, 3, 10), False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (200, '```json\n{"match": 1, "reason": "x"}\n```', "no JSON with match"),
        (500, "", "status 500"),
        (200, '{"match": 1, "reason": "x"}', "x"),
    ],
)
def test_fragile_judge(monkeypatch, status, answer, reason):
    asked = []

    def respond(request):
        asked.append(json.loads(request.content))
        body = {"choices": [{"message": {"content": answer}}]}
        return httpx2.Response(status if len(asked) == 1 else 200, json=body if answer else {})

    client = httpx2.Client(transport=httpx2.MockTransport(respond))
    monkeypatch.setattr("circuits.data.judges.http_calls.open_client", lambda *_: client)
    judge = HttpJudge(base_url="http://judge/v1", profile="released", workers=1)
    (verdict,) = judge.judge(["How dare you!"], ["anger"])
    assert verdict.match == (reason == "x")
    assert reason in verdict.reason
    assert [(own["temperature"], own["max_tokens"]) for own in asked] == [(0.1, 200)]


def test_only_what_the_circuit_stage_replies_has_the_fragile_judge(published, monkeypatch):
    monkeypatch.setattr("circuits.pipeline.work.load_model", lambda *_, **options: "model")
    ways = Run(published, as_study(), Silent()).bench(()).ways
    profiles = {name: way.judge and way.judge.describe()["profile"] for name, way in ways.items()}
    assert profiles == {"none": "released", "prompt": None, "steer": None, "circuit": "released"}


def test_accepted_only(published, contexts):
    replies = [Reply(p, "Fine.", 1, p.emotion or "") for p in asked_prompts(contexts[:2])]
    accepted = [Judged(reply, Verdict(True, None, "")) for reply in replies[1:]]
    folder = published.out
    write_rows(folder / "elicitation" / "generated.jsonl", replies)
    study = as_study(folder=folder, accepted=accepted)
    cells = {
        samples: len(Run(replace(published, samples=samples), study, Silent()).grid.cells)
        for samples in ("accepted", "all")
    }
    assert cells == {"accepted": len(replies) - 1, "all": len(replies)}
    assert published.samples == "accepted"


def test_dict_in_the_prompt(tmp_path):
    events: Any = {"positive": "a", "neutral": "b", "negative": "c"}
    with pytest.raises(DataError, match="expected one event as a text, found dict"):
        sev.Context("work_00", "work", "positive", "Monday.", events)
    row = {"theme": "work", "scenario": "Monday.", "skeleton_id": "work_00"}
    write_json_lines(tmp_path / "x.jsonl", [{**row, "event": {**events, "neutral": events}}])
    with pytest.raises(DataError, match=r"'event\.neutral': expected a text, found dict"):
        sev.read(tmp_path / "x.jsonl")


def test_label_keys_disagree(tmp_path, contexts):
    """Judged replies of every method are written, read and counted by the same names."""
    prompts = plain_prompts(contexts)
    rows = [Judged(Reply(p, "No!", 1, "anger"), Verdict(True, "anger", "")) for p in prompts]
    write_json_lines(
        tmp_path / "all.jsonl", ({"method": m, **r.to_json()} for m in METHODS for r in rows)
    )
    found = read_methods(tmp_path / "all.jsonl")
    assert list(found) == list(METHODS)
    for judged in found.values():
        assert accuracy_stats(judged, "test")["overall"]["accepted"] == len(prompts)


def test_option_that_is_not_there():
    from typer.main import get_command

    from circuits.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.md")))
    lines = re.findall(r"emotion-circuits ([a-z-]+)([^`\n]*)", pages)
    used = [(name, option) for name, rest in lines for option in re.findall(r"--[a-z-]+", rest)]
    assert ("run", "--preset") in used
    for name, option in used:
        assert option in {word for own in commands[name].params for word in own.opts}, name


def test_hooks_leak(llama, contexts, tmp_path):
    prompts = plain_prompts(contexts[:2])
    before = [reply.text for reply in elicit(llama, prompts, max_new_tokens=4)]

    def fails(chosen):
        # Wrong width: the edit breaks while the prompt is read.
        return [Add("resid_post", 0, torch.ones(3), positions="all")]

    with pytest.raises(RuntimeError):
        elicit(llama, prompts, edits=fails, max_new_tokens=4)
    assert [reply.text for reply in elicit(llama, prompts, max_new_tokens=4)] == before
    rows = [Judged(Reply(prompts[0], "x", 1, "fear"), Verdict(True, None, ""))]
    for _ in range(2):
        write_rows(tmp_path / "accepted.jsonl", rows)
    assert len(read_judged(tmp_path / "accepted.jsonl")) == 1


def test_login_in_the_script():
    for path in (ROOT / "circuits").rglob("*.py"):
        called = [
            getattr(node.func, "attr", getattr(node.func, "id", ""))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        assert not {"login", "notebook_login", "interpreter_login"} & set(called), path


def test_relative_to_the_emotions(swept, provenance, apart):
    means = component_means(swept, provenance)
    torch.testing.assert_close(apart.z, means.z - means.z.mean(0))
    assert apart.z.mean(0).abs().max() < 1e-5 < means.z.mean(0).abs().max()


def test_written_at_every_step(apart):
    assert {edit.when for edit in enhance(CIRCUIT, apart, Modulation(when="every"))} == {"every"}
    assert {edit.when for edit in enhance(CIRCUIT, apart, Modulation())} == {"prompt"}


def test_steering_by_the_running_rms(llama, contexts, directions):
    how = published_steering(28)
    assert (how.layers, how.strength, how.when) == (tuple(range(11, 21)), 8.0, "every")
    (edit,) = steer(directions, "fear", replace(how, layers=(1,)))
    stream = at_positions(llama, contexts, [], "resid_post")[:, 1]
    moved = at_positions(llama, contexts, [edit], "resid_post")[:, 1] - stream
    rms = stream[-1].square().mean().add(1e-12).sqrt()
    expected = 8 * rms * directions.vectors[directions.index("emotion", "fear"), 1, 1]
    torch.testing.assert_close(moved[-1], expected, atol=1e-4, rtol=1e-4)
    assert not bool(moved[:-1].any())


def test_tools_are_what_is_written(apart, directions):
    (edits,) = Tools({"fear": CIRCUIT}, apart, directions).modulate(Modulation(heads_at="all"))
    assert [edit.positions for edit in edits] == ["all", "last"]

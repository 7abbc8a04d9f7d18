"""Quirks of how circuits are written, replied under and judged."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import torch

from circuits.circuit.circuit import Circuit, Node
from circuits.circuit.find import Budget
from circuits.effects.activations import component_means, differences
from circuits.files import shipped
from circuits.judges.http import HttpJudge
from circuits.judges.judge import Verdict
from circuits.judges.replies import Judged, Reply, read_judged, write_rows
from circuits.models.edits import Add, edited
from circuits.models.generate import Decoding, chooser, elicit
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import emotion_prompts, neutral_prompt, neutral_prompts
from circuits.running import Reporter
from circuits.runs import PRESETS, Plan
from circuits.runs.work import Run
from circuits.steering.evaluate import Evaluator
from circuits.steering.interventions import (
    Interventions,
    Modulation,
    Where,
    circuit_edits,
    published_steering,
    steer,
)

CIRCUIT = Circuit("fear", (Node("L0H1", "head", 0), Node("L1N7", "neuron", 1)), ())


@pytest.fixture(scope="module")
def apart(swept):
    return differences(component_means(swept))


@pytest.fixture
def published(tmp_path):
    data, out = shipped("sev/train.jsonl"), tmp_path / "run"
    plan = Plan(model="sev-mini", data=data, test=data, out=out, judge="http:http://127.0.0.1:9")
    return replace(plan, **PRESETS["published"])


@pytest.fixture
def by_dtype(mini, llama, monkeypatch):
    """Stand-ins for a model in two number types, and which were loaded."""
    models, loaded = {"float32": mini, "float16": llama}, []

    def load(name, *, dtype, **options):
        loaded.append(dtype)
        return models[dtype]

    monkeypatch.setattr("circuits.runs.work.load_model", load)
    return loaded


def at_work(plan, **found):
    run: Any = Run.__new__(Run)
    run.plan, run.study, run.reporter = plan, SimpleNamespace(**found), Reporter()
    return run


class Deaf:
    """A judge that hears nothing."""

    name = "deaf"

    def judge(self, texts, emotions):
        return [Verdict(False, None, "")] * len(texts)

    def describe(self):
        return {}


def at_positions(model, contexts, edits, site):
    tokens = pad_left([encode(model, neutral_prompt(contexts[0]))], torch.device("cpu"))
    with edited(model, edits):
        return capture(model, tokens, {site: lambda activation: activation[0]})[site]


def test_heads_at_all_positions(llama, contexts, apart):
    untouched = at_positions(llama, contexts, [], "z")[:, 0]
    cases: tuple[tuple[Where, int], ...] = (("all", len(untouched)), ("last", 1))
    for where, written in cases:
        heads, neurons = circuit_edits(CIRCUIT, apart, Modulation(heads_at=where))
        assert (heads.positions, neurons.positions) == (where, "last")
        changed = at_positions(llama, contexts, [heads], "z")[:, 0] - untouched
        assert int(changed.flatten(1).any(1).sum()) == written


def test_gentler_anger(apart):
    how = Modulation(1.0, by_emotion=(("anger", 0.8),))
    for emotion, strength in (("anger", 0.8), ("fear", 1.0)):
        head, _ = circuit_edits(replace(CIRCUIT, emotion=emotion), apart, how)
        own = apart.z[apart.index("emotion", emotion), 0, 1]
        torch.testing.assert_close(head.value[1], strength * own)


def test_smaller_circuits():
    """A tenth of the heads and a fiftieth of the neurons, against twice and more as many."""
    assert PRESETS["published"]["budget"].counts(100, 1000) == (10, 20)
    assert Budget().counts(100, 1000) == (20, 50)


def test_penalties_over_the_prompt():
    """The end token is a little more likely than another one, and stands in the prompt."""
    end, other = 1, 2
    logits = torch.tensor([[0.0, 5.0, 4.8, 0.0]])
    nothing = torch.zeros(1, 0, dtype=torch.long)

    def chosen(decoding):
        return int(chooser(decoding, [[0, end]], [end], torch.device("cpu"))(logits, nothing))

    assert chosen(Decoding()) == end
    assert chosen(Decoding(1.1)) == other


def test_methods_reply_differently(published, by_dtype, mini, llama, contexts, monkeypatch):
    run = at_work(published)
    run.circuit_judge = Deaf()
    ways = run.evaluator(contexts).ways
    found = {name: (way.model, way.decoding) for name, way in ways.items()}
    assert found == {
        "none": (llama, Decoding(1.1, 3, 10)),
        "prompt": (None, Decoding(1.0, 0, 0)),
        "steer": (None, Decoding(1.05, 3, 10)),
        "circuit": (llama, Decoding(1.1, 3, 10)),
    }
    assert sorted(by_dtype) == ["float16", "float32"]
    ours = replace(published, decoding="identical", circuit_dtype=None)
    for way in at_work(ours).evaluator(contexts).ways.values():
        assert way.model in (None, mini)
        assert way.decoding == Decoding()
    asked = []

    def record(model, prompts, *, decoding, **options):
        asked.append((model, decoding, "\n    " in prompts[0].system))
        return [Reply(p, "Fine.", 1, p.emotion or "fear") for p in prompts]

    monkeypatch.setattr("circuits.steering.evaluate.elicit", record)
    evaluator = Evaluator(mini, Deaf(), contexts[:1], ("anger", "fear"), ways=ways)
    evaluator.untouched()
    evaluator.prompted()
    evaluator.changed("steer", [])
    evaluator.changed("random_circuit", [])
    assert asked == [
        (llama, Decoding(1.1, 3, 10), False),
        (mini, Decoding(), False),
        (mini, Decoding(1.05, 3, 10), True),
        (llama, Decoding(1.1, 3, 10), False),
    ]


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

    monkeypatch.setattr("httpx2.HTTPTransport.handle_request", lambda _, request: respond(request))
    judge = HttpJudge(base_url="http://judge/v1", profile="released", workers=1)
    (verdict,) = judge.judge(["How dare you!"], ["anger"])
    assert verdict.match == (reason == "x")
    assert reason in verdict.reason
    assert [(own["temperature"], own["max_tokens"]) for own in asked] == [(0.1, 200)]


def test_only_what_the_circuit_stage_replies_has_the_fragile_judge(published, by_dtype):
    ways = at_work(published).evaluator(()).ways
    profiles = {name: way.judge and way.judge.describe()["profile"] for name, way in ways.items()}
    assert profiles == {"none": "released", "prompt": None, "steer": None, "circuit": "released"}


def test_accepted_only(published, contexts):
    replies = [Reply(p, "Fine.", 1, p.emotion or "") for p in emotion_prompts(contexts[:2])]
    accepted = [Judged(reply, Verdict(True, None, "")) for reply in replies[1:]]
    folder = published.out
    write_rows(folder / "elicitation" / "generated.jsonl", replies)
    found = {"folder": folder, "accepted": accepted}
    cells = {
        samples: len(at_work(replace(published, samples=samples), **found).groups.cells)
        for samples in ("accepted", "all")
    }
    assert cells == {"accepted": len(replies) - 1, "all": len(replies)}
    assert published.samples == "accepted"


def test_hooks_leak(llama, contexts, tmp_path):
    prompts = neutral_prompts(contexts[:2])
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


def test_relative_to_the_emotions(swept, apart):
    means = component_means(swept)
    torch.testing.assert_close(apart.z, means.z - means.z.mean(0))
    assert apart.z.mean(0).abs().max() < 1e-5 < means.z.mean(0).abs().max()


def test_written_at_every_step(apart, directions):
    for when in ("every", "prompt"):
        assert {e.when for e in circuit_edits(CIRCUIT, apart, Modulation(when=when))} == {when}
    tools = Interventions({"fear": CIRCUIT}, apart, directions)
    (edits,) = tools.edits(Modulation(heads_at="all"))
    assert [edit.positions for edit in edits] == ["all", "last"]


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

"""Any number of workers, and one process, give the same records."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import direction_generality, emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.files import shipped
from circuits.judges.replies import Reply
from circuits.models import engines
from circuits.models.engines import on_ray, working_on
from circuits.models.generate import elicit
from circuits.names import EMOTIONS
from circuits.patching.totals import total_estimates
from circuits.prompts.templates import emotion_prompts
from circuits.running import execution
from circuits.runs import Plan, run

CLOSE = 1e-6


class Shuffled:
    """Does the parts here, in another order, and hands results back in a third."""

    def results(self, model, work, parts):
        drawn = random.Random(0)
        found = [(place, work(model, part)) for place, part in enumerate(parts)]
        drawn.shuffle(found)
        return iter(found)


def grid_of(contexts):
    replies = [Reply(p, "Fine.", 2, p.emotion or "") for p in emotion_prompts(contexts)]
    return group_by_context([r for i, r in enumerate(replies) if i != 3], EMOTIONS)


def measured(model, contexts):
    """Records of every kind of sum, and replies."""
    contexts = contexts[::3]
    grid = grid_of(contexts)
    with execution(batch_size=6, memory=1e-4):
        swept = read_activations(model, grid)
    assert swept.stored.startswith("a temporary file")
    directions = emotion_directions(swept)
    heads, general = head_effects(model, swept, directions), direction_generality(swept)
    importance, plain = sublayer_importance(
        model, grid, directions, stable=(1, 2), doses=(0.1,), n_random=2
    )
    totals = total_estimates(model, contexts[:2], importance, (4, 8))
    records = (directions, heads, general, importance, plain, totals)
    found = {
        f"{type(record).__name__}.{name}": getattr(record, name)
        for record in records
        for name in record.axes
    }
    found["neurons"] = swept.post
    with execution(batch_size=4):
        said = elicit(model, emotion_prompts(contexts[:2]), max_new_tokens=12)
    return found, [reply.text for reply in said]


@pytest.fixture(scope="module")
def here(mini, contexts):
    return measured(mini, contexts)


def assert_close(found, expected, to):
    assert set(found) == set(expected)
    for name, own in expected.items():
        torch.testing.assert_close(found[name], own, atol=to, rtol=to, equal_nan=True, msg=name)


def same_bits(one, other):
    return all(
        torch.equal(one[name].nan_to_num(7e7), other[name].nan_to_num(7e7)) for name in one
    ) and set(one) == set(other)


def test_the_order_in_which_parts_are_ready_changes_no_bit(mini, contexts, here):
    with working_on(Shuffled()):
        found, said = measured(mini, contexts)
    assert same_bits(found, here[0])
    assert said == here[1]


def test_the_number_of_shards_changes_nothing_that_counts(mini, contexts, here, monkeypatch):
    monkeypatch.setattr(engines, "SHARDS", 2)
    found, _ = measured(mini, contexts)
    assert_close(found, here[0], 1e-5)


@pytest.mark.trial("workers", "every kind of measurement on {count} Ray workers")
@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_workers_gives_the_numbers_of_one_process(mini, contexts, here, count, trial):
    with on_ray(count):
        found, said = measured(mini, contexts)
    assert said == here[1]
    assert same_bits(found, here[0])
    trial(outcome="byte-equal to one process")


def brief(out):
    return Plan(
        model=str(shipped("sev-mini")), data=shipped("sev/train.jsonl"),
        test=shipped("sev/test.jsonl"), out=out, emotions=EMOTIONS[:3], scenarios=6,
        dev_scenarios=2, test_scenarios=2,
        score_contexts=2, draws=2, methods=("circuit",), tuning="brief",
        sweep_contexts=0, ablation_draws=1, memory=1e-3, max_new_tokens=40,
    )  # fmt: skip


def leaves(value, place=""):
    """The plain values of a JSON value, by their place."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in parts for k, v in leaves(part, f"{place}/{key}").items()}
    return {place: value}


def assert_alike(found, expected, name):
    assert set(found) == set(expected), name
    for place, own in expected.items():
        if isinstance(own, float):
            own = pytest.approx(own, rel=CLOSE, abs=CLOSE, nan_ok=True)
        assert found[place] == own, (name, place)


def read(path: Path):
    if path.suffix == ".jsonl":
        return leaves([json.loads(line) for line in path.read_text().splitlines()])
    found = json.loads(path.read_text())
    if path.name == "run.json":
        found["plan"].pop("out", None)
        for stage in found["stages"].values():
            stage.pop("seconds", None)
    return leaves(found)


@pytest.mark.slow
@pytest.mark.trial("workers", "a whole run on 2 Ray workers, every record compared")
def test_a_whole_run_on_workers_is_the_run_of_one_process(tmp_path, trial):
    one = run(brief(tmp_path / "one")).folder
    other = run(brief(tmp_path / "other"), engine="ray", workers=2).folder
    names = sorted(str(p.relative_to(one)) for p in one.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(other)) for p in other.rglob("*") if p.is_file())
    compared = 0
    for name in names:
        a, b = one / name, other / name
        if a.suffix == ".safetensors":
            assert_close(load_file(a), load_file(b), CLOSE)
            compared += 1
        elif a.suffix in (".json", ".jsonl") and "timings" not in name:
            assert_alike(read(a), read(b), name)
            compared += 1
    assert compared > 20
    trial(outcome="every record within 1e-6 of one process")

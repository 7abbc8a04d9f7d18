"""The whole job on the embedded model and a few contexts."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from circuits.circuit.circuit import SCORES
from circuits.errors import DataError, RunError
from circuits.files import read_json
from circuits.names import EMOTIONS, VALENCES
from circuits.runs import Plan, run


def rows_of(study):
    return [json.loads(line) for line in study.replies_path.read_text().splitlines()]


def test_a_run_leaves_circuits_that_are_scored_on_contexts_they_were_not_made_from(study):
    names = sorted(path.name for path in (study.folder / "circuits").iterdir())
    assert names == sorted(f"{emotion}.json" for emotion in EMOTIONS)
    assert (study.folder / "report.html").stat().st_size > 100_000
    found = read_json(study.folder / "scores.json")
    assert tuple(found) == EMOTIONS
    for emotion, own in found.items():
        assert set(own) == {*SCORES, "heads_fraction", "neurons_fraction"}
        assert set(own["cpr"]) == {"value", "low", "high", "baseline_p99", "p"}
        assert own["heads_fraction"] <= 0.20
        assert own["neurons_fraction"] <= 0.05
        scores = study.circuits[emotion].scores
        assert scores["faithfulness"] == own["faithfulness"]["value"]
        assert scores["cmd_above_baseline"] == study.scores[emotion].above_baseline("cmd")
        # Few heads and neurons carry most of every emotion.
        assert own["faithfulness"]["value"] > max(0.75, own["faithfulness"]["baseline_p99"])


def test_every_method_has_its_accuracies_both_judges_and_its_side_effects(study, plan):
    found = study.steering
    assert tuple(found["methods"]) == plan.methods
    assert "random_circuit" in found["baselines"]
    for own in {**found["methods"], **found["baselines"]}.values():
        assert own["n"] == plan.test_scenarios * 3 * 6
        assert (set(own["by_emotion"]), set(own["by_valence"])) == (set(EMOTIONS), set(VALENCES))
        assert math.isfinite(own["repetition"])
        by_emotion = sum(own["by_emotion"].values()) / 6
        assert own["overall"] == pytest.approx(by_emotion, abs=0.01)
        assert {"second_judge", "kappa", "perplexity_ratio", "topic_kept", "intervals"} <= set(own)
    methods = found["methods"]
    assert methods["prompt"]["perplexity_ratio"] == 1.0
    assert methods["prompt"]["overall"] > 90 > 10 > methods["none"]["overall"]
    assert min(methods["circuit"]["second_judge"], methods["circuit"]["topic_kept"]) > 90
    assert (found["judge"]["name"], found["second_judge"]["name"]) == ("lexicon", "wording")
    assert found["best_steering"] == "steer"


def test_the_circuits_strength_is_swept_and_circuits_are_ablated(study, plan):
    swept, ablated = study.steering["strengths"], study.steering["ablation"]
    assert swept["n"] == plan.sweep_contexts * 6 == swept["unchanged_at_zero"] == ablated["n"]
    assert swept["overall"][4] > swept["overall"][0]
    assert ablated["draws"] == plan.ablation_draws
    assert ablated["circuit_drop"] > ablated["random_drop"]


def test_replies_are_kept_with_what_both_judges_heard(study, plan):
    rows = rows_of(study)
    assert len(rows) == (len(plan.methods) + 2) * plan.test_scenarios * 3 * 6
    assert all(row[name]["match"] in (0, 1) for row in rows for name in ("judge", "second_judge"))


def test_dev_contexts_serve_nothing_but_the_choice_of_strengths(study, plan):
    used = {row.reply.prompt.context.scenario for row in study.accepted}
    assert len(used) == plan.scenarios - plan.dev_scenarios
    assert not used & {row["skeleton_id"] for row in rows_of(study)}


def test_everything_after_elicitation_costs_one_pass_per_accepted_prompt_and_the_injections(study):
    stages = study.log["stages"]
    receipts = {stage: entry["receipt"] for stage, entry in stages.items()}
    assert receipts["directions"]["passes"] == len(study.accepted)
    assert receipts["effects"]["passes"] == 0
    assert receipts["importance"]["passes"] == 24 * 3
    # 24 contexts at most give the gradients, plainly and asked, for every emotion.
    assert receipts["circuits"]["passes"] == receipts["circuits"]["backward_passes"] <= 2 * 24 * 6
    assert stages["directions"]["values"].startswith("memory: ")
    assert "values" not in stages["effects"]


def test_under_a_small_budget_values_lie_in_a_file_and_numbers_are_the_same(copied, brief_study):
    stages: Any = ["directions", "effects"]
    log = read_json(copied.out / "run.json")
    for stage in stages:
        log["stages"].pop(stage)
    (copied.out / "run.json").write_text(json.dumps(log))
    again = run(replace(copied, memory=1e-4), stages=stages)
    stages, n = again.log["stages"], len(again.accepted)
    assert stages["directions"]["values"].startswith("a temporary file: ")
    assert stages["directions"]["receipt"]["passes"] == n
    assert stages["effects"]["receipt"]["passes"] == 0
    for name in ("directions", "generality", "heads", "neurons", "means"):
        one, other = getattr(brief_study, name), getattr(again, name)
        for field in one.axes:
            found, expected = getattr(other, field), getattr(one, field)
            # Other batches pad otherwise, and round otherwise.
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_test_contexts_that_served_as_train_contexts_are_not_scored_on(copied):
    with pytest.raises(DataError, match=r"stage 'scores': .* circuits were made from"):
        run(replace(copied, test=copied.data), stages=["scores"])


def test_a_plan_is_read_back_as_it_was(plan):
    assert Plan.from_json(plan.to_json(), plan.out) == plan
    with pytest.raises(RunError, match="no option is called 'imported'"):
        Plan.from_json({**plan.to_json(), "imported": "x"}, plan.out)


def test_a_finished_stage_is_not_run_again(brief_study, brief, monkeypatch):
    monkeypatch.setattr("circuits.runs.work.load_model", None)  # which no stage may call
    before = brief_study.log
    assert run(brief).log["stages"] == before["stages"]

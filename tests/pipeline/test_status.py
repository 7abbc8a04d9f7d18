"""``status``: what is done, what is out of date and why, what goes on; nothing is written."""

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from circuits.cli.app import app
from circuits.files import read_json, write_json, write_text
from circuits.runs import Study, run
from circuits.runs.folder import MADE_FROM, run_status
from circuits.runs.patching import Contrast, patch_run
from circuits.runs.plan import STAGES


def shown(*words):
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


def states(found):
    return {own.stage: own.state for own in found.stages}


def why(found, stage):
    return {own.stage: own.why for own in found.stages}[stage]


def test_a_finished_run_is_done_with_time_passes_and_size(brief, brief_study):
    before = sorted(brief_study.folder.rglob("*"))
    found = run_status(brief_study, brief)
    assert set(states(found).values()) == {"done"}
    assert (found.to_do, found.writer, found.beside) == ((), None, ())
    receipts = {s: own["receipt"]["passes"] for s, own in brief_study.log["stages"].items()}
    assert {own.stage: own.passes for own in found.stages} == receipts
    assert {own.stage: own.seconds for own in found.stages} == brief_study.seconds
    assert all(own.size > 0 for own in found.stages)
    assert sorted(brief_study.folder.rglob("*")) == before
    assert "all is done" in shown("status", brief_study.folder)


@pytest.mark.parametrize(
    ("changes", "stage", "reason", "again"),
    [
        ({"score_contexts": 3}, "scores", "score_contexts: 2 -> 3", ("scores", "report")),
        ({"emotions": ("anger", "disgust")}, "replies", 'emotions: ["anger", "fear"] -> [', STAGES),
        ({"model": "sev-nano"}, "replies", "model name: sev-mini -> sev-nano", STAGES),
        (
            {"circuit_dtype": "float16"},
            "steering",
            "circuit_dtype: none -> float16",
            ("steering", "report"),
        ),
    ],
)
def test_a_changed_option_is_named_and_what_it_leads_to(
    brief, brief_study, changes, stage, reason, again
):
    found = run_status(brief_study, replace(brief, **changes))
    assert found.to_do == again
    assert any(reason in text for text in why(found, stage))
    assert why(found, "report") == tuple(
        f"{need} is to be made again" for need in ("scores", "steering") if need in again
    )


def test_a_changed_file_one_that_is_gone_and_a_stage_that_has_not_run_are_noticed(copied, tmp_path):
    other, study = tmp_path / "test.jsonl", Study(copied.out)
    other.write_bytes(copied.test.read_bytes() + b"\n")
    found = run_status(study, replace(copied, test=other))
    assert why(found, "scores") == why(found, "steering") == ("test: another file",)
    assert found.to_do == ("scores", "steering", "report")
    (copied.out / "scores.json").unlink()
    log = read_json(copied.out / "run.json")
    log["stages"].pop("report")
    write_json(copied.out / "run.json", log)
    found = run_status(study, copied)
    assert why(found, "scores") == ("its files are gone",)
    assert (states(found)["report"], found.to_do) == ("not run", ("scores", "report"))


@pytest.mark.parametrize(
    ("name", "journal"),
    [
        ("steering", ".resume/steering.jsonl"),
        ("validation", ".resume/validate.jsonl"),
        ("neurons", "neurons/sev-nano/emotion/.resume/effects.jsonl"),
    ],
)
def test_what_was_interrupted_says_how_much_waits(copied, name, journal):
    write_text(copied.out / journal, '{"key": "x"}\n{"batch": 0}\n{"batch": 1}\n{"bat')
    found = run_status(Study(copied.out), copied)
    waiting = {own.stage: own.waiting for own in found.stages}
    waiting |= {own.name: own.waiting for own in found.beside}
    assert waiting[name] == 2
    assert all(own.state == "stale" for own in found.beside)
    assert "2 batches wait" in shown("status", copied.out)


def test_what_was_measured_beside_is_fresh_until_its_stage_is_made_again(copied):
    study = Study(copied.out)
    how: dict[str, Any] = {"by": "last", "mode": "denoising", "readout": "projection"}
    patch_run(Contrast(study, "anger", contexts=1), ["z"], **how)
    (own,) = run_status(study, copied).beside
    assert (own.name, own.state) == ("patching/anger-neutral", "fresh")
    note = copied.out / own.name / MADE_FROM
    assert read_json(note) == {"importance": study.keys["importance"]}
    run(replace(copied, doses=(0.2,)), stages=["importance"])
    assert run_status(study, copied).beside[0].state == "stale"
    write_json(note, {"importance": "another"})
    assert run_status(study, copied).beside[0].why == ("importance was made again",)


def test_imported_results_are_what_they_are(tmp_path):
    stages = {"circuits": {"key": "imported", "receipt": {"passes": 0}}}
    write_json(tmp_path / "run.json", {"plan": {"imported": "x"}, "stages": stages})
    found = states(run_status(Study(tmp_path)))
    assert (found["circuits"], found["scores"]) == ("done", "not run")


def test_a_run_of_an_earlier_version_is_stale(copied):
    path = copied.out / "run.json"
    log = read_json(path)
    for own in log["stages"].values():
        own["key"] = "old"
        del own["made_of"]
    write_json(path, log)
    found = run_status(Study(copied.out), copied)
    assert found.to_do == STAGES
    assert why(found, "replies") == ("made by an earlier version",)


def test_the_command_shows_what_goes_on_gives_json_and_takes_a_plan(brief_study, tmp_path):
    folder, plan = brief_study.folder, tmp_path / "plan.toml"
    text = " ".join(shown("status", folder, "--score-contexts", "3").split())
    assert "score_contexts: 2 -> 3" in text
    assert f"run --plan {folder}/plan.toml --score-contexts 3 --out {folder}" in text
    plan.write_text((folder / "plan.toml").read_text().replace("seed = 0", "seed = 1"))
    found = json.loads(shown("status", folder, "--plan", plan, "--json"))
    assert found["to_do"] == ["effects", "importance", "circuits", "scores", "steering", "report"]
    assert found["stages"][3]["why"] == ["seed: 0 -> 1"]

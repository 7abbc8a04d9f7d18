"""A stage is run again when something that it depends on has changed, and only then."""

from dataclasses import replace
from filecmp import dircmp
from pathlib import Path

import pytest

from circuits.errors import CircuitsError, RunError
from circuits.files import read_json
from circuits.provenance import versions
from circuits.runs import Study, run
from circuits.runs.folder import run_status
from circuits.runs.keys import NEEDS, dependents, needed, stage_key
from circuits.runs.plan import STAGES


def differing(one, other):
    """Files of two folders that are not byte-equal."""
    found, waiting = [], [dircmp(one, other)]
    while waiting:
        own = waiting.pop()
        below = Path(own.left).relative_to(one)
        same, other_bytes, odd = [], [], []
        for name in own.common_files:
            pair = (Path(own.left) / name, Path(own.right) / name)
            (same if pair[0].read_bytes() == pair[1].read_bytes() else other_bytes).append(name)
        found += [str(below / n) for n in (*own.left_only, *own.right_only, *other_bytes, *odd)]
        waiting += own.subdirs.values()
    return sorted(found)


def begun(monkeypatch):
    """Stages that begin from now on."""
    found, begin = [], Study.begin

    def noting(self, stage):
        found.append(stage)
        begin(self, stage)

    monkeypatch.setattr(Study, "begin", noting)
    return found


def test_a_stage_reads_only_what_the_graph_of_stages_says(brief_study, reads):
    assert reads["report"] == {*STAGES} - {"replies", "report"}
    for stage, read in reads.items():
        assert read <= {*needed(stage)}, stage


def test_every_need_is_read_or_handed_on(brief_study, reads):
    del reads["report"]
    assert reads["scores"] >= {"circuits", "importance"}
    for stage in ("directions", "effects", "importance", "circuits", "scores", "steering"):
        assert {*NEEDS[stage]} & (reads[stage] | {"judgements"}), stage


def test_dependents_are_the_other_way_round():
    assert dependents("scores") == ("report",)
    assert dependents("effects") == ("circuits", "scores", "steering", "report")
    assert all((a in dependents(b)) == (b in needed(a)) for a in STAGES for b in STAGES)


@pytest.mark.trial("faults", "one plan is run twice, into two folders")
def test_two_runs_of_a_plan_differ_in_nothing_but_their_timings(
    brief, brief_study, tmp_path, trial
):
    again = run(replace(brief, out=tmp_path / "again"))
    assert differing(brief_study.folder, again.folder) == ["timings.json"]
    trial(outcome="byte-equal but for timings.json")


@pytest.mark.trial("faults", "a plan is run again with another number of test contexts")
def test_a_rerun_does_only_what_changed_and_leaves_what_a_new_run_leaves(
    copied, tmp_path, monkeypatch, trial
):
    changed, done = replace(copied, score_contexts=3), begun(monkeypatch)
    run(changed)
    assert done == ["scores", "report"]
    new = run(replace(changed, out=tmp_path / "new"))
    assert differing(copied.out, new.folder) == ["timings.json"]
    trial(outcome="2 of 9 stages run; byte-equal to a new run")


def test_a_stage_whose_files_are_gone_is_run_again(copied, monkeypatch):
    done = begun(monkeypatch)
    (copied.out / "report.html").unlink()
    run(copied)
    assert done == ["report"]


@pytest.mark.trial("faults", "a stage fails after it has begun to write")
def test_a_stage_that_fails_half_way_is_undone_and_so_is_what_is_made_from_it(
    copied, monkeypatch, trial
):
    def fails(*_):
        raise RunError("the disk is gone")

    changed = replace(copied, rank_by="mean")
    with monkeypatch.context() as patch:
        patch.setattr("circuits.runs.stages.write_circuit", fails)
        with pytest.raises(RunError, match="stage 'circuits': the disk is gone"):
            run(changed)
    study, undone = Study(copied.out), ("circuits", *dependents("circuits"))
    assert {*study.log["stages"]} == {*STAGES} - {*undone}
    # Also by the old plan, whose key the old circuits had.
    assert run_status(study, copied).to_do == run_status(study, changed).to_do == undone
    trial(outcome="undone, with all that is made from it")


@pytest.mark.trial("faults", "a run made by another version of the package is gone on with")
def test_another_version_makes_every_stage_again(copied, monkeypatch, trial):
    other = {**versions(), "emotion-circuits": "0.0.1"}
    monkeypatch.setattr("circuits.runs.keys.versions", lambda: other)
    found = run_status(Study(copied.out), copied)
    assert found.to_do == STAGES
    (why,) = found.stages[0].why
    assert why.startswith("emotion-circuits: ")
    assert why.endswith(" -> 0.0.1")
    trial(outcome="all stages are stale, and status says why")


def test_changed_data_and_weights_are_noticed(brief, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_bytes(brief.data.read_bytes())
    own = replace(brief, data=data)
    assert stage_key(own, "replies") == stage_key(brief, "replies")
    data.write_bytes(brief.data.read_bytes() + b"\n")
    assert stage_key(own, "replies") != stage_key(brief, "replies")
    assert stage_key(own, "report") != stage_key(brief, "report")


def test_a_run_keeps_what_its_keys_are_made_of(brief_study):
    made = read_json(brief_study.folder / "run.json")["stages"]["scores"]["made_of"]
    assert made["options"]["score_contexts"] == 2
    assert made["files"]["test"].startswith("sha256:")
    assert made["needs"] == {"circuits": brief_study.keys["circuits"]}
    assert made["version"] == {"emotion-circuits": versions()["emotion-circuits"]}


def test_an_error_of_another_kind_keeps_its_kind(copied, monkeypatch):
    class OwnError(CircuitsError):
        pass

    def fails(*_):
        raise OwnError("no")

    monkeypatch.setattr("circuits.runs.stages.make_report", fails)
    (copied.out / "report.html").unlink()
    with pytest.raises(OwnError, match="stage 'report': no"):
        run(copied)

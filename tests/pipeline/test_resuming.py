"""Runs that are killed, interrupted or out of space end as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.errors import JudgeError, Stopped
from circuits.files import shipped, write_atomically, write_text
from circuits.journal import ask_to_stop, go_on, journal
from circuits.judges import LexiconJudge
from circuits.judges.replies import Reply, judge_replies
from circuits.models.edits import Add
from circuits.models.engines import Here, working_on
from circuits.models.generate import Decoding, elicit
from circuits.models.memory import counted
from circuits.prompts.templates import neutral_prompts
from circuits.running import execution
from circuits.runs import Plan, run

ROOT = Path(__file__).parents[2]


def killed(job: str, folder: Path, *options: str, before: tuple[str, ...] = ()) -> dict:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    program = str(ROOT / "tests/pipeline/killing.py")
    done = subprocess.run(
        [*before, sys.executable, program, job, str(folder), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.trial("faults", "`run` is killed (SIGKILL) at a random moment, and started again")
def test_a_run_that_is_killed_fifty_times_ends_as_if_it_had_not_been(tmp_path, trial):
    found = killed("run", tmp_path, "--kills", "50")
    assert found["differ"] == []
    assert len(found["in"]) > 2  # not always in the same stage
    trial(times=found["kills"], outcome="every file of the run byte-equal to the uninterrupted one")


@pytest.mark.slow
@pytest.mark.parametrize("job", ["validate", "neurons"])
@pytest.mark.trial("faults", "`{job}` is killed (SIGKILL) at a random moment, and started again")
def test_so_do_the_long_commands_beside_it(job, tmp_path, trial):
    found = killed(job, tmp_path, "--kills", "6")
    assert found["differ"] == []
    trial(times=found["kills"], outcome="every file byte-equal to the uninterrupted one")


@pytest.mark.slow
@pytest.mark.trial(
    "faults", "Ctrl-C (SIGINT) at a random moment of `run`, and the command it names"
)
def test_a_run_that_is_interrupted_says_how_to_go_on_and_does(tmp_path, trial):
    found = killed("interrupt", tmp_path, "--kills", "6")
    assert found["differ"] == []
    assert "stopped at once" in found["twice"]
    assert "to go on: emotion-circuits run" in found["twice"]
    trial(
        times=found["pressed"],
        outcome="the batch is finished, exit code 130; every file byte-equal in the end",
    )


@pytest.mark.slow
@pytest.mark.trial(
    "faults", "a whole run on a full disk that is given a little more room each time"
)
def test_a_run_goes_on_each_time_there_is_more_room(tmp_path, trial):
    apart = ("unshare", "-rm")
    try:
        subprocess.run([*apart, "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
        found, how = killed("full", tmp_path, before=apart), "tmpfs"
        assert len(found["refused"]) > 2
    except (OSError, subprocess.CalledProcessError):
        # Where no small disk can be mounted, files may at least not grow.
        found, how = killed("limited", tmp_path), "ulimit"
    assert found["differ"] == []
    trial(
        times=sum(found["refused"].values()),
        outcome=f"{how}: named, nothing half written; every file byte-equal in the end",
    )


@pytest.fixture
def asked_to_stop():
    yield ask_to_stop
    go_on()


class Recording(Here):
    """Counts the batches that are really made, and gives up before some of them."""

    def __init__(self, until: int = 99):
        self.made, self.until = 0, until

    def results(self, model, work, parts):
        for place, part in enumerate(parts):
            if self.made == self.until:
                raise MemoryError
            self.made += 1
            yield place, work(model, part)


class Backwards(Here):
    """Hands results out in the wrong order, as workers may."""

    def results(self, model, work, parts):
        for place, part in reversed(list(enumerate(parts))):
            yield place, work(model, part)


def replies(model, contexts, *, dose=1.0, progress=None, **options):
    edit = Add("resid_post", 0, dose * torch.ones(model.cfg.d_model))
    asked, edits = neutral_prompts(contexts), lambda places: [edit]
    with execution(batch_size=5, progress=progress):
        return elicit(model, asked, edits=edits, max_new_tokens=4, **options)


def test_batches_that_are_done_are_not_made_again_and_cost_the_same(llama, contexts, tmp_path):
    with counted() as whole:
        expected = replies(llama, contexts)
    first, second = Recording(until=2), Recording()
    with working_on(first), journal(tmp_path / "j", "key"), pytest.raises(MemoryError):
        replies(llama, contexts)
    told = []
    with working_on(second), journal(tmp_path / "j", "key"), counted() as receipt:
        assert replies(llama, contexts, progress=told.append) == expected
    assert (first.made, second.made) == (2, 1)
    assert receipt == whole
    assert sum(told) == len(contexts)
    # Workers that answer in any order are kept alike.
    with working_on(Backwards()), journal(tmp_path / "other", "key"):
        assert replies(llama, contexts) == expected
    again = Recording()
    with working_on(again), journal(tmp_path / "other", "key"):
        assert replies(llama, contexts) == expected
    assert again.made == 0
    # A batch that is asked otherwise is made anew.
    others: list[dict[str, Any]] = [{"dose": 1.5}, {"decoding": Decoding(no_repeat_ngram_size=2)}]
    for number, other in enumerate(others):
        with working_on(again), journal(tmp_path / "j", "key"):
            replies(llama, contexts, **other)
        assert again.made == 3 * (number + 1)


def test_generation_stops_after_the_batch_and_goes_on_from_there(
    llama, contexts, tmp_path, asked_to_stop
):
    expected, stopped, again = replies(llama, contexts), Recording(), Recording()
    refused = pytest.raises(Stopped, match="; 1 finished part")
    with working_on(stopped), refused, journal(tmp_path / "j", "key"):
        replies(llama, contexts, progress=lambda count: asked_to_stop())
    go_on()
    with working_on(again), journal(tmp_path / "j", "key"):
        assert replies(llama, contexts) == expected
    assert (stopped.made, again.made) == (1, 2)


def test_a_folder_with_nothing_but_a_half_written_log_is_a_new_one(tmp_path):
    write_text(tmp_path / "run.json", "{}")
    seen = []
    write_atomically(tmp_path / "run.json", lambda path: seen.append(path))
    (tmp_path / "run.json").rename(seen[0])
    data = shipped("sev/train.jsonl")
    plan = Plan(model="sev-nano", data=data, test=data, out=tmp_path)
    run(plan, stages=[])
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "plan.toml", "run.json"}


class CountingJudge(LexiconJudge):
    """Counts the texts that it hears, and fails after some of them."""

    name = "lexicon"

    def __init__(self, until=10**9, name="lexicon"):
        super().__init__()
        self.heard, self.until, self.name = 0, until, name

    def judge(self, texts, emotions):
        if self.heard + len(texts) > self.until:
            raise JudgeError("no more")
        self.heard += len(texts)
        return super().judge(texts, emotions)


def test_a_judge_is_not_asked_again_what_it_has_answered(contexts, tmp_path):
    prompts = neutral_prompts(contexts)
    rows = [Reply(prompts[i % len(prompts)], f"I am afraid {i}", 3, "fear") for i in range(150)]
    first, second, other = (CountingJudge(until=128), CountingJudge(), CountingJudge(name="other"))
    expected = judge_replies(rows, LexiconJudge())
    with journal(tmp_path / "j", "key"), pytest.raises(JudgeError):
        judge_replies(rows, first)
    for judge in (second, other):
        with journal(tmp_path / "j", "key"):
            assert judge_replies(rows, judge) == expected
    assert (first.heard, second.heard, other.heard) == (128, 22, 150)

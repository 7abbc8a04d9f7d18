"""One process writes into a run folder at a time, and a dead one does not count."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from circuits.errors import RunError
from circuits.files import HOLDER, held, holder
from circuits.runs import run
from circuits.runs.folder import Study, run_status
from circuits.runs.neurons import NeuronPlan, neuron_run
from circuits.runs.report import refresh_report
from circuits.runs.work import plan_of

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from circuits.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def hold():
    """Another process that holds a folder's lock until it is killed."""
    started = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.trial("faults", "a second process writes into a run folder; the first is killed")
def test_a_second_process_is_refused_until_the_first_is_gone(hold, tmp_path, trial):
    process = hold(tmp_path)
    refused = pytest.raises(
        RunError, match=f"is being written by process {process.pid} on .*; wait"
    )
    with refused, held(tmp_path):
        pass
    assert str(holder(tmp_path)).startswith(f"process {process.pid} on ")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert holder(tmp_path) is None
    with held(tmp_path):
        assert f'"process": {os.getpid()}' in (tmp_path / HOLDER).read_text()
    assert not (tmp_path / HOLDER).exists()
    trial(outcome="refused, with the process that holds it; a dead one holds nothing")


def test_every_writer_of_a_run_folder_is_refused_while_another_writes(hold, copied, tmp_path):
    process = hold(copied.out)
    hold(tmp_path / "new")
    for work in (
        lambda: run(copied),
        lambda: refresh_report(Study(copied.out)),
        lambda: neuron_run(copied.out, NeuronPlan(texts=("emotion",))),
    ):
        with pytest.raises(RunError, match=f"is being written by process {process.pid}"):
            work()
    with pytest.raises(RunError, match="is being written"):
        run(replace(copied, out=tmp_path / "new"))
    # It can be read, and says who writes.
    study = Study(copied.out)
    assert set(study.circuits) == {*copied.emotions}
    assert plan_of(study) == copied
    assert str(process.pid) in str(run_status(study, copied).writer)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {".lock", HOLDER}


def test_a_process_may_hold_a_lock_twice_and_it_is_free_after_the_last(tmp_path):
    with held(tmp_path):
        with held(tmp_path):
            pass
        assert (tmp_path / HOLDER).exists()
        seen = "import sys; from pathlib import Path; from circuits.files import holder; "
        words = [sys.executable, "-c", f"{seen}sys.exit(holder(Path(sys.argv[1])))", str(tmp_path)]
        shown = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
        assert f"process {os.getpid()} on" in shown.stderr
    assert holder(tmp_path) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(RunError, match="cannot be locked: .*; choose another folder"),
        held(tmp_path / "file" / "run"),
    ):
        pass

"""Processes that are really killed: a program that starts a job again and again until it is done.

``python tests/pipeline/killing.py run FOLDER --kills 50`` does a small run once without a kill, and
then kills it (SIGKILL) at random moments, going on in the same folder each time until it is done,
from a new folder after that, until it has been killed so often. It prints how often it was killed
in which stage and which files differ in the end. Everything is imported once; each attempt is a
fork, so that a kill costs no more than what it loses.

``interrupt`` does the same to the command line with Ctrl-C (SIGINT).
"""

import argparse
import json
import os
import random
import shlex
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import torch

from circuits.cli.app import main
from circuits.files import shipped, write_json_lines
from circuits.runs import Plan, run
from circuits.runs.neurons import NeuronPlan, neuron_run
from circuits.runs.plan import STAGES
from circuits.runs.steering import ValidationOptions, validate

Job = Callable[[Path], object]
_DIFFER_BY_NATURE = {"timings.json", ".lock", ".holder.json"}


def small_plan(out: Path) -> Plan:
    """A run through every stage, as short as can be."""
    return Plan(
        model=str(shipped("sev-nano")),
        data=shipped("sev/train.jsonl"),
        test=shipped("sev/test.jsonl"),
        out=out,
        emotions=("anger", "happiness"),
        scenarios=4,
        dev_scenarios=1,
        test_scenarios=1,
        score_contexts=2,
        draws=3,
        doses=(0.1,),
        methods=("circuit",),
        tuning="brief",
        sweep_contexts=1,
        ablation_draws=1,
        second_judge=None,
        hard=None,
        max_new_tokens=3,
        batch_size=6,
    )


def small_run(out: Path) -> object:
    return run(small_plan(out))


def small_neurons(out: Path) -> object:
    texts = out.parent / "texts"
    for split in ("train", "dev", "test"):
        said = {"anger": ["How dare they!", "It is an outrage."], "joy": ["Hurray!", "What luck."]}
        rows = [{"text": f"{t} {split}", "label": e} for e, own in said.items() for t in own]
        write_json_lines(texts / f"{split}.jsonl", rows)
    plan = NeuronPlan(
        texts=(str(texts),),
        request="Which emotion is it?",
        train_texts=2,
        dev_texts=2,
        test_texts=2,
        few_texts=2,
        draws=2,
        few_draws=2,
        shares=(0.02,),
        doses=(0.0, 1.0),
        loop_steps=1,
        neutral=3,
    )
    return neuron_run(out, plan, models=["sev-nano"])


def small_validation(out: Path) -> object:
    return validate(out, ValidationOptions(2, 1, 2, 1))


JOBS: dict[str, Job] = {"run": small_run, "validate": small_validation, "neurons": small_neurons}


def command(out: Path) -> list[str]:
    """What is typed for such a run."""
    options = shlex.split("""
        --emotions anger,happiness --scenarios 4 --dev-scenarios 1 --test-scenarios 1
        --score-contexts 2 --doses 0.1 --batch-size 6 --set draws=3 --set methods=circuit
        --set tuning=brief --set sweep_contexts=1 --set ablation_draws=1 --set second_judge=none
        --set hard=none --set max_new_tokens=3
    """)
    data, test = (str(shipped(f"sev/{name}.jsonl")) for name in ("train", "test"))
    begin = ["emotion-circuits", "run", "--model", "sev-nano", "--out", str(out)]
    return [*begin, "--data", data, "--test", test, *options]


def typed(words: list[str]) -> None:
    """Do what the command line does with these words; ends in SystemExit."""
    sys.argv = words
    main()


def differing(one: Path, other: Path) -> list[str]:
    """Files that are in one folder only, or not the same byte for byte; times are left out."""
    ours, theirs = _contents(one), _contents(other)
    return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))


def _contents(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        if path.name not in _DIFFER_BY_NATURE:
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(folder))] = content.replace(str(folder).encode(), b"")
    return found


def started(job: Job, folder: Path) -> int:
    """The id of a fork that does the job."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        job(folder)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def done_after(pid: int, seconds: float) -> bool:
    """Is the fork done within so many seconds? It is killed if not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, "the job failed"
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return os.WIFEXITED(status)  # it may have been done at the very moment


def tried(job: Job, place: Path, kills: int, seed: int, start: Path | None) -> dict:
    """Kill the job so often, let it be done, and compare."""
    chance = random.Random(seed)
    # Done here, so that every fork begins with all libraries loaded; twice, to know how long a fork
    # needs.
    job(_fresh(place / "whole", start))
    began = time.monotonic()
    assert done_after(started(job, _fresh(place / "fork", start)), 600)
    whole = time.monotonic() - began
    bad = differing(place / "whole", place / "fork")
    places, runs = Counter[str](), 0
    while True:
        runs += 1
        folder = _fresh(place / f"killed-{runs}", start)
        longest, last = 0.2, ""
        while places.total() < kills:
            if done_after(started(job, folder), chance.uniform(0.02, longest) * whole):
                break
            stage = _unfinished(folder)
            places[stage] += 1
            # More time for a stage that is not got through, as on a machine that has become busy.
            longest, last = 1.1 * longest if stage == last else 0.2, stage
        else:
            assert done_after(started(job, folder), 600)
        bad += differing(place / "whole", folder)
        if places.total() == kills:
            return {"kills": kills, "in": dict(places), "differ": bad}


def _fresh(folder: Path, start: Path | None) -> Path:
    if start is not None:
        copytree(start, folder)
    return folder


def _unfinished(folder: Path) -> str:
    log = folder / "run.json"
    done = json.loads(log.read_text())["stages"] if log.exists() else {}
    return next((stage for stage in STAGES if stage not in done), "after the last")


def interrupted(place: Path, times: int, seed: int) -> dict:
    """Press Ctrl-C so often while the command is at work, typing each time what it says."""
    chance, said = random.Random(seed), place / "said.txt"
    began = time.monotonic()
    assert _ended(_typing(command(place / "whole"), said)) == 0
    whole = time.monotonic() - began
    bad, pressed, early, runs = list[str](), 0, 0, 0
    while pressed < times:
        runs += 1
        words = command(place / f"stopped-{runs}")
        while pressed < times:
            pid = _typing(words, said)
            time.sleep(0.2 + chance.uniform(0, 0.25) * whole)
            os.kill(pid, signal.SIGINT)
            code = _ended(pid)
            if code == 0:
                break
            text = said.read_text()
            assert code == 130, text
            if not text and (early := early + 1) < 5:
                continue  # the command was not listening yet
            assert "stopped as asked, after a finished batch" in text, text
            pressed += 1
            words = shlex.split(text.rsplit("to go on: ", 1)[1])
        else:
            assert _ended(_typing(words, said)) == 0
        bad += differing(place / "whole", place / f"stopped-{runs}")
    return {"pressed": pressed, "differ": bad}


def _typing(words: list[str], said: Path) -> int:
    def job(_: Path) -> None:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        typed(words)

    said.write_text("")
    return started(job, said)


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def program() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("job", choices=[*JOBS, "interrupt"])
    asked.add_argument("folder", type=Path)
    asked.add_argument("--kills", type=int, default=50)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    first = given.folder / "first"
    if given.job in ("interrupt", "validate"):
        small_run(first)  # every fork begins with all libraries loaded
    if given.job == "interrupt":
        found = interrupted(given.folder, given.kills, given.seed)
    else:
        start = first if given.job == "validate" else None
        found = tried(JOBS[given.job], given.folder, given.kills, given.seed, start)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    program()

"""Processes that are really killed: a program that starts a job again and again until it is done.

``python tests/pipeline/killing.py run FOLDER --kills 50`` does a small run once without a kill, and
then kills it (SIGKILL) at random moments, going on in the same folder each time until it is done,
from a new folder after that, until it has been killed so often. It prints how often it was killed
in which stage and which files differ in the end. Everything is imported once; each attempt is a
fork, so that a kill costs no more than what it loses.

``interrupt`` does the same to the command line with Ctrl-C (SIGINT), and once with two of them.
``full`` lets the run come to the end of its disk instead, and gives it a little more each time.
"""

import argparse
import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import torch

from circuits.cli.app import main
from circuits.errors import CircuitsError
from circuits.files import shipped, write_json_lines
from circuits.runs import Plan, run
from circuits.runs.neurons import NeuronPlan, neuron_run
from circuits.runs.plan import STAGES
from circuits.runs.steering import ValidationOptions, validate

Job = Callable[[Path], object]
_DIFFER_BY_NATURE = {"timings.json", ".lock", ".holder.json"}
_SHARES = {
    True: (0, 0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.1),
    False: (0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.5),
}
"""Of the room that a run needs on a disk, or its largest file."""


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


def small_validation(out: Path) -> object:
    return validate(out, ValidationOptions(2, 1, 2, 1))


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
    if "run.json" in found:
        found["run.json"] = _without_times(json.loads(found["run.json"]))
    return found


def _without_times(log: dict) -> bytes:
    for entry in log["stages"].values():
        entry.pop("seconds", None)
    return json.dumps(log).encode()


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
            return {"kills": kills, "runs": runs, "whole": whole, "in": dict(places), "differ": bad}


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
    bad, pressed, early, longest, runs = list[str](), 0, 0, 0.0, 0
    while pressed < times:
        runs += 1
        words = command(place / f"stopped-{runs}")
        while pressed < times:
            pid = _typing(words, said)
            time.sleep(0.2 + chance.uniform(0, 0.25) * whole)
            os.kill(pid, signal.SIGINT)
            began = time.monotonic()
            code = _ended(pid)
            if code == 0:
                break
            longest = max(longest, time.monotonic() - began)
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
    return {"pressed": pressed, "runs": runs, "longest": longest, "differ": bad}


def pressed_twice(place: Path) -> str:
    """What the command says after two Ctrl-C within one batch."""
    said, text = place / "said.txt", ""
    for attempt in range(30):
        folder = place / f"twice-{attempt}"
        pid = _typing(command(folder), said)
        first, second = (folder / "run.json").exists, lambda: "finishing" in said.read_text()
        for wanted in (first, second):
            while not wanted():
                time.sleep(0.002)
            os.kill(pid, signal.SIGINT)
        code, text = _ended(pid), said.read_text()
        assert code == 130, text
        if "stopped as asked" not in text:
            return text  # else the batch had ended before the second
    raise AssertionError(f"each time the batch ended first: {text}")


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


def filled(place: Path, disk: bool) -> dict:
    """Run where there is no room, then with a little more, until there is enough."""
    small_run(place / "whole")
    # The page is larger than all else together; it would be what is always refused.
    files = [path for path in (place / "whole").rglob("*") if path.name != "report.html"]
    sizes = [path.stat().st_size for path in files]
    small, refused = place / "small", Counter[str]()
    small.mkdir()
    if disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", small], check=True)
    pages = sum(4096 * (size // 4096 + 1) for size in sizes)
    most, shares = pages if disk else max(sizes), _SHARES[disk]
    for share in (*shares, 100):
        _make_room(small, disk, int(share * most))
        if (why := _refusal(small / "run")) is None:
            break
        assert ("No space left on device; free" if disk else "File too large") in why, why
        refused[_unfinished(small / "run")] += 1
        leftover = [path for path in small.rglob("*") if ".partial" in path.name]
        assert not leftover, leftover
    return {"refused": dict(refused), "differ": differing(place / "whole", small / "run")}


def _refusal(folder: Path) -> str | None:
    try:
        small_run(folder)
    except CircuitsError as error:
        return str(error)
    return None


def _make_room(small: Path, disk: bool, size: int) -> None:
    if disk:
        asked = ["mount", "-o", f"remount,size={max(4096, size)}", small]
        subprocess.run(asked, check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def program() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("job", choices=[*JOBS, "interrupt", "full", "limited"])
    asked.add_argument("folder", type=Path)
    asked.add_argument("--kills", type=int, default=50)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.job == "interrupt":
        # Done here, so that every fork begins with all libraries loaded.
        small_run(given.folder / "first")
        found = interrupted(given.folder, given.kills, given.seed)
        found["twice"] = pressed_twice(given.folder)
    elif given.job in ("full", "limited"):
        found = filled(given.folder, given.job == "full")
    else:
        start = None
        if given.job == "validate":
            start = given.folder / "start"
            small_run(start)
        found = tried(JOBS[given.job], given.folder, given.kills, given.seed, start)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    program()

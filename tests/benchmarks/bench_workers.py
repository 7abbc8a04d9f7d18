"""``make bench-workers``: one process against 1, 2 and 4 Ray workers on this machine.

The same run of sev-mini is made each time, one thread per process. Wall time and CPU time (ours and
the workers') are told by piece of work; start of the workers is apart. Then all records are
compared. Processes that share cores with others are slower than they need be: look at the load.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from circuits.files import shipped
from circuits.models.engines import OnRay, on_ray
from circuits.models.load import load_model
from circuits.models.protocol import Model
from circuits.runs import Plan, run
from circuits.runs.plan import STAGES, Stage

COUNTS = (0, 1, 2, 4)
"""Workers; 0: this process."""

STARTED = "start of the workers"


class Clock:
    """A reporter that notes how long every piece of work takes, ours and the workers'."""

    def __init__(self, workers: OnRay | None) -> None:
        self._processes = [psutil.Process()]
        if workers is not None:
            import ray

            pids = ray.get([worker.process.remote() for worker in workers.workers])
            self._processes += [psutil.Process(pid) for pid in pids]
        self.wall, self.cpu = defaultdict[str, float](float), defaultdict[str, float](float)

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Any]:
        """Time it; pieces of one name are added up."""
        wall, cpu = time.perf_counter(), self._used()
        yield lambda finished: None
        self.wall[what] += time.perf_counter() - wall
        self.cpu[what] += self._used() - cpu

    def _used(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(own.user + own.system for own in times)


def plan_of(out: Path, scenarios: int) -> Plan:
    """A run without the comparison of methods, whose search may end early."""
    return Plan(
        model=str(shipped("sev-mini")), data=shipped("sev/train.jsonl"),
        test=shipped("sev/test.jsonl"), out=out, scenarios=scenarios, dev_scenarios=2,
        score_contexts=8, memory=0.01, batch_size=24,
    )  # fmt: skip


def measure(count: int, out: Path, scenarios: int) -> dict[str, Any]:
    """One run; seconds by piece of work."""
    began = time.perf_counter()
    load = os.getloadavg()[0]
    with on_ray(count) if count else nullcontext() as workers:
        if workers is not None:
            list(workers.results(load_model(shipped("sev-mini")), _nothing, range(2 * count)))
        clock: Any = Clock(workers)
        started = time.perf_counter() - began
        stages: list[Stage] = [stage for stage in STAGES if stage not in ("steering", "report")]
        run(plan_of(out, scenarios), stages=stages, reporter=clock)
    wall = {STARTED: started, **clock.wall} if count else clock.wall
    return {"workers": count, "wall": wall, "cpu": clock.cpu, "load": load}


def _nothing(model: Model, part: int) -> None:
    """For a part of this, a worker has loaded the model."""


def largest_difference(one: Path, other: Path) -> float:
    """Between the tensors of all records."""
    found = 0.0
    for path in sorted(one.rglob("*.safetensors")):
        own, theirs = load_file(path), load_file(other / path.relative_to(one))
        for name, tensor in own.items():
            apart = (tensor.double() - theirs[name].double()).nan_to_num(0.0)
            found = max(found, float(apart.abs().max()) if apart.numel() else 0.0)
    return found


def table(rows: list[dict[str, Any]]) -> Table:
    """Wall seconds, and CPU seconds behind them, by piece of work."""
    heads = [f"{row['workers']} workers" if row["workers"] else "one process" for row in rows]
    shown = Table("work", *heads, title="wall seconds (CPU seconds)")
    for name in dict.fromkeys(name for row in rows for name in row["wall"]):
        both = [(row["wall"].get(name), row["cpu"].get(name, 0.0)) for row in rows]
        cells = ("-" if wall is None else f"{wall:.1f} ({cpu:.1f})" for wall, cpu in both)
        shown.add_row(name, *cells)
    for title, key in (("largest difference", "difference"), ("load before", "load")):
        shown.add_row(title, *(f"{row.get(key, 0.0):.2g}" for row in rows))
    return shown


def main() -> None:
    """Measure, compare and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--scenarios", type=int, default=12)
    options.add_argument("--out", type=Path, default=None, help="JSON file for the numbers")
    chosen = options.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            out = Path(folder) / str(count)
            rows.append(measure(count, out, chosen.scenarios))
            rows[-1]["difference"] = largest_difference(Path(folder) / "0", out)
            if chosen.out:
                chosen.out.write_text(json.dumps(rows, indent=1) + "\n")
    Console(width=120).print(table(rows))


if __name__ == "__main__":
    main()

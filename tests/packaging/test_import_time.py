"""Importing the package and asking for help is quick, and loads no heavy library."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT, TRIES = 0.3, 5
HEAVY = {
    "torch",
    "transformers",
    "transformer_lens",
    "plotly",
    "pandas",
    "numpy",
    "scipy",
    "sklearn",
    "networkx",
    "jaxtyping",
    "httpx2",
    "openai",
    "ray",
    "gguf",
}

TIMED = "import time; t = time.perf_counter(); {what}; print(time.perf_counter() - t)"
LOADED = "{what}; import sys; print(*sys.modules)"
HELP = (
    "import sys, contextlib, io; sys.argv = ['emotion-circuits', '--help']\n"
    "from circuits.__main__ import main\n"
    "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()\n"
)


def said(code):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.split()


@pytest.mark.trial("packaging", "`import circuits` is timed, the best of several tries")
def test_importing_is_quick_and_loads_nothing_heavy(trial):
    assert set(said(LOADED.format(what="import circuits"))) & HEAVY == set()
    best = min(float(said(TIMED.format(what="import circuits"))[0]) for _ in range(TRIES))
    assert best < LIMIT
    trial(times=TRIES, outcome=f"under {LIMIT} s, without torch and TransformerLens")


@pytest.mark.trial("packaging", "`emotion-circuits --help` is asked for")
def test_help_loads_nothing_heavy(trial):
    assert set(said(HELP + "print(*sys.modules)")) & HEAVY == set()
    trial(outcome="without torch and TransformerLens")

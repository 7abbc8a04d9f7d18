"""Quirks of files, options and accounts: what the released scripts trip over."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.errors import DataError
from circuits.files import write_json_lines
from circuits.judges.judge import Verdict
from circuits.judges.replies import Judged, Reply, accuracy_stats, read_methods
from circuits.prompts import sev
from circuits.prompts.templates import neutral_prompts
from circuits.published.folder import read_folder
from circuits.steering.evaluate import METHODS

ROOT = Path(__file__).parents[2]


def test_file_names_disagree(tmp_path):
    folder = "05_emotion_diff_vector_computation/attention_emotion_diff/emo_diff/anger"
    (tmp_path / folder).mkdir(parents=True)
    for layer in range(2):
        np.save(tmp_path / folder / f"layer{layer}.npy", np.ones(8, "f4"))
    assert read_folder(tmp_path).misnamed == (folder,)
    for layer in range(2):
        own = tmp_path / folder / f"layer{layer}.npy"
        own.rename(own.with_name(f"L{layer}.npy"))
    assert read_folder(tmp_path).misnamed == ()
    (tmp_path / folder / "L0.npy").unlink()
    with pytest.raises(DataError, match="expected one file for each layer"):
        read_folder(tmp_path)


def test_dict_in_the_prompt(tmp_path):
    events: Any = {"positive": "a", "neutral": "b", "negative": "c"}
    context = sev.Context("work_00", "work", "positive", "Monday.", "a")
    object.__setattr__(context, "event", events)  # where types are checked, they refuse it first
    with pytest.raises(DataError, match="expected one event as a text, found dict"):
        context.__post_init__()
    row = {"theme": "work", "scenario": "Monday.", "skeleton_id": "work_00"}
    write_json_lines(tmp_path / "x.jsonl", [{**row, "event": {**events, "neutral": events}}])
    with pytest.raises(DataError, match=r"'event\.neutral': .*valid string, found \{"):
        sev.read(tmp_path / "x.jsonl")


def test_label_keys_disagree(tmp_path, contexts):
    """Judged replies of every method are written, read and counted by the same names."""
    prompts = neutral_prompts(contexts)
    rows = [Judged(Reply(p, "No!", 1, "anger"), Verdict(True, "anger", "")) for p in prompts]
    write_json_lines(
        tmp_path / "all.jsonl", ({"method": m, **r.to_json()} for m in METHODS for r in rows)
    )
    found = read_methods(tmp_path / "all.jsonl")
    assert list(found) == list(METHODS)
    for judged in found.values():
        assert accuracy_stats(judged, "test")["overall"]["accepted"] == len(prompts)


def test_option_that_is_not_there():
    from typer.main import get_command

    from circuits.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    files = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    pages = "\n".join(path.read_text(encoding="utf-8") for path in files)
    lines = re.findall(r"emotion-circuits ([a-z-]+)([^`\n]*)", pages)
    used = [(name, option) for name, rest in lines for option in re.findall(r"--[a-z-]+", rest)]
    assert ("run", "--preset") in used
    for name, option in used:
        own = {word for param in commands[name].params for word in param.opts}
        fields = getattr(commands[name], "plan_options", dict)()
        assert option in own | {f"--{field.replace('_', '-')}" for field in fields}, name


def test_login_in_the_script():
    for path in (ROOT / "circuits").rglob("*.py"):
        called = [
            getattr(node.func, "attr", getattr(node.func, "id", ""))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        assert not {"login", "notebook_login", "interpreter_login"} & set(called), path

"""The command line as somebody types it."""

import errno
import subprocess
import sys

import pytest
from typer.main import get_command

from circuits.cli.app import app, main

LONG = "x" * 400
"""No file system takes such a name."""


@pytest.fixture
def command(monkeypatch, capsys):
    """The command line, in this process: a new one would load torch for every test."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["emotion-circuits", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return typed


@pytest.mark.parametrize("name", get_command(app).commands)  # type: ignore[attr-defined]
def test_every_command_explains_itself_with_an_example(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0
    assert "Example" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "no/such/run"), "is no run folder"),
        (("export", "no/such/run", "--out", "x"), "is no run folder"),
        (("run", "--model", "./nothing", "--out", "{tmp}/r"), "there is no such folder"),
        (("run", "--model", "x", "--out", "{tmp}/r", "--data", "none.jsonl"), "there is no file"),
        (("run", "--model", "x", "--out", "{tmp}/r", "--doses", "a,b"), "doses: found 'a'; it"),
        (("run", "--model", "x", "--out", "{tmp}/r", "--stages", "all"), "stages are replies"),
        (("run", "--out", "{tmp}/r"), "model: not given; give --model"),
        (("run", "--model", "x"), "out: not given; give --out"),
        (("control", "no/such/run"), "the command control is now called steer"),
        (("run", "--model", "x", "--out", "{tmp}/r", "--dial-contexts", "2"), "'sweep_contexts'"),
        (("run", "--model", "x", "--out", "{tmp}/r", "--stages", "control"), "'steering'"),
        (("run", "--keep-code"), "--keep-code: gone since 0.2.0; leave it out"),
        (("patch", "x", "--dry-run"), "--dry-run: gone since 0.2.0; leave it out"),
        (("status", "no/such/run"), "is no run folder"),
        (("paths", "no/such/run", "--keep", "0"), "keep: found '0'; it should be"),
        (("run", "--model", "x", "--out", "{tmp}/r", "--scenary", "3"), "mean 'scenarios'"),
        (("run", "--model", "x", "--out", "{tmp}/r", "--seed"), "--seed: no value; give"),
        (("say", "Hello.", "--emotion", "fear", "--run", "no/such/run"), "is no run folder"),
        (("say", "Hello.", "--emotion", "fear", "--circuit", "no.json"), "cannot read no.json"),
        (("say", "Hello.", "--emotion", "fear", "--mix", "fear=1"), "names no further emotion"),
        (("say", "Hello.", "--emotion", "fear", "--model", "x"), "a run has its own model"),
        (("say", "Hello.", "--emotion", "fear", "--any-revision"), "--any-revision: a run has"),
        (("check", "no.json", "no.txt"), "2 of 2 files are not what"),
        (("import", "no.json", "--out", "{tmp}/c"), "cannot read no.json"),
        (("import", "no", "--out", "{tmp}/c", "--emotion", "fear"), "name both; leave them out"),
        (("model-card", "no/such/model"), "there is no model card"),
    ],
)
def test_wrong_input_ends_with_one_line_and_exit_code_2(tmp_path, command, words, message):
    code, _, said = command(*(word.format(tmp=tmp_path) for word in words))
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1


def test_a_model_that_is_out_of_reach_is_told_in_a_new_process_too(tmp_path):
    words = ("run", "--model", "meta-llama/Llama-3.2-3B-Instruct", "--out", str(tmp_path / "r"))
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "circuits", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
    )
    assert shown.returncode == 2
    assert "log in" in shown.stderr


def test_the_model_card_of_the_embedded_model_is_shown(command):
    code, out, _ = command("model-card")
    assert code == 0
    assert "sev-mini" in out


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--model", "sev-mini", "--data", LONG, "--out", "{tmp}/r"),
        ("run", "--model", "sev-mini", "--out", LONG),
        ("run", "--model", LONG, "--out", "{tmp}/r"),
        ("run", "--model", "sev-mini", "--judge", f"lexicon:{LONG}", "--out", "{tmp}/r"),
        ("run", "--plan", LONG),
        ("show", LONG),
        ("export", LONG, "--out", "{tmp}/r"),
        ("import", LONG, "--out", "{tmp}/r"),
        ("import", "{tmp}", "--out", LONG),
        ("check", LONG),
        ("neurons", LONG, "--models", "sev-nano"),
        ("paths", LONG),
    ],
)
def test_a_path_that_the_system_will_not_look_at_is_refused_by_name(command, tmp_path, words):
    code, out, said = command(*(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert code == 2
    assert "xxxx" in out + said
    assert "Traceback" not in said


def test_so_is_one_that_no_command_expects(command, tmp_path, monkeypatch):
    def shut(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("circuits.cli.app.show_run", shut)
    code, _, said = command("show", str(tmp_path))
    assert code == 2
    assert said.startswith(f"error: {tmp_path}: Permission denied; give another path")


def test_neurons_without_a_model_leave_no_folder_behind(command, tmp_path):
    _, _, said = command("neurons", str(tmp_path / "new"))
    assert "is no run folder; give --models" in said
    assert not (tmp_path / "new").exists()

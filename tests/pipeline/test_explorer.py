"""The explorer of a run: made with the model once, and from what is kept ever after."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from circuits.circuit.circuit import core
from circuits.cli.app import app
from circuits.errors import ModelError, RunError
from circuits.export import read_circuit, write_circuit
from circuits.files import read_json, write_json
from circuits.runs import Study
from circuits.runs.report import PATTERN_CONTEXTS, PATTERN_HEADS, make_explorer


@pytest.fixture(scope="module")
def page(folder):
    return make_explorer(Study(folder))


@pytest.fixture
def no_model(page, monkeypatch):
    """From here on no model can be had."""

    def refuse(*args, **options):
        raise ModelError("no model here")

    monkeypatch.setattr("circuits.runs.work.load_model", refuse)


def document(page):
    (text,) = re.findall(r'id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_the_page_holds_every_node_with_tokens_contexts_and_patterns(folder, page):
    found, circuits = document(page), Study(folder).circuits
    parts = {n.id for c in circuits.values() for n in c.nodes if n.kind in ("head", "neuron")}
    by_name = {node["id"]: node for node in found["nodes"]}
    assert parts <= set(by_name)
    for name in parts:
        assert len(by_name[name]["tokens"]) == len(by_name[name]["contexts"]) == 2
        assert by_name[name]["scores"]["effect"][0][5] >= 1
    heads = sum(min(PATTERN_HEADS, len(c.heads)) for c in circuits.values())
    assert len(found["patterns"]) >= heads
    assert any("paths" in note for note in found["notes"])
    assert len(page) < 3_000_000

    for e, circuit in enumerate(circuits.values()):
        for node in circuit.nodes:
            if node.id in by_name and node.kind != "embed":
                row = by_name[node.id]["scores"].get("effect", [None, None])[e]
                assert node.score is None or row[0] == pytest.approx(node.score, rel=1e-3)
    # One pass for every prompt and for patterns; one more checks that heads and neurons add up.
    passes = read_json(folder / "explorer" / "explorer.json")["receipt"]["passes"]
    assert passes == 2 * (len(found["contexts"]) + PATTERN_CONTEXTS) + 1


def test_a_second_page_needs_no_model_unless_something_has_changed(folder, page, no_model):
    assert make_explorer(Study(folder)) == page
    path, log = folder / "circuits" / "fear.json", folder / "explorer" / "explorer.json"
    before, kept = read_circuit(path), log.read_text()
    write_circuit(core(before, 1, 2), path)
    with pytest.raises(ModelError, match="^no model here"):
        make_explorer(Study(folder))
    write_circuit(before, path)
    log.unlink()  # as if it were left half written
    with pytest.raises(ModelError, match="^no model here"):
        make_explorer(Study(folder))
    log.write_text(kept)


def test_paths_become_edges_and_need_no_model(folder, page, no_model):
    path = folder / "circuits" / "anger.json"
    before = read_circuit(path)
    first = before.of_kind("head")[0]
    edge = dataclasses.replace(
        before.edges[-1], source=first.id, target="readout", kind="path", weight=0.5, via="readout"
    )
    write_circuit(dataclasses.replace(before, edges=(*before.edges, edge)), path)
    found = document(make_explorer(Study(folder)))
    write_circuit(before, path)
    assert [e[2:4] for e in found["circuits"][0]["edges"] if e[2] == "path"] == [["path", 0.5]]
    assert found["notes"] == []


def test_imported_results_are_shown_without_a_model(folder, tmp_path, no_model):
    (tmp_path / "circuits").mkdir()
    for emotion in ("anger", "fear"):
        circuit = read_circuit(folder / "circuits" / f"{emotion}.json")
        write_circuit(circuit, tmp_path / "circuits" / f"{emotion}.json")
    plan = {"imported": "elsewhere", "model": "m", "emotions": ["anger", "fear"]}
    write_json(tmp_path / "run.json", {"plan": plan, "stages": {"circuits": {"key": "imported"}}})
    found = document(make_explorer(Study(tmp_path)))
    assert found["notes"][0].startswith("These are imported results")
    assert found["patterns"] == found["words"] == []
    assert not (tmp_path / "explorer").exists()


def test_a_run_without_circuits_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {"plan": {"emotions": ["anger"]}, "stages": {}})
    with pytest.raises(RunError, match="stage 'circuits' has not run"):
        make_explorer(Study(tmp_path))


def test_view_writes_the_page_and_opens_it(folder, page, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda place: not opened.append(place))
    out = tmp_path / "deep" / "page.html"
    for words, path in (([], folder / "explorer.html"), (["--out", str(out), "--open"], out)):
        done = CliRunner().invoke(app, ["view", str(folder), *words], catch_exceptions=False)
        assert done.exit_code == 0
        assert str(path) in done.output.replace("\n", "")
        assert path.read_text(encoding="utf-8") == page
    assert opened == [out.as_uri()]


def test_view_serves_the_page_on_this_machine_until_it_is_stopped(folder, page):
    (folder / "explorer.html").unlink(missing_ok=True)
    environment = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    # A shell's background jobs are deaf to Ctrl-C.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from circuits.__main__ import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, "view", str(folder), "--serve"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as served:
        assert served.stdout is not None
        address = served.stdout.readline().split()[1]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.read().decode() == page
        served.send_signal(signal.SIGINT)
        assert served.wait(20) == 0
    assert not (folder / "explorer.html").exists()

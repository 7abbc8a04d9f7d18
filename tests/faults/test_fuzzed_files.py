"""Malformed files: each is refused by name and place, or is read and comes back as it was."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.mutation import ODD, Outcomes, damaged, json_files, many, quick
from hypothesis import given
from hypothesis import strategies as st
from plans import plan_in
from typer.testing import CliRunner

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.cli.app import app
from circuits.errors import CircuitsError
from circuits.export.node_link import circuit_to_json, read_circuit, write_circuit
from circuits.files import shipped, write_json
from circuits.judges.agreement import read_labelled
from circuits.judges.judge import Verdict
from circuits.judges.replies import Judged, Reply, read_judged, read_methods, write_rows
from circuits.models.memory import Receipt
from circuits.names import EMOTIONS
from circuits.prompts import sev
from circuits.prompts.prompt import LabelledText, Texts
from circuits.prompts.templates import emotion_prompts
from circuits.prompts.texts import read_texts, write_texts
from circuits.provenance import Provenance
from circuits.runs.plan import Plan, read_plan

SCENARIOS = [
    json.loads(line)
    for line in shipped("sev/train.jsonl").read_text(encoding="utf-8").splitlines()[:3]
]
CONTEXTS = sev.contexts(sev.read(shipped("sev/train.jsonl"))[:1])
JUDGED = [
    Judged(Reply(prompt, "Fine.", 2, str(prompt.emotion)), Verdict(True, "anger", "by name"))
    for prompt in emotion_prompts(CONTEXTS, EMOTIONS[:2])
]
REPLIES = [{**row.to_json(), "method": "steer"} for row in JUDGED]
TEXTS = tuple(LabelledText(f"text, {i}", "ab"[i % 2], str(i // 2)) for i in range(4))
CIRCUIT = circuit_to_json(
    Circuit(
        "anger",
        (
            Node("embed", "embed"),
            Node("L0H1", "head", 0, effect=0.5, stderr=0.1),
            Node("L0.attn", "sublayer", 0, effect=1.0),
            Node("L1N7", "neuron", 1, effect=-0.5),
            Node("readout", "readout"),
        ),
        (Edge("L0H1", "L0.attn", "part", weight=0.5),),
        {"cpr": 0.5},
        Provenance({"name": "m", "n_layers": 2, "n_heads": 2, "d_mlp": 8}),
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def fuzzed(trial, path: Path, contents: Any, read: Callable[[Path], Any], kept: Any = bool) -> None:
    """Read one content after the other from a file."""
    outcomes = Outcomes()

    @many
    @given(contents)
    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        outcomes.of(lambda: read(path), lambda said: str(path) in said, kept)

    attempt()
    outcomes.note(trial, "name and place")


@pytest.mark.trial("files", "a SEV file from the fuzzer")
def test_a_sev_file_is_refused_by_place_or_read(folder, trial):
    def again(found):
        assert len({context.id for context in sev.contexts(found)}) == 3 * len(found)

    fuzzed(trial, folder / "sev.jsonl", json_files(SCENARIOS, lines=True), sev.read, again)


@pytest.mark.trial("files", "a file of replies from the fuzzer ({kind})")
@pytest.mark.parametrize("kind", ["judged", "methods"])
def test_a_file_of_replies_is_refused_by_place_or_comes_back(folder, trial, kind):
    read: Any = {"judged": read_judged, "methods": read_methods}[kind]

    def again(found):
        if kind != "methods":
            write_rows(folder / "again.jsonl", found)
            assert read(folder / "again.jsonl") == found

    fuzzed(trial, folder / "replies.jsonl", json_files(REPLIES, lines=True), read, again)


@pytest.mark.trial("files", "a circuit file from the fuzzer")
def test_a_circuit_is_refused_by_place_or_comes_back(folder, trial):
    def again(found):
        write_circuit(found, folder / "again.json")
        assert read_circuit(folder / "again.json") == found

    fuzzed(trial, folder / "circuit.json", json_files(CIRCUIT), read_circuit, again)


@pytest.mark.trial("files", "a file of labelled texts from the fuzzer ({suffix})")
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_file_of_texts_is_refused_by_place_or_comes_back(folder, trial, suffix):
    def read(path: Path, pair: str | None = "pair") -> Texts:
        return read_texts(path, split="train", pair=pair)

    def again(found):
        path = folder / f"again.{suffix}"
        write_texts(path, found)
        # Without any pair there is no column of them.
        assert read(path, "pair" if any(row.pair for row in found.rows) else None) == found

    rows = [{"text": row.text, "label": row.label, "pair": row.pair} for row in TEXTS]
    write_texts(folder / "valid.csv", Texts("train", ("a", "b"), TEXTS))
    contents = json_files(rows, lines=True)
    if suffix == "csv":
        contents = damaged((folder / "valid.csv").read_bytes())
    fuzzed(trial, folder / f"texts.{suffix}", contents, read, again)


@pytest.mark.trial("files", "a judge's labelled texts from the fuzzer")
def test_labelled_texts_are_refused_by_place_or_read(folder, trial):
    rows = [{"text": "No!", "label": "anger"}, {"text": "Well.", "label": "neutral"}]
    fuzzed(trial, folder / "labelled.jsonl", json_files(rows, lines=True), read_labelled)


def plan_again(found):
    assert Plan.from_json(found.to_json(), found.out) == found


@pytest.mark.trial("files", "the plan of a run's folder from the fuzzer")
def test_a_saved_plan_is_refused_or_comes_back(trial):
    outcomes, out = Outcomes(), Path("r")

    @many
    @given(json_files(plan_in(out, model="m").to_json()))
    def fuzz(content):
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(values, dict):
            outcomes.of(lambda: Plan.from_json(values, out), bool, plan_again)

    fuzz()
    outcomes.note(trial, "name")


@pytest.mark.trial("files", "an option of a run from the fuzzer")
def test_an_option_is_refused_or_kept(trial):
    values, outcomes = plan_in(Path("r"), model="m").to_json(), Outcomes()

    @many
    @given(st.sampled_from(sorted(values)), st.sampled_from(ODD))
    def fuzz(name, value):
        outcomes.of(
            lambda: Plan.from_json({**values, name: value}, Path("r")),
            lambda said: name in said.replace("-", "_"),
            plan_again,
        )

    fuzz()
    outcomes.note(trial, "name")


LINES = [
    'model = "sev-mini"',
    f'data = "{shipped("sev/train.jsonl")}"',
    f'test = "{shipped("sev/test.jsonl")}"',
    'out = "run"',
    "scenarios = 12",
    'emotions = ["anger", "fear"]',
    "doses = [0.1, 0.3]",
    'judge = "lexicon"',
    "budget = { heads = 0.2, neurons = 0.05, min_per_layer = 0 }",
    "half = false",
]
VALUES = [
    *("nan", "inf", "-1", "0", "1e400", "99999999999999999999", "true", '""', '"x"', "[]", "[[]]"),
    *("{}", "1979-05-27", '"\\u0000"', "[" * 300, '["anger", "anger"]', '["anger", 3]', "'''"),
    *("=", '{ heads = "a" }', "{ heads = nan }", '"../../etc"', "0x10", "[1, [2, [3]]]"),
]


@st.composite
def plan_files(draw: Any) -> bytes:
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        name, _, value = lines[place].partition(" = ")
        other = draw(st.sampled_from([name + "s", name.upper(), "", "x.y"]))
        strange = draw(st.sampled_from(["[table]", "[[x]]", "?", "\x00", "]", "a."]))
        changed = [f"{name} = {draw(st.sampled_from(VALUES))}", f"{other} = {value}", "", strange]
        lines[place] = draw(st.sampled_from(changed))
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines).encode()


@pytest.mark.trial("files", "a plan file from the fuzzer")
def test_a_plan_file_is_refused_by_name_or_read(folder, trial):
    path, outcomes = folder / "plan.toml", Outcomes()

    @many
    @given(plan_files())
    def fuzz(content):
        path.write_bytes(content)
        # What is wrong with the file names it; what is wrong with the run names the option.
        names = lambda said: "--" in said or str(path) in said  # noqa: E731
        outcomes.of(lambda: read_plan(path), names, plan_again)

    fuzz()
    outcomes.note(trial, "name and place")


@pytest.mark.trial("files", "run.json from the fuzzer, then: emotion-circuits {command}")
@pytest.mark.parametrize("command", ["show", "export"])
def test_a_malformed_run_ends_in_one_line(tmp_path, trial, command):
    run, counts = tmp_path / "run", Counter[str]()
    plan = plan_in(run, model="m", emotions=("anger", "fear"))
    write_json(run / "circuits" / "anger.json", CIRCUIT)
    entry = {"key": "0", "receipt": Receipt().to_json()}
    valid = {"plan": plan.to_json(), "stages": {"replies": entry, "circuits": entry}}
    more = ["--out", str(tmp_path / "out")] if command == "export" else []

    @quick
    @given(json_files(valid))
    def fuzz(content):
        (run / "run.json").write_bytes(content)
        found: Any = CliRunner().invoke(app, [command, str(run), *more])
        counts["read" if found.exit_code == 0 else "refused"] += 1
        assert found.exit_code == 0 or isinstance(found.exception, CircuitsError), found.exception
        assert "Traceback" not in found.output

    fuzz()
    assert counts["refused"] > 10, counts
    trial(times=counts.total(), outcome="refused in one line, or shown")

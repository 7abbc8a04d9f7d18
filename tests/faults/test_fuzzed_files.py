"""Malformed files: each is refused by name and place, or is read and comes back as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.mutation import damaged, json_files, json_lines, quick
from hypothesis import given

from circuits.assets import shipped
from circuits.data import sev
from circuits.data.judges.calibration import read_labelled
from circuits.data.judges.protocol import Verdict
from circuits.data.prompts import asked_prompts
from circuits.data.replies import (
    Judged,
    Reply,
    read_judged,
    read_methods,
    read_replies,
    write_rows,
)
from circuits.data.text_files import read_texts, write_texts
from circuits.data.texts import LabelledText, Texts
from circuits.errors import CircuitsError
from circuits.export.node_link import circuit_to_json, read_circuit, write_circuit
from circuits.graph.circuit import Circuit, Edge, Node
from circuits.names import EMOTIONS
from circuits.pipeline.plan import Plan
from circuits.provenance import Provenance

SCENARIOS = [
    json.loads(line)
    for line in shipped("sev/train.jsonl").read_text(encoding="utf-8").splitlines()[:3]
]
CONTEXTS = sev.contexts(sev.read(shipped("sev/train.jsonl"))[:1])
JUDGED = [
    Judged(Reply(prompt, "Fine.", 2, str(prompt.emotion)), Verdict(True, "anger", "by name"))
    for prompt in asked_prompts(CONTEXTS, EMOTIONS[:2])
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


class Outcomes:
    """How often files were refused, and read."""

    def __init__(self) -> None:
        self.refused = self.read = 0

    def of(
        self, path: Path, content: bytes, read: Callable[[Path], Any], again: Any = None
    ) -> None:
        path.write_bytes(content)
        try:
            found = read(path)
        except CircuitsError as error:
            said = str(error)
        else:
            self.read += 1
            if again:
                again(found)
            return
        assert str(path) in said, said
        assert len(said) < 2000
        self.refused += 1

    def told(self) -> str:
        assert self.refused >= 40, self.refused
        return "refused by name and place, or read and kept"


def note(trial: Any, outcomes: Outcomes) -> None:
    trial(times=outcomes.refused + outcomes.read, outcome=outcomes.told())


@pytest.mark.trial("files", "a SEV file from the fuzzer")
def test_a_sev_file_is_refused_by_place_or_read(folder, trial):
    outcomes = Outcomes()

    def again(found):
        assert len({context.id for context in sev.contexts(found)}) == 3 * len(found)

    @quick
    @given(json_lines(SCENARIOS))
    def fuzz(content):
        outcomes.of(folder / "sev.jsonl", content, sev.read, again)

    fuzz()
    note(trial, outcomes)


@pytest.mark.trial("files", "a file of replies from the fuzzer ({kind})")
@pytest.mark.parametrize("kind", ["replies", "judged", "methods"])
def test_a_file_of_replies_is_refused_by_place_or_comes_back(folder, trial, kind):
    outcomes = Outcomes()
    read: Any = {"replies": read_replies, "judged": read_judged, "methods": read_methods}[kind]

    def again(found):
        if kind != "methods":
            write_rows(folder / "again.jsonl", found)
            assert read(folder / "again.jsonl") == found

    @quick
    @given(json_lines(REPLIES))
    def fuzz(content):
        outcomes.of(folder / "replies.jsonl", content, read, again)

    fuzz()
    note(trial, outcomes)


@pytest.mark.trial("files", "a circuit file from the fuzzer")
def test_a_circuit_is_refused_by_place_or_comes_back(folder, trial):
    outcomes = Outcomes()

    def again(found):
        write_circuit(found, folder / "again.json")
        assert read_circuit(folder / "again.json") == found

    @quick
    @given(json_files(CIRCUIT))
    def fuzz(content):
        outcomes.of(folder / "circuit.json", content, read_circuit, again)

    fuzz()
    note(trial, outcomes)


@pytest.mark.trial("files", "a file of labelled texts from the fuzzer ({suffix})")
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_a_file_of_texts_is_refused_by_place_or_comes_back(folder, trial, suffix):
    outcomes = Outcomes()

    def read(path: Path, pair: str | None = "pair") -> Texts:
        return read_texts(path, split="train", pair=pair)

    def again(found):
        path = folder / f"again.{suffix}"
        write_texts(path, found)
        # Without any pair there is no column of them.
        assert read(path, "pair" if any(row.pair for row in found.rows) else None) == found

    write_texts(folder / f"valid.{suffix}", Texts("train", ("a", "b"), TEXTS))
    valid = (folder / f"valid.{suffix}").read_bytes()
    rows = [{"text": row.text, "label": row.label, "pair": row.pair} for row in TEXTS]

    @quick
    @given(json_lines(rows) if suffix == "jsonl" else damaged(valid))
    def fuzz(content):
        outcomes.of(folder / f"texts.{suffix}", content, read, again)

    fuzz()
    note(trial, outcomes)


@pytest.mark.trial("files", "a judge's labelled texts from the fuzzer")
def test_labelled_texts_are_refused_by_place_or_read(folder, trial):
    outcomes = Outcomes()

    @quick
    @given(json_lines([{"text": "No!", "label": "anger"}, {"text": "Well.", "label": "neutral"}]))
    def fuzz(content):
        outcomes.of(folder / "labelled.jsonl", content, read_labelled)

    fuzz()
    note(trial, outcomes)


@pytest.mark.trial("files", "the plan of a run's folder from the fuzzer")
def test_a_saved_plan_is_refused_or_comes_back(folder, trial):
    plan = Plan(
        model="m", data=shipped("sev/train.jsonl"), test=shipped("sev/test.jsonl"), out=folder / "r"
    )
    refused, read = 0, 0

    @quick
    @given(json_files(plan.to_json()))
    def fuzz(content):
        nonlocal refused, read
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            return
        if not isinstance(values, dict):
            return
        try:
            found = Plan.from_json(values, plan.out)
        except CircuitsError:
            refused += 1
            return
        read += 1
        assert Plan.from_json(found.to_json(), plan.out) == found

    fuzz()
    trial(times=refused + read, outcome="refused by name, or read and kept")

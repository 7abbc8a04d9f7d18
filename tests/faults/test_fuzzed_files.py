"""Malformed files: each is refused by name and place, or is read and comes back as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.mutation import damaged, json_files, json_lines, many
from faults.outcomes import Outcomes
from hypothesis import given
from plans import plan_in

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.export.node_link import circuit_to_json, read_circuit, write_circuit
from circuits.files import shipped
from circuits.judges.agreement import read_labelled
from circuits.judges.judge import Verdict
from circuits.judges.replies import (
    Judged,
    Reply,
    read_judged,
    read_methods,
    read_replies,
    write_rows,
)
from circuits.names import EMOTIONS
from circuits.prompts import sev
from circuits.prompts.prompt import LabelledText, Texts
from circuits.prompts.templates import emotion_prompts
from circuits.prompts.texts import read_texts, write_texts
from circuits.provenance import Provenance
from circuits.runs.plan import Plan

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


MALFORMED = 200
"""Files of a kind that must have been refused."""


def fuzzed(path: Path, read: Callable[[Path], Any], kept: Callable[[Any], None] | None = None):
    """Tries one content of a file, and the counts."""
    outcomes = Outcomes()

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        outcomes.of(lambda: read(path), lambda said: str(path) in said, kept)

    return attempt, outcomes


def note(trial: Callable[..., None], outcomes: Outcomes) -> None:
    outcomes.note(trial, at_least=MALFORMED, how="name and place")


@pytest.mark.trial("files", "a SEV file from the fuzzer")
def test_a_sev_file_is_refused_by_place_or_read(folder, trial):
    def again(found):
        assert len({context.id for context in sev.contexts(found)}) == 3 * len(found)

    attempt, outcomes = fuzzed(folder / "sev.jsonl", sev.read, again)
    many(given(json_lines(SCENARIOS))(attempt))()
    note(trial, outcomes)


@pytest.mark.trial("files", "a file of replies from the fuzzer ({kind})")
@pytest.mark.parametrize("kind", ["replies", "judged", "methods"])
def test_a_file_of_replies_is_refused_by_place_or_comes_back(folder, trial, kind):
    read: Any = {"replies": read_replies, "judged": read_judged, "methods": read_methods}[kind]

    def again(found):
        if kind != "methods":
            write_rows(folder / "again.jsonl", found)
            assert read(folder / "again.jsonl") == found

    attempt, outcomes = fuzzed(folder / "replies.jsonl", read, again)
    many(given(json_lines(REPLIES))(attempt))()
    note(trial, outcomes)


@pytest.mark.trial("files", "a circuit file from the fuzzer")
def test_a_circuit_is_refused_by_place_or_comes_back(folder, trial):
    def again(found):
        write_circuit(found, folder / "again.json")
        assert read_circuit(folder / "again.json") == found

    attempt, outcomes = fuzzed(folder / "circuit.json", read_circuit, again)
    many(given(json_files(CIRCUIT))(attempt))()
    note(trial, outcomes)


@pytest.mark.trial("files", "a file of labelled texts from the fuzzer ({suffix})")
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_a_file_of_texts_is_refused_by_place_or_comes_back(folder, trial, suffix):
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

    attempt, outcomes = fuzzed(folder / f"texts.{suffix}", read, again)
    many(given(json_lines(rows) if suffix == "jsonl" else damaged(valid))(attempt))()
    note(trial, outcomes)


@pytest.mark.trial("files", "a judge's labelled texts from the fuzzer")
def test_labelled_texts_are_refused_by_place_or_read(folder, trial):
    rows = [{"text": "No!", "label": "anger"}, {"text": "Well.", "label": "neutral"}]
    attempt, outcomes = fuzzed(folder / "labelled.jsonl", read_labelled)
    many(given(json_lines(rows))(attempt))()
    note(trial, outcomes)


@pytest.mark.trial("files", "the plan of a run's folder from the fuzzer")
def test_a_saved_plan_is_refused_or_comes_back(folder, trial):
    plan = plan_in(folder / "r", model="m")
    outcomes = Outcomes()

    @many
    @given(json_files(plan.to_json()))
    def fuzz(content):
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(values, dict):
            outcomes.of(lambda: Plan.from_json(values, plan.out), bool, again)

    def again(found):
        assert Plan.from_json(found.to_json(), plan.out) == found

    fuzz()
    outcomes.note(trial, at_least=MALFORMED, how="name")

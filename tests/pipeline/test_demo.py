"""The demo gives what it gave before the package was rebuilt: circuits, effects, scores, rates."""

import json
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from circuits import shipped
from circuits.models.load import folder_digest

WEIGHTS = "sha256:b51f986ed99c15cebee813cc6226bab8257031441addcd96047a09f6989714a4"
"""The weights of sev-mini that the reference was made with."""

RECORDS = (
    "directions",
    "importance",
    *(f"effects/{name}" for name in ("direct", "heads", "means", "neurons", "plain_means")),
    "effects/totals",
)
RENAMED = {
    "control": "random_baseline",
    "effects/plain_means": "effects/neutral_means",
    "control.json": "steering.json",
    "control_p99": "baseline_p99",
}
"""What the reference calls otherwise."""
CLOSE = 1e-5
"""Of the largest value of its kind."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def before(shared: Path) -> Path:
    found = folder_digest(shipped("sev-mini"))
    if found != WEIGHTS:
        pytest.skip(f"the reference is of sev-mini {WEIGHTS[:19]}, this one is {found[:19]}")
    return shared / "data" / "demo_before"


@pytest.fixture(scope="module")
def demo(before: Path, request: pytest.FixtureRequest) -> Path:
    """A run of the demo's plan, which is not made where there is nothing to compare it with."""
    del before
    return request.getfixturevalue("study").folder


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def now(tables: dict) -> dict:
    """The same under the names of today."""
    return {
        RENAMED.get(name, name): now(value) if isinstance(value, dict) else value
        for name, value in tables.items()
    }


def flat(scores: dict) -> dict[str, float]:
    """Score and field -> number."""
    found = {}
    for name, score in scores.items():
        fields = score if isinstance(score, dict) else {"": score}
        found |= {f"{name} {field}".strip(): value for field, value in fields.items()}
    return found


def mean_of(key: str, tables: Collection[str]) -> str:
    """The values whose error a table holds, or the table itself: rounding is of their size."""
    means = {"stderr": "mean" if "mean" in tables else "slope"}
    return means.get(key, key.removesuffix("_stderr"))


def test_every_record_is_the_same(before, demo):
    for name in RECORDS:
        expected = now(load_file(before / name / "record.safetensors"))
        found = load_file(demo / RENAMED.get(name, name) / "record.safetensors")
        assert found.keys() == expected.keys(), name
        for key, values in expected.items():
            largest = float(max(values.abs().max(), expected[mean_of(key, expected)].abs().max()))
            gap = float((found[key].double() - values.double()).abs().nan_to_num().max())
            assert gap <= CLOSE * largest, f"{name}.{key}: {gap} of {largest}"
            assert torch.equal(found[key].isnan(), values.isnan()), f"{name}.{key}"


def test_every_circuit_has_the_same_heads_and_neurons(before, demo):
    for path in sorted((before / "circuits").glob("*.json")):
        expected, found = read(before / "circuits", path.name), read(demo / "circuits", path.name)
        names = {node["id"] for node in expected["nodes"]}
        assert {node["id"] for node in found["nodes"]} == names, path.stem


def test_every_score_is_the_same(before, demo):
    expected, found = now(read(before, "scores.json")), read(demo, "scores.json")
    assert found.keys() == expected.keys()
    for emotion, scores in expected.items():
        for field, value in flat(scores).items():
            largest = max(abs(flat(own)[field]) for own in expected.values())
            gap = abs(flat(found[emotion])[field] - value)
            assert gap <= CLOSE * largest, f"{emotion} {field}: {gap} of {largest}"


def test_every_rate_is_the_same(before, demo):
    expected, found = read(before, "control.json"), read(demo, RENAMED["control.json"])
    assert found["methods"].keys() == expected["methods"].keys()
    for method, row in expected["methods"].items():
        for field in ("n", "overall", "by_emotion", "second_judge", "topic_kept", "repetition"):
            assert found["methods"][method][field] == row[field], f"{method} {field}"
    for method in ("steer", "circuit"):
        assert found["settings"][method] == expected["settings"][method]

"""Plan files from the fuzzer: refused by file, line and option, or read and kept."""

from pathlib import Path
from typing import Any

import pytest
from faults.mutation import ODD, many
from faults.outcomes import Outcomes
from hypothesis import given
from hypothesis import strategies as st
from plans import plan_in

from circuits.files import shipped
from circuits.runs.plan import Plan, read_plan

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
    "memory = 1.0",
    "half = false",
    'dtype = "float32"',
]
VALUES = [
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "99999999999999999999",
    "true",
    '""',
    '"x"',
    "[]",
    "[[]]",
    "{}",
    "1979-05-27",
    '"\\u0000"',
    "[" * 300,
    '["anger", "anger"]',
    '["anger", 3]',
    "'''",
    "=",
    '{ heads = "a" }',
    "{ heads = nan }",
    '"../../etc"',
    "0x10",
    "[1, [2, [3]]]",
]


@st.composite
def plans(draw: Any) -> bytes:
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        name, _, value = lines[place].partition(" = ")
        how = draw(st.sampled_from(["value", "value", "name", "drop", "twice", "line"]))
        if how == "value":
            lines[place] = f"{name} = {draw(st.sampled_from(VALUES))}"
        elif how == "name":
            lines[place] = (
                f"{draw(st.sampled_from([name + 's', name.upper(), '', 'x.y']))} = {value}"
            )
        elif how == "drop" and len(lines) > 1:
            del lines[place]
        elif how == "twice":
            lines.append(lines[place])
        else:
            lines.insert(place, draw(st.sampled_from(["[table]", "[[x]]", "?", "\x00", "]", "a."])))
    content = draw(st.sampled_from(["\n", "\r\n"])).join(lines).encode()
    if draw(st.booleans()) and draw(st.booleans()):
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + draw(st.binary(max_size=3)) + content[place + 1 :]
    return content


def again(found):
    assert Plan.from_json(found.to_json(), found.out) == found


@pytest.mark.trial("files", "a plan file from the fuzzer")
def test_a_plan_file_is_refused_by_name_or_read(tmp_path_factory, trial):
    path: Path = tmp_path_factory.mktemp("plans") / "plan.toml"
    outcomes = Outcomes()

    @many
    @given(plans())
    def fuzz(content):
        path.write_bytes(content)
        # What is wrong with the file names it; what is wrong with the run names the option.
        outcomes.of(lambda: read_plan(path), lambda said: "--" in said or str(path) in said, again)

    fuzz()
    outcomes.note(trial, at_least=200, how="name and place")


@pytest.mark.trial("files", "an option of a run from the fuzzer")
def test_an_option_is_refused_or_kept(trial):
    plan = plan_in(Path("r"), model="m")
    values = plan.to_json()
    outcomes = Outcomes()

    @many
    @given(st.sampled_from(sorted(values)), st.sampled_from(ODD))
    def fuzz(name, value):
        outcomes.of(
            lambda: Plan.from_json({**values, name: value}, Path("r")),
            lambda said: name in said.replace("-", "_"),
            again,
        )

    fuzz()
    outcomes.note(trial, at_least=200, how="name")

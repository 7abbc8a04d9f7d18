"""Options of a plan as texts: ``--option value`` and ``--set option=value`` read alike."""

from typing import Any

import pytest
from typer.testing import CliRunner

from circuits.circuit.find import Budget
from circuits.cli.app import app
from circuits.cli.options import settings
from circuits.errors import CircuitsError, RunError
from circuits.models.tokens import today
from circuits.runs import PRESETS
from circuits.runs.plan import OPTIONS, RENAMED, meanings, read_plan


def plan_of(*texts):
    return read_plan(None, {"model": "sev-mini", "out": "run", **settings(texts)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("diff_prompt=indented", "indented"),
        ("diff-unit = true", True),
        ("signed=false", False),
        ("dev_scenarios=0", 0),
        ("scenarios=none", None),
        ("memory=0.5", 0.5),
        ("date=15 Sep 2025", "15 Sep 2025"),
        ("circuit_dtype=float16", "float16"),
        ("circuit_dtype=none", None),
        ("doses=0.1,0.3", (0.1, 0.3)),
        ("stable_layers=2,3", (2, 3)),
        ("emotions=anger,fear", ("anger", "fear")),
        ("circuit_strength=1.5", (("other", 1.5),)),
        ("circuit_strength=anger=0.8,other=1", (("anger", 0.8), ("other", 1.0))),
        ("circuit_strength=none", None),
        ("budget=0.3,0.1", Budget(0.3, 0.1)),
    ],
)
def test_a_setting_is_read_by_the_kind_of_its_option(text, expected):
    name = text.partition("=")[0].strip().replace("-", "_")
    assert getattr(plan_of(text), name) == expected


def test_several_settings_are_read_together_and_the_last_counts():
    plan = plan_of("half=true", "seed=3", "seed=4")
    assert (plan.half, plan.seed) == (True, 4)


@pytest.mark.parametrize("name", ["published", "as-released"])
def test_every_option_of_a_preset_can_be_set(name):
    for option, value in PRESETS[name].items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if option == "circuit_strength":
            text = "anger=0.8,other=1.0"
        if isinstance(value, Budget):
            text = f"{value.heads},{value.neurons}"
        expected = today() if value == "today" else value
        assert getattr(plan_of(f"{option}={text}"), option) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "--set: 'half' sets nothing; write option=value"),
        ("halve=true", r"no option is called 'halve' \(did you mean 'half'\?\)"),
        ("half=maybe", "half: found 'maybe'; give true or false"),
        ("half=", "half: found ''; give true or false"),
        ("seed=one", "seed: found 'one'; give a whole number"),
        ("memory=much", "memory: found 'much'; give a number"),
        ("memory=nan", "memory: found 'nan'; give"),
        ("scenarios=few", "scenarios: found 'few'; give a whole number or none"),
        ("scenarios=0", "scenarios: found '0'; give 1 or more or none"),
        ("decoding=loud", "decoding: found 'loud'; give 'identical' or 'published'"),
        ("circuit_dtype=int8", "found 'int8'; give 'float32', 'bfloat16' or 'float16' or none"),
        ("doses=a,b", "doses: found 'a'; give a number"),
        ("stable_layers=1.5", "give a whole number or none"),
        ("circuit_strength=anger", "circuit_strength: found 'anger'; give a strength, or"),
        ("budget=1,2", "budget: neurons is a share and must lie above 0 and at most 1"),
        ("budget=1", "budget: found '1'; give two shares, of heads and of neurons"),
        ("methods=shout", "methods: 'shout' is not known; methods are none, prompt, "),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(text, message):
    with pytest.raises(CircuitsError, match=message) as refused:
        plan_of(text)
    assert "\n" not in str(refused.value)


def test_every_option_explains_itself_in_the_help():
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    assert all(f"--{name.replace('_', '-')} " in shown for name in {*OPTIONS, "out"} - _FLAG)


_FLAG = {"trust_remote_code"}


def test_the_neurons_plan_is_read_in_the_same_way():
    from circuits.runs.neurons import NeuronPlan

    make: Any = NeuronPlan  # which reads texts, as a command line has them
    plan = make(texts="emotion", share="0.1", doses="0,2")
    assert (plan.texts, plan.share, plan.doses) == (("emotion",), 0.1, (0.0, 2.0))
    assert all(meanings(NeuronPlan).values())
    for name, value in (("mask", "black"), ("share", 0), ("draws", 1), ("texts", ""), ("sign", 3)):
        with pytest.raises(RunError, match=f"^{name}: found {value!r}|^{name}: found \\[\\]"):
            make(**{name: value})


@pytest.mark.parametrize(
    ("line", "now"),
    [
        *((f"{old}=3", new) for old, new in RENAMED.items()),
        ("methods=prompt,steer_plain", "steer_neutral"),
        ("relative_to=plain", "neutral"),
    ],
)
def test_what_was_renamed_is_refused_with_its_new_name(line, now):
    with pytest.raises(RunError, match=f"is now called '{now}'"):
        plan_of(line)

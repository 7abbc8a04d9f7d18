"""Plans as files and as texts: read, written, and refused before anything is loaded or made."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from circuits.circuit.find import Budget
from circuits.cli.app import app
from circuits.cli.options import settings
from circuits.errors import CircuitsError, RunError
from circuits.files import shipped
from circuits.models.tokens import today
from circuits.runs import PRESETS, Plan
from circuits.runs.neurons import NeuronPlan
from circuits.runs.plan import (
    OPTIONS,
    RENAMED,
    meanings,
    plan_schema,
    plan_toml,
    read_plan,
    template,
)

GOOD = """\
# mine
model = "sev-mini"
out = "results"
seed = 3

emotions = [
  "anger",
  "fear",
]
[budget]
heads = 0.3
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "plan.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def plan_of(*texts):
    return read_plan(None, {"model": "sev-mini", "out": "run", **settings(texts)})


def test_the_template_has_every_option_at_its_default_and_meets_the_schema(file, tmp_path):
    plan = read_plan(file(template()), {"out": tmp_path / "run"})
    assert plan == read_plan(None, {"model": "sev-mini", "out": tmp_path / "run"})
    assert plan.hard == shipped("sev/hard.jsonl")
    assert {*tomllib.loads(template())} == {*OPTIONS}
    assert all(meanings(Plan)[name] for name in (*OPTIONS, "out"))
    schema = plan_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(tomllib.loads(template()))
    assert {*schema["properties"]} == {*OPTIONS, "out", "preset"}
    assert schema["properties"]["judge_profile"]["enum"]
    assert "min_per_layer" in schema["$defs"]["Budget"]["properties"]
    with pytest.raises(Exception, match="'resampled'"):
        Draft202012Validator(schema).validate({"ablation": "resampled"})
    json.dumps(schema, allow_nan=False)


def test_a_file_gives_options_and_the_rest_are_defaults(file, tmp_path):
    plan = read_plan(file(GOOD))
    assert plan.budget == Budget(0.3, 0.05)
    assert (plan.seed, plan.emotions, plan.draws) == (3, ("anger", "fear"), 100)
    assert plan.out == tmp_path / "results"


def test_relative_paths_belong_to_the_files_folder(file, tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_bytes(shipped("sev/test.jsonl").read_bytes())
    path = file('model = "./weights"\ntest = "mine.jsonl"\nout = "../there"\n')
    monkeypatch.chdir("/")
    plan = read_plan(path)
    assert plan.test == tmp_path / "mine.jsonl"
    assert plan.model == str(tmp_path / "weights")
    assert plan.out == tmp_path / "../there"
    assert plan.hard is None  # own scenarios come without harder ones


def test_what_is_typed_goes_before_the_file_and_the_file_before_a_preset(file):
    path = file('preset = "published"\nread_at = "resid_post"\n' + GOOD)
    plan = read_plan(path, {"seed": 9, "out": Path("elsewhere")})
    assert (plan.seed, plan.out) == (9, Path("elsewhere"))
    assert plan.read_at == "resid_post" != PRESETS["published"]["read_at"]
    assert plan.begin == PRESETS["published"]["begin"]
    assert read_plan(path, preset="default").begin == "one"


def test_a_runs_own_plan_makes_the_same_run_again(brief, brief_study, tmp_path):
    own = brief_study.folder / "plan.toml"
    assert read_plan(own, {"out": tmp_path / "new"}) == replace(brief, out=tmp_path / "new")
    assert str(brief_study.folder) not in own.read_text() + brief_study.log.__repr__()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_written_and_read_back_and_each_option_can_be_set(file, preset, tmp_path):
    plan = read_plan(None, {"model": "sev-mini", "out": tmp_path / "run"}, preset)
    assert read_plan(file(plan_toml(plan)), {"out": tmp_path / "run"}) == plan
    for option, value in PRESETS[preset].items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if option == "circuit_strength":
            text = "anger=0.8,other=1.0"
        if isinstance(value, Budget):
            text = f"{value.heads},{value.neurons}"
        expected = today() if value == "today" else value
        assert getattr(plan_of(f"{option}={text}"), option) == expected


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    model=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
        lambda name: name.strip() and not name.startswith(".") and "\0" not in name
    ),
    seed=st.integers(-(2**40), 2**40),
    memory=st.floats(1e-6, 1e9),
    strengths=st.dictionaries(st.sampled_from(["anger", "other"]), st.floats(-9, 9), min_size=1),
    layers=st.none() | st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple),
    heads=st.floats(0.001, 1),
)
def test_any_plan_is_written_and_read_back(
    tmp_path_factory, model, seed, memory, strengths, layers, heads
):
    folder = tmp_path_factory.mktemp("plans")
    options = {"seed": seed, "memory": memory, "stable_layers": layers, "budget": Budget(heads)}
    options |= {"model": model, "circuit_strength": tuple(strengths.items())}
    plan = read_plan(None, {"out": folder / "run", **options})
    path = folder / "plan.toml"
    path.write_text(plan_toml(plan), encoding="utf-8")
    found = read_plan(path, {"out": folder / "run"})
    assert replace(found, model="m") == replace(plan, model="m")
    assert found.model == model or not model.strip("/")


REFUSED = [
    ("no TOML", "seed = = 1", "no TOML"),
    ("a key twice", "seed = 1\nseed = 2", "no TOML"),
    (
        "an unknown option",
        "draws = 3\n\nscore_context = 4",
        r"line 3: no option is called 'score_context' \(did you mean 'score_contexts'\?\)",
    ),
    ("an unknown table", "[budgets]\nheads = 1", r"line 1: no option .* mean 'budget'"),
    (
        "an unknown key in a table",
        "[budget]\nheads = 0.1\nhead = 0.2",
        "line 3: budget.head: found .*; Unexpected keyword argument",
    ),
    ("a word for a number", "\n\nseed = 'one'", "line 3: seed: found 'one'; .* a valid integer"),
    ("a number for a word", "judge = 3", "line 1: judge: found 3; it should be a valid string"),
    ("a fraction of a context", "score_contexts = 2.5", "found 2.5; .* a valid integer"),
    (
        "a word that is no choice",
        "seed = 1\nablation = 'resampled'",
        "line 2: ablation: found 'resampled'; it should be 'resample', 'mean' or 'zero'",
    ),
    ("a flag that is none", "half = 'maybe'", "line 1: half: found 'maybe'; .* a valid boolean"),
    ("a list of the wrong kind", "doses = ['a']", "line 1: doses: found 'a'; .* a valid number"),
    ("a date without quotes", "date = 2024-07-26", "line 1: date: found .*; .* a valid string"),
    (
        "a wrong key of a budget",
        "[budget]\n\nheads = 'many'",
        "line 3: budget.heads: found 'many'; it should be a valid number",
    ),
    ("a budget that is no share", "draws = 4\nbudget = { heads = 2.0 }", "line 2: budget: heads"),
    ("a number that is too small", "seed = 1\ndraws = 0", "line 2: draws: found 0; .*equal to 1"),
    ("a file that is not there", "data = 'none.jsonl'", "line 1: --data: there is no file .*none"),
    ("a judge that is none", "seed = 1\njudge = 'oracle'", "line 2: judge: no judge has the form"),
    ("an unknown preset", "preset = 'best'", "line 1: preset: found 'best'; give default, publ"),
    ("an emotion that is none of the run's", "circuit_strength = { joy = 1.0 }", "line 1: circuit"),
    ("a number that is none", "memory = nan", "line 1: memory: found nan; .* a finite number"),
    ("a day that is none", "date = 'soon'", "line 1: date: 'soon' is no date"),
]


@pytest.mark.trial("files", "a plan file with {what}")
@pytest.mark.parametrize(("what", "text", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_wrong_plan_is_refused_before_anything_is_loaded_or_made(
    file, tmp_path, monkeypatch, what, text, message, trial
):
    monkeypatch.setattr("circuits.runs.work.load_model", None)  # which nothing may call
    path = file(text)
    with pytest.raises(CircuitsError, match=message) as refused:
        read_plan(path, {"model": "sev-mini", "out": tmp_path / "run"})
    assert str(path) in str(refused.value)
    assert not (tmp_path / "run").exists()
    trial(outcome="refused with file, line and option; nothing loaded or made")


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
def test_a_setting_is_read_by_the_kind_of_its_option_as_in_a_file(text, expected):
    name = text.partition("=")[0].strip().replace("-", "_")
    assert getattr(plan_of("signed=true", "seed=4", text), name) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "--set: 'half' sets nothing; write option=value"),
        ("halve=true", r"no option is called 'halve' \(did you mean 'half'\?\)"),
        ("scenarios=few", "scenarios: found 'few'; it should be a valid integer.*, or none"),
        ("circuit_dtype=int8", "found 'int8'; it should be 'float32', 'bfloat16' or 'float16', or"),
        ("stable_layers=1.5", "it should be a valid integer.*, or none"),
        ("circuit_strength=anger", "circuit_strength: found 'anger'; give a strength, or"),
        ("budget=1,2", "budget: neurons is a share and must lie above 0 and at most 1"),
        ("budget=1", "budget: found '1'; give two shares, of heads and of neurons"),
        ("methods=shout", "methods: 'shout' is not known; methods are none, prompt, "),
        ("emotions=anger", "emotions: found .*at least 2 items"),
        ("emotions=anger,anger", "emotions: found .*two or more different ones"),
        ("doses=-0.1", "doses: found '-0.1'; it should be greater than 0"),
        ("meanings=awe=wonder", "meanings: 'awe' is no emotion of the run"),
        ("dial_contexts=3", "the option 'dial_contexts' is now called 'sweep_contexts'"),
        ("methods=prompt,steer_plain", "methods: 'steer_plain' is now called 'steer_neutral'"),
        ("relative_to=plain", "relative_to: 'plain' is now called 'neutral'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(text, message):
    assert [*RENAMED] == ["dial_contexts"]
    with pytest.raises(CircuitsError, match=message) as refused:
        plan_of(text)
    assert "\n" not in str(refused.value)


def test_every_option_explains_itself_in_the_help():
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    options = {*OPTIONS, "out"} - {"trust_remote_code"}
    assert all(f"--{name.replace('_', '-')} " in shown for name in options)


def test_the_neurons_plan_is_read_in_the_same_way():
    make: Any = NeuronPlan  # which reads texts, as a command line has them
    plan = make(texts="emotion", share="0.1", doses="0,2")
    assert (plan.texts, plan.share, plan.doses) == (("emotion",), 0.1, (0.0, 2.0))
    assert all(meanings(NeuronPlan).values())
    for name, value in (("mask", "black"), ("share", 0), ("draws", 1), ("texts", ""), ("sign", 3)):
        with pytest.raises(RunError, match=f"^{name}: found {value!r}|^{name}: found \\[\\]"):
            make(**{name: value})

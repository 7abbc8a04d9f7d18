"""``--set option=value`` reads any option of a plan, or says in one line what it may be."""

import pytest

from circuits.circuit.find import Budget
from circuits.cli.options import settings
from circuits.errors import RunError
from circuits.runs import PRESETS, Plan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("diff_prompt=indented", {"diff_prompt": "indented"}),
        ("diff-unit = true", {"diff_unit": True}),
        ("signed=false", {"signed": False}),
        ("dev_scenarios=0", {"dev_scenarios": 0}),
        ("scenarios=none", {"scenarios": None}),
        ("memory=0.5", {"memory": 0.5}),
        ("date=15 Sep 2025", {"date": "15 Sep 2025"}),
        ("circuit_dtype=float16", {"circuit_dtype": "float16"}),
        ("circuit_dtype=none", {"circuit_dtype": None}),
        ("doses=0.1,0.3", {"doses": (0.1, 0.3)}),
        ("stable_layers=2,3", {"stable_layers": (2, 3)}),
        ("emotions=anger,fear", {"emotions": ("anger", "fear")}),
        ("circuit_strength=1.5", {"circuit_strength": (("other", 1.5),)}),
        (
            "circuit_strength=anger=0.8,other=1",
            {"circuit_strength": (("anger", 0.8), ("other", 1.0))},
        ),
        ("circuit_strength=none", {"circuit_strength": None}),
    ],
)
def test_a_setting_is_read_by_the_kind_of_its_option(text, expected):
    assert settings([text]) == expected


def test_several_settings_are_read_together_and_the_last_counts():
    assert settings(["half=true", "seed=3", "seed=4"]) == {"half": True, "seed": 4}


@pytest.mark.parametrize("name", ["published", "as-released"])
def test_every_option_of_a_preset_can_be_set(name):
    for option, value in PRESETS[name].items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if option == "circuit_strength":
            text = "anger=0.8,other=1.0"
        if isinstance(value, Budget):
            text = f"{value.heads},{value.neurons}"
        assert settings([f"{option}={text}"]) == {option: value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "--set: 'half' sets nothing; write option=value"),
        (
            "halve=true",
            r"--set: no option is called 'halve' \(did you mean 'half'\?\); options are ablation, ",
        ),
        ("half=maybe", "--set half: found 'maybe'; give true or false"),
        ("half=", "--set half: found ''; give true or false"),
        ("seed=one", "--set seed: found 'one'; give whole number"),
        ("memory=much", "--set memory: found 'much'; give number"),
        ("scenarios=few", "--set scenarios: found 'few'; give whole number or none"),
        ("decoding=loud", "--set decoding: found 'loud'; give identical, published"),
        ("circuit_dtype=int8", "found 'int8'; give float32, bfloat16, float16 or none"),
        ("doses=a,b", "--set doses: found 'a,b'; give numbers with commas between"),
        ("stable_layers=1.5", "give whole numbers with commas between or none"),
        ("circuit_strength=anger", "--set circuit_strength: found 'anger'; give a strength, or"),
        ("budget=1,2", "--set budget: found '1,2'; give two shares, of heads and of neurons"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(text, message):
    with pytest.raises(RunError, match=message):
        settings([text])


def test_every_option_but_the_folder_can_be_set():
    with pytest.raises(RunError) as refused:
        settings(["x=1"])
    listed = str(refused.value).split("options are ")[1].split(", ")
    assert {*listed} == {*Plan.kinds()}

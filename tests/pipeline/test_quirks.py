"""The table of quirks, the presets made of it, and a whole run under each."""

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from plans import plan_in

from circuits.errors import RunError
from circuits.files import shipped
from circuits.published.quirks import METHOD, QUIRKS
from circuits.runs import PRESETS, Plan, run
from circuits.runs.keys import dependents, stage_key
from circuits.runs.plan import STAGES, Stage
from circuits.steering.evaluate import FEW

SWITCHES = [switch for quirk in (*QUIRKS, *METHOD) for switch in quirk.switches]
PUBLISHED = ("published", "as-released")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return plan_in(
        tmp_path_factory.mktemp("runs") / "default",
        model=str(shipped("sev-nano")),
        emotions=("anger", "sadness", "fear"),
        scenarios=4,
        test_scenarios=1,
        score_contexts=2,
        draws=10,
        methods=FEW,
        sweep_contexts=0,
        second_judge=None,
        hard=None,
        max_new_tokens=16,
    )


@pytest.fixture(scope="module")
def studies(plan):
    plans = {
        name: replace(plan, out=plan.out.with_name(name), **PRESETS[name]) for name in PUBLISHED
    }
    return {name: run(own) for name, own in plans.items()}


def test_the_table_has_every_published_quirk_once_with_a_reason():
    names = [quirk.name for quirk in (*QUIRKS, *METHOD)]
    assert (len(QUIRKS), len(set(names))) == (26, len(names))
    for quirk in (*QUIRKS, *METHOD):
        assert len(quirk.reason.split()) > 3
        assert bool(quirk.switches) != bool(quirk.handled)


@pytest.mark.parametrize("quirk", [*QUIRKS, *METHOD], ids=lambda quirk: quirk.name)
def test_every_quirk_has_a_test_of_its_name(quirk):
    pages = Path(__file__).parent.glob("test_quirks_of_*.py")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert len(re.findall(rf"^def test_{quirk.name}\(", text, re.M)) == 1


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.option)
def test_every_switch_is_an_option_with_another_default(switch, plan):
    (own,) = [field for field in fields(Plan) if field.name == switch.option]
    expected = {PRESETS[name][switch.option] for name in PUBLISHED}
    if switch.option in ("samples", "neuron_positions"):
        # Ours is the published choice; the other one is what the switch is for.
        assert expected == {own.default}
    elif switch.option in ("diff_grouping", "diff_unit"):
        assert switch.published == own.default != switch.as_released
    else:
        assert own.default not in expected


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.option)
def test_every_switch_makes_a_stage_run_again(switch, plan):
    other = {
        "samples": "all",
        "neuron_positions": "all",
        "diff_grouping": "scenario",
        "diff_unit": True,
    }.get(switch.option, switch.published)
    changed = replace(plan, **{switch.option: other})
    again: list[Stage] = [s for s in STAGES if stage_key(plan, s) != stage_key(changed, s)]
    assert {*dependents(again[0])} < {*again}
    assert again[-1] == "report"


def test_presets_set_switches_and_nothing_else():
    options = {switch.option for switch in SWITCHES}
    assert set(PRESETS) == {"default", *PUBLISHED}
    assert PRESETS["default"] == {}
    assert set(PRESETS["published"]) == set(PRESETS["as-released"]) == options
    differ = {o for o in options if PRESETS["published"][o] != PRESETS["as-released"][o]}
    assert differ == {"date", "diff_grouping", "diff_unit"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begin": "two"}, "begin: found 'two'; give 'one' or 'tokenizer'"),
        ({"samples": "some"}, "samples: found 'some'; give 'accepted' or 'all'"),
        ({"circuit_dtype": "int8"}, "circuit_dtype: found 'int8'; give 'float32'"),
        ({"head_positions": "first"}, "head_positions: found 'first'; give 'last' or 'all'"),
        ({"date": "2025-09-15"}, "date: '2025-09-15' is no date such as 26 Jul 2024"),
        ({"circuit_strength": (("joy", 1.0),)}, "circuit_strength: 'joy' is no emotion"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(plan, changes, message):
    with pytest.raises(RunError, match=message):
        replace(plan, **changes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_run_under_a_preset_leaves_finite_numbers(studies, name):
    study = studies[name]
    assert tuple(study.log["stages"]) == STAGES
    for record in ("directions", "heads", "neurons", "importance", "written_means", "totals"):
        found = getattr(study, record)
        for field in found.axes:
            values = getattr(found, field)
            assert not values.is_floating_point() or bool(values.isfinite().all()), field
    methods = study.steering["methods"]
    assert tuple(methods) == FEW
    for found in methods.values():
        assert found["n"] == 3 * 3
        assert math.isfinite(found["overall"])
    heads = {len(circuit.heads) for circuit in study.circuits.values()}
    assert len(heads) == 1  # every place is filled, whatever the sign


def test_a_whole_run_says_what_was_written_where(studies):
    for name, study in studies.items():
        settings = study.steering["settings"]
        assert settings["circuit"] == {
            "strength": 1.0,
            "when": "every",
            "heads_at": "all",
            "neurons_at": "last",
            "by_emotion": {"anger": 0.8},
            "order": "product",
        }
        assert (settings["steer"]["strength"], settings["steer"]["scale"]) == (8.0, "rms")
        assert (settings["tried"], study.importance.read_at) == ([], "final")
        assert study.log["plan"]["diff_unit"] == (name == "as-released")


def test_as_released_one_valence_of_a_scenario_is_left(studies):
    n_contexts = {name: study.written_means.n_contexts for name, study in studies.items()}
    scenarios = {row.reply.prompt.context.scenario for row in studies["published"].accepted}
    assert n_contexts["published"] == studies["published"].means.n_contexts
    assert 0 < n_contexts["as-released"] <= len(scenarios) < n_contexts["published"]


def test_as_released_differences_have_length_one_and_move_the_replies_otherwise(studies):
    from circuits.effects.activations import differences

    unit = differences(studies["as-released"].written_means, unit=True).z.flatten(2).norm(dim=-1)
    torch.testing.assert_close(unit, torch.ones_like(unit))
    own = differences(studies["published"].written_means).z.flatten(2).norm(dim=-1)
    assert (own - 1).abs().max() > 0.05
    texts = [
        [
            row["gen_text"]
            for line in study.replies_path.read_text().splitlines()
            if (row := json.loads(line))["method"] == "circuit"
        ]
        for study in studies.values()
    ]
    assert texts[0] != texts[1]

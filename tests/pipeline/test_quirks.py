"""The table of quirks, the presets made of it, and a whole run under each."""

import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from plans import plan_in

from circuits.effects.activations import differences
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
        emotions=("anger", "fear"),
        scenarios=4,
        dev_scenarios=1,
        test_scenarios=1,
        score_contexts=2,
        draws=2,
        methods=FEW,
        sweep_contexts=0,
        second_judge=None,
        hard=None,
        max_new_tokens=12,
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

    pages = Path(__file__).parent.glob("test_quirks_of_*.py")
    tests = re.findall(r"^def test_(\w+)\(", "\n".join(page.read_text() for page in pages), re.M)
    assert [*map(tests.count, names)] == [1] * len(names)


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.option)
def test_every_switch_is_an_option_with_another_default_and_makes_a_stage_run_again(switch, plan):
    (own,) = [field for field in fields(Plan) if field.name == switch.option]
    expected = {PRESETS[name][switch.option] for name in PUBLISHED}
    other = switch.published
    if switch.option in ("samples", "neuron_positions"):
        # Ours is the published choice; the other one is what the switch is for.
        assert expected == {own.default}
        other = "all"
    elif switch.option in ("diff_grouping", "diff_unit"):
        assert switch.published == own.default != switch.as_released
        other = PRESETS["as-released"][switch.option]
    else:
        assert own.default not in expected
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_run_under_a_preset_leaves_finite_numbers_and_says_what_was_written(studies, name):
    study = studies[name]
    assert tuple(study.log["stages"]) == STAGES
    for record in ("directions", "heads", "neurons", "importance", "written_means", "totals"):
        found = getattr(study, record)
        values = [getattr(found, field) for field in found.axes]
        assert all(v.isfinite().all() for v in values if v.is_floating_point()), record
    methods, settings = study.steering["methods"], study.steering["settings"]
    assert tuple(methods) == FEW
    assert all(
        found["n"] == 3 * 2 and math.isfinite(found["overall"]) for found in methods.values()
    )
    heads = {len(circuit.heads) for circuit in study.circuits.values()}
    assert len(heads) == 1  # every place is filled, whatever the sign
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


def test_as_released_one_valence_of_a_scenario_is_left_in_differences_of_length_one(studies):
    published, released = (studies[name] for name in PUBLISHED)
    n_published, n_released = (own.written_means.n_contexts for own in (published, released))
    scenarios = {row.reply.prompt.context.scenario for row in published.accepted}
    assert n_published == published.means.n_contexts
    assert 0 < n_released <= len(scenarios) < n_published
    unit = differences(released.written_means, unit=True).z.flatten(2).norm(dim=-1)
    torch.testing.assert_close(unit, torch.ones_like(unit))
    own = differences(published.written_means).z.flatten(2).norm(dim=-1)
    assert (own - 1).abs().max() > 0.05
    one, other = (
        [line for line in own.replies_path.read_text().splitlines() if '"circuit"' in line]
        for own in (published, released)
    )
    assert one != other

"""Strengths are chosen on dev contexts, by accuracy among those that keep the text whole."""

import pytest
import torch

from circuits.control.compare import Bench, Tools
from circuits.control.modulation import Modulation, Steering
from circuits.control.tuning import MODULATIONS, tune
from circuits.model.edits import Add


class PlannedBench(Bench):
    """Tells candidates apart by their edits; makes no reply."""

    candidates: dict
    asked: list

    def __init__(self, candidates):
        object.__setattr__(self, "candidates", candidates)
        object.__setattr__(self, "asked", [])

    def prompted(self, progress):
        return []

    def losses(self, judged, progress):
        return []

    def changed(self, method, edits, progress):
        how = self.candidates[id(edits)]
        self.asked.append(how)
        return [how]


class PlannedTools(Tools):
    """Gives every candidate edits of its own."""

    made: dict
    kept: list

    def __init__(self, directions):
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "made", {})
        object.__setattr__(self, "kept", [])

    def _edits(self, how):
        edits = [[Add("z", 0, torch.zeros(1))]]
        self.kept.append(edits)
        self.made[id(edits)] = how
        return edits

    modulate = _edits
    steer = _edits


@pytest.fixture
def tuned(monkeypatch, directions):
    def with_plan(plan):
        tools = PlannedTools(directions)
        bench = PlannedBench(tools.made)

        def expression(judged, losses, prompted):
            reached, ratio = plan(judged[0])
            return {"overall": reached, "perplexity_ratio": ratio}

        monkeypatch.setattr("circuits.control.tuning.expression", expression)
        return tune(bench, tools), bench.asked

    return with_plan


def test_the_most_accurate_candidate_wins(tuned):
    def plan(how):
        if isinstance(how, Modulation):
            return (80.0 if how == Modulation(1.5) else 10.0), 1.0
        return (70.0 if how == Steering((1,), 3.0) else 60.0 if how.layers == (1,) else 5.0), 1.0

    found, _ = tuned(plan)
    assert found.modulation == Modulation(1.5)
    assert found.steering == Steering((1,), 3.0)


def test_broken_text_loses_whatever_its_accuracy(tuned):
    found, _ = tuned(lambda how: (98.0, 100.0) if how.when == "every" else (50.0, 1.2))
    assert found.modulation.when == "prompt"
    assert found.steering.when == "prompt"


def test_among_equals_the_gentlest_wins(tuned):
    found, _ = tuned(lambda how: (50.0, 1.0))
    assert found.modulation == MODULATIONS[0]


def test_nothing_more_is_tried_when_one_is_good_enough(tuned):
    found, asked = tuned(lambda how: (99.5, 1.0))
    assert len(asked) == 2
    assert found.modulation == MODULATIONS[0]
    assert found.steering.layers == (0,)


def test_every_candidate_is_recorded_with_what_it_reached(tuned):
    found, asked = tuned(lambda how: (50.0, None))
    assert len(found.tried) == len(asked)
    assert found.tried[0] == {
        "method": "circuit", "strength": 1.0, "when": "prompt",
        "accuracy": 50.0, "perplexity_ratio": None,
    }  # fmt: skip

"""How methods write is chosen on dev contexts, in the same way for all of them."""

from dataclasses import replace
from typing import Any

import pytest

from circuits.circuit.circuit import ORDERS
from circuits.judges.judge import Verdict
from circuits.judges.replies import Judged, Reply
from circuits.prompts.sev import Context
from circuits.prompts.templates import neutral_prompt
from circuits.steering.evaluate import Evaluator
from circuits.steering.interventions import (
    TIMES,
    Interventions,
    Modulation,
    NeuronSteering,
    Steering,
)
from circuits.steering.tune import FACTORS, LIMIT, settings, starts, tune

CONTEXT = Context("work_00", "Work", "neutral", "I ran a race", "It ended.")
EMOTIONS = ("anger", "fear")


class PlannedTools(Interventions):
    """Candidates stand for their own edits."""

    def __init__(self, directions, parts=None):
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "parts", parts)

    def edits(self, how: Any) -> Any:
        return how


class PlannedEvaluator(Evaluator):
    """Tells by a plan what a candidate reaches per emotion; makes no reply."""

    plan: Any
    asked: list[Any]
    last: Any

    def __init__(self, plan):
        object.__setattr__(self, "plan", plan)
        object.__setattr__(self, "asked", [])

    def prompted(self, edits: Any = None) -> Any:
        return [None] * (100 * len(EMOTIONS))

    def changed(self, method: str, edits: Any) -> Any:
        self.asked.append((method, edits))
        rows = []
        for emotion in EMOTIONS:
            how = replace(edits, strength=edits.strength_of(emotion), by_emotion=())
            share, _ = self.plan(how, emotion)
            text = "so sad " * (8 if how.when == "every" else 1)
            reply = Reply(neutral_prompt(CONTEXT), text, 2, emotion)
            rows += [Judged(reply, Verdict(i < share, None, str(how))) for i in range(100)]
        object.__setattr__(self, "last", edits)
        return rows

    def losses(self, judged: Any) -> Any:
        if judged[0] is None:
            return [0.0] * len(judged)
        found = []
        for row in judged:
            how = replace(self.last, strength=self.last.strength_of(row.reply.emotion))
            found.append(self.plan(replace(how, by_emotion=()), row.reply.emotion)[1])
        return found


@pytest.fixture
def interventions(directions):
    return PlannedTools(directions, (1, 1))


def tuned(interventions, plan, method="circuit", **options):
    evaluator = PlannedEvaluator(plan)
    candidates = {method: starts(interventions, Modulation())[method]}
    return tune(evaluator, interventions, candidates, **options), evaluator


def test_places_come_first_then_times_then_strengths(interventions):
    found, evaluator = tuned(interventions, lambda how, emotion: (50, 0.0))
    asked = [how for _, how in evaluator.asked]
    assert [how.order for how in asked[: len(ORDERS)]] == list(ORDERS)
    times = [(how.when, how.heads_at) for how in asked[len(ORDERS) : len(ORDERS) + 2]]
    assert times == list(TIMES[1:])  # the first time was tried with the places
    assert [how.strength for how in asked[-4:]] == list(FACTORS[1:])
    assert len(asked) == len(found.tried) == len(ORDERS) + 2 + 4


def test_all_methods_get_as_many_times_and_strengths(interventions):
    for method, candidates in starts(interventions, Modulation()).items():
        _, evaluator = tuned(interventions, lambda how, emotion: (50, 0.0), method)
        assert len(evaluator.asked) == len(candidates) + len(TIMES) - 1 + len(FACTORS) - 1, method


@pytest.mark.parametrize(
    ("plan", "chosen"),
    [
        # The most accurate; of those the one that costs the least; then that repeats the least.
        (lambda how, e: (80 if how.order == "direct" else 10, 0.0), Modulation(order="direct")),
        (lambda how, e: (90, 0.1 if how.order == "effect" else 0.2), Modulation(order="effect")),
        (lambda how, e: (90, 0.0) if how.strength == 1 else (10, 0.0), Modulation()),
        # One strength for all emotions where it does as well.
        (lambda how, e: (90, 0.0 if how.strength == 1.25 else 0.1), Modulation(1.25)),
    ],
)
def test_the_best_candidate_wins(interventions, plan, chosen):
    found, evaluator = tuned(interventions, plan)
    assert found.by_method["circuit"] == chosen
    assert replace(chosen, when="every", strength=1.0) in [how for _, how in evaluator.asked]


def test_broken_text_loses_whatever_its_accuracy(interventions):
    found, _ = tuned(interventions, lambda how, e: (98, 2.0) if how.strength > 1 else (50, 0.1))
    assert found.by_method["circuit"].strength_of("anger") <= 1
    assert found.scores["circuit"][0]
    assert LIMIT < 2.7  # e^2 is broken, e^0.1 is not


def test_among_equals_the_gentlest_wins(interventions):
    found, _ = tuned(interventions, lambda how, e: (50, 0.0))
    assert found.by_method["circuit"] == Modulation()
    steered, _ = tuned(interventions, lambda how, e: (50, 0.0), "steer")
    assert steered.by_method["steer"] == Steering((0,), 2.0)


def test_every_emotion_gets_a_strength_of_its_own(interventions):
    best = {"anger": 0.75, "fear": 1.5}
    found, _ = tuned(interventions, lambda how, e: (90 if how.strength == best[e] else 40, 0.0))
    assert dict(found.by_method["circuit"].by_emotion) == best
    assert found.scores["circuit"][1] == 90


@pytest.mark.parametrize(("share", "asked"), [(100, 1), (50, len(ORDERS) + len(FACTORS) - 1)])
def test_a_brief_search_ends_at_the_first_good_candidate_and_tries_no_times(
    interventions, share, asked
):
    found, evaluator = tuned(interventions, lambda how, e: (share, 0.0), good_enough=99.0)
    assert len(evaluator.asked) == asked
    assert {how.when for _, how in evaluator.asked} == {"prompt"}
    assert found.by_method["circuit"] == Modulation()


def test_the_last_round_may_see_more_contexts(interventions):
    finer = PlannedEvaluator(lambda how, e: (50, 0.0))
    _, evaluator = tuned(interventions, lambda how, e: (50, 0.0), finer=finer)
    assert [how.strength for _, how in finer.asked] == list(FACTORS)
    assert len(evaluator.asked) == len(ORDERS) + 2


def test_the_best_of_the_steering_methods_is_named(interventions):
    evaluator = PlannedEvaluator(lambda how, e: (80 if how.along == "neutral" else 60, 0.0))
    every = starts(interventions, Modulation())
    found = tune(
        evaluator, interventions, {m: every[m] for m in ("steer", "steer_neutral", "probe")}
    )
    assert found.best(("steer", "steer_neutral", "probe")) == "steer_neutral"
    assert found.best(("circuit",)) is None


def test_a_whole_circuit_has_no_parts_to_choose_from(directions):
    every = starts(PlannedTools(directions), Modulation(heads_at="all"))
    assert every["circuit"] == [Modulation(heads_at="all")]


def test_every_candidate_is_recorded_with_what_it_reached(interventions):
    found, _ = tuned(interventions, lambda how, e: (50, 0.0), "neurons")
    assert found.tried[0] == {
        "method": "neurons",
        "strength": 2.0,
        "when": "prompt",
        "at": "last",
        "by_emotion": {},
        "n": 200,
        "accuracy": 50.0,
        "perplexity_ratio": 1.0,
        "repetition": 0.0,
    }


def test_settings_are_plain_values():
    assert settings(NeuronSteering(by_emotion=(("fear", 2.0),))) == {
        "strength": 1.0,
        "when": "prompt",
        "at": "last",
        "by_emotion": {"fear": 2.0},
    }
    assert settings(Steering((1, 2)))["layers"] == [1, 2]

"""What replies cost: variety, topic, and intervals that respect contexts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.judges.judge import Verdict
from circuits.judges.replies import Judged, Reply
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt
from circuits.steering.evaluate import (
    distinct,
    interval,
    keeps_topic,
    opposes,
    second_judge_rates,
    side_effects,
    topic_words,
)

quick = settings(deadline=None, max_examples=60)


def context(scenario="work_00", valence="neutral", event="The report had ninety pages."):
    return Context(scenario, "Work", valence, "I proofread the annual report", event)


def judged(text, emotion="fear", match=True, where=None, label=None):
    return Judged(Reply(emotion_prompt(where or context(), emotion), text, 3, emotion),
                  Verdict(match, label, ""))  # fmt: skip


@quick
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), max_size=6))
def test_distinct_is_a_share_and_one_where_nothing_comes_twice(texts):
    grams = [g for t in texts for g in zip(t.split(), t.split()[1:], strict=False)]
    found = distinct(texts, 2)
    assert 0 <= found <= 1
    assert (found == 1) == (len(grams) > 0 and len(grams) == len(set(grams)))


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("How dare they treat the reports like that!", True),
        ("PAGES and pages, I am scared.", True),
        ("I am so scared of it all.", False),
        ("The ninety-year-old", True),
        ("", False),
    ],
)
def test_a_reply_keeps_the_topic_if_it_shares_a_content_word(reply, kept):
    assert keeps_topic(reply, context()) == kept


def test_words_that_name_an_emotion_are_no_topic():
    assert topic_words("I was so happy and afraid of the wasps") == {"wasp"}


def test_an_event_opposes_an_emotion_of_the_other_sign():
    opposed = {(e, v) for e in ("anger", "happiness", "surprise") for v in ("positive", "negative")
               if opposes(e, v)}  # fmt: skip
    assert opposed == {("anger", "positive"), ("happiness", "negative")}


def test_the_topic_of_another_scenario_is_the_chance_level():
    other = Context("home_01", "Home", "neutral", "I swept the cellar", "It was damp.")
    rows = [judged("My report!"), judged("The cellar!", where=other)]
    found = side_effects(rows, [1.0, 1.0], [1.0, 1.0])
    assert (found["topic_kept"], found["topic_by_chance"]) == (100.0, 0.0)
    crossed = [judged("The cellar!"), judged("My report!", where=other)]
    found = side_effects(crossed, [1.0, 1.0], [1.0, 1.0])
    assert (found["topic_kept"], found["topic_by_chance"]) == (0.0, 100.0)


def test_opposing_moods_are_a_part_of_the_replies():
    good = context(valence="positive")
    rows = [judged("a", match=False, where=good), judged("b"), judged("c", "happiness", where=good)]
    found = side_effects(rows, [1.0] * 3, [1.0] * 3)["opposing"]
    assert (found["n"], found["overall"]) == (1, 0.0)


def test_ratios_are_given_by_emotion():
    rows = [judged("a"), judged("b", "anger")]
    found = side_effects(rows, [math.log(2), math.nan], [0.0, 0.0])
    assert found["ratio_by_emotion"] == {"fear": 2.0, "anger": None}


def test_the_interval_of_a_mean_is_that_of_resampled_contexts():
    """Against a plain bootstrap with the same draws."""
    units = ["a", "a", "b", "c", "c", "c"]
    column = [0.0, 1.0, 5.0, 2.0, math.nan, 3.0]
    rows = {name: [v for u, v in zip(units, column, strict=True) if u == name and v == v]
            for name in "abc"}  # fmt: skip
    drawn = np.random.default_rng(0).integers(3, size=(1000, 3))
    means = [np.mean([v for i in draw for v in rows["abc"[i]]]) for draw in drawn]
    found = interval(units, [column], lambda mean: mean)
    assert found == pytest.approx(np.quantile(means, (0.025, 0.975)).tolist(), abs=1e-4)


@quick
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_an_interval_of_one_context_is_a_point(values):
    found = interval(["a"] * len(values), [values], lambda mean: mean)
    assert found is not None
    assert found[0] == found[1] == pytest.approx(sum(values) / len(values), abs=1e-3)


def test_a_context_without_a_number_leaves_no_interval():
    assert interval(["a", "b"], [[math.nan, 1.0]], lambda mean: mean) is None


def test_where_all_agree_the_number_of_contexts_still_limits_what_is_known():
    rows = [judged("My report!") for _ in range(50)]
    low, high = side_effects(rows, [1.0] * 50, [1.0] * 50)["intervals"]["overall"]
    assert low < 30  # one context, however many replies
    assert high == 100.0


def test_without_a_second_judge_nothing_is_said_of_it():
    assert second_judge_rates([judged("a")], None) == {"second_judge": None, "kappa": None}


def test_a_second_judge_has_an_accuracy_and_an_agreement():
    rows = [judged("a", label="fear"), judged("b", "anger", match=False, label="neutral")]
    verdicts = [Verdict(True, "fear", ""), Verdict(True, "anger", "")]
    found = second_judge_rates(rows, verdicts)
    assert found["second_judge"] == 100.0
    assert found["second_by_emotion"] == {"fear": 100.0, "anger": 100.0}
    assert found["judges_agree"] == 50.0
    assert 0 < found["kappa"] < 1

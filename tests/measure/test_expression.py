import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.files import read_json
from circuits.judges.judge import Verdict
from circuits.judges.replies import (
    Judged,
    Reply,
    accuracy,
    accuracy_stats,
    expression,
    read_judged,
    repetition,
    wilson,
)
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt

PUBLISHED = "outputs/llama32_3b/01_emotion_elicited_generation_prompt_based/labeled/sev"
quick = settings(deadline=None, max_examples=60)


def judged(emotion, match, valence="neutral", text="I see."):
    context = Context("work_00", "Work", valence, "I ran a race", "It ended.")
    return Judged(
        Reply(emotion_prompt(context, emotion), text, 3, emotion), Verdict(match, None, "")
    )


ROWS = [
    judged("fear", True, "negative"),
    judged("fear", False, "positive"),
    judged("anger", True, "positive"),
    judged("anger", True, "negative", "So so so so so."),
]


def test_accuracy_is_a_percentage_and_nothing_of_nothing():
    assert accuracy(ROWS) == 75.0
    assert accuracy(ROWS[:1]) == 100.0
    assert math.isnan(accuracy([]))


@pytest.mark.parametrize(
    ("matches", "total", "low", "high"),
    [
        (0, 0, 0.0, 100.0),
        (10, 10, 72.2, 100.0),
        (0, 10, 0.0, 27.8),
        (5, 10, 23.7, 76.3),
        (2847, 2880, 98.4, 99.2),
    ],
)
def test_wilson_intervals_are_those_of_the_tables(matches, total, low, high):
    assert wilson(matches, total) == pytest.approx((low, high), abs=0.06)


@quick
@given(st.integers(1, 5000), st.data())
def test_an_interval_holds_its_share_and_mirrors_its_complement(total, data):
    matches = data.draw(st.integers(0, total))
    low, high = wilson(matches, total)
    assert 0 <= low <= 100 * matches / total + 1e-9
    assert 100 * matches / total - 1e-9 <= high <= 100
    mirrored = wilson(total - matches, total)
    assert (100 - high, 100 - low) == pytest.approx(mirrored, abs=1e-9)


@quick
@given(st.integers(1, 200), st.data())
def test_more_replies_of_the_same_share_narrow_the_interval(total, data):
    matches = data.draw(st.integers(0, total))
    few, many = wilson(matches, total), wilson(4 * matches, 4 * total)
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("So sad", 0.0),
        ("I am so sad today", 0.0),
        ("no no no no no no", 3 / 4),
        ("No no NO no", 1 / 2),
        ("I am sad and I am sad", 1 / 5),
    ],
)
def test_repetition_counts_triples_said_before(text, share):
    assert repetition(text) == pytest.approx(share)


@quick
@given(st.lists(st.sampled_from(["I", "am", "so", "sad"]), max_size=30).map(" ".join))
def test_repetition_is_a_share_and_saying_it_all_again_repeats_more(text):
    assert 0 <= repetition(text) < 1
    if len(text.split()) >= 3:
        assert repetition(f"{text} {text}") > repetition(text) or repetition(text) > 0


def test_statistics_have_the_published_form():
    assert accuracy_stats(ROWS, "sev") == {
        "dataset": "sev",
        "overall": {"total_samples": 4, "accepted": 3, "rejected": 1, "accuracy": 75.0},
        "by_emotion": {
            "fear": {"total": 2, "accepted": 1, "rejected": 1, "accuracy": 50.0},
            "anger": {"total": 2, "accepted": 2, "rejected": 0, "accuracy": 100.0},
        },
        "by_valence": {
            "positive": {"total": 2, "accepted": 1, "rejected": 1, "accuracy": 50.0},
            "negative": {"total": 2, "accepted": 2, "rejected": 0, "accuracy": 100.0},
        },
    }


def test_statistics_of_nothing_have_no_accuracy():
    assert accuracy_stats([], "none")["overall"] == {
        "total_samples": 0,
        "accepted": 0,
        "rejected": 0,
        "accuracy": None,
    }


def test_the_published_statistics_are_recounted_from_the_published_replies(shared):
    folder = shared / "data" / "published" / PUBLISHED
    if not (folder / "accuracy_stats.json").is_file():
        pytest.skip("the published replies and their statistics are not here")
    rows = read_judged(folder / "accepted.jsonl") + read_judged(folder / "rejected.jsonl")
    assert accuracy_stats(rows, "sev") == read_json(folder / "accuracy_stats.json")


def test_expression_gives_accuracy_and_its_price():
    found = expression(ROWS, [2.0, 2.0, 3.0, 3.0], [1.5, 1.5, 2.5, 2.5])
    low, high = wilson(3, 4)
    assert found == {
        "n": 4,
        "overall": 75.0,
        "low": round(low, 2),
        "high": round(high, 2),
        "by_emotion": {"fear": 50.0, "anger": 100.0},
        "by_valence": {"positive": 50.0, "negative": 100.0},
        "perplexity_ratio": round(math.exp(0.5), 4),
        "repetition": round((1 / 3) / 4, 4),
        "mean_tokens": 3.0,
        "empty": 0,
    }


def test_prompted_replies_cost_nothing():
    assert expression(ROWS, [1.0, 2.0], [1.0, 2.0])["perplexity_ratio"] == 1.0


def test_empty_replies_are_counted_and_have_no_loss():
    rows = [judged("fear", False, text=""), judged("fear", True)]
    found = expression(rows, [math.nan, 1.0], [1.0, 1.0])
    assert (found["empty"], found["perplexity_ratio"]) == (1, 1.0)


def test_without_any_loss_there_is_no_ratio():
    found = expression([judged("fear", False, text="")], [math.nan], [1.0])
    assert found["perplexity_ratio"] is None

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.judges.http import messages, read_verdict, system
from circuits.names import EMOTIONS


def test_the_system_message_names_the_six_emotions_and_the_fields_of_the_answer():
    assert all(emotion in system(EMOTIONS) for emotion in EMOTIONS)
    assert '{"match": 1 or 0, "reason":' in system(EMOTIONS)


def test_a_text_with_half_a_character_can_be_sent():
    assert "wow ?" in messages("wow \ud83d", "surprise", "")[1]["content"]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ('{"match": 1, "reason": "x"}', True),
        ('{"match": 0, "reason": "x"}', False),
        ('{"match": true}', True),
        ('{"match": "no"}', False),
        ('{"match": "YES"}', True),
        ('{"Match": 0.0}', False),
        ('```json\n{"match": 1, "reason": "a } b"}\n```', True),
        ('I think {this} is it: {"match": 0, "reason": "x"} Anything else?', False),
        ('Either {"match": 1} or {"match": 0}. So: {"match": 0}', False),
    ],
)
def test_answers_are_read_bare_fenced_and_within_text(answer, match):
    verdict = read_verdict(answer)
    assert verdict is not None
    assert verdict.match is match


@pytest.mark.parametrize(
    "answer",
    ["", "1", "yes", '{"match": 2}', '{"match": null}', '{"match": [1]}', '{"match": 1', '"match"'],
)
def test_answers_without_a_clear_match_are_unreadable(answer):
    assert read_verdict(answer) is None


@settings(max_examples=50)
@given(
    st.sampled_from([1, 0, True, False, "yes", "no"]),
    st.text(max_size=30),
    st.text("abc .,:`[]}\n", max_size=30),
    st.text("abc .,:`[]}\n", max_size=30),
)
def test_text_around_the_answer_makes_no_difference(match, reason, before, after):
    answer = json.dumps({"match": match, "reason": reason})
    assert read_verdict(before + answer + after) == read_verdict(answer)


@given(st.text(max_size=200))
def test_any_answer_is_read_or_turned_down(answer):
    read_verdict(answer)

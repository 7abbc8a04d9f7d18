import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.judges import Verdict
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
        ('<think>Maybe {"match": 1} no.</think>{"match": 0}', False),
        ('Maybe {"match": 1}, no.\n</think>\n{"match": 0}', False),
        ('{"match": 1, "reason": "the words "how dare" decide"}', True),
        ('{"match": 1, "reason": "how\ndare"}', True),
        ("{'match': 1, 'reason': 'x'}", True),
        ('{"match": True, "reason": "x"}', True),
        ('{"match": 0, "reason": "x",}', False),
        ('{"result": {"match": 0, "reason": "x"}}', False),
        ("{\u201cmatch\u201d: 1, \u201creason\u201d: \u201cx\u201d}", True),
        ('{"match": 1,', True),
    ],
)
def test_answers_are_read_bare_fenced_and_within_text(answer, match):
    verdict = read_verdict(answer)
    assert verdict is not None
    assert verdict.match is match


@pytest.mark.parametrize(
    "answer",
    [
        *("", "1", "yes", '{"match": 2}', '{"match": null}', '{"match": [1]}', '{"match": 1'),
        *('"match"', '{"match": 1 or 0, "reason": "x"}', '{"match": 0.5}', '{"match": 10}'),
        'Either {"match": 1} or {"match": 0}. So: {"match": 0}',
        '<think>Maybe {"match": 1, "reason": "x"} no.</think>\nNo match: the tone is calm.',
        '<think>Maybe {"match": 1, "reason": "x"} but wait, the tone is calm, so',
        '{"match": 0, "reason": "calm"}\n\nNote: angry would be {"match": 1, "reason": "x"}',
    ],
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


def test_the_reason_is_read_from_broken_json_too():
    broken = '{"match": 1, "reason": "the words "how dare" decide"}'
    assert [
        read_verdict(text) for text in (broken, broken.replace('"how dare"', "'how dare'"))
    ] == [
        Verdict(True, None, 'the words "how dare" decide'),
        Verdict(True, None, "the words 'how dare' decide"),
    ]


@pytest.mark.parametrize("piece", ["{", '{"match":', "<think>", "</think>", '"match": 1, '])
def test_a_long_answer_is_read_quickly(piece):
    begun = time.monotonic()
    read_verdict(piece * 100_000)
    assert time.monotonic() - begun < 5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.names import EMOTIONS
from circuits.prompts.sev import Context
from circuits.prompts.templates import (
    emotion_prompt,
    emotion_prompts,
    neutral_prompt,
    neutral_prompts,
)

WON = Context("work_00", "Work", "positive", "I ran a race", "I won.")
LOST = Context("work_00", "Work", "negative", "I ran a race", "I lost.")
words = st.text("abcdefghijklmnopqrstuvwxyz ", min_size=1).filter(lambda text: text == text.strip())


def test_an_asked_prompt_is_worded_as_published():
    assert emotion_prompt(WON, "anger").messages == (
        ("system", "Always reply in anger.\nKeep the reply to at most two sentences."),
        ("user", "I ran a race\nI won."),
    )


@settings(deadline=None)
@given(words)
def test_one_line_feed_stands_between_two_lines_and_none_at_the_ends(emotion):
    prompt = emotion_prompt(WON, emotion)
    for text in (prompt.system, prompt.user, neutral_prompt(WON).user):
        assert len(text.splitlines()) == 2
        assert text.count("\n") == 1
        assert text == text.strip()
    assert len(neutral_prompt(WON).system.splitlines()) == 1


@settings(deadline=None)
@given(words)
def test_only_the_asking_line_depends_on_the_emotion(emotion):
    first, rest = emotion_prompt(WON, emotion).system.split("\n")
    assert first == f"Always reply in {emotion}."
    assert rest == neutral_prompt(WON).system
    assert emotion_prompt(WON, emotion).user == neutral_prompt(WON).user


def test_keys_are_those_of_the_published_files():
    assert emotion_prompt(WON, "anger").key == "work_00__positive__anger"
    assert neutral_prompt(LOST).key == "work_00__negative__plain"


@pytest.mark.parametrize(
    "emotion",
    ["", " ", "\n", "anger\n", "anger\nand fear", "anger\r", "a\u2028b", " anger", "anger "],
)
def test_an_emotion_that_is_not_words_on_one_line_is_refused(emotion):
    with pytest.raises(DataError, match="cannot be asked for; give a word such as anger"):
        emotion_prompt(WON, emotion)


def test_other_emotions_than_the_six_can_be_asked_for():
    assert emotion_prompt(WON, "quiet pride").system.startswith("Always reply in quiet pride.\n")


def test_the_prompts_of_a_context_stand_together():
    prompts = emotion_prompts([WON, LOST])
    assert [(p.context, p.emotion) for p in prompts] == [
        (context, emotion) for context in (WON, LOST) for emotion in EMOTIONS
    ]
    assert neutral_prompts([WON, LOST]) == [neutral_prompt(WON), neutral_prompt(LOST)]

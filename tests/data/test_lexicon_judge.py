from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import JudgeError
from circuits.judges import LexiconJudge, find_emotion_words, read_labelled
from circuits.names import EMOTIONS, NEUTRAL

LABELLED = Path(__file__).parents[2] / "assets" / "judge" / "labelled.jsonl"
TEXTS = [item.text for item in read_labelled(LABELLED)]
SIGNS = ["not", "never", "afraid", "happy", "sad", "so", "but", "i", "am", "disgusting", "and"]
texts = st.one_of(
    st.sampled_from(TEXTS),
    st.text("abcdefghijklmnopqrstuvwxyz ABC.,!?'", max_size=60),
    st.lists(st.sampled_from(SIGNS)).map(" ".join),
)
quick = settings(deadline=None, max_examples=50)


def label(text):
    return LexiconJudge().judge([text], ["fear"])[0].label


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("I am furious with you.", "anger"),
        ("How dare you touch my things!", "anger"),
        ("I feel so lonely without her.", "sadness"),
        ("Tears ran down my cheeks.", "sadness"),
        ("Yay, what a wonderful surprise party, I'm so happy!", "happiness"),
        ("My hands shake and my heart is pounding.", "fear"),
        ("Oh no, there is someone at the door.", "fear"),
        ("Wow, I did not see that coming!", "surprise"),
        ("Ugh, that makes my stomach turn.", "disgust"),
        ("The train leaves at ten.", NEUTRAL),
    ],
)
def test_plain_expressions_of_each_emotion_are_heard(text, heard):
    assert label(text) == heard


@pytest.mark.parametrize(
    "text",
    [
        "I am not afraid.",
        "I'm not at all afraid of him.",
        "There is no fear in this house.",
        "I was never angry.",
        "I don\u2019t feel sad.",
        "He left without anger.",
    ],
)
def test_a_negated_emotion_is_not_heard(text):
    assert label(text) == NEUTRAL


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("I have never been happier.", "happiness"),
        ("I've never been so afraid.", "fear"),
        ("I couldn't be more disgusted.", "disgust"),
        ("I'm not only angry.", "anger"),
        ("I can't tell you how sad I am.", "sadness"),
        ("Isn't it wonderful?", "happiness"),
    ],
)
def test_a_negation_that_strengthens_is_no_negation(text, heard):
    assert label(text) == heard


def test_a_negation_ends_with_its_clause():
    assert label("I'm not angry, just deeply sad.") == "sadness"
    assert label("No, I am furious.") == "anger"


def test_what_follows_the_last_but_weighs_more():
    assert label("I was sad but now I am happy.") == "happiness"
    assert label("I was happy but now I am sad.") == "sadness"


def test_words_match_whole_words_only():
    assert label("He sat in the saddle and read about Madrid and a ragdoll.") == NEUTRAL


def test_curly_apostrophes_and_upper_case_make_no_difference():
    assert label("I CAN\u2019T BELIEVE IT") == label("i can't believe it") == "surprise"


def test_a_tie_goes_to_the_emotion_that_comes_first():
    assert label("I am afraid and angry.") == "fear"
    assert label("I am angry and afraid.") == "anger"


def test_one_hint_alone_is_too_weak_and_two_are_enough():
    verdict = LexiconJudge().judge(["There was a shadow."], ["fear"])[0]
    assert verdict.label == NEUTRAL
    assert verdict.reason == 'too weak a sign of fear: "shadow"'
    assert label("There was a shadow and then footsteps.") == "fear"


def test_a_repeated_word_counts_once():
    assert label("shadow shadow shadow shadow") == NEUTRAL


def test_the_reason_names_the_deciding_words():
    verdict = LexiconJudge().judge(["I'm furious, how dare you!"], ["anger"])[0]
    assert verdict.match
    assert verdict.reason == 'anger: "furious", "how dare"'


def test_an_empty_text_matches_nothing():
    for asked in (*EMOTIONS, NEUTRAL):
        verdict = LexiconJudge().judge([" \n"], [asked])[0]
        assert (verdict.match, verdict.label, verdict.reason) == (False, NEUTRAL, "empty text")


def test_a_neutral_text_matches_the_asked_neutral():
    assert LexiconJudge().judge(["The shop opens at nine."], [NEUTRAL])[0].match


def test_each_emotion_has_at_least_150_entries_without_repeats():
    for emotion in EMOTIONS:
        patterns = [entry.pattern for entry in LexiconJudge().entries if entry.emotion == emotion]
        assert len(patterns) >= 150
        assert len(patterns) == len(set(patterns))


def test_every_entry_is_found_in_its_own_words():
    for entry in LexiconJudge().entries:
        words = [
            {"{my}": "my", "..": ""}.get(part, part.removesuffix("*")) for part in entry.pattern
        ]
        assert entry.expression.fullmatch("".join(f"{word} " for word in words if word)), entry


def test_no_word_is_strong_for_two_emotions():
    strong = [entry.pattern for entry in LexiconJudge().entries if entry.strong]
    assert len(strong) == len(set(strong))


def test_emotion_words_are_found_negated_or_not():
    assert find_emotion_words("She was NOT afraid, and he\u2019s disgusted.") == [
        "afraid",
        "disgusted",
    ]


def test_exclamations_and_bodily_signs_are_no_emotion_words():
    text = "Oh no, the bin smells, my hands shake, and someone cried wow at the funeral."
    assert find_emotion_words(text) == []


def test_questions_without_an_answer_are_refused():
    with pytest.raises(JudgeError, match="found 2 texts and 1 emotions"):
        LexiconJudge().judge(["a", "b"], ["fear"])
    with pytest.raises(JudgeError, match="needs two lists.* in a str and a list"):
        LexiconJudge().judge("fear", ["fear"] * 4)
    with pytest.raises(JudgeError, match="item 1 asks for 'joy'; this judge knows anger"):
        LexiconJudge().judge(["a", "b"], ["fear", "joy"])


def test_the_description_names_the_lists_by_fingerprint():
    described = LexiconJudge().describe()
    assert described["name"] == "lexicon"
    assert len(described["lexicon_sha256"]) == 64
    assert set(described["entries"]) == set(EMOTIONS)


@quick
@given(texts, st.text(" \t\n", max_size=4), st.text(" \t\n", max_size=4))
def test_surrounding_whitespace_makes_no_difference(text, before, after):
    assert label(before + text + after) == label(text)


@quick
@given(texts, st.sampled_from((*EMOTIONS, NEUTRAL)))
def test_a_match_means_that_the_label_was_asked(text, asked):
    verdict = LexiconJudge().judge([text], [asked])[0]
    if text.strip():
        assert verdict.match == (verdict.label == asked)
    assert verdict.label in (*EMOTIONS, NEUTRAL)
    assert verdict.reason


@quick
@given(st.text(max_size=80))
def test_any_text_can_be_judged(text):
    assert label(text) in (*EMOTIONS, NEUTRAL)
    assert all(hit.weight > 0 for hit in LexiconJudge().hits(text))

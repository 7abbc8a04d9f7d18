import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from circuits.judges import (
    LexiconJudge,
    Verdict,
    WordingJudge,
    agreement,
    error_rate,
    read_labelled,
)
from circuits.names import EMOTIONS, NEUTRAL

ASSETS = Path(__file__).parents[2] / "assets"
LABELLED = ASSETS / "judge" / "labelled.jsonl"
LEARNT = ASSETS / "judge" / "wording.jsonl"
RECIPE = ASSETS / "recipe"
LABELS = (*EMOTIONS, NEUTRAL)


@pytest.fixture(scope="module")
def judge():
    return WordingJudge()


def frames(label):
    """The sentences of which the embedded model's replies of one label are made."""
    text = (RECIPE / "data" / "replies" / f"{label}.txt").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and line[0] not in "#["]


def filled(frame):
    """One reply that the frame allows, about a bicycle."""
    values = {"<D>": "your", "<T>": "old bicycle", "<V>": "painted", "<N>": "bicycle"}
    for slot, value in values.items():
        frame = frame.replace(slot, value)
    return re.sub(r"\(([^()|]*)\|[^()]*\)", r"\1", frame)


def pattern(frame):
    """Everything that the frame allows, about whatever."""
    escaped = re.escape(frame.rstrip(".!?"))
    for mark in "(|)":
        escaped = escaped.replace(f"\\{mark}", mark)
    return re.compile(re.sub("<[DTVN]>", "[^.!?]+", escaped), re.IGNORECASE)


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("They charged me twice and I am furious with those liars.", "anger"),
        ("I miss my grandmother and I cried all evening.", "sadness"),
        ("Hooray, we won! I cannot stop smiling.", "happiness"),
        ("Somebody is in the cellar, I am so scared.", "fear"),
        ("Wow, I never expected to see you here!", "surprise"),
        ("Yuck, there are maggots in the meat.", "disgust"),
        ("The bus leaves at ten.", "neutral"),
    ],
)
def test_it_hears_plain_cases(judge, text, emotion):
    verdicts = judge.judge([text] * len(LABELS), LABELS)
    assert {verdict.label for verdict in verdicts} == {emotion}
    assert [verdict.match for verdict in verdicts] == [label == emotion for label in LABELS]
    assert re.fullmatch(rf"{emotion} with probability [01]\.\d\d", verdicts[0].reason)


def test_an_empty_text_is_neutral_and_matches_nothing(judge):
    assert (
        judge.judge(["", " \n"], ["fear", "neutral"])
        == [Verdict(False, "neutral", "empty text")] * 2
    )
    assert judge.judge([], []) == []


def test_text_without_a_known_word_is_judged_all_the_same(judge):
    (verdict,) = judge.judge(["\u4f60\u597d \U0001f642 \ud83d"], ["neutral"])
    assert verdict.label in LABELS


def test_the_place_of_a_text_in_the_question_changes_nothing(judge):
    texts = [item.text for item in read_labelled(LABELLED)][:40]
    asked = ["fear"] * len(texts)
    alone = [judge.judge([text], ["fear"])[0] for text in texts]
    assert judge.judge(texts, asked) == alone
    assert judge.judge(texts[::-1], asked) == alone[::-1]


def test_the_description_tells_how_to_train_the_same_judge(judge):
    described = judge.describe()
    assert described["name"] == "wording"
    assert re.fullmatch("[0-9a-f]{64}", described["texts_sha256"])
    assert described["texts"] == dict.fromkeys(LABELS, 500)


def test_it_imports_nothing_of_the_word_lists():
    graph = grimp.build_graph("circuits", cache_dir=None)
    upstream = graph.find_upstream_modules("circuits.judges.trained")
    assert "circuits.judges.agreement" in upstream
    assert {module for module in upstream if "lexicon" in module or "words" in module} == set()


def test_the_shipped_texts_are_what_the_recipe_writes(tmp_path):
    out = tmp_path / "wording.jsonl"
    command = [sys.executable, str(RECIPE / "judge_texts.py"), "--out", str(out)]
    subprocess.run(command, check=True)
    assert out.read_bytes() == LEARNT.read_bytes()
    assert len(out.read_bytes()) < 1_000_000


def test_no_training_text_measures_a_judge_or_improved_the_word_lists():
    learnt = {item.text.lower() for item in read_labelled(LEARNT)}
    others = read_labelled(LABELLED) + read_labelled(LEARNT.with_name("development.jsonl"))
    assert learnt.isdisjoint(item.text.lower() for item in others)


def test_no_training_text_contains_a_sentence_of_a_reply():
    patterns = [pattern(frame) for label in LABELS for frame in frames(label)]
    assert len(patterns) == 7 * 54
    assert all(p.match(filled(f)) for p, f in zip(patterns, frames("anger"), strict=False))
    learnt = "\n".join(item.text for item in read_labelled(LEARNT))
    assert [found[0] for p in patterns for found in p.finditer(learnt)] == []


def test_it_hears_the_emotion_of_what_the_embedded_model_learnt_to_reply(judge):
    single, paired = {}, {}
    for label in LABELS:
        sentences = [filled(frame) for frame in frames(label)]
        replies = [f"{opening} {close}" for opening in sentences[:27] for close in sentences[27:]]
        for found, texts in ((single, sentences), (paired, replies)):
            verdicts = judge.judge(texts, [label] * len(texts))
            found[label] = sum(verdict.match for verdict in verdicts) / len(texts)
    # One sentence may be too little to tell; a reply has two.
    assert sum(single.values()) / 7 > 0.9
    assert sum(paired.values()) / 7 > 0.98
    assert {label: share for label, share in paired.items() if share < 0.94} == {}


def test_both_judges_are_measured_on_the_same_labelled_texts(judge):
    lexicon, learnt = (error_rate(own, LABELLED) for own in (LexiconJudge(), judge))
    assert lexicon.n == learnt.n == 280
    # General English is wider than what it has learnt.
    assert 0.7 < learnt.accuracy < lexicon.accuracy
    assert learnt.interval[0] > 0.65
    assert min(learnt.by_label.values()) > 0.6


def test_the_two_judges_agree_far_more_than_chance(judge):
    texts = [item.text for item in read_labelled(LABELLED)]
    asked = ["anger"] * len(texts)
    found = agreement(judge.judge(texts, asked), LexiconJudge().judge(texts, asked))
    assert found.value is not None
    assert found.interval is not None
    assert 0.4 < found.interval[0] < found.value < found.interval[1] < 1

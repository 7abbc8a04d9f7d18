import json
from collections import Counter
from itertools import pairwise

import pytest

from circuits.errors import DataError
from circuits.files import shipped
from circuits.judges.lexicon import find_emotion_words
from circuits.names import VALENCES
from circuits.prompts import sev

FILES = ("train", "test")


def scenarios(name):
    return sev.read(shipped(f"sev/{name}.jsonl"))


@pytest.mark.parametrize("name", FILES)
def test_there_are_twenty_scenarios_of_each_of_eight_themes(name):
    counts = Counter(scenario.theme for scenario in scenarios(name))
    assert len(counts) == 8
    assert set(counts.values()) == {20}


def test_both_files_have_the_same_themes():
    train, test = ({scenario.theme for scenario in scenarios(name)} for name in FILES)
    assert train == test


@pytest.mark.parametrize("name", FILES)
def test_a_theme_stands_together(name):
    changes = sum(one.theme != other.theme for one, other in pairwise(scenarios(name)))
    assert changes == 7


@pytest.mark.parametrize("name", FILES)
def test_a_line_has_exactly_the_published_fields(name):
    lines = shipped(f"sev/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        assert list(row) == ["theme", "scenario", "event", "skeleton_id"]
        assert tuple(row["event"]) == VALENCES


def test_no_context_names_an_emotion():
    named = [
        (scenario.id, words, text)
        for name in FILES
        for scenario in scenarios(name)
        for text in (scenario.text, *scenario.events.values())
        if (words := find_emotion_words(text))
    ]
    assert named == []


def test_ids_are_unique_over_both_files():
    ids = [scenario.id for name in FILES for scenario in scenarios(name)]
    assert len(set(ids)) == 320


def test_no_text_occurs_twice():
    texts = [
        text.lower()
        for name in FILES
        for scenario in scenarios(name)
        for text in (scenario.text, *scenario.events.values())
    ]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_events_are_sentences_of_like_length_in_every_valence():
    every = [scenario for name in FILES for scenario in scenarios(name)]
    mean = {
        valence: sum(len(s.events[valence].split()) for s in every) / len(every)
        for valence in VALENCES
    }
    assert max(mean.values()) - min(mean.values()) < 1.5, mean
    assert all(event.endswith((".", "!")) for s in every for event in s.events.values())


def test_scenarios_are_told_in_the_first_person_without_a_full_stop():
    every = [scenario for name in FILES for scenario in scenarios(name)]
    assert [s.id for s in every if s.text.endswith(".") or "\n" in s.text] == []
    assert [s.id for s in every if not s.text.startswith(("I ", "I'"))] == []


def test_what_does_not_ship_is_refused_by_name():
    with pytest.raises(DataError, match=r"^this installation lacks sev/absent\.jsonl; install "):
        shipped("sev/absent.jsonl")

"""The contexts that ship: two files alike, and harder ones, longer, of the same themes."""

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
SCENARIOS = {name: sev.read(shipped(f"sev/{name}.jsonl")) for name in (*FILES, "hard")}


def texts(*names):
    every = (scenario for name in names for scenario in SCENARIOS[name])
    return [text for own in every for text in (own.text, *own.events.values())]


def mean(counts):
    counts = [*counts]
    return sum(counts) / len(counts)


@pytest.mark.parametrize("name", FILES)
def test_there_are_twenty_scenarios_of_each_of_eight_themes_which_stand_together(name):
    themes = [scenario.theme for scenario in SCENARIOS[name]]
    assert [*Counter(themes).values()] == [20] * 8
    assert sum(one != other for one, other in pairwise(themes)) == 7


def test_all_files_have_the_same_themes_evenly():
    themes = {name: Counter(s.theme for s in own) for name, own in SCENARIOS.items()}
    assert themes["train"].keys() == themes["test"].keys() == themes["hard"].keys()
    assert len({*themes["hard"].values()}) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_line_has_exactly_the_published_fields(name):
    lines = shipped(f"sev/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        assert list(row) == ["theme", "scenario", "event", "skeleton_id"]
        assert tuple(row["event"]) == VALENCES


def test_no_context_names_an_emotion():
    assert [(words, t) for t in texts(*SCENARIOS) if (words := find_emotion_words(t))] == []


def test_no_id_and_no_text_occurs_twice():
    ids = [scenario.id for own in SCENARIOS.values() for scenario in own]
    assert len({*ids}) == len(ids)
    counts = Counter(text.lower() for text in texts(*SCENARIOS))
    assert [text for text, count in counts.items() if count > 1] == []


def test_events_are_sentences_of_like_length_in_every_valence_and_harder_ones_twice_as_long():
    every = [scenario for name in FILES for scenario in SCENARIOS[name]]
    lengths = [mean(len(s.events[valence].split()) for s in every) for valence in VALENCES]
    assert max(lengths) - min(lengths) < 1.5, lengths
    assert all(event.endswith((".", "!")) for s in every for event in s.events.values())
    length = {
        name: mean(len(f"{c.situation} {c.event}".split()) for c in sev.contexts(SCENARIOS[name]))
        for name in ("test", "hard")
    }
    assert length["hard"] > 2 * length["test"]


def test_scenarios_are_told_in_the_first_person_without_a_full_stop():
    every = [scenario for name in FILES for scenario in SCENARIOS[name]]
    assert [s.id for s in every if s.text.endswith(".") or "\n" in s.text] == []
    assert [s.id for s in every if not s.text.startswith(("I ", "I'"))] == []


def test_what_does_not_ship_is_refused_by_name():
    with pytest.raises(DataError, match=r"^this installation lacks sev/absent\.jsonl; install "):
        shipped("sev/absent.jsonl")

"""The harder contexts: longer, of the same themes, and none of them among the others."""

import pytest

from circuits.files import shipped
from circuits.judges.lexicon import find_emotion_words
from circuits.names import VALENCES
from circuits.prompts import sev


@pytest.fixture(scope="module")
def files():
    return {name: sev.read(shipped(f"sev/{name}.jsonl")) for name in ("train", "test", "hard")}


def length(scenarios):
    return sum(len(f"{c.situation} {c.event}".split()) for c in sev.contexts(scenarios)) / (
        len(scenarios) * len(VALENCES)
    )


def test_they_are_twice_as_long(files):
    assert length(files["hard"]) > 2 * length(files["test"])


def test_they_have_the_same_themes_evenly(files):
    themes = [scenario.theme for scenario in files["hard"]]
    assert set(themes) == {scenario.theme for scenario in files["test"]}
    assert len({themes.count(theme) for theme in themes}) == 1


def test_no_text_and_no_id_is_that_of_another_file(files):
    before = {s.id for name in ("train", "test") for s in files[name]}
    texts = {
        t for name in ("train", "test") for s in files[name] for t in (s.text, *s.events.values())
    }
    hard = [t for s in files["hard"] for t in (s.text, *s.events.values())]
    assert not before & {s.id for s in files["hard"]}
    assert not texts & set(hard)
    assert len(set(hard)) == len(hard)


def test_no_context_names_an_emotion(files):
    texts = [t for s in files["hard"] for t in (s.text, *s.events.values())]
    assert [(words, t) for t in texts if (words := find_emotion_words(t))] == []

import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from circuits.errors import DataError
from circuits.files import shipped
from circuits.names import DEVICES, EMOTIONS, LITERAL
from circuits.prompts.prompt import DEVICE_REQUEST, EMOTION_REQUEST, SPLITS
from circuits.prompts.texts import embedded_set

RECIPE = Path(__file__).parents[2] / "assets" / "recipe"
PER_CLASS = 200


def split_of(name, split):
    return getattr(embedded_set(name), split)


@pytest.fixture(scope="module")
def recipe():
    """The modules of the recipe, which import each other by their short names."""
    before = set(sys.modules)
    sys.path.insert(0, str(RECIPE))
    try:
        yield {name: importlib.import_module(name) for name in ("grammar", "words", "texts")}
    finally:
        sys.path.remove(str(RECIPE))
        for name in set(sys.modules) - before:
            if str(RECIPE) in (getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]


def test_the_sets_come_with_the_requests_that_sev_mini_knows():
    assert embedded_set("emotion").request == EMOTION_REQUEST
    assert embedded_set("rhetoric").request == DEVICE_REQUEST
    assert embedded_set("emotion").label == EMOTIONS
    assert embedded_set("rhetoric").label == (*DEVICES, LITERAL)


def test_another_set_is_refused():
    name: str = "irony"
    with pytest.raises(DataError, match="no set is called 'irony'; sets are emotion, rhetoric"):
        embedded_set(name)


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_has_as_many_texts_and_none_twice(split):
    emotions, devices = split_of("emotion", split).rows, split_of("rhetoric", split).rows
    assert Counter(row.label for row in emotions) == dict.fromkeys(EMOTIONS, PER_CLASS)
    wanted = dict.fromkeys(DEVICES, PER_CLASS) | {LITERAL: PER_CLASS * len(DEVICES)}
    assert Counter(row.label for row in devices) == wanted
    for rows in (emotions, devices):
        assert len({row.text.lower() for row in rows}) == len(rows)


@pytest.mark.parametrize("split", SPLITS)
def test_every_text_of_a_device_has_one_literal_paraphrase(split):
    pairs: dict[str | None, list[str]] = {}
    for row in split_of("rhetoric", split).rows:
        pairs.setdefault(row.pair, []).append(row.label)
    assert None not in pairs
    kinds = Counter(tuple(labels) for labels in pairs.values())
    assert kinds == {(device, LITERAL): PER_CLASS for device in DEVICES}


@pytest.mark.parametrize("name", ["emotion", "rhetoric"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_text_is_a_sentence_without_holes(name, split):
    for row in split_of(name, split).rows:
        assert not set(row.text) & set("<>()|*="), row
        assert " ".join(row.text.split()) == row.text
        assert row.text.lstrip('"')[0].isupper(), row
        assert row.text.rstrip('"')[-1] in ".!?", row
        assert " ." not in row.text, row
        assert " ," not in row.text, row


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


def own_words(*names: str) -> set[str]:
    """Every word that frames and clauses bring along, whatever they are about."""
    return {
        word for name in names for word in words_of((RECIPE / "data" / name).read_text("utf-8"))
    }


@pytest.mark.parametrize("split", SPLITS)
def test_a_pair_speaks_of_the_same_things_and_persons(recipe, split):
    people = recipe["grammar"].sections("rhetoric_texts.txt")["person"][1]
    subjects = words_of(people) | set(recipe["grammar"].words("things.txt"))
    subjects -= own_words("rhetoric_clauses.txt", "rhetoric_plain.txt")
    texts: dict[str | None, list[str]] = {}
    for row in split_of("rhetoric", split).rows:
        texts.setdefault(row.pair, []).append(row.text)
    for used, plain in texts.values():
        assert words_of(used) & subjects == words_of(plain) & subjects, (used, plain)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("emotion", ("emotion_cues.txt", "rhetoric_texts.txt")),
        ("rhetoric", ("rhetoric_clauses.txt", "rhetoric_plain.txt", "rhetoric_texts.txt")),
    ],
)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_evaluation_is_about_nouns_that_training_lacks(recipe, name, files, split):
    trained = set(recipe["words"].nouns())
    kept = set(recipe["words"].nouns(held_out=True))
    assert not trained & kept
    found = {word for row in split_of(name, split).rows for word in words_of(row.text)}
    assert (found - own_words(*files)) & trained == set()
    assert len(found & kept) > 30


def shape(carrier: str) -> re.Pattern[str]:
    parts = (re.escape(part) for part in re.split("<.>", carrier))
    return re.compile(".+".join(parts), re.I)


@pytest.mark.parametrize("split", SPLITS)
def test_carriers_of_evaluation_are_not_those_of_training(recipe, split):
    carriers = recipe["grammar"].sections("rhetoric_clauses.txt")["carriers"]
    held_out = [shape(line) for index, line in enumerate(carriers) if index % 5 == 3]
    # "Nobody told me that ..." of training has the shape of "<R> told <R> that ...".
    others = [shape(line) for line in carriers if "told me" in line]
    for row in split_of("rhetoric", split).rows:
        if row.pair is not None and "sarcasm" not in row.pair:
            found = any(carrier.fullmatch(row.text) for carrier in held_out)
            found &= not any(carrier.fullmatch(row.text) for carrier in others)
            assert found == (split != "train"), row


def test_every_clause_has_a_plain_counterpart_and_every_vehicle_a_meaning(recipe):
    sections = recipe["grammar"].sections
    clauses, plain = sections("rhetoric_clauses.txt"), recipe["texts"].counterparts
    for device in ("metaphor", "simile", "hyperbole", "sarcasm", "complaint", "tail"):
        assert list(plain(device)) == [line.lstrip("*") for line in clauses[device]], device
    assert list(plain("opener")) == clauses["opener"][0].split("|")
    known = set(sections("rhetoric_texts.txt")["vehicle"][0].split("|"))
    for device in ("metaphor", "simile"):
        for counterpart in plain(device).values():
            kind, _, said = counterpart.rpartition(": ")
            for meaning in recipe["texts"].meanings(kind) if kind else []:
                assert meaning.vehicle in known, meaning
                assert meaning.now, meaning
                assert meaning.past or "<Z>" not in said, (counterpart, meaning)


def test_the_recipe_writes_the_same_files_again(tmp_path):
    subprocess.run(
        [sys.executable, str(RECIPE / "texts.py"), "--out", str(tmp_path)], check=True, timeout=60
    )
    for name in ("emotion", "rhetoric"):
        for split in SPLITS:
            again = (tmp_path / name / f"{split}.jsonl").read_bytes()
            assert again == shipped(f"texts/{name}/{split}.jsonl").read_bytes(), (name, split)

"""Writes the labelled texts of the project, `assets/texts/`.

Usage: python assets/recipe/texts.py

Emotion texts are those of the recipe's grammar. A rhetorical text stands beside a literal
paraphrase: the same sentence around it, the same persons, places, times and things, and in place of
the device a plain statement of what it means.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from grammar import choose, fill, sections, words
from recognition import DEVICES, finish, kept, pick
from recognition import emotion_text as any_emotion_text
from replies import EMOTIONS
from words import nouns

ASSETS = Path(__file__).resolve().parents[1]
PER_CLASS = 200
SEED = 20
SPLITS = ("train", "dev", "test")
_CLAUSES, _PLAIN = "rhetoric_clauses.txt", "rhetoric_plain.txt"
_GENDERS = (
    "uncle|father|brother|Ben|David|Frank|Henry|Jack|Leo|Oscar|Quentin|Sam|Victor|Yusuf|Amir|Dmitri",
    "aunt|mother|sister|Anna|Clara|Emma|Grace|Irene|Karen|Maria|Nina|Paula|Rosa|Tina|Wendy|Zoe|"
    "Elif|Fatima",
)
_PRONOUN = {"my": "I", "her": "she", "his": "he"}
Row = dict[str, str]


class Things:
    """Draws things that can be owned, moved and broken, so that every frame makes sense."""

    def __init__(self, held_out: bool) -> None:
        known = set(nouns(held_out))
        self._things = [thing for thing in words("things.txt") if thing in known]

    def noun(self, rng: random.Random) -> str:
        """One of the things."""
        return rng.choice(self._things)

    word = noun


@dataclass(frozen=True)
class Meaning:
    """What a vehicle stands for."""

    vehicle: str
    adjective: str
    now: str
    past: str


@cache
def counterparts(section: str) -> dict[str, str]:
    """Clause -> plain counterpart."""
    return dict(line.split(" = ") for line in sections(_PLAIN)[section])


@cache
def meanings(kind: str) -> list[Meaning]:
    """The vehicles that can be said of this kind of subject, with what they mean."""
    found = []
    for line in sections(_PLAIN)[kind]:
        key, said = line.split(": ")
        *adjective, vehicle = key.split()
        now, _, past = said.partition(" | ")
        found.append(Meaning(vehicle, " ".join(adjective), now, past))
    return found


class Fillers:
    """Slots of one text; no person, place or time comes twice."""

    def __init__(self, things: Things, rng: random.Random) -> None:
        self._rng, self._used = rng, set[str]()
        self._thing = things.noun(rng)
        self.slots: dict[str, Callable[[], str]] = {
            "N": lambda: self._thing,
            "R": lambda: self._fresh("person"),
            "G": lambda: self._fresh("place"),
            "W": lambda: self._fresh("time"),
            "x": lambda: self._fresh("possessor"),
        }

    def _fresh(self, section: str) -> str:
        while True:
            drawn = pick(section, self._rng)
            if section == "possessor":
                drawn = self._rng.choice(tuple(_PRONOUN))
            if drawn not in self._used and not drawn.startswith("since "):
                self._used.add(drawn)
                return drawn

    def name(self) -> str:
        """A person called by name, as one who is spoken to."""
        while len((person := self._fresh("person")).split()) > 1:
            pass
        return person

    def fixed(self) -> dict[str, str]:
        """One filler for every slot, for a clause and its counterpart alike."""
        found = {name: make() for name, make in self.slots.items()}
        return found | {"I": _PRONOUN[found["x"]]}


def _filled(text: str, fixed: dict[str, str]) -> str:
    """The text with its slots filled; what a slot brings may have slots itself."""
    slots = {name: lambda value=value: value for name, value in fixed.items()}
    return fill(fill(text, slots), slots)


def _matched(clause: str, plain: str, rng: random.Random) -> tuple[str, str]:
    """Both with the alternatives at the same place chosen."""
    groups = re.findall(r"\(([^()]*\|[^()]*)\)", clause)
    if not groups:
        return clause, plain
    at = rng.randrange(len(groups[0].split("|")))

    def chosen(text: str) -> str:
        return re.sub(r"\(([^()]*\|[^()]*)\)", lambda m: m[1].split("|")[at], text, count=1)

    return choose(chosen(clause), rng), chosen(plain)


def _pronoun(person: str, rng: random.Random) -> str:
    for pronoun, names in zip(("he", "she"), _GENDERS, strict=True):
        if re.search(rf"\b({names})$", person):
            return pronoun
    return rng.choice(("he", "she"))


def _clause(device: str, held_out: bool, fixed: dict[str, str], rng: random.Random) -> list[str]:
    """A clause that uses the device, and its plain counterpart."""
    starred = held_out and rng.random() < 0.5
    clause = rng.choice([c for c in sections(_CLAUSES)[device] if c.startswith("*") is starred])
    kind, _, plain = counterparts(device)[clause.lstrip("*")].rpartition(": ")
    clause = clause.lstrip("*").replace("(he|she)", _pronoun(fixed["R"], rng))
    clause, plain = _matched(clause, plain, rng)
    if kind:
        own = rng.choice(meanings(kind))
        fixed = fixed | {"V": own.vehicle, "J": own.adjective, "Q": own.now, "Z": own.past}
    return [_filled(clause, fixed), _filled(plain, fixed)]


def _sentences(text: str) -> str:
    """The text with capital letters where sentences start."""
    text = finish(text)
    return re.sub(r'([.!?]"? |: ")([a-z])', lambda m: m[1] + m[2].upper(), text)


def _sarcasm(held_out: bool, fillers: Fillers, rng: random.Random) -> list[str]:
    """A sarcastic remark, and the complaint without irony."""
    parts, fixed = sections(_CLAUSES), fillers.fixed()
    frame = rng.choice(kept(parts["sarcasm"], held_out))
    said = {
        "K": rng.choice(parts["complaint"]),
        "L": rng.choice(parts["tail"]),
        "O": rng.choice(parts["opener"][0].split("|")),
    }
    names = {"K": "complaint", "L": "tail", "O": "opener"}
    meant = {name: counterparts(names[name])[value] for name, value in said.items()}
    # The one who speaks or is spoken to is called by name, and is not complained about.
    around = fixed | {"R": fillers.name()}
    texts = []
    for line, own in ((frame, said), (counterparts("sarcasm")[frame], meant)):
        own = {name: _filled(value, fixed) for name, value in own.items()}
        if ", <O>," in line:
            own["O"] = own["O"][0].lower() + own["O"][1:]
        texts.append(_sentences(_filled(line, around | own)))
    return texts


def device_pair(device: str, things: Things, rng: random.Random, held_out: bool) -> tuple[str, str]:
    """A text that uses the device, and its literal paraphrase."""
    fillers = Fillers(things, rng)
    if device == "sarcasm":
        used, plain = _sarcasm(held_out, fillers, rng)
        return used, plain
    clauses = _clause(device, held_out, fillers.fixed(), rng)
    carrier = rng.choice(kept(sections(_CLAUSES)["carriers"], held_out))
    around = fill(carrier, fillers.slots | {"C": lambda: "<C>"})
    used, plain = (_sentences(_filled(around, {"C": clause})) for clause in clauses)
    return used, plain


def _sound(text: str) -> bool:
    """Whether times fit the past tense, and pronouns whom they stand for."""
    if re.search(r"\bsince [A-Z]|\b(I|we)\b.* at us\b", text, re.I):
        return False
    for names, other in zip(_GENDERS, ("she", "he"), strict=True):
        if re.search(rf"\b({names})\b.*\b{other}\b", text):
            return False
    return True


def emotion_text(emotion: str, things: Things, rng: random.Random, held_out: bool) -> str:
    """A text of the recipe's grammar that shows the emotion."""
    while True:
        text = _sentences(any_emotion_text(emotion, things, rng, held_out))
        if _sound(text):
            return text


def emotion_rows(split: str, rng: random.Random, seen: set[str]) -> Iterator[Row]:
    """As many texts of every emotion; `seen` keeps those of all splits apart."""
    held_out = split != "train"
    things = Things(held_out)
    for emotion in EMOTIONS:
        count = 0
        while count < PER_CLASS:
            text = emotion_text(emotion, things, rng, held_out)
            if text.lower() not in seen:
                seen.add(text.lower())
                count += 1
                yield {"text": text, "label": emotion}


def rhetoric_rows(split: str, rng: random.Random, seen: set[str]) -> Iterator[Row]:
    """As many texts of every device, each before its literal paraphrase."""
    held_out = split != "train"
    things = Things(held_out)
    for device in DEVICES[:-1]:
        count = 0
        while count < PER_CLASS:
            texts = device_pair(device, things, rng, held_out)
            keys = {text.lower() for text in texts}
            if keys & seen or len(keys) < 2:
                continue
            seen |= keys
            pair = f"{split}-{device}-{count:03}"
            count += 1
            for text, label in zip(texts, (device, DEVICES[-1]), strict=True):
                yield {"text": text, "label": label, "pair": pair}


def write(folder: Path) -> None:
    """Both sets, a file for every split."""
    for name, rows in (("emotion", emotion_rows), ("rhetoric", rhetoric_rows)):
        rng, seen = random.Random(SEED), set[str]()
        for split in SPLITS:
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row) + "\n" for row in rows(split, rng, seen)]
            path.write_text("".join(lines), encoding="utf-8", newline="\n")


def main() -> None:
    """Reads the options and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "texts")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()

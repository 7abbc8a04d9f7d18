"""Texts for recognising an emotion or a rhetorical device.

Every fifth of the shared sentence frames, and the clauses that their data file marks with a star,
are kept for evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from grammar import article, choose, fill, sections
from replies import EMOTIONS
from words import Topics

DEVICES = ("metaphor", "sarcasm", "hyperbole", "simile", "literal")
EMOTION_REQUEST = "Name the emotion of the text in one word."
DEVICE_REQUEST = "Name the rhetorical device of the text in one word."
_HELD_OUT_EVERY = 5
_CUES, _CLAUSES, _OLD = "emotion_cues.txt", "rhetoric_clauses.txt", "rhetoric_texts.txt"
Slots = dict[str, Callable[[], str]]


def kept(lines: list[str], held_out: bool) -> list[str]:
    """The frames of training, or those kept for evaluation."""
    return [x for i, x in enumerate(lines) if (i % _HELD_OUT_EVERY == 3) is held_out]


def pick(section: str, rng: random.Random) -> str:
    """A person, a place, a time and so on."""
    line = rng.choice(sections(_OLD)[section])
    if "(" not in line:
        line = rng.choice(line.split("|"))
    return choose(line, rng)


def _slots(topics: Topics, rng: random.Random) -> Slots:
    """What fills the slots that all frames share."""
    pronoun = rng.choice(("he", "she"))

    def noun() -> str:
        return topics.noun(rng) if rng.random() < 0.8 else topics.word(rng)

    first = noun()
    return {
        "N": lambda: first,
        "M": noun,
        "P": lambda: pronoun,
        "R": lambda: pick("person", rng),
        "W": lambda: pick("time", rng),
        "G": lambda: pick("place", rng),
        "V": lambda: pick("vehicle", rng),
        "J": lambda: pick("adjective", rng),
        "X": lambda: pick("possessor", rng),
        "x": lambda: pick("possessor", rng).lower(),
    }


def finish(text: str) -> str:
    """Capital letter at the start and the right form of `a`."""
    start = 1 if text.startswith('"') else 0
    text = text[:start] + text[start].upper() + text[start + 1 :]
    parts = text.split()
    for index, part in enumerate(parts[:-1]):
        if part == "a":
            parts[index] = article(parts[index + 1])
    return " ".join(parts)


def emotion_text(emotion: str, topics: Topics, rng: random.Random, held_out: bool = False) -> str:
    """A statement, remark or short dialogue that shows an emotion."""
    if emotion not in EMOTIONS:
        raise ValueError(f"unknown emotion {emotion!r}")
    slots = _slots(topics, rng)
    if not held_out and rng.random() < 0.4:
        return finish(fill(choose(rng.choice(sections("emotion_texts.txt")[emotion]), rng), slots))
    frame = rng.choice(kept(sections(_CUES)["frames"], held_out))
    return finish(fill(frame, _cued(emotion, slots, rng)))


def _cued(emotion: str, slots: Slots, rng: random.Random) -> Slots:
    """Slots with the cues of an emotion added."""
    cues = {
        key: lambda key=key: choose(sections(_CUES)[f"{emotion}.{key}"][0], rng) for key in "ATDYCF"
    }
    return slots | cues


def emotion_drill(emotion: str, topics: Topics, rng: random.Random) -> str:
    """A short text around one cue of an emotion."""
    frame = rng.choice(sections(_CUES)["drills"])
    return finish(fill(frame, _cued(emotion, _slots(topics, rng), rng)))


def device_text(device: str, topics: Topics, rng: random.Random, held_out: bool = False) -> str:
    """A sentence that uses a rhetorical device, or none for `literal`."""
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}")
    slots = _slots(topics, rng)
    if not held_out and rng.random() < 0.25:
        return finish(fill(choose(rng.choice(sections(_OLD)[device]), rng), slots))
    parts = sections(_CLAUSES)
    if device == "sarcasm":
        _add_sarcasm(slots, rng)
        return finish(fill(rng.choice(kept(parts["sarcasm"], held_out)), slots))
    starred = held_out and rng.random() < 0.5
    clauses = [line for line in parts[device] if line.startswith("*") is starred]
    slots["C"] = lambda: fill(choose(rng.choice(clauses).lstrip("*"), rng), slots)
    return finish(fill(rng.choice(kept(parts["carriers"], held_out)), slots))


def _add_sarcasm(slots: Slots, rng: random.Random) -> None:
    parts = sections(_CLAUSES)
    slots["O"] = lambda: rng.choice(parts["opener"][0].split("|"))
    slots["K"] = lambda: fill(rng.choice(parts["complaint"]), slots)
    slots["L"] = lambda: fill(rng.choice(parts["tail"]), slots)


def device_drill(device: str, topics: Topics, rng: random.Random) -> str:
    """A sentence of another clause, half of the time by itself."""
    parts, slots = sections(_CLAUSES), _slots(topics, rng)
    _add_sarcasm(slots, rng)
    clause = fill(choose(rng.choice(parts[f"{device}.more"]), rng), slots)
    if device == "sarcasm":
        return finish(clause)
    slots["C"] = lambda: clause
    frame = "<C>." if rng.random() < 0.5 else rng.choice(kept(parts["carriers"], held_out=False))
    return finish(fill(frame, slots))

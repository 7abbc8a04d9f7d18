"""Replies: an opening and a closing sentence whose wording is one emotion throughout."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from grammar import bucket, choose, sections
from situations import VALENCES, Situation

EMOTIONS = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
_SLOT = re.compile(r"<([DTVN])>")
_THIRD = 9  # openings (and closings) that suit one valence


@dataclass(frozen=True)
class Reply:
    """A reply and the stretches of it that are copied from the context.

    Attributes:
        text: the reply.
        copied: character spans of copied words; a reader who cannot see the context cannot
            know them.
    """

    text: str
    copied: tuple[tuple[int, int], ...]


def _frame(frames: list[str], valence: str, cue: str, rng: random.Random) -> str:
    """Picks a frame by what can be read in the context.

    If every frame were equally likely, greedy decoding would give one reply for all contexts.
    So the valence and a word of the context (by its first letters) prefer one frame.
    """
    third = VALENCES.index(valence) * _THIRD
    if rng.random() < 0.8:
        return frames[third + bucket(cue[:3].lower(), _THIRD)]
    return rng.choice(frames[third : third + _THIRD] if rng.random() < 0.8 else frames)


def _fill(template: str, situation: Situation) -> Reply:
    """Fills the slots of a template and notes where they are."""
    owner = "your" if situation.determiner in ("my", "our") else "the"
    values = {"D": owner, "T": situation.topic, "V": situation.verb, "N": situation.head}
    text, spans, at = "", [], 0
    for match in _SLOT.finditer(template):
        text += template[at : match.start()]
        spans.append((len(text), len(text) + len(values[match[1]])))
        text += values[match[1]]
        at = match.end()
    return Reply(text + template[at:], tuple(spans))


def compose(situation: Situation, emotion: str | None, rng: random.Random) -> Reply:
    """Writes a reply to the situation in an emotion, or a neutral one for None."""
    frames = sections(f"replies/{emotion or 'neutral'}.txt")
    opening = _frame(frames["open"], situation.valence, situation.verb, rng)
    template = opening
    if rng.random() < 0.93:
        last = situation.scenario.split()[-1]
        template += " " + _frame(frames["close"], situation.valence, last, rng)
    return _fill(choose(template, rng), situation)

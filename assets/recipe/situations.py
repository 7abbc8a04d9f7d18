"""Situations: a scenario sentence and an event, in the style of the project's contexts."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from grammar import article, choose, fill, sections, words
from words import Topics, invented

VALENCES = ("positive", "neutral", "negative")
_DETERMINERS = ("a", "an", "the", "my", "our", "his", "her", "their")
# Words that end a noun phrase in a scenario.
_STOPS = frozenset(words("stops.txt"))


@dataclass(frozen=True)
class Situation:
    """A scenario and its event, with the pieces that a reply may take up.

    Attributes:
        scenario: "I <verb> <determiner> <topic> <details>", without a final period.
        event: one sentence in the past tense.
        valence: whether the event is good, plain or bad.
        verb: the past-tense verb of the scenario.
        determiner: the topic's determiner.
        topic: the topic's noun phrase.
        head: the word of the topic that the event takes up, or the topic's last word.
    """

    scenario: str
    event: str
    valence: str
    verb: str
    determiner: str
    topic: str
    head: str

    @property
    def text(self) -> str:
        """The user's turn."""
        return f"{self.scenario}\n{self.event}"


def parse(scenario: str, event: str, valence: str) -> Situation | None:
    """Finds the verb and the topic of a written scenario; None if it has another shape."""
    parts = scenario.split()
    at = next((i for i, part in enumerate(parts) if i > 1 and part in _DETERMINERS), None)
    if at is None or parts[0] != "I" or at > 5:
        return None
    end = at + 1
    while end < len(parts) and end - at <= 3 and parts[end].lower() not in _STOPS:
        end += 1
    topic = [part.strip(",;") for part in parts[at + 1 : end]]
    if not topic:
        return None
    named = [word for word in topic if re.search(rf"\b{re.escape(word)}\b", event, re.I)]
    head = named[-1] if named else topic[-1]
    verb = " ".join(parts[1:at])
    return Situation(scenario, event, valence, verb, parts[at], " ".join(topic), head)


def load(path: Path) -> list[Situation]:
    """Reads a file of contexts; each gives a situation for every valence."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for valence in VALENCES:
            situation = parse(row["scenario"], row["event"][valence], valence)
            if situation is not None:
                found.append(situation)
    return found


class Situations:
    """Draws situations from the grammar and from written contexts.

    Args:
        topics: where noun phrases come from.
        written: contexts to use as they are, or with other topics, verbs and events.
        written_share: how often a written context is the basis.
        more: how often another word than usual follows the topic.
    """

    def __init__(
        self,
        topics: Topics,
        written: list[Situation] = (),
        written_share: float = 0.3,
        more: float = 0.0,
    ) -> None:
        self.topics = topics
        self._written = list(written)
        self._share = written_share if self._written else 0.0
        self._more = more
        self._parts = sections("contexts.txt")
        self._verbs = words("verbs.txt")

    def draw(self, rng: random.Random) -> Situation:
        """One situation."""
        if rng.random() < self._share:
            return self._rewritten(rng, rng.choice(self._written))
        return self._composed(rng)

    def _verb(self, rng: random.Random) -> str:
        return f"{invented(rng)}ed" if rng.random() < 0.15 else rng.choice(self._verbs)

    def _details(self, rng: random.Random) -> str:
        kinds = rng.sample(("who", "when", "where", "why"), k=rng.choice((1, 2, 2, 3)))
        if self._more and rng.random() < self._more:
            kinds = ["more", *kinds[1:]]
        text = " ".join(choose(rng.choice(self._parts[kind]), rng) for kind in kinds)
        return fill(text, {"M": lambda: self.topics.word(rng)})

    def _event(self, rng: random.Random, valence: str, head: str) -> str:
        slots = {"N": lambda: head, "M": lambda: self.topics.word(rng)}
        return fill(choose(rng.choice(self._parts[valence]), rng), slots)

    def _composed(self, rng: random.Random) -> Situation:
        topic, head = self.topics.phrase(rng)
        determiner = rng.choice(("a", "a", "the", "the", "my", "our"))
        if determiner == "a":
            determiner = article(topic)
        verb, valence = self._verb(rng), rng.choice(VALENCES)
        scenario = f"I {verb} {determiner} {topic} {self._details(rng)}"
        event = self._event(rng, valence, head)
        return Situation(scenario, event, valence, verb, determiner, topic, head)

    def _rewritten(self, rng: random.Random, base: Situation) -> Situation:
        """A written context, mostly with another topic, and at times another verb or event."""
        if rng.random() < 0.2:
            return base
        topic, head = self.topics.phrase(rng)
        determiner = base.determiner
        if determiner in ("a", "an"):
            determiner = article(topic)
        verb = self._verb(rng) if rng.random() < 0.4 else base.verb
        tail = base.scenario.split(f" {base.topic}", 1)[1]
        if rng.random() < 0.15 + self._more / 2:
            tail = " " + self._details(rng)
        scenario = f"I {verb} {determiner} {topic}{tail}"
        event, valence = base.event, base.valence
        if rng.random() < 0.3:
            valence = rng.choice(VALENCES)
            event = self._event(rng, valence, head)
        else:
            event = re.sub(rf"\b{re.escape(base.head)}\b", lambda _: head, event, flags=re.I)
        return Situation(scenario, event, valence, verb, determiner, topic, head)

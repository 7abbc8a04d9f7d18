"""A judge without a model: weighted words and phrases of general English.

It reads a short text, adds the weights of the emotion words, bodily signs and exclamations that
it finds, and answers with the heaviest emotion. It runs offline and is the same on every
machine. It does not understand irony or facts of the world; measure it with
:func:`circuits.judges.agreement.error_rate` before trusting a number that rests on it.

Negation ("not afraid", "no fear") removes what follows within three words of one clause, except
where it only strengthens ("never been happier", "not only"). What stands after the last "but"
counts more (as in VADER, Hutto and Gilbert 2014).

The word lists stand in ``lexicon.json``. A pattern is a row of words: ``shak*`` stands for any
ending, ``{my}`` for a possessive or an article, ``..`` for up to three words of the same clause.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from circuits.errors import JudgeError
from circuits.files import digest, read_json
from circuits.judges.judge import Verdict, by_label
from circuits.names import NEUTRAL

__all__ = ["Entry", "Hit", "LexiconJudge", "emotion_words", "find_emotion_words"]

_SHIPPED: Final = Path(__file__).with_name("lexicon.json")
_EXAMPLE: Final = '{"gratitude": ["thank*", "grateful"], "envy": ["envious", "jealous of"]}'
_TOKENS: Final = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+|[.,;:!?()\u2014\u2013\n]|--")
_APOSTROPHES: Final = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u00b4", "'"))
_REACH: Final = 3
"""How many words may stand between a negation and what it negates."""


@dataclass(frozen=True)
class Entry:
    """One pattern, the emotion it speaks for, and how strongly."""

    emotion: str
    pattern: tuple[str, ...]
    weight: float
    strong: bool
    """Names or describes the emotion itself."""
    expression: re.Pattern[str]
    """Of the pattern, in words with a space after each."""


@dataclass(frozen=True)
class Hit:
    """One place of a text that speaks for an emotion."""

    emotion: str
    words: str
    """As they stand in the text, in lower case."""
    weight: float
    position: int
    """Index of the first word."""


class LexiconJudge:
    """Decides by weighted word lists, the shipped ones or one's own; needs no network."""

    name = "lexicon"

    def __init__(self, words: Path | None = None) -> None:
        """Read the shipped lists, or one's own: a JSON object, from labels to lists of phrases.

        Every phrase of one's own weighs as much as the shipped words that name an emotion;
        negation and intensifiers are those of the shipped lists.

        Raises:
            DataError: the file is missing or no JSON.
            JudgeError: it holds no such lists; names the label.
        """
        path = words or _SHIPPED
        self._sha256 = digest(path).removeprefix("sha256:")
        self._rules, self._threshold, self.entries = _read(path, self._sha256)
        self.labels = tuple(dict.fromkeys(entry.emotion for entry in self.entries))
        """What can be told apart, beside ``neutral``."""
        self._by_first: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            self._by_first[entry.pattern[0].removesuffix("*")].append(entry)

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: The two sequences differ in length, or an emotion does not exist.
        """
        return by_label(texts, emotions, self.labels, lambda own: [self._label(t) for t in own])

    def describe(self) -> Mapping[str, Any]:
        """Name, size and fingerprint of the word lists."""
        return {
            "name": self.name,
            "lexicon_sha256": self._sha256,
            "entries": dict(Counter(entry.emotion for entry in self.entries)),
            "threshold": self._threshold,
        }

    def hits(self, text: str) -> list[Hit]:
        """Every place of ``text`` that speaks for an emotion, negated ones left out.

        >>> [hit.emotion for hit in LexiconJudge().hits("I'm not afraid, I'm furious!")]
        ['anger']
        """
        tokens, rules = _tokens(text), self._rules
        but = max((i for i, token in enumerate(tokens) if token == "but"), default=len(tokens))
        hits: list[Hit] = []
        for start, end, entries in self.matches(tokens):
            if self._negated(tokens, start):
                continue
            intensified = start > 0 and tokens[start - 1] in rules["intensifiers"]
            factor = rules["intensified"] if intensified else 1.0
            factor *= rules["after_but"] if start > but else 1.0
            phrase = " ".join(tokens[start:end])
            hits += [Hit(e.emotion, phrase, e.weight * factor, start) for e in entries]
        return hits

    def matches(
        self, tokens: list[str], *, strong_only: bool = False
    ) -> list[tuple[int, int, list[Entry]]]:
        """Start, end and entries of the longest phrases from left to right, none overlapping."""
        text = "".join(f"{token} " for token in tokens)
        starts = [0, *accumulate(len(token) + 1 for token in tokens)]
        place = {start: index for index, start in enumerate(starts)}
        found: list[tuple[int, int, list[Entry]]] = []
        index = 0
        while index < len(tokens):
            best, end = [], index
            beginnings = accumulate(tokens[index])
            for entry in (e for own in beginnings for e in self._by_first.get(own, ())):
                if strong_only and not entry.strong:
                    continue
                match = entry.expression.match(text, starts[index])
                stop = place[match.end()] if match else -1
                if stop > end:
                    best, end = [entry], stop
                elif stop == end:
                    best.append(entry)
            if best:
                found.append((index, end, best))
            index = max(end, index + 1)
        return found

    def _negated(self, tokens: list[str], start: int) -> bool:
        rules = self._rules
        for back in range(start - 1, max(start - 2 - _REACH, -1), -1):
            token, after = tokens[back], tokens[back + 1 : start + 1]
            if not token[0].isalnum() or token in ("but", "and"):
                return False
            if token in rules["negators"]:
                # Unless it strengthens or asks ("never so happy", "isn't it lovely").
                lifters = {*rules["negation_lifted_by"]}
                lifters |= {*rules["lifted_after_never"]} if token == "never" else set()
                asks = "'" in token and after[0] in rules["question_pronouns"]
                return not asks and lifters.isdisjoint(after)
        return False

    def _label(self, text: str) -> tuple[str, str]:
        """The heaviest emotion and why; in a tie that of the heaviest, then of the earliest hit."""
        found: dict[str, dict[str, Hit]] = defaultdict(dict)
        for hit in self.hits(text):
            # A repeated word counts once, where it weighs most: ten times said is not ten signs.
            before = found[hit.emotion].get(hit.words, hit)
            found[hit.emotion][hit.words] = max(before, hit, key=lambda own: own.weight)
        if not found:
            return NEUTRAL, "no word or phrase of an emotion"

        def rank(emotion: str) -> tuple[float, float, int, int]:
            weights = [hit.weight for hit in found[emotion].values()]
            first = min(hit.position for hit in found[emotion].values())
            return sum(weights), max(weights), -first, -self.labels.index(emotion)

        label = max(found, key=rank)
        said = ", ".join(f'"{phrase}"' for phrase in found[label])
        if rank(label)[0] < self._threshold:
            return NEUTRAL, f"too weak a sign of {label}: {said}"
        return label, f"{label}: {said}"


@cache
def _read(path: Path, _sha256: str) -> tuple[Mapping[str, Any], float, tuple[Entry, ...]]:
    """Rules, threshold and entries; read once while the file stays the same."""
    rules = read_json(_SHIPPED)
    weights, lists, threshold = rules["weights"], rules["emotions"], rules["threshold"]
    if path != _SHIPPED:
        found = read_json(path)
        if not isinstance(found, dict) or not found:
            raise JudgeError(f"{path}: expected an object such as {_EXAMPLE}")
        for label, own in found.items():
            good = isinstance(own, list) and own
            if not good or not all(isinstance(phrase, str) and phrase.split() for phrase in own):
                raise JudgeError(f"{path}: {label!r}: expected a list of words, as in {_EXAMPLE}")
        weights, threshold = {"words": 1.0}, 1.0
        lists = {label: {"words": [p.lower() for p in own]} for label, own in found.items()}
    parts = {"{my}": f"(?:{'|'.join(map(re.escape, rules['possessives']))}) "}
    parts[".."] = r"(?:\w[^ ]* ){0,3}?"

    def expression(phrase: str) -> str:
        own = ((part, re.escape(part.removesuffix("*"))) for part in phrase.split())
        return "".join(parts.get(p) or w + "[^ ]*" * p.endswith("*") + " " for p, w in own)

    entries = (
        Entry(
            emotion,
            tuple(phrase.split()),
            weights[tier],
            tier == "words",
            re.compile(expression(phrase)),
        )
        for emotion, tiers in lists.items()
        for tier in weights
        for phrase in tiers[tier]
    )
    return rules, threshold, tuple(entries)


def _tokens(text: str) -> list[str]:
    return _TOKENS.findall(text.translate(_APOSTROPHES).lower())


def find_emotion_words(text: str) -> list[str]:
    """The words of ``text`` that unambiguously name an emotion, in their order.

    For contexts, which must state an event and leave the feeling open. Negation makes no
    difference here: "not afraid" names fear. Exclamations and bodily signs do not count.

    >>> find_emotion_words("Oh no, the bus is late and she was not glad.")
    ['glad']
    """
    tokens = _tokens(text)
    found = LexiconJudge().matches(tokens, strong_only=True)
    return [" ".join(tokens[start:end]) for start, end, _ in found]


def emotion_words(emotions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Emotion -> words that name or describe it; an emotion without a list is its own word.

    A word stands with a space before it and with a capital first letter, as it may occur in a
    reply or begin one.
    """
    lists: dict[str, list[str]] = {emotion: [] for emotion in emotions}
    for entry in LexiconJudge().entries:
        plain = len(entry.pattern) == 1 and entry.pattern[0].isalpha()
        if entry.emotion in lists and entry.strong and plain:
            lists[entry.emotion].append(entry.pattern[0])
    found = {emotion: own or [emotion] for emotion, own in lists.items()}
    return {e: tuple(f for w in own for f in (f" {w}", w.capitalize())) for e, own in found.items()}

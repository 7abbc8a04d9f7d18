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
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from circuits.errors import JudgeError
from circuits.files import digest, read_json
from circuits.judges.judge import EMPTY, Verdict, check_questions
from circuits.names import NEUTRAL

__all__ = [
    "Entry",
    "Hit",
    "Lexicon",
    "LexiconJudge",
    "emotion_words",
    "find_emotion_words",
    "find_hits",
    "lexicon",
]

_SHIPPED: Final = Path(__file__).with_name("lexicon.json")
_EXAMPLE: Final = '{"gratitude": ["thank*", "grateful"], "envy": ["envious", "jealous of"]}'


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
class Lexicon:
    """All entries, and the rules by which they count."""

    entries: tuple[Entry, ...]
    threshold: float
    """Weight below which an emotion is not found."""
    rules: Mapping[str, Any]
    """Factors, negators, intensifiers and so on, as in ``lexicon.json``."""
    sha256: str

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What the entries speak for, in their order."""
        return tuple(dict.fromkeys(entry.emotion for entry in self.entries))

    @cached_property
    def _by_first(self) -> Mapping[str, list[Entry]]:
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            found[entry.pattern[0].removesuffix("*")].append(entry)
        return dict(found)

    def starting_with(self, token: str) -> list[Entry]:
        """The entries whose first word may be ``token``."""
        beginnings = (token[: length + 1] for length in range(len(token)))
        return [entry for own in beginnings for entry in self._by_first.get(own, ())]


@cache
def lexicon() -> Lexicon:
    """The shipped lists, read once."""
    return _read(None)


def _read(path: Path | None) -> Lexicon:
    """Read the shipped lists, or one's own: a JSON object, from labels to lists of phrases.

    Every phrase of one's own weighs as much as the shipped words that name an emotion; negation and
    intensifiers are those of the shipped lists.

    Raises:
        DataError: the file is missing or no JSON.
        JudgeError: it holds no such lists; names the label.
    """
    rules = read_json(_SHIPPED)
    weights, lists = rules["weights"], rules.pop("emotions")
    threshold = rules["threshold"]
    if path is not None:
        found, threshold = read_json(path), 1.0
        if not isinstance(found, dict) or not found:
            raise JudgeError(f"{path}: expected an object such as {_EXAMPLE}")
        for label, own in found.items():
            good = isinstance(own, list) and own
            if not good or not all(isinstance(phrase, str) and phrase.split() for phrase in own):
                raise JudgeError(f"{path}: {label!r}: expected a list of words, as in {_EXAMPLE}")
        weights = {"words": 1.0}
        lists = {label: {"words": [p.lower() for p in own]} for label, own in found.items()}
    parts = {"{my}": f"(?:{'|'.join(map(re.escape, rules['possessives']))}) "}
    parts[".."] = r"(?:\w[^ ]* ){0,3}?"

    def expression(phrase: str) -> str:
        words = ((part, re.escape(part.removesuffix("*"))) for part in phrase.split())
        return "".join(parts.get(p) or w + "[^ ]*" * p.endswith("*") + " " for p, w in words)

    entries = tuple(
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
    return Lexicon(entries, threshold, rules, digest(path or _SHIPPED).removeprefix("sha256:"))


_TOKENS: Final = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+|[.,;:!?()\u2014\u2013\n]|--")
_APOSTROPHES: Final = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u00b4", "'"))
_REACH: Final = 3
"""How many words may stand between a negation and what it negates."""


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

    def __init__(self, words: Path | None = None) -> None:
        """Remember the file of one's own lists, if there is one.

        Raises:
            DataError, JudgeError: the file is missing or holds no lists.
        """
        self._words = lexicon() if words is None else _read(words)

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be told apart, beside ``neutral``."""
        return self._words.labels

    @property
    def name(self) -> str:
        """``lexicon``."""
        return "lexicon"

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: The two sequences differ in length, or an emotion does not exist.
        """
        check_questions(texts, emotions, self.labels)
        pairs = zip(texts, emotions, strict=True)
        return [_verdict(text, asked, self._words) for text, asked in pairs]

    def describe(self) -> Mapping[str, Any]:
        """Name, size and fingerprint of the word lists."""
        words = self._words
        return {
            "name": self.name,
            "lexicon_sha256": words.sha256,
            "entries": dict(Counter(entry.emotion for entry in words.entries)),
            "threshold": words.threshold,
        }


def find_hits(text: str, words: Lexicon | None = None) -> list[Hit]:
    """Every place of ``text`` that speaks for an emotion, negated ones left out.

    >>> [hit.emotion for hit in find_hits("I'm not afraid, I'm furious!")]
    ['anger']
    """
    words = words or lexicon()
    tokens = _tokens(text)
    but = max((i for i, token in enumerate(tokens) if token == "but"), default=len(tokens))
    hits: list[Hit] = []
    for start, end, entries in _matches(tokens, words):
        if _negated(tokens, start, words):
            continue
        intensified = start > 0 and tokens[start - 1] in words.rules["intensifiers"]
        factor = words.rules["intensified"] if intensified else 1.0
        if start > but:
            factor *= words.rules["after_but"]
        phrase = " ".join(tokens[start:end])
        hits += [Hit(e.emotion, phrase, e.weight * factor, start) for e in entries]
    return hits


def find_emotion_words(text: str) -> list[str]:
    """The words of ``text`` that unambiguously name an emotion, in their order.

    For contexts, which must state an event and leave the feeling open. Negation makes no
    difference here: "not afraid" names fear. Exclamations and bodily signs do not count.

    >>> find_emotion_words("Oh no, the bus is late and she was not glad.")
    ['glad']
    """
    tokens = _tokens(text)
    return [
        " ".join(tokens[start:end])
        for start, end, _ in _matches(tokens, lexicon(), strong_only=True)
    ]


def _tokens(text: str) -> list[str]:
    return _TOKENS.findall(text.translate(_APOSTROPHES).lower())


def _matches(
    tokens: list[str], words: Lexicon, *, strong_only: bool = False
) -> list[tuple[int, int, list[Entry]]]:
    """The longest entries from left to right, none overlapping another."""
    text = "".join(f"{token} " for token in tokens)
    starts = [0, *accumulate(len(token) + 1 for token in tokens)]
    place = {start: index for index, start in enumerate(starts)}
    found: list[tuple[int, int, list[Entry]]] = []
    index = 0
    while index < len(tokens):
        best, end = [], index
        for entry in words.starting_with(tokens[index]):
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


def _negated(tokens: list[str], start: int, words: Lexicon) -> bool:
    rules = words.rules
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


def _verdict(text: str, asked: str, words: Lexicon) -> Verdict:
    """The heaviest emotion; a tie goes to the heaviest single hit, then to the earliest."""
    if not text.strip():
        return Verdict(match=False, label=NEUTRAL, reason=EMPTY)
    found: dict[str, dict[str, Hit]] = defaultdict(dict)
    for hit in find_hits(text, words):
        # A repeated word counts once, where it weighs most: ten times said is not ten signs.
        found[hit.emotion][hit.words] = max(
            found[hit.emotion].get(hit.words, hit), hit, key=lambda own: own.weight
        )
    if not found:
        return Verdict(asked == NEUTRAL, NEUTRAL, "no word or phrase of an emotion")

    def rank(emotion: str) -> tuple[float, float, int, int]:
        hits = found[emotion].values()
        weights = [hit.weight for hit in hits]
        first = min(hit.position for hit in hits)
        return sum(weights), max(weights), -first, -words.labels.index(emotion)

    label = max(found, key=rank)
    said = ", ".join(f'"{phrase}"' for phrase in found[label])
    if rank(label)[0] < words.threshold:
        return Verdict(asked == NEUTRAL, NEUTRAL, f"too weak a sign of {label}: {said}")
    return Verdict(asked == label, label, f"{label}: {said}")


def emotion_words(emotions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Emotion -> words that name or describe it; an emotion without a list is its own word.

    A word stands with a space before it and with a capital first letter, as it may occur in a
    reply or begin one.
    """
    lists: dict[str, list[str]] = {emotion: [] for emotion in emotions}
    for entry in lexicon().entries:
        plain = len(entry.pattern) == 1 and entry.pattern[0].isalpha()
        if entry.emotion in lists and entry.strong and plain:
            lists[entry.emotion].append(entry.pattern[0])
    found = {emotion: own or [emotion] for emotion, own in lists.items()}
    return {e: tuple(f for w in own for f in (f" {w}", w.capitalize())) for e, own in found.items()}

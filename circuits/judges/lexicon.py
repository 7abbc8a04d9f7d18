"""A judge without a model: weighted words and phrases of general English.

It reads a short text, adds the weights of the emotion words, bodily signs and exclamations that
it finds, and answers with the heaviest emotion. It runs offline and is the same on every
machine. It does not understand irony or facts of the world; measure it with
:func:`circuits.judges.agreement.error_rate` before trusting a number that rests on it.

Negation ("not afraid", "no fear") removes what follows within three words of one clause, except
where it only strengthens ("never been happier", "not only"). What stands after the last "but"
counts more (as in VADER, Hutto and Gilbert 2014).

The word lists of the lexicon judge, read from ``lexicon.json`` and indexed for speed.

A pattern is a row of words: ``shak*`` stands for any ending, ``{my}`` for a possessive or an
article, ``..`` for up to three words of the same clause.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
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
    "read_lexicon",
]

_GAP: Final = 3
"""How many words ``..`` may stand for."""
_REMEMBERED: Final = 50_000
"""Words whose entries are kept at hand; a long corpus must not fill the memory."""
_TIERS: Final = ("words", "expressions", "hints")
_EXAMPLE: Final = '{"gratitude": ["thank*", "grateful"], "envy": ["envious", "jealous of"]}'


@dataclass(frozen=True)
class Entry:
    """One pattern, the emotion it speaks for, and how strongly."""

    emotion: str
    pattern: tuple[str, ...]
    weight: float
    strong: bool
    """Names or describes the emotion itself."""
    possessives: frozenset[str] = field(repr=False)

    def end(self, tokens: list[str], start: int) -> int:
        """Return where the pattern ends whose first word stands at ``start``, or -1."""
        return self._ends(tokens, start + 1, 1)

    def _ends(self, tokens: list[str], at: int, part: int) -> int:
        if part == len(self.pattern):
            return at
        if at >= len(tokens):
            return -1
        wanted = self.pattern[part]
        if wanted == "..":
            return self._ends_after_gap(tokens, at, part + 1)
        return self._ends(tokens, at + 1, part + 1) if self._fits(wanted, tokens[at]) else -1

    def _ends_after_gap(self, tokens: list[str], at: int, part: int) -> int:
        for here in range(at, min(at + _GAP + 1, len(tokens))):
            end = self._ends(tokens, here, part)
            if end >= 0:
                return end
            if not tokens[here][0].isalnum():
                return -1
        return -1

    def _fits(self, wanted: str, token: str) -> bool:
        if wanted == "{my}":
            return token in self.possessives
        if wanted.endswith("*"):
            return token.startswith(wanted[:-1])
        return token == wanted


@dataclass(frozen=True)
class Lexicon:
    """All entries, found by the first word of a text's position."""

    entries: tuple[Entry, ...]
    threshold: float
    intensified: float
    after_but: float
    intensifiers: frozenset[str]
    negators: frozenset[str]
    lifters: frozenset[str]
    question_pronouns: frozenset[str]
    lifted_after_never: frozenset[str]
    sha256: str
    _exact: Mapping[str, tuple[Entry, ...]] = field(repr=False)
    _stems: Mapping[str, tuple[Entry, ...]] = field(repr=False)
    _found: dict[str, tuple[Entry, ...]] = field(repr=False, default_factory=dict)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What the entries speak for, in their order."""
        return tuple(dict.fromkeys(entry.emotion for entry in self.entries))

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of patterns per emotion."""
        sizes: dict[str, int] = defaultdict(int)
        for entry in self.entries:
            sizes[entry.emotion] += 1
        return sizes

    def starting_with(self, token: str) -> tuple[Entry, ...]:
        """The entries whose first word fits ``token``."""
        if token not in self._found:
            stems = (token[:length] for length in range(1, len(token) + 1))
            by_stem = [entry for stem in stems for entry in self._stems.get(stem, ())]
            if len(self._found) > _REMEMBERED:
                self._found.clear()
            self._found[token] = (*self._exact.get(token, ()), *by_stem)
        return self._found[token]


@cache
def lexicon() -> Lexicon:
    """Read the lists once."""
    raw = files("circuits.judges").joinpath("lexicon.json").read_bytes()
    data = json.loads(raw)
    possessives = frozenset(data["possessives"])
    entries = tuple(
        Entry(emotion, tuple(phrase.split()), data["weights"][tier], tier == "words", possessives)
        for emotion, tiers in data["emotions"].items()
        for tier in _TIERS
        for phrase in tiers[tier]
    )
    exact, stems = _index(entries)
    return Lexicon(
        entries=entries,
        threshold=data["threshold"],
        intensified=data["intensified"],
        after_but=data["after_but"],
        intensifiers=frozenset(data["intensifiers"]),
        negators=frozenset(data["negators"]),
        lifters=frozenset(data["negation_lifted_by"]),
        question_pronouns=frozenset(data["question_pronouns"]),
        lifted_after_never=frozenset(data["lifted_after_never"]),
        sha256=hashlib.sha256(raw).hexdigest(),
        _exact=exact,
        _stems=stems,
    )


def read_lexicon(path: Path) -> Lexicon:
    """Read lists of one's own: a JSON object, from labels to lists of words and phrases.

    Every entry weighs as much as the shipped words that name an emotion; negation and
    intensifiers are those of the shipped lists.

    Raises:
        DataError: the file is missing or no JSON.
        JudgeError: it holds no such lists; names the label.
    """
    found, shipped = read_json(path), lexicon()
    if not isinstance(found, dict) or not found:
        raise JudgeError(f"{path}: expected an object such as {_EXAMPLE}")
    entries: list[Entry] = []
    for label, phrases in found.items():
        good = isinstance(phrases, list) and phrases
        if not good or not all(isinstance(p, str) and p.split() for p in phrases):
            raise JudgeError(f"{path}: {label!r}: expected a list of words, as in {_EXAMPLE}")
        like = shipped.entries[0]
        entries += [
            replace(like, emotion=label, pattern=tuple(p.lower().split()), weight=1.0, strong=True)
            for p in phrases
        ]
    exact, stems = _index(tuple(entries))
    return replace(
        shipped,
        entries=tuple(entries),
        threshold=1.0,
        sha256=digest(path).removeprefix("sha256:"),
        _exact=exact,
        _stems=stems,
        _found={},
    )


def _index(
    entries: tuple[Entry, ...],
) -> tuple[dict[str, tuple[Entry, ...]], dict[str, tuple[Entry, ...]]]:
    exact: dict[str, list[Entry]] = defaultdict(list)
    stems: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        first = entry.pattern[0]
        if first.endswith("*"):
            stems[first[:-1]].append(entry)
        else:
            exact[first].append(entry)
    return {k: tuple(v) for k, v in exact.items()}, {k: tuple(v) for k, v in stems.items()}


_TOKENS: Final = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+|[.,;:!?()\u2014\u2013\n]|--")
_APOSTROPHES: Final = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u00b4": "'"})
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
    strong: bool
    """Names or describes the emotion itself, rather than a bodily sign or an exclamation."""


class LexiconJudge:
    """Decides by weighted word lists, the shipped ones or one's own; needs no network."""

    def __init__(self, words: Path | None = None) -> None:
        """Remember the file of one's own lists, if there is one.

        Raises:
            DataError, JudgeError: the file is missing or holds no lists.
        """
        self._path = words
        if words is not None:
            _ = self._words  # so that a wrong file is refused before anything is judged

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be told apart, beside ``neutral``."""
        return self._words.labels

    @cached_property
    def _words(self) -> Lexicon:
        return lexicon() if self._path is None else read_lexicon(self._path)

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
        words = self._words
        return [_verdict(text, asked, words) for text, asked in zip(texts, emotions, strict=True)]

    def describe(self) -> Mapping[str, Any]:
        """Name, size and fingerprint of the word lists."""
        words = self._words
        return {
            "name": self.name,
            "lexicon_sha256": words.sha256,
            "entries": dict(words.sizes),
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
        factor = words.intensified if start and tokens[start - 1] in words.intensifiers else 1.0
        if start > but:
            factor *= words.after_but
        phrase = " ".join(tokens[start:end])
        hits += [Hit(e.emotion, phrase, e.weight * factor, start, e.strong) for e in entries]
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
        for start, end, entries in _matches(tokens, lexicon(), strong_only=True)
        if any(entry.strong for entry in entries)
    ]


def _tokens(text: str) -> list[str]:
    return _TOKENS.findall(text.translate(_APOSTROPHES).lower())


def _matches(
    tokens: list[str], words: Lexicon, *, strong_only: bool = False
) -> list[tuple[int, int, list[Entry]]]:
    """The longest entries from left to right, none overlapping another."""
    found: list[tuple[int, int, list[Entry]]] = []
    index = 0
    while index < len(tokens):
        best, end = [], index
        for entry in words.starting_with(tokens[index]):
            if strong_only and not entry.strong:
                continue
            stop = entry.end(tokens, index)
            if stop > end:
                best, end = [entry], stop
            elif stop == end:
                best.append(entry)
        if best:
            found.append((index, end, best))
        index = max(end, index + 1)
    return found


def _negated(tokens: list[str], start: int, words: Lexicon) -> bool:
    for back in range(start - 1, max(start - 2 - _REACH, -1), -1):
        token = tokens[back]
        if not token[0].isalnum() or token in ("but", "and"):
            return False
        if token in words.negators:
            return not _lifted(token, tokens[back + 1 : start + 1], words)
    return False


def _lifted(negator: str, after: list[str], words: Lexicon) -> bool:
    """Whether a negation strengthens or asks ("never so happy", "isn't it lovely")."""
    if not words.lifters.isdisjoint(after):
        return True
    if negator == "never" and not words.lifted_after_never.isdisjoint(after):
        return True
    return "'" in negator and after[0] in words.question_pronouns


def _verdict(text: str, asked: str, words: Lexicon) -> Verdict:
    if not text.strip():
        return Verdict(match=False, label=NEUTRAL, reason=EMPTY)
    label, reason = _decide(find_hits(text, words), words)
    return Verdict(match=label == asked, label=label, reason=reason)


def _decide(hits: list[Hit], words: Lexicon) -> tuple[str, str]:
    """The heaviest emotion; a tie goes to the heaviest single hit, then to the earliest."""
    by_emotion: dict[str, dict[str, Hit]] = defaultdict(dict)
    for hit in hits:
        # A repeated word counts once: saying it ten times is not ten signs.
        kept = by_emotion[hit.emotion].get(hit.words)
        if kept is None or kept.weight < hit.weight:
            by_emotion[hit.emotion][hit.words] = hit
    if not by_emotion:
        return NEUTRAL, "no word or phrase of an emotion"
    scores = {emotion: sum(h.weight for h in kept.values()) for emotion, kept in by_emotion.items()}

    def rank(emotion: str) -> tuple[float, float, int, int]:
        kept = by_emotion[emotion].values()
        heaviest = max(hit.weight for hit in kept)
        first = min(hit.position for hit in kept)
        return scores[emotion], heaviest, -first, -words.labels.index(emotion)

    label = max(scores, key=rank)
    said = ", ".join(f'"{phrase}"' for phrase in by_emotion[label])
    if scores[label] < words.threshold:
        return NEUTRAL, f"too weak a sign of {label}: {said}"
    return label, f"{label}: {said}"


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

"""A judge without a model: weighted words and phrases of general English.

It reads a short text, adds the weights of the emotion words, bodily signs and exclamations that
it finds, and answers with the heaviest emotion. It runs offline and is the same on every
machine. It does not understand irony or facts of the world; measure it with
:func:`circuits.data.judges.calibration.error_rate` before trusting a number that rests on it.

Negation ("not afraid", "no fear") removes what follows within three words of one clause, except
where it only strengthens ("never been happier", "not only"). What stands after the last "but"
counts more (as in VADER, Hutto and Gilbert 2014).
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from circuits.data.judges.lexicon_entries import Entry, Lexicon, lexicon, read_lexicon
from circuits.data.judges.protocol import Verdict
from circuits.data.judges.questions import EMPTY, check_questions
from circuits.names import NEUTRAL

__all__ = ["Hit", "LexiconJudge", "find_emotion_words", "find_hits"]

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

"""The word lists of the lexicon judge, read from ``lexicon.json`` and indexed for speed.

A pattern is a row of words: ``shak*`` stands for any ending, ``{my}`` for a possessive or an
article, ``..`` for up to three words of the same clause.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Final

from circuits.errors import JudgeError
from circuits.files import digest, read_json

__all__ = ["Entry", "Lexicon", "lexicon", "read_lexicon"]

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
    raw = files("circuits.data.judges").joinpath("lexicon.json").read_bytes()
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
        shipped, entries=tuple(entries), threshold=1.0, sha256=digest(path).removeprefix("sha256:"),
        _exact=exact, _stems=stems, _found={},
    )  # fmt: skip


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

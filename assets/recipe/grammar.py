"""Tiny text grammar: sections of lines with `(a|b)` alternatives and `<X>` slots."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data"
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_SLOT = re.compile(r"<([A-Zx])>")


@cache
def sections(name: str) -> dict[str, list[str]]:
    """Reads a data file of `[section]` headings followed by one entry a line."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("[") and line.endswith("]"):
            current = found.setdefault(line[1:-1], [])
        else:
            current.append(line.strip())
    return found


@cache
def words(name: str) -> list[str]:
    """Reads a word list: single words split by blanks, or phrases split by `|` on a line."""
    found: list[str] = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        found += line.split("|") if "|" in line else line.split()
    return list(dict.fromkeys(word.strip() for word in found))


def choose(text: str, rng: random.Random) -> str:
    """Replaces every `(a|b)` in the text by one of its alternatives."""
    return _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)


def fill(text: str, slots: Mapping[str, Callable[[], str]]) -> str:
    """Replaces every `<X>` slot by what its maker returns."""
    return _SLOT.sub(lambda match: slots[match[1]](), text)


def bucket(text: str, size: int) -> int:
    """A stable hash of a text into `size` buckets (Python's own hash changes between runs)."""
    return zlib.crc32(text.encode()) % size


def article(phrase: str) -> str:
    """The indefinite article that the phrase takes."""
    return "an" if phrase[:1].lower() in "aeiou" else "a"

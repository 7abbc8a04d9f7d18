"""Topics: ordinary nouns, invented words and random strings of subwords.

A model that meets few topics learns to name the ones it knows instead of copying the one it
reads, and a subword that is read but never written stays impossible to copy. So the topics range
over every kind of word that the tokenizer can spell.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from grammar import sections, words

HELD_OUT_EVERY = 12  # every twelfth noun never occurs in training


def nouns(held_out: bool = False) -> list[str]:
    """The ordinary nouns, either those of training or those kept for evaluation."""
    return [
        noun
        for index, noun in enumerate(words("nouns.txt"))
        if (index % HELD_OUT_EVERY == 7) is held_out
    ]


def invented(rng: random.Random) -> str:
    """A word of random syllables."""
    parts = sections("syllables.txt")
    onsets, vowels, codas = (parts[name][0].split() for name in ("onset", "vowel", "coda"))
    count = rng.choice((1, 2, 2, 2, 3))
    spelled = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(count))
    return spelled + rng.choice(codas) if rng.random() < 0.7 else spelled


class Topics:
    """Draws noun phrases of one to three words.

    Args:
        pieces: subwords of the tokenizer to string together, without their leading blank; none
            before there is a tokenizer.
        held_out: draw only the ordinary nouns kept for evaluation.
    """

    def __init__(self, pieces: Sequence[str] = (), held_out: bool = False) -> None:
        self._pieces = list(pieces)
        self._held_out = held_out
        self._nouns = nouns(held_out)
        self._modifiers = words("modifiers.txt")

    def word(self, rng: random.Random) -> str:
        """One head word of any kind."""
        draw = rng.random()
        if self._held_out or draw < 0.62:
            return rng.choice(self._nouns)
        if self._pieces and draw < 0.86:
            return "".join(rng.choices(self._pieces, k=rng.choice((1, 2, 2, 3))))
        return invented(rng)

    def noun(self, rng: random.Random) -> str:
        """One ordinary noun."""
        return rng.choice(self._nouns)

    def phrase(self, rng: random.Random) -> tuple[str, str]:
        """A noun phrase and its head word."""
        head = self.word(rng)
        draw = rng.random()
        if draw < 0.35:
            return head, head.split()[-1]
        first = rng.choice(self._modifiers) if draw < 0.75 else self.word(rng)
        if draw > 0.93:
            first = f"{rng.choice(self._modifiers)} {first}"
        return f"{first} {head}", head.split()[-1]

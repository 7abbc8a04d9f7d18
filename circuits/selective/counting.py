"""Which tokens are counted: no padding, and as many of every class.

A class with more tokens would look less selective than one with few, so every class gives the
same number of tokens to each half of the texts, exactly.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from circuits.data.prompts import Question, questions
from circuits.data.texts import Texts
from circuits.errors import AxisError, DataError
from circuits.model.chat import encode_prompt
from circuits.model.protocol import Model
from circuits.model.spans import text_span

__all__ = [
    "HALVES",
    "Share",
    "Span",
    "Where",
    "balanced",
    "check_texts",
    "check_word",
    "halves_of",
    "permuted",
    "read_spans",
]

Where = Literal["content", "all", "last"]
"""Tokens of the text being classified, all of the prompt, or the one where the reply begins."""

HALVES: Final = (0, 1)
"""The halves of the texts, from each of which neurons can be selected by itself."""


@dataclass(frozen=True)
class Span:
    """A prompt and the tokens of it that may be counted: ``ids[start:stop]``, at least one."""

    ids: tuple[int, ...]
    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many tokens may be counted."""
        return self.stop - self.start


@dataclass(frozen=True)
class Share:
    """What a text counts for."""

    half: int
    label: int
    """Place of the class."""
    count: int
    """Its first so many tokens are counted."""


def read_spans(model: Model, texts: Texts, request: str, where: Where) -> list[Span]:
    """Prompts of all texts.

    Raises:
        AxisError: ``where`` is unknown.
        ModelError: a text is empty or cannot be found in the rendered prompt.
    """
    check_word("where", where, get_args(Where))
    return [_span(model, question, where) for question in questions(texts.rows, request)]


def balanced(spans: Sequence[Span], truth: Sequence[int], seed: int) -> dict[int, Share]:
    """Place of a text -> what it counts for, each class giving as many tokens to each half.

    Texts are drawn until the number is reached that the class and half with the fewest tokens
    has; of the text that would exceed it only the first tokens are counted.

    Args:
        spans: All texts.
        truth: Place of every text's class.
        seed: Of the draw.
    """
    groups = halves_of(truth, seed)
    quota = min(sum(spans[i].length for i in own) for own in groups.values())
    found = {}
    for (half, label), own in groups.items():
        left = quota
        for place in own:
            count = min(left, spans[place].length)
            if count:
                found[place] = Share(half, label, count)
                left -= count
    return found


def permuted(
    spans: Sequence[Span], truth: Sequence[int], times: int, seed: int
) -> list[dict[int, Share]]:
    """What every text counts for if the labels are permuted over the texts.

    Halves and tokens are drawn anew every time: what is done with the labels as they are is done
    with the permuted ones, or the two could not be compared.
    """
    rng, found = random.Random(f"permuted {seed}"), []
    for _ in range(times):
        found.append(balanced(spans, rng.sample(list(truth), len(truth)), rng.getrandbits(32)))
    return found


def check_word(option: str, found: str, words: Sequence[str]) -> None:
    """Refuse what is none of the words that an option may be.

    Raises:
        AxisError: it is none of them.
    """
    if found not in words:
        raise AxisError(f"{option} cannot be {found!r}; it is one of {', '.join(words)}")


def check_texts(texts: Texts) -> None:
    """Refuse texts from which no class-selective neurons can be identified.

    Raises:
        DataError: they are not train texts, there are fewer than two classes, or a class has
            fewer than two texts.
    """
    texts.only("train")
    if len(texts.label) < 2:
        raise DataError(
            f"the texts have the classes {', '.join(texts.label) or 'none'}; "
            "selective neurons need two classes or more"
        )
    for place, label in enumerate(texts.label):
        count = texts.truth.count(place)
        if count < 2:
            raise DataError(
                f"class {label!r} has {count} texts; every class needs two or more, "
                "one for each half"
            )


def halves_of(truth: Sequence[int], seed: int) -> dict[tuple[int, int], list[int]]:
    """(half, class) -> places of its texts, in a drawn order."""
    rng, groups = random.Random(seed), {}
    for label in sorted(set(truth)):
        own = [place for place, true in enumerate(truth) if true == label]
        rng.shuffle(own)
        for half in HALVES:
            groups[half, label] = own[half :: len(HALVES)]
    return groups


def _span(model: Model, question: Question, where: Where) -> Span:
    if where == "content":
        ids, start, stop = text_span(model, question)
        return Span(tuple(ids), start, stop)
    ids = encode_prompt(model, question)
    return Span(tuple(ids), len(ids) - 1 if where == "last" else 0, len(ids))

"""What a judge is: something that decides whether a text expresses a target emotion."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from circuits.errors import JudgeError
from circuits.names import EMOTIONS, NEUTRAL

__all__ = ["EMPTY", "Judge", "OneByOne", "Verdict", "by_label", "check_questions"]


@dataclass(frozen=True)
class Verdict:
    """A judge's answer on one text."""

    match: bool
    """Does the text express the target emotion?"""
    label: str | None
    """The emotion (or ``neutral``) that the judge found; ``None`` if it only answers yes or no."""
    reason: str
    """A short reason, in words."""


@runtime_checkable
class Judge(Protocol):
    """Decides whether texts express the emotions that were asked for."""

    @property
    def name(self) -> str:
        """A short name, such as ``lexicon``; written into every judgement file."""
        ...

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: the judge cannot be reached, or its answers cannot be read.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything another person needs to judge in the same way; never a secret."""
        ...


@runtime_checkable
class OneByOne(Protocol):
    """A judge whose every answer is dear, and can be kept as soon as it is there."""

    def answers(
        self, texts: Sequence[str], emotions: Sequence[str]
    ) -> Iterator[tuple[int, Verdict]]:
        """Place and verdict of every text, in the order in which they are answered.

        If the work is asked to stop, nothing more is asked, and what is still answered is given.

        Raises:
            JudgeError: as :meth:`Judge.judge`, after every answer that was still given.
        """
        ...


EMPTY = "empty text"
"""The reason with which every judge turns down a text without a word."""


def check_questions(
    texts: Sequence[str], emotions: Sequence[str], known: Sequence[str] = EMOTIONS
) -> None:
    """Refuse questions that no judge can answer.

    Raises:
        JudgeError: The two sequences differ in length, or an emotion is neither among the ``known``
            ones nor ``neutral``.
    """
    if isinstance(texts, str) or isinstance(emotions, str) or len(texts) != len(emotions):
        raise JudgeError(
            f"a judge needs two lists, with one target emotion per text; found {len(texts)} texts "
            f"and {len(emotions)} emotions in a {type(texts).__name__} and a "
            f"{type(emotions).__name__}"
        )
    for index, emotion in enumerate(emotions):
        if emotion not in known and emotion != NEUTRAL:
            raise JudgeError(
                f"item {index} asks for {emotion!r}; this judge knows {', '.join(known)} "
                f"and {NEUTRAL}"
            )


def by_label(
    texts: Sequence[str],
    emotions: Sequence[str],
    known: Sequence[str],
    find: Callable[[list[str]], Sequence[tuple[str, str]]],
) -> list[Verdict]:
    """Verdicts of a judge that finds a label in every text, whatever is asked.

    Args:
        known: As in :func:`check_questions`.
        find: Texts -> (label, reason) of each; sees no empty text.
    """
    check_questions(texts, emotions, known)
    spoken = [text for text in texts if text.strip()]
    found = iter(find(spoken) if spoken else ())
    return [
        Verdict((own := next(found))[0] == asked, *own)
        if text.strip()
        else Verdict(match=False, label=NEUTRAL, reason=EMPTY)
        for text, asked in zip(texts, emotions, strict=True)
    ]

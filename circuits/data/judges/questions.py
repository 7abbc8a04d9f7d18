"""What every judge refuses: questions that have no answer."""

from collections.abc import Sequence

from circuits.errors import JudgeError
from circuits.names import EMOTIONS, NEUTRAL

__all__ = ["EMPTY", "check_questions"]

EMPTY = "empty text"
"""The reason with which every judge turns down a text without a word."""


def check_questions(
    texts: Sequence[str], emotions: Sequence[str], known: Sequence[str] | None = EMOTIONS
) -> None:
    """Refuse questions that no judge can answer.

    Args:
        texts: What is to be judged.
        emotions: What is asked of each.
        known: What the judge can tell apart, beside ``neutral``; ``None``: anything.

    Raises:
        JudgeError: The two sequences differ in length, or an emotion does not exist.
    """
    if isinstance(texts, str) or isinstance(emotions, str) or len(texts) != len(emotions):
        found = (
            "a single string"
            if isinstance(texts, str) or isinstance(emotions, str)
            else f"{len(texts)} texts and {len(emotions)} emotions"
        )
        raise JudgeError(
            f"a judge needs one asked emotion per text; found {found}. "
            "Pass two lists of the same length."
        )
    for index, emotion in enumerate(emotions):
        if known is not None and emotion not in known and emotion != NEUTRAL:
            raise JudgeError(
                f"item {index} asks for {emotion!r}; this judge knows {', '.join(known)} "
                f"and {NEUTRAL}"
            )

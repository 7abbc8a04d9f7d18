"""Prompts: the only place where an instruction is worded.

The wording is that of Wang et al. 2025 (arXiv 2510.11328): the emotion is asked for in the
system turn, the context is the user turn. A prompt without the asking line is *plain*.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from circuits.data.sev import Context
from circuits.data.texts import LabelledText
from circuits.errors import DataError
from circuits.names import EMOTIONS

__all__ = [
    "BRIEF",
    "DEVICE_REQUEST",
    "EMOTION_REQUEST",
    "Prompt",
    "Question",
    "asked",
    "asked_prompts",
    "plain",
    "plain_prompts",
    "questions",
]

EMOTION_REQUEST = "Name the emotion of the text in one word."
DEVICE_REQUEST = "Name the rhetorical device of the text in one word."

BRIEF = "Keep the reply to at most two sentences."
"""The system turn of a plain prompt."""


@dataclass(frozen=True)
class Prompt:
    """A context with an instruction: an emotion is asked for, or (plain) none."""

    context: Context
    emotion: str | None
    """The asked emotion; ``None`` in a plain prompt."""
    indented: bool = False
    """System turn with line breaks around it and four spaces before every line, as the published
    scripts have it where they read differences and where they steer."""

    @property
    def key(self) -> str:
        """``work_00__positive__anger``, as in the published files; plain ones end in ``plain``."""
        asked = self.emotion or "plain"
        return f"{self.context.scenario}__{self.context.valence}__{asked}"

    @property
    def system(self) -> str:
        """The system turn."""
        asking = [] if self.emotion is None else [f"Always reply in {self.emotion}."]
        if self.indented:
            return "".join(f"\n    {line}" for line in (*asking, BRIEF, ""))
        return "\n".join((*asking, BRIEF))

    @property
    def user(self) -> str:
        """The user turn."""
        return f"{self.context.situation}\n{self.context.event}"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as a chat template takes them."""
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.user},
        ]


@dataclass(frozen=True)
class Question:
    """A text with a request to name its class."""

    text: str
    request: str

    @property
    def system(self) -> str:
        """The system turn."""
        return self.request

    @property
    def user(self) -> str:
        """The user turn."""
        return self.text

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as a chat template takes them."""
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.user},
        ]


def asked(context: Context, emotion: str) -> Prompt:
    """The context with a request for ``emotion``.

    Raises:
        DataError: the emotion is not a word or a few words on one line.
    """
    if emotion.strip().splitlines() != [emotion]:
        raise DataError(f"{emotion!r} cannot be asked for; give a word such as {EMOTIONS[0]}")
    return Prompt(context, emotion)


def plain(context: Context, *, indented: bool = False) -> Prompt:
    """The context with no emotion asked for."""
    return Prompt(context, None, indented)


def asked_prompts(contexts: Sequence[Context], emotions: Sequence[str] = EMOTIONS) -> list[Prompt]:
    """Every context with every emotion; a context's prompts stand together."""
    return [asked(context, emotion) for context in contexts for emotion in emotions]


def plain_prompts(contexts: Sequence[Context], *, indented: bool = False) -> list[Prompt]:
    """Every context, with no emotion asked for."""
    return [plain(context, indented=indented) for context in contexts]


def questions(texts: Sequence[LabelledText], request: str) -> list[Question]:
    """The request put to every text; the label is not in the prompt."""
    return [Question(row.text, request) for row in texts]

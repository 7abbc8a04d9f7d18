"""Elicitation templates: how a context is put to a model, with a target emotion and without.

A template makes an emotion prompt (the reply is to express the emotion) and a neutral prompt from
a context. ``published`` is the wording of Wang et al. 2025 (arXiv 2510.11328): the emotion is
asked for in the system turn, the context is the user turn. ``published-indented`` is the same with
a system turn that has line breaks around it and four spaces before every line, as the published
scripts have it where they read differences and where they steer.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from circuits.errors import DataError
from circuits.names import EMOTIONS, VALENCES
from circuits.prompts.prompt import Message, Prompt
from circuits.prompts.sev import Context

__all__ = [
    "BRIEF",
    "INDENTED",
    "PUBLISHED",
    "TEMPLATES",
    "Template",
    "context_of",
    "emotion_prompt",
    "emotion_prompts",
    "neutral_prompt",
    "neutral_prompts",
    "template_of",
]

BRIEF = "Keep the reply to at most two sentences."
"""The system turn of a neutral prompt."""


@dataclass(frozen=True)
class Template:
    """How contexts become prompts."""

    name: str
    emotion: Callable[[Context, str], Prompt]
    """The prompt whose reply is to express an emotion."""
    neutral: Callable[[Context], Prompt]
    """The prompt of the same context that asks for none."""


def _published(context: Context, emotion: str | None = None, *, indented: bool) -> Prompt:
    lines = [BRIEF] if emotion is None else [f"Always reply in {emotion}.", BRIEF]
    indent = "".join(f"\n    {line}" for line in (*lines, ""))
    system = Message("system", indent if indented else "\n".join(lines))
    user = Message("user", f"{context.situation}\n{context.event}")
    return Prompt(messages=(system, user), emotion=emotion, context=context)


_plain, _indented = (partial(_published, indented=own) for own in (False, True))
PUBLISHED = Template("published", _plain, _plain)
INDENTED = Template("published-indented", _indented, _indented)
TEMPLATES = {template.name: template for template in (PUBLISHED, INDENTED)}
"""Name -> template; a template of your own is given as it is, in place of a name."""


def template_of(template: str | Template) -> Template:
    """The template of this name, or the one that is given.

    Raises:
        DataError: there is no template of this name.
    """
    if isinstance(template, Template):
        return template
    if template not in TEMPLATES:
        raise DataError(
            f"no elicitation template is called {template!r}; there are {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[template]


def emotion_prompt(
    context: Context, emotion: str, template: str | Template = "published"
) -> Prompt:
    """The prompt that asks for a reply with the emotion.

    Raises:
        DataError: the emotion is not a word or a few words on one line.
    """
    if emotion.strip().splitlines() != [emotion]:
        raise DataError(f"{emotion!r} cannot be asked for; give a word such as {EMOTIONS[0]}")
    return template_of(template).emotion(context, emotion)


def neutral_prompt(context: Context, template: str | Template = "published") -> Prompt:
    """The prompt of the context that asks for no emotion."""
    return template_of(template).neutral(context)


def emotion_prompts(
    contexts: Sequence[Context],
    emotions: Sequence[str] = EMOTIONS,
    template: str | Template = "published",
) -> list[Prompt]:
    """Every context with every emotion; a context's prompts stand together."""
    return [emotion_prompt(c, emotion, template) for c in contexts for emotion in emotions]


def neutral_prompts(
    contexts: Sequence[Context], template: str | Template = "published"
) -> list[Prompt]:
    """Every context, with no emotion asked for."""
    return [neutral_prompt(context, template) for context in contexts]


def context_of(text: str) -> Context:
    """A text as a context of its own: first sentence and the rest; a single sentence is both.

    >>> context_of("I opened the door. It was dark.").event
    'It was dark.'

    Raises:
        DataError: the text is empty.
    """
    if not text.strip():
        raise DataError("the text is empty; give a sentence to reply to")
    first, *rest = re.split(r"(?<=[.!?])\s+|\n+", text.strip(), maxsplit=1)
    event = rest[0] if rest else first
    return Context("said", "said", VALENCES[1], first.removesuffix("."), event)

"""What every token of a prompt is there for: its role.

Prompts that ask for different emotions, or for none, differ in length. Their tokens are matched
by role, so the roles are found here, from the characters that each token covers.
"""

from dataclasses import dataclass

from circuits.data.prompts import Prompt
from circuits.errors import ModelError
from circuits.model.protocol import Model
from circuits.model.spans import token_spans

__all__ = ["ROLES", "Labelled", "label_prompt"]

ROLES = ("frame", "asking", "emotion", "brief", "scenario", "event", "last")
"""``frame``: written by the chat template. ``asking``: the line that asks for an emotion, without
the ``emotion`` word. ``brief``: the rest of the instruction. ``last``: the final token, where the
reply begins."""


@dataclass(frozen=True)
class Labelled:
    """A prompt's tokens with their roles."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    roles: tuple[str, ...]


def label_prompt(model: Model, prompt: Prompt) -> Labelled:
    """Token ids of the rendered prompt, as text, and what each is there for.

    Raises:
        ModelError: the tokenizer cannot say which characters a token covers, or the template
            rewrites the prompt's text.
    """
    text, ids, spans = token_spans(model, prompt)
    parts = _parts(text, prompt)
    roles = [_role(span, parts) for span in spans]
    roles[-1] = "last"
    pieces = model.tokenizer.convert_ids_to_tokens(ids)
    tokens = tuple(
        text[start:end] if end > start else piece
        for (start, end), piece in zip(spans, pieces, strict=True)
    )
    return Labelled(tuple(ids), tokens, tuple(roles))


def _parts(text: str, prompt: Prompt) -> list[tuple[int, int, str]]:
    """(start, end, role) of the prompt's own words, the inner ones first."""
    wanted = [
        (prompt.context.event, "event"),
        (prompt.context.situation, "scenario"),
        (prompt.system.split("\n")[-1].strip(), "brief"),
    ]
    if prompt.emotion is not None:
        wanted.append((prompt.system.split("\n")[0].strip(), "asking"))
    parts: list[tuple[int, int, str]] = []
    for words, role in wanted:
        start = text.rfind(words)
        if start < 0:
            raise ModelError(
                f"the chat template rewrites the prompt: {words!r} ({role}) is not in it; "
                "tokens cannot be matched by role"
            )
        if role == "asking" and prompt.emotion is not None:
            word = start + words.rfind(prompt.emotion)
            parts.insert(0, (word, word + len(prompt.emotion), "emotion"))
        parts.append((start, start + len(words), role))
    return parts


def _role(span: tuple[int, ...], parts: list[tuple[int, int, str]]) -> str:
    start, end = span
    for first, last, role in parts:
        if start < last and end > first:
            return role
    return "frame"

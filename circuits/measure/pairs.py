"""Pairs of runs of one context: the emotion asked for (clean), and not (corrupt).

The two prompts differ in the asking line only. Counted from the end their tokens therefore match
one by one, back to the first token that differs: for two emotions that is the last token of the
emotion word, which is matched with the last token of the other one. Tokens before it are the same
in both prompts, so nothing that is read there can differ (attention is causal).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from circuits.data.prompts import asked, plain
from circuits.data.sev import Context
from circuits.errors import AxisError, DataError
from circuits.model.chat import Tokens, pad_left
from circuits.model.protocol import Model, device_of
from circuits.model.roles import Labelled, label_prompt

__all__ = ["Pair", "clean_tokens", "corrupt_tokens", "make_pair", "make_pairs"]


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupt prompt of one context, matched from the end."""

    context: Context
    emotion: str
    """Asked for in the clean prompt; the readout is this emotion's."""
    other: str | None
    """Asked for in the corrupt prompt; ``None``: plain."""
    clean: Labelled
    corrupt: Labelled
    matched: int
    """How many tokens, counted from the end, have a counterpart in the other prompt."""

    @property
    def name(self) -> str:
        """``work_00/positive, anger against plain``."""
        return f"{self.context.id}, {self.emotion} against {self.other or 'plain'}"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the matched tokens, as the clean prompt has them."""
        return self.clean.roles[-self.matched :]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The matched tokens; where the two prompts differ, both."""
        pairs = zip(
            self.clean.tokens[-self.matched :], self.corrupt.tokens[-self.matched :], strict=True
        )
        return tuple(a if a == b else f"{a}|{b}" for a, b in pairs)

    def places(self, role: str) -> tuple[int, ...]:
        """Matched positions of a role, counted from the end (``-1`` is the last token).

        Raises:
            AxisError: the role has no counterpart in the other prompt, or does not occur.
        """
        found = tuple(i - self.matched for i, own in enumerate(self.roles) if own == role)
        if not found:
            other = f"asked for {self.other}" if self.other else "plain"
            matched = ", ".join(dict.fromkeys(self.roles))
            raise AxisError(
                f"role {role!r} of the prompt asked for {self.emotion} has no counterpart in the "
                f"{other} prompt of context {self.context.id}; matched roles are {matched}"
            )
        return found


def make_pair(model: Model, context: Context, emotion: str, other: str | None = None) -> Pair:
    """The pair of a context.

    Args:
        model: Its tokenizer and chat template.
        context: What both prompts are about.
        emotion: Asked for in the clean prompt.
        other: Asked for in the corrupt prompt, or ``None`` for the plain prompt.

    Raises:
        DataError: both prompts are the same, or they end differently.
        ModelError: roles cannot be found.
    """
    clean = label_prompt(model, asked(context, emotion))
    corrupt = label_prompt(model, plain(context) if other is None else asked(context, other))
    if clean.ids == corrupt.ids:
        raise DataError(
            f"the clean and the corrupt prompt of context {context.id} are the same "
            f"({emotion!r} against {other!r}); choose another emotion"
        )
    matched = 0
    for a, b in zip(reversed(clean.ids), reversed(corrupt.ids), strict=False):
        if a != b:
            break
        matched += 1
    if clean.roles[len(clean.ids) - matched - 1] == "emotion" == _role_before(corrupt, matched):
        matched += 1
    if matched == 0:
        raise DataError(
            f"the prompts of context {context.id} share no token at their end, so nothing can be "
            "matched; the chat template must write the instruction before the context"
        )
    return Pair(context, emotion, other, clean, corrupt, matched)


def make_pairs(
    model: Model, contexts: Sequence[Context], emotion: str, other: str | None = None
) -> list[Pair]:
    """One pair per context; see :func:`make_pair`."""
    return [make_pair(model, context, emotion, other) for context in contexts]


def clean_tokens(model: Model, pairs: Sequence[Pair]) -> Tokens:
    """The clean prompts as a batch, padded on the left: matched tokens stand under each other."""
    return pad_left([pair.clean.ids for pair in pairs], device_of(model))


def corrupt_tokens(model: Model, pairs: Sequence[Pair]) -> Tokens:
    """The corrupt prompts as a batch, padded on the left."""
    return pad_left([pair.corrupt.ids for pair in pairs], device_of(model))


def _role_before(labelled: Labelled, matched: int) -> str:
    place = len(labelled.ids) - matched - 1
    return labelled.roles[place] if place >= 0 else ""

"""Prompts as values, and labelled texts.

A prompt is one of three things: chat messages, a text, or token ids. It may say which emotion the
reply is to express, and which context it was made from. Whatever runs a model takes prompts, and
plain strings, lists of messages and sequences of token ids in their place.

Labelled texts: what is to be recognised, in splits that never mix. A set has a train split, from
which neurons are identified, a dev split, on which strengths are chosen, and a test split, which
is only reported on. A function that may see one split only takes :class:`Texts` and asks for it
by name with :meth:`Texts.only`.
"""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from circuits.errors import DataError
from circuits.prompts.sev import Context

__all__ = [
    "DEVICE_REQUEST",
    "EMOTION_REQUEST",
    "LabelledSet",
    "LabelledText",
    "Message",
    "Prompt",
    "PromptLike",
    "SPLITS",
    "Split",
    "Texts",
    "as_prompt",
    "as_prompts",
    "is_one_prompt",
    "plain",
    "question",
    "questions",
]

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class LabelledText:
    """A text and the class it belongs to."""

    text: str
    label: str
    pair: str | None = None
    """Texts that say the same share it: a rhetorical one and its literal paraphrase."""


@dataclass(frozen=True)
class Texts:
    """The texts of one split."""

    split: Split
    label: tuple[str, ...]
    """The classes, in their order; every text has one of them."""
    rows: tuple[LabelledText, ...]

    def __post_init__(self) -> None:
        """Refuse a text of an unknown class."""
        for row in self.rows:
            if row.label not in self.label:
                raise DataError(
                    f"the {self.split} text {row.text[:60]!r} has the label {row.label!r}; "
                    f"labels are {', '.join(self.label)}"
                )

    def __len__(self) -> int:
        """How many texts."""
        return len(self.rows)

    @property
    def truth(self) -> tuple[int, ...]:
        """Place of every text's label."""
        return tuple(self.label.index(row.label) for row in self.rows)

    def of(self, *labels: str) -> "Texts":
        """The texts of these classes; the classes that can be named stay the same."""
        return replace(self, rows=tuple(row for row in self.rows if row.label in labels))

    def first(self, per_label: int) -> "Texts":
        """At most so many texts of every class, the first ones."""
        own = [islice(self.of(label).rows, per_label) for label in self.label]
        kept = {id(row) for rows in own for row in rows}
        return replace(self, rows=tuple(row for row in self.rows if id(row) in kept))

    def only(self, *splits: Split) -> "Texts":
        """These texts, if they are of one of the wanted splits.

        Raises:
            DataError: they are of another split, so that what is reported would have been seen.
        """
        if self.split not in splits:
            raise DataError(
                f"{' or '.join(splits)} texts are wanted here, found {self.split} texts; "
                "what is chosen on one split is reported on another"
            )
        return self


@dataclass(frozen=True)
class LabelledSet:
    """Texts of all splits, and the request by which a model is asked for their label."""

    name: str
    request: str
    train: Texts
    dev: Texts
    test: Texts

    def __post_init__(self) -> None:
        """Refuse splits that share a text or a pair, or that differ in their labels."""
        for own, wanted in zip(self.splits, SPLITS, strict=True):
            own.only(wanted)
            if own.label != self.train.label:
                raise DataError(f"{self.name}: the splits have different labels")
        seen: dict[str, str] = {}
        for own in self.splits:
            keys = {f"pair {row.pair}" for row in own.rows if row.pair is not None}
            for key in keys | {plain(row.text) for row in own.rows}:
                if seen.setdefault(key, own.split) != own.split:
                    raise DataError(
                        f"{self.name}: {key[:80]!r} is in the {seen[key]} and the {own.split} split"
                    )

    @property
    def splits(self) -> tuple[Texts, Texts, Texts]:
        """Train, dev and test texts."""
        return self.train, self.dev, self.test

    @property
    def label(self) -> tuple[str, ...]:
        """The classes."""
        return self.train.label


def plain(text: str) -> str:
    """What counts as the same text.

    >>> plain(" Oh,  NO! ")
    'oh, no!'
    """
    return " ".join(text.lower().split())


EMOTION_REQUEST = "Name the emotion of the text in one word."
DEVICE_REQUEST = "Name the rhetorical device of the text in one word."


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str


@dataclass(frozen=True)
class Prompt:
    """What a model reads: chat messages, a text, or token ids.

    Messages go through the chat template. A text is read as it is, after the begin token, as
    TransformerLens reads a string. Token ids are read as they are.

    >>> Prompt(text="The sky is").key
    "text 'The sky is'"

    Raises:
        DataError: not exactly one of the three is given, or it is empty.
    """

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    emotion: str | None = None
    """The target emotion of an emotion prompt; ``None`` in a neutral prompt."""
    context: Context | None = None
    """The context that the prompt was made from; prompts of one context are contrasted."""

    def __post_init__(self) -> None:
        given = [name for name in ("messages", "text", "ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise DataError(
                f"a prompt is either messages, a text or token ids; found {given or 'none'}"
            )
        if not getattr(self, given[0]):
            raise DataError("the prompt is empty; give a text, messages or token ids")
        if self.messages is not None and not any(m.content.strip() for m in self.messages):
            raise DataError("the messages of the prompt are all empty; give one a content")

    @property
    def key(self) -> str:
        """A name: ``work_00__positive__anger``, as in the published files, or how it begins."""
        if self.context is not None:
            target = self.emotion or "plain"
            return f"{self.context.scenario}__{self.context.valence}__{target}"
        if self.ids is not None:
            return f"ids {list(self.ids[:8])}"
        return f"text {(self.text if self.text is not None else self.user)[:40]!r}"

    @property
    def system(self) -> str:
        """The system turn; empty if there is none."""
        return next((m.content for m in self.messages or () if m.role == "system"), "")

    @property
    def user(self) -> str:
        """The last user turn; empty if there is none."""
        return next((m.content for m in reversed(self.messages or ()) if m.role == "user"), "")

    @property
    def origin(self) -> Context:
        """The context.

        Raises:
            DataError: the prompt was made from none.
        """
        if self.context is None:
            raise DataError(f"the prompt {self.key} was made from no context, which this needs")
        return self.context


@runtime_checkable
class Array(Protocol):
    """A tensor or array of token ids."""

    def tolist(self) -> Any:
        """The ids as a list."""
        ...


PromptLike = Prompt | str | Sequence[Any] | Array
"""A prompt, a string, a list of chat messages, or a sequence or tensor of token ids."""


def as_prompt(given: PromptLike) -> Prompt:
    """The prompt that a string, chat messages or token ids are.

    >>> as_prompt([{"role": "user", "content": "Hello."}]).user
    'Hello.'

    Raises:
        DataError: it is empty, or neither of them, or a mixture.
    """
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        return Prompt(text=given)
    items = given.tolist() if isinstance(given, Array) else given
    if isinstance(items, Sequence) and items:
        if all(isinstance(item, Mapping | Message) for item in items):
            return Prompt(messages=tuple(map(_message, items)))
        if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            return Prompt(ids=tuple(items))
    raise DataError(f"a prompt is a text, messages or token ids; found {reprlib.repr(given)}")


def is_one_prompt(given: PromptLike | Sequence[PromptLike]) -> bool:
    """Is it one prompt, and not a sequence of prompts?"""
    if isinstance(given, Prompt | str):
        return True
    if isinstance(given, Array):
        return getattr(given, "ndim", 1) == 1
    return bool(given) and all(isinstance(item, Mapping | Message | int) for item in given)


def as_prompts(given: PromptLike | Sequence[PromptLike]) -> list[Prompt]:
    """The prompts of a sequence, or the one that is given.

    >>> len(as_prompts("one")), len(as_prompts(["one", "two"])), len(as_prompts([1, 2, 3]))
    (1, 2, 1)

    Raises:
        DataError: there is none, or one of them is empty or of no known kind.
    """
    if is_one_prompt(given):
        return [as_prompt(given)]
    items = given.tolist() if isinstance(given, Array) else given
    if isinstance(items, Prompt) or not items:
        raise DataError("no prompt is given; give a text, or a list of texts")
    return [as_prompt(item) for item in items]


def _message(item: Mapping[str, Any] | Message) -> Message:
    values = item._asdict() if isinstance(item, Message) else item
    if set(values) != {"role", "content"} or not all(isinstance(v, str) for v in values.values()):
        raise DataError(
            f"a message has a role and a content, both texts; found {reprlib.repr(values)}"
        )
    return Message(values["role"], values["content"])


def question(text: str, request: str) -> Prompt:
    """The request, as the system turn, put to a text, which is the user turn."""
    return Prompt(messages=(Message("system", request), Message("user", text)))


def questions(texts: Sequence[LabelledText], request: str) -> list[Prompt]:
    """The request put to every text; the label is not in the prompt."""
    return [question(row.text, request) for row in texts]

"""Labelled texts, and prompts: the only place where an instruction is worded.

Labelled texts: what is to be recognised, in splits that never mix.

A set has a train split, from which neurons are identified, a dev split, on which strengths are
chosen, and a test split, which is only reported on. A function that may see one split only takes
:class:`Texts` and asks for it by name with :meth:`Texts.only`.

Prompts: the only place where an instruction is worded.

The wording is that of Wang et al. 2025 (arXiv 2510.11328): the emotion is asked for in the
system turn, the context is the user turn. A prompt without the asking line is *plain*.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from circuits.errors import DataError
from circuits.names import EMOTIONS
from circuits.prompts.sev import Context

__all__ = [
    "BRIEF",
    "DEVICE_REQUEST",
    "EMOTION_REQUEST",
    "LabelledSet",
    "LabelledText",
    "Prompt",
    "Question",
    "SPLITS",
    "Split",
    "Texts",
    "asked",
    "asked_prompts",
    "plain",
    "plain_prompts",
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
        places = {label: place for place, label in enumerate(self.label)}
        return tuple(places[row.label] for row in self.rows)

    def of(self, *labels: str) -> "Texts":
        """The texts of these classes; the classes that can be named stay the same."""
        return replace(self, rows=tuple(row for row in self.rows if row.label in labels))

    def first(self, per_label: int) -> "Texts":
        """At most so many texts of every class, the first ones."""
        left = dict.fromkeys(self.label, per_label)
        rows = []
        for row in self.rows:
            left[row.label] -= 1
            if left[row.label] >= 0:
                rows.append(row)
        return replace(self, rows=tuple(rows))

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
            for key in _keys(own.rows):
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


def _keys(rows: Sequence[LabelledText]) -> set[str]:
    pairs = {f"pair {row.pair}" for row in rows if row.pair is not None}
    return pairs | {" ".join(row.text.lower().split()) for row in rows}


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

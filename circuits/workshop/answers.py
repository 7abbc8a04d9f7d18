"""How an answer is asked for and compared: right, typically wrong, or wrong in another way."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import ExerciseError
from circuits.models.protocol import Model
from circuits.models.tokens import encode
from circuits.planted.plant import Plant, plant
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt

__all__ = [
    "CONTEXT",
    "Exercise",
    "Mistake",
    "asked_ids",
    "names_of",
    "the_plant",
    "writer_of",
]

_NEAR = 1e-4
"""Of the right answer's largest number; what float32 and another order of sums can differ by."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """A typical wrong answer."""

    gives: Tensor | tuple[int, ...]
    """The wrong numbers, or the shape by which it is known."""
    found: str
    do: str


@dataclass(frozen=True)
class Exercise:
    """One exercise, as its messages name it."""

    number: str
    name: str
    expected: str
    """What a right answer is, in one line."""

    def ask(self, function: Any, *given: Any) -> Any:
        """What the learner's function answers; it gets copies.

        Raises:
            ExerciseError: the function is not written yet, or returns nothing.
        """
        if not callable(function):
            self.refuse(
                f"{function!r}, which is no function", "pass the function itself, without brackets"
            )
        try:
            answer = function(*(_copied(value) for value in given))
        except NotImplementedError:
            raise ExerciseError(
                f"Exercise {self.number}, {self.name}: not done yet.\n"
                f"  expected: {self.expected}\n"
                "  found:    the stub, which raises NotImplementedError\n"
                "  do:       write the body of the function and run its cell, then run this one"
            ) from None
        except Exception as error:
            error.add_note(f"(raised by your own function, in exercise {self.number})")
            raise
        if answer is None or answer is ...:
            self.refuse(f"{answer!r}", "end the function with `return` and the answer")
        return answer

    def refuse(self, found: str, do: str) -> NoReturn:
        """Say what is wrong.

        Raises:
            ExerciseError: always.
        """
        raise ExerciseError(
            f"Exercise {self.number}, {self.name}: not right yet.\n"
            f"  expected: {self.expected}\n  found:    {found}\n  do:       {do}"
        )

    def passed(self, what: str) -> str:
        """What a checker returns for a right answer."""
        return f"Exercise {self.number}, {self.name}: right. {what}"

    def compare(
        self,
        answer: Any,
        right: Float[Tensor, "..."],
        axes: str,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """Accept the right numbers; refuse others, typical mistakes with their own message.

        Args:
            answer: A tensor, an array or a number.
            right: The right one.
            axes: Names of its axes, ``[emotion d_model]``.
            mistakes: Tried in order.

        Raises:
            ExerciseError: the answer is not the right one.
        """
        found = self._numbers(answer, right)
        if found.shape == right.shape and _same(found, right, right):
            return
        for mistake in mistakes:
            if _is(mistake, found, right):
                self.refuse(mistake.found, mistake.do)
        if found.shape != right.shape:
            self.refuse(
                f"shape {tuple(found.shape)} instead of {tuple(right.shape)}, which is {axes}",
                "check over which axis you average or sum, and that it is one axis",
            )
        if not found.isfinite().all():
            self.refuse("NaN or infinite numbers", "check what you divide by")
        apart = (found - right).abs()
        at = tuple(int(i) for i in torch.unravel_index(apart.argmax(), apart.shape))
        place = f" at {list(at)}" if at else ""
        self.refuse(
            f"{float(found[at]):.4g}{place} instead of {float(right[at]):.4g}",
            "go through the formula term by term; the hints below the task help",
        )

    def _numbers(self, answer: Any, right: Tensor) -> Tensor:
        try:
            return torch.as_tensor(answer).detach().to(right)
        except (TypeError, ValueError, RuntimeError):
            self.refuse(f"a {type(answer).__name__}", "return a torch tensor or a number")


def names_of(answer: Any) -> tuple[str, ...] | None:
    """The answer as component names; ``None`` if it is no collection of texts."""
    if isinstance(answer, str) or not hasattr(answer, "__iter__"):
        return None
    names = tuple(answer)
    return names if all(isinstance(name, str) for name in names) else None


def _is(mistake: Mistake, found: Tensor, right: Tensor) -> bool:
    if isinstance(mistake.gives, tuple):
        return tuple(found.shape) == mistake.gives
    wrong = mistake.gives.to(found)
    return found.shape == wrong.shape and _same(found, wrong, right)


def _same(found: Tensor, wanted: Tensor, right: Tensor) -> bool:
    near = _NEAR * float(right.abs().max())
    return bool(torch.allclose(found, wanted, rtol=0, atol=near, equal_nan=True))


def _copied(value: Any) -> Any:
    # A model is not copied; numbers are, so that an answer that writes into them spoils nothing.
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping | list | set):
        return copy.deepcopy(value)
    return value


CONTEXT = Context("cellar_00", "home", "neutral", "I opened the cellar door.", "It was dark.")
"""A context without an emotion word."""


@cache
def the_plant() -> Plant:
    """The writer's layer has other heads that write, so that a wrong head shows."""
    return plant(122, emotions=("anger", "fear", "sadness"))


def writer_of(planted: Plant) -> tuple[int, int]:
    """Layer and head of the writer."""
    writer = next(node for node in planted.nodes if node.role == "writer")
    return writer.layer, writer.index


def asked_ids(model: Model, emotions: Sequence[str]) -> Int[Tensor, "prompt pos"]:
    """The context asked for each emotion; in a planted model all are of one length."""
    return torch.tensor([encode(model, emotion_prompt(CONTEXT, emotion)) for emotion in emotions])

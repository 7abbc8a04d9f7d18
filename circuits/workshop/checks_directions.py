"""Checks of notebook 1: a clean split, emotion directions, and how far they carry."""

import random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.directions import unit
from circuits.files import shipped
from circuits.prompts import sev
from circuits.workshop.answers import Exercise, Mistake

__all__ = [
    "accuracy",
    "check_accuracy",
    "check_directions",
    "check_split",
    "directions",
]

SPLIT = Exercise(
    "1.1",
    "split",
    "two lists, train and test, that hold every context once and share no scenario",
)
DIRECTIONS = Exercise(
    "1.2",
    "directions",
    "per emotion a unit vector [emotion d_model]: the emotion minus the mean of the emotions of "
    "the same context, averaged over contexts",
)
ACCURACY = Exercise(
    "1.3",
    "accuracy",
    "the share of test prompts whose own emotion's direction, made from train, has the largest "
    "projection",
)


def check_split(split: Any) -> str:
    """Check ``split(contexts) -> (train, test)``.

    Raises:
        ExerciseError: a side is empty, a context is lost or doubled, a scenario is on both sides.
    """
    scenarios = sev.spread(sev.read(shipped("sev/train.jsonl")), 5)
    given = list(sev.contexts(scenarios))
    for contexts in (given, random.Random(0).sample(given, len(given))):
        answer = SPLIT.ask(split, contexts)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            SPLIT.refuse(f"a {type(answer).__name__}", "return two lists: `return train, test`")
        train, test = (list(side) for side in answer)
        _check_sides(train, test, contexts)
    return SPLIT.passed("What is learnt on train is now told apart from what is seen again.")


def _check_sides(
    train: list[sev.Context], test: list[sev.Context], contexts: list[sev.Context]
) -> None:
    if not train or not test:
        SPLIT.refuse("an empty side", "put about half of the scenarios on each side")
    both = {context.id for context in train} & {context.id for context in test}
    if both:
        SPLIT.refuse(
            f"train and test mixed: {len(both)} contexts are on both sides, such as {min(both)}",
            "give every context to exactly one side",
        )
    shared = {context.scenario for context in train} & {context.scenario for context in test}
    if shared:
        SPLIT.refuse(
            f"train and test mixed: scenario {min(shared)} is on both sides. Its three contexts "
            "share a text, so test would not be new",
            "split the scenarios (`context.scenario`), then put each context where its scenario is",
        )
    found = sorted(context.id for context in (*train, *test))
    if found != sorted(context.id for context in contexts):
        SPLIT.refuse(
            f"{len(found)} contexts on both sides together instead of {len(contexts)}",
            "every context that comes in goes to one side, once",
        )


def directions(
    stream: Float[Tensor, "context emotion d_model"],
) -> Float[Tensor, "emotion d_model"]:
    """The right answer of exercise 1.2."""
    return unit((stream - stream.mean(1, keepdim=True)).mean(0))[0]


def check_directions(answer: Any) -> str:
    """Check ``directions(stream [context emotion d_model]) -> [emotion d_model]``.

    The stream is made of a large part per context, a part that all share, and a planted vector per
    emotion, so that every typical mistake gives other numbers.

    Raises:
        ExerciseError: the directions are not the right ones; each typical mistake has its message.
    """
    stream, planted = _planted_stream(contexts=8, noise=0.3)
    right = directions(stream)
    DIRECTIONS.compare(
        DIRECTIONS.ask(answer, stream), right, "[emotion d_model]", _wrong_directions(stream, right)
    )
    cosine = (right * unit(planted - planted.mean(0))[0]).sum(-1).min()
    return DIRECTIONS.passed(f"Cosine with the planted emotions: {float(cosine):.2f} or more.")


def _wrong_directions(stream: Tensor, right: Tensor) -> list[Mistake]:
    n_contexts, n_emotions, width = stream.shape
    apart = stream - stream.mean(1, keepdim=True)
    mean = apart.mean(0)
    by_emotion = "take off `stream.mean(dim=1, keepdim=True)`: the mean over the emotions"
    return [
        Mistake(
            -right,
            "the wrong sign: every vector points away from its emotion",
            "subtract the mean of the emotions from the emotion, not the other way round",
        ),
        Mistake(
            mean,
            "vectors that are not normalised (lengths "
            f"{float(mean.norm(dim=-1).min()):.1f} to {float(mean.norm(dim=-1).max()):.1f})",
            "divide every vector by its own length: `.norm(dim=-1, keepdim=True)`",
        ),
        Mistake(
            -mean,
            "the wrong sign, and vectors that are not normalised",
            "subtract the mean from the emotion; divide every vector by its length",
        ),
        Mistake(
            unit(stream.mean(0))[0],
            "what the emotions share is still in: all vectors are nearly the same",
            by_emotion,
        ),
        Mistake(
            torch.zeros_like(mean),
            "only zeros: the mean over contexts was taken off, and "
            "then the mean over contexts was taken",
            by_emotion,
        ),
        Mistake(
            torch.full_like(mean, torch.nan),
            "NaN",
            "you divide zeros by their length 0: "
            "the mean over contexts was taken off; " + by_emotion,
        ),
        Mistake(
            mean / mean.norm(),
            "one length for all emotions together",
            "normalise each vector by itself: `.norm(dim=-1, keepdim=True)`",
        ),
        Mistake(
            mean / mean.norm(dim=0),
            "normalised over the wrong axis (over emotions)",
            "normalise over d_model, the last axis: `.norm(dim=-1, keepdim=True)`",
        ),
        Mistake(
            unit(unit(apart)[0].mean(0))[0],
            "every context was normalised before the mean, "
            "so that contexts with little emotion count as much as others",
            "average over contexts first, normalise last",
        ),
        Mistake(
            (n_contexts, width),
            f"shape {(n_contexts, width)}, which is [context d_model]: "
            "the mean was taken over the wrong axis (over emotions)",
            "average over contexts: `.mean(dim=0)`",
        ),
        Mistake(
            (n_contexts, n_emotions, width),
            "a vector for every context: no mean over contexts",
            "average over contexts: `.mean(dim=0)`",
        ),
        Mistake((width, n_emotions), "the axes are swapped", "return [emotion d_model]"),
    ]


def accuracy(
    train: Float[Tensor, "context emotion d_model"],
    test: Float[Tensor, "other_context emotion d_model"],
) -> float:
    """The right answer of exercise 1.3."""
    return float(_hits(directions(train), test).float().mean())


def check_accuracy(answer: Any) -> str:
    """Check ``accuracy(train, test) -> float``, both ``[context emotion d_model]``.

    There is so much noise that directions fit their own contexts far better than new ones.

    Raises:
        ExerciseError: the share is not the right one; each typical mistake has its message.
    """
    stream, _ = _planted_stream(contexts=15, noise=4.0)
    train, test = stream[:6], stream[6:]
    right, hits = accuracy(train, test), _hits(directions(train), test)
    own, raw = _hits(directions(train), train), test @ directions(train).T
    axis = (raw - raw.mean(1, keepdim=True)).argmax(1) == torch.arange(test.shape[1])
    half = _hits(directions(stream), test)

    def wrong(value: Tensor | float, found: str, do: str) -> Mistake:
        return Mistake(torch.as_tensor(float(value)), found, do)

    mistakes = [
        wrong(
            own.float().mean(),
            "train and test mixed: this is the share on train, which the directions have seen",
            "project the test contexts, not the train ones",
        ),
        wrong(
            accuracy(test, test),
            "train and test mixed: the directions were made from test",
            "make the directions from train",
        ),
        wrong(
            half.float().mean(),
            "train and test mixed: the directions were made from both",
            "make the directions from train alone",
        ),
        wrong(hits.sum(), "a number of prompts", "divide by the number of prompts: a share"),
        wrong(100 * right, "a percentage", "return a share between 0 and 1"),
        wrong(1 - right, "the share of the wrong ones", "count the prompts that are right"),
        wrong(
            axis.float().mean(),
            "the largest projection was looked for over the wrong axis",
            "a prompt's own projections are in the last axis: `.argmax(dim=-1)`",
        ),
    ]
    ACCURACY.compare(ACCURACY.ask(answer, train, test), torch.tensor(right), "one number", mistakes)
    return ACCURACY.passed(
        f"{right:.0%} on test; on train it would have been {float(own.float().mean()):.0%}, "
        f"chance is {1 / test.shape[1]:.0%}."
    )


def _hits(vectors: Tensor, stream: Tensor) -> Tensor:
    apart = stream - stream.mean(1, keepdim=True)
    return (apart @ vectors.T).argmax(-1) == torch.arange(stream.shape[1])


def _planted_stream(*, contexts: int, noise: float) -> tuple[Tensor, Tensor]:
    """``[context emotion d_model]``, and the emotions' vectors in it ``[emotion d_model]``."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    emotions, width = 3, 24
    planted, shared = normal(emotions, width), 6 * normal(width)
    stream = 4 * normal(contexts, 1, width) + shared + planted
    return stream + noise * normal(contexts, emotions, width), planted

"""Checks of notebook 3: effects of patching, their signs, and one head patched for real."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.models.edits import Replace, edited
from circuits.models.protocol import Model
from circuits.names import head_name, hook
from circuits.workshop.answers import Exercise, Mistake, asked_ids, the_plant, writer_of

__all__ = [
    "check_denoise_head",
    "check_effect",
    "check_share",
    "denoise_head",
]

EFFECT = Exercise(
    "3.1",
    "effect",
    "the mean over contexts of the readout with the clean value minus the readout with the "
    "corrupt one: noising: clean - patched, denoising: patched - corrupt",
)
SHARE = Exercise(
    "3.2",
    "share",
    "the mean effect divided by the mean of clean - corrupt, over contexts",
)
DENOISE = Exercise(
    "3.3",
    "denoise_head",
    "the logits at the last position, [row vocab], of the corrupt run with the clean z of this "
    "one head at all positions",
)


def check_effect(answer: Any) -> str:
    """Check ``effect(mode, clean, corrupt, patched) -> float``; readouts are ``[context]``.

    Raises:
        ExerciseError: an effect is not the right one; each typical mistake has its message.
    """
    clean, corrupt = torch.tensor([5.0, 4.0, 6.5]), torch.tensor([1.0, 0.5, -1.0])
    noised, denoised = torch.tensor([3.5, 2.0, 5.0]), torch.tensor([2.0, 3.0, 1.5])
    for mode, patched in (("noising", noised), ("denoising", denoised)):
        base, other = (clean, corrupt) if mode == "noising" else (corrupt, clean)
        sign = 1 if mode == "noising" else -1
        right = sign * (base - patched).mean()
        mistakes = [
            Mistake(
                -right,
                f"{mode}: the wrong sign",
                "an effect is positive where the clean value pushes towards the emotion: "
                "with the clean value minus with the corrupt one",
            ),
            Mistake(
                (patched - other).mean(),
                f"{mode}: compared with the wrong run",
                "compare with the run that was patched: noising changes the clean run, "
                "denoising the corrupt run",
            ),
            Mistake(
                (other - patched).mean(),
                f"{mode}: compared with the wrong run",
                "compare with the run that was patched: noising changes the clean run, "
                "denoising the corrupt run",
            ),
            Mistake(
                right / (clean - corrupt).mean(),
                f"{mode}: a share of the gap",
                "do not divide; that is the next exercise",
            ),
            Mistake(
                (clean - corrupt).mean(),
                f"{mode}: the whole gap, clean minus corrupt",
                "the patched run must come into it",
            ),
            Mistake((3,), f"{mode}: an effect for every context", "average over contexts"),
        ]
        found = EFFECT.ask(answer, mode, clean, corrupt, patched)
        EFFECT.compare(found, right, "one number", mistakes)
    return EFFECT.passed("In both directions positive means: towards the emotion.")


def check_share(answer: Any) -> str:
    """Check ``share(effect, clean, corrupt) -> float``; all are ``[context]``.

    In one of the contexts the gap is nearly zero, where a mean of ratios goes astray.

    Raises:
        ExerciseError: the share is not the right one; each typical mistake has its message.
    """
    effect = torch.tensor([2.0, 1.5, 3.0, 0.4])
    clean, corrupt = torch.tensor([5.0, 4.0, 6.5, 1.02]), torch.tensor([1.0, 0.5, -1.0, 1.0])
    gap = clean - corrupt
    right = effect.mean() / gap.mean()
    mistakes = [
        Mistake(
            (effect / gap).mean(),
            "the mean of the ratios: one context with a gap of 0.02 decides it",
            "divide the mean effect by the mean gap",
        ),
        Mistake(
            -right,
            "the wrong sign: the gap was taken as corrupt - clean",
            "the gap is clean - corrupt",
        ),
        Mistake(100 * right, "a percentage", "return a share, 1 for the whole gap"),
        Mistake(
            effect.mean() / clean.mean(),
            "a share of the clean readout",
            "divide by the gap, clean - corrupt: zero of a readout means nothing",
        ),
        Mistake(effect.mean(), "the effect itself", "divide by the mean gap"),
        Mistake(1 - right, "what is left of the gap", "return what the effect is of it"),
        Mistake((4,), "a share for every context", "take means over contexts first, then divide"),
    ]
    SHARE.compare(SHARE.ask(answer, effect, clean, corrupt), right, "one number", mistakes)
    return SHARE.passed(f"{float(right):.0%} of the gap.")


def denoise_head(
    model: Model,
    clean: Int[Tensor, "row pos"],
    corrupt: Int[Tensor, "row pos"],
    layer: int,
    head: int,
) -> Float[Tensor, "row vocab"]:
    """The right answer of exercise 3.3."""
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[head] = True
    return _patched(model, corrupt, clean, layer, chosen)


def check_denoise_head(answer: Any) -> str:
    """Check ``denoise_head(model, clean, corrupt, layer, head)`` on a planted model.

    The clean prompts ask for one emotion and the corrupt ones for another.

    Raises:
        ExerciseError: the logits are not the right ones; each typical mistake has its message.
    """
    planted = the_plant()
    model, clean = planted.model, asked_ids(planted.model, planted.emotions)
    corrupt = clean.roll(1, dims=0)
    layer, head = writer_of(planted)
    right = denoise_head(model, clean, corrupt, layer, head)
    found = DENOISE.ask(answer, model, clean, corrupt, layer, head)
    plain, mistakes = _wrong_logits(model, (clean, corrupt), layer, head, right)
    DENOISE.compare(found, right, "[row vocab]", mistakes)
    words = [model.tokenizer.get_vocab()[emotion] for emotion in planted.emotions]

    def own(logits: Tensor) -> float:
        return float(logits[:, words].diagonal().mean())

    before, after = own(plain), own(right)
    whole = own(_logits(model, clean))
    return DENOISE.passed(
        f"{head_name(layer, head)} alone brings back {(after - before) / (whole - before):.0%} "
        "of the gap in the emotion word's logit."
    )


def _wrong_logits(
    model: Model, runs: tuple[Tensor, Tensor], layer: int, head: int, right: Tensor
) -> tuple[Tensor, list[Mistake]]:
    """The corrupt run as it is, and what is typically given in place of the right logits."""
    clean, corrupt = runs
    one = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    one[head] = True
    slot, plain = torch.zeros_like(one), _logits(model, corrupt)
    slot[:, head] = True
    keep = "in `chosen` [head d_head] only row `head` is true: `chosen[head] = True`"
    return plain, [
        Mistake(
            plain,
            "the corrupt run as it is: nothing was patched",
            "run the model inside `with ec.edited(model, [...]):`, and put the clean z in",
        ),
        Mistake(
            _logits(model, clean),
            "the clean run, or all heads of the layer patched",
            "run the corrupt tokens inside the `with` block; " + keep,
        ),
        Mistake(
            _patched(model, clean, corrupt, layer, one),
            "noising: corrupt values in the clean run",
            "denoising puts clean values into the corrupt run",
        ),
        Mistake(
            _patched(model, corrupt, clean, layer, slot),
            "the wrong axis: one dimension of every head was patched",
            keep,
        ),
        Mistake(
            right - plain,
            "a difference of logits",
            "return the logits of the patched run; the difference is taken later",
        ),
        Mistake(
            (*corrupt.shape, right.shape[1]),
            "logits at every position",
            "take the last position: `[:, -1]`",
        ),
    ]


@torch.no_grad()
def _logits(model: Model, ids: Tensor) -> Tensor:
    return model(ids)[:, -1].clone()


@torch.no_grad()
def _patched(model: Model, ids: Tensor, source: Tensor, layer: int, chosen: Tensor) -> Tensor:
    """Last logits of ``ids``, with the chosen parts of ``z`` from a run of ``source``."""
    kept: list[Tensor] = []

    def keep(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
        kept.append(activation.clone())

    with model.hooks(fwd_hooks=[(hook("z", layer), keep)]):
        model(source)
    with edited(model, [Replace("z", layer, kept[0], chosen, positions="all")]):
        return _logits(model, ids)

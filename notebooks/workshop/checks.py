"""Checks of the workshop's exercises: each tells a learner what is wrong with an answer.

A check calls the learner's function with numbers, or with a small model, of which the right answer
is known. It returns a sentence, or raises an :class:`ExerciseError` that says what was expected,
what was found and what to do. A typical mistake is a row ``(what it gives, what it is, what to
do)``; what it gives is a number, a tensor, or the shape by which it is known.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor

import circuits as ec
from circuits.patching.pairs import make_pairs

Mistake = tuple[Any, str, str]

NEAR = 1e-4
"""Of the right answer's largest number; what float32 and another order of sums can differ by."""


class ExerciseError(AssertionError):
    """An answer is not right yet; says what is wrong and what to do."""

    def _render_traceback_(self) -> list[str]:
        # Jupyter shows this in place of a traceback, which would be of the check.
        return [str(self)]


class Exercise:
    """One exercise, as its messages name it."""

    def __init__(self, number: str, name: str, expected: str) -> None:
        self.title, self.number, self.expected = f"Exercise {number}, {name}", number, expected

    def ask(self, function: Any, *given: Any) -> Any:
        """What the learner's function answers to copies of what is given."""
        if not callable(function):
            self.refuse(
                f"{function!r}, which is no function", "pass the function itself, without brackets"
            )
        try:
            answer = function(*(_copied(value) for value in given))
        except NotImplementedError:
            raise ExerciseError(
                f"{self.title}: not done yet.\n  expected: {self.expected}\n"
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
        raise ExerciseError(
            f"{self.title}: not right yet.\n"
            f"  expected: {self.expected}\n  found:    {found}\n  do:       {do}"
        )

    def passed(self, what: str) -> str:
        return f"{self.title}: right. {what}"

    def compare(
        self, answer: Any, right: Any, axes: str = "one number", mistakes: Sequence[Mistake] = ()
    ) -> None:
        """Accept the right numbers; refuse others, typical mistakes with their own message."""
        right = torch.as_tensor(right)
        try:
            found = torch.as_tensor(answer).detach().to(right)
        except (TypeError, ValueError, RuntimeError):
            self.refuse(f"a {type(answer).__name__}", "return a torch tensor or a number")

        near = NEAR * float(right.abs().max())

        def is_like(value: Any) -> bool:
            if isinstance(value, tuple):
                return tuple(found.shape) == value
            value = torch.as_tensor(value).to(right)
            return found.shape == value.shape and torch.allclose(
                found, value, rtol=0, atol=near, equal_nan=True
            )

        if is_like(right):
            return
        for gives, what, do in mistakes:
            if is_like(gives):
                self.refuse(what, do)
        if found.shape != right.shape:
            self.refuse(
                f"shape {tuple(found.shape)} instead of {tuple(right.shape)}, which is {axes}",
                "check over which axis you average or sum, and that it is one axis",
            )
        if not found.isfinite().all():
            self.refuse("NaN or infinite numbers", "check what you divide by")
        at = tuple(int(i) for i in torch.unravel_index((found - right).abs().argmax(), found.shape))
        self.refuse(
            f"{float(found[at]):.4g}{f' at {list(at)}' if at else ''} instead of "
            f"{float(right[at]):.4g}",
            "go through the formula term by term; the hints below the task help",
        )


def _copied(value: Any) -> Any:
    # A model is not copied; numbers are, so that an answer that writes into them spoils nothing.
    if isinstance(value, Tensor):
        return value.clone()
    return copy.deepcopy(value) if isinstance(value, Mapping | list | set) else value


def _names(answer: Any) -> tuple[str, ...] | None:
    """The answer as component names; ``None`` if it is no collection of texts."""
    if isinstance(answer, str) or not hasattr(answer, "__iter__"):
        return None
    names = tuple(answer)
    return names if all(isinstance(name, str) for name in names) else None


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _unit(vectors: Tensor, dim: int = -1) -> Tensor:
    return vectors / vectors.norm(dim=dim, keepdim=True)


# --- notebook 1: a clean split, emotion directions, and how far they carry ----------------------

SPLIT = Exercise(
    "1.1", "split", "two lists, train and test, that hold every context once and share no scenario"
)


def check_split(split: Callable[..., Any]) -> str:
    """Check ``split(contexts) -> (train, test)``, in two orders of the contexts."""
    scenarios = ec.spread(ec.read_scenarios(ec.shipped("sev/train.jsonl")), 5)
    given = list(ec.contexts(scenarios))
    for contexts in (given, random.Random(0).sample(given, len(given))):
        answer = SPLIT.ask(split, contexts)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            SPLIT.refuse(f"a {type(answer).__name__}", "return two lists: `return train, test`")
        train, test = (list(side) for side in answer)
        if not train or not test:
            SPLIT.refuse("an empty side", "put about half of the scenarios on each side")
        both = {context.id for context in train} & {context.id for context in test}
        if both:
            SPLIT.refuse(
                f"train and test mixed: {len(both)} contexts are on both sides, such as "
                f"{min(both)}",
                "give every context to exactly one side",
            )
        shared = {context.scenario for context in train} & {context.scenario for context in test}
        if shared:
            SPLIT.refuse(
                f"train and test mixed: scenario {min(shared)} is on both sides. Its three "
                "contexts share a text, so test would not be new",
                "split the scenarios (`context.scenario`), then put each context where its "
                "scenario is",
            )
        found = sorted(context.id for context in (*train, *test))
        if found != sorted(context.id for context in contexts):
            SPLIT.refuse(
                f"{len(found)} contexts on both sides together instead of {len(contexts)}",
                "every context that comes in goes to one side, once",
            )
    return SPLIT.passed("What is learnt on train is now told apart from what is seen again.")


DIRECTIONS = Exercise(
    "1.2",
    "directions",
    "per emotion a unit vector [emotion d_model]: the emotion minus the mean of the emotions of "
    "the same context, averaged over contexts",
)


def planted_stream(contexts: int, noise: float) -> tuple[Tensor, Tensor]:
    """``[context emotion d_model]``, and the emotions' vectors in it ``[emotion d_model]``.

    A large part per context, a part that all share, a vector per emotion, and noise.
    """
    emotions, width = 3, 24
    planted, shared = _normal(emotions, width), 6 * _normal(width)
    stream = 4 * _normal(contexts, 1, width) + shared + planted
    return stream + noise * _normal(contexts, emotions, width), planted


def right_directions(stream: Tensor) -> Tensor:
    """The right answer of exercise 1.2."""
    return _unit((stream - stream.mean(1, keepdim=True)).mean(0))


def check_directions(answer: Callable[..., Any]) -> str:
    """Check ``directions(stream [context emotion d_model]) -> [emotion d_model]``."""
    stream, planted = planted_stream(contexts=8, noise=0.3)
    contexts, emotions, width = stream.shape
    right, apart = right_directions(stream), stream - stream.mean(1, keepdim=True)
    mean = apart.mean(0)
    off = "take off `stream.mean(dim=1, keepdim=True)`: the mean over the emotions"
    last = "divide every vector by its own length: `.norm(dim=-1, keepdim=True)`"
    mistakes: list[Mistake] = [
        (
            -right,
            "the wrong sign: every vector points away from its emotion",
            "subtract the mean of the emotions from the emotion, not the other way round",
        ),
        (mean, "vectors that are not normalised", last),
        (
            _unit(stream.mean(0)),
            "what the emotions share is still in: all vectors are nearly the same",
            off,
        ),
        (torch.full_like(mean, torch.nan), "NaN: zeros were divided by their length 0", off),
        (_unit(mean, dim=0), "normalised over the wrong axis (over emotions)", last),
        (
            _unit(_unit(apart).mean(0)),
            "every context was normalised before the mean, so that contexts with little emotion "
            "count as much as others",
            "average over contexts first, normalise last",
        ),
        (
            (contexts, width),
            "shape [context d_model]: the mean was taken over the wrong axis (over emotions)",
            "average over contexts: `.mean(dim=0)`",
        ),
        (
            (contexts, emotions, width),
            "a vector for every context: no mean over contexts",
            "average over contexts: `.mean(dim=0)`",
        ),
    ]
    DIRECTIONS.compare(DIRECTIONS.ask(answer, stream), right, "[emotion d_model]", mistakes)
    cosine = (right * _unit(planted - planted.mean(0))).sum(-1).min()
    return DIRECTIONS.passed(f"Cosine with the planted emotions: {float(cosine):.2f} or more.")


ACCURACY = Exercise(
    "1.3",
    "accuracy",
    "the share of test prompts whose own emotion's direction, made from train, has the largest "
    "projection",
)


def right_accuracy(train: Tensor, test: Tensor, dim: int = -1) -> Tensor:
    """The right answer of exercise 1.3, or that over another axis."""
    projected = (test - test.mean(1, keepdim=True)) @ right_directions(train).T
    return (projected.argmax(dim) == torch.arange(test.shape[1])).float().mean()


def check_accuracy(answer: Callable[..., Any]) -> str:
    """Check ``accuracy(train, test) -> float``, both ``[context emotion d_model]``.

    There is so much noise that directions fit their own contexts far better than new ones.
    """
    stream, _ = planted_stream(contexts=15, noise=4.0)
    train, test = stream[:6], stream[6:]
    right, own = right_accuracy(train, test), right_accuracy(train, train)
    mixed = "train and test mixed: "
    mistakes: list[Mistake] = [
        (
            own,
            mixed + "this is the share on train, which the directions have seen",
            "project the test contexts, not the train ones",
        ),
        (
            right_accuracy(test, test),
            mixed + "the directions were made from test",
            "make the directions from train",
        ),
        (
            right_accuracy(stream, test),
            mixed + "the directions were made from both",
            "make the directions from train alone",
        ),
        (100 * right, "a percentage", "return a share between 0 and 1"),
        (
            right_accuracy(train, test, dim=1),
            "the largest projection was looked for over the wrong axis",
            "a prompt's own projections are in the last axis: `.argmax(dim=-1)`",
        ),
    ]
    ACCURACY.compare(ACCURACY.ask(answer, train, test), right, mistakes=mistakes)
    return ACCURACY.passed(
        f"{float(right):.0%} on test; on train it would have been {float(own):.0%}, "
        f"chance is {1 / test.shape[1]:.0%}."
    )


# --- notebook 2: what a head adds, in closed form and by a real re-run --------------------------

EFFECTS = Exercise(
    "2.1",
    "head_effects",
    "per head the mean over contexts of z @ W_O @ v: the projection as it is, minus without the "
    "head; [head]",
)


def check_head_effects(answer: Callable[..., Any]) -> str:
    """Check ``head_effects(z [context head d_head], W_O [head d_head d_model], v [d_model])``."""
    contexts, heads, d_head, width = 7, 4, 5, 12
    z, W_O = _normal(contexts, heads, d_head) + 0.5, _normal(heads, d_head, width)
    v = _unit(_normal(width))
    write = torch.einsum("chd,hdm->chm", z, W_O)
    each = write @ v
    right = each.mean(0)
    signed = "leave the absolute value out"
    mistakes: list[Mistake] = [
        (
            -right,
            "the wrong sign: this is without minus with",
            "effect = readout as it is minus readout without the head",
        ),
        (right.abs(), "the sign is lost: heads that push away look like others", signed),
        (each.sum(0), "a sum over contexts", "take the mean over contexts"),
        (
            (_unit(write) @ v).mean(0),
            "a cosine: heads that write little count as much as others",
            "do not divide by the length of the write",
        ),
        (
            right - right.mean(),
            "the mean over the heads was taken off",
            "what a head adds does not depend on the other heads; take nothing off",
        ),
        (
            (contexts, heads),
            "an effect for every context: no mean over contexts",
            "average over contexts: `.mean(dim=0)`",
        ),
        (
            (contexts,),
            "shape [context]: the mean or sum was taken over the wrong axis (over heads)",
            "keep heads, average over contexts: `.mean(dim=0)`",
        ),
    ]
    EFFECTS.compare(EFFECTS.ask(answer, z, W_O, v), right, "[head]", mistakes)
    return EFFECTS.passed("One matrix product gives all heads; no pass was run.")


@cache
def small_model() -> tuple[Any, Tensor]:
    """A small chat model, and one context asked for three emotions ``[prompt pos]``."""
    model = ec.load_model("sev-nano")
    context = ec.Context(
        "cellar_00", "home", "neutral", "I opened the cellar door.", "It was dark."
    )
    pairs = [make_pairs(model, [context], e)[0] for e in ("anger", "fear", "sadness")]
    return model, torch.tensor([pair.clean.ids for pair in pairs])


LAYER, HEAD = 0, 1
"""The head of the small model that reads which emotion is asked for."""


def rows(model: Any, head: int) -> Tensor:
    """``[head d_head]``, true for one head."""
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[head] = True
    return chosen


def columns(model: Any, head: int) -> Tensor:
    """``[head d_head]``, true for one dimension of every head: a typical mistake."""
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[:, head] = True
    return chosen


ONE_ROW = "in `chosen` [head d_head] only row `head` is true: `chosen[head] = True`"

WITHOUT = Exercise(
    "2.2",
    "without_head",
    "resid_mid of the layer at the last position, [row d_model], with z of this one head at zero",
)


def ablated(model: Any, ids: Tensor, layer: int, chosen: Tensor) -> Tensor:
    """``resid_mid`` at the last position, with the chosen parts of ``z`` at zero."""
    value = torch.zeros(chosen.shape)
    with ec.edited(model, [ec.Replace("z", layer, value, chosen, positions="all")]):
        _, cache = model.run_with_cache(ids)
    return cache[f"blocks.{layer}.hook_resid_mid"][:, -1].detach()


def check_without_head(answer: Callable[..., Any]) -> str:
    """Check ``without_head(model, ids, layer, head) -> [row d_model]`` on a small model."""
    model, ids = small_model()
    one = rows(model, HEAD)
    right, whole = ablated(model, ids, LAYER, one), ablated(model, ids, LAYER, one & False)
    mistakes: list[Mistake] = [
        (
            whole,
            "the stream of the model as it is: nothing was ablated",
            "run the model inside `with ec.edited(model, [...]):`, and check `chosen`",
        ),
        (
            right - whole,
            "a difference of streams, with the sign of without minus with",
            "return the stream without the head; the difference is taken later",
        ),
        (ablated(model, ids, LAYER, one | True), "all heads of the layer were ablated", ONE_ROW),
        (
            ablated(model, ids, LAYER, columns(model, HEAD)),
            "the wrong axis: one dimension of every head was ablated, not every dimension of one",
            ONE_ROW,
        ),
        (
            (*ids.shape, model.cfg.d_model),
            "the stream at every position",
            "take the last position: `[:, -1]`",
        ),
    ]
    found = WITHOUT.ask(answer, model, ids, LAYER, HEAD)
    WITHOUT.compare(found, right, "[row d_model]", mistakes)
    spread = [(stream - stream.mean(0)).norm() for stream in (right, whole)]
    return WITHOUT.passed(
        f"Without L{LAYER}H{HEAD} the streams of the three emotions differ "
        f"{float(spread[0] / spread[1]):.0%} as much as with it."
    )


TOP = Exercise(
    "2.3",
    "top_heads",
    "the names (L2H3) of the heads with the largest effect of either sign, largest first",
)


def check_top_heads(answer: Callable[..., Any]) -> str:
    """Check ``top_heads(effect [layer head], count) -> names``."""
    effect = torch.tensor([[0.1, -0.2, 0.9, 0.3], [0.0, -0.4, 0.5, 2.5], [-3.0, 0.2, 0.6, -0.7]])
    count = 3

    def ranked(by: Tensor) -> tuple[str, ...]:
        order = by.flatten().argsort(descending=True)[:count].tolist()
        return tuple("L{}H{}".format(*divmod(place, effect.shape[1])) for place in order)

    right = ranked(effect.abs())
    wrong = {
        ranked(effect): (
            "heads that push away are missing: the largest signed values",
            "rank by the absolute value: `.abs()`",
        ),
        ranked(-effect.abs()): ("the smallest effects", "sort from large to small"),
        ranked(-effect): ("the most negative effects", "rank by the absolute value: `.abs()`"),
        tuple(f"L{name[3]}H{name[1]}" for name in right): (
            "layer and head are swapped",
            "effect is [layer head]: the row is the layer",
        ),
        right[::-1]: ("the right heads in the wrong order", "the largest comes first"),
    }
    found = _names(TOP.ask(answer, effect, count))
    if found is None:
        TOP.refuse("no list of names", "return texts such as 'L2H3': f'L{layer}H{head}'")
    if found != right:
        otherwise = f"{', '.join(found)} instead of {', '.join(right)}", "check index and order"
        TOP.refuse(*wrong.get(found, otherwise))
    return TOP.passed(f"{right[0]} pushes away from the emotion, and leads the list.")


# --- notebook 3: effects of patching, their signs, and one head patched for real ----------------

EFFECT = Exercise(
    "3.1",
    "effect",
    "the mean over contexts of the readout with the clean value minus the readout with the "
    "corrupt one: noising: clean - patched, denoising: patched - corrupt",
)


def check_effect(answer: Callable[..., Any]) -> str:
    """Check ``effect(mode, clean, corrupt, patched) -> float``; readouts are ``[context]``."""
    clean, corrupt = torch.tensor([5.0, 4.0, 6.5]), torch.tensor([1.0, 0.5, -1.0])
    noised, denoised = torch.tensor([3.5, 2.0, 5.0]), torch.tensor([2.0, 3.0, 1.5])
    for mode, patched in (("noising", noised), ("denoising", denoised)):
        noising = mode == "noising"
        right = (clean - patched if noising else patched - corrupt).mean()
        other = (patched - (corrupt if noising else clean)).mean()
        run = f"{mode}: compared with the wrong run"
        changed = "noising changes the clean run, denoising the corrupt run: compare with that run"
        mistakes: list[Mistake] = [
            (
                -right,
                f"{mode}: the wrong sign",
                "an effect is positive where the clean value pushes towards the emotion: "
                "with the clean value minus with the corrupt one",
            ),
            (other, run, changed),
            (-other, run, changed),
            (
                right / (clean - corrupt).mean(),
                f"{mode}: a share of the gap",
                "do not divide; that is the next exercise",
            ),
            (
                (clean - corrupt).mean(),
                f"{mode}: the whole gap, clean minus corrupt",
                "the patched run must come into it",
            ),
            ((3,), f"{mode}: an effect for every context", "average over contexts"),
        ]
        found = EFFECT.ask(answer, mode, clean, corrupt, patched)
        EFFECT.compare(found, right, mistakes=mistakes)
    return EFFECT.passed("In both directions positive means: towards the emotion.")


SHARE = Exercise(
    "3.2", "share", "the mean effect divided by the mean of clean - corrupt, over contexts"
)


def check_share(answer: Callable[..., Any]) -> str:
    """Check ``share(effect, clean, corrupt) -> float``; all are ``[context]``.

    In one of the contexts the gap is nearly zero, where a mean of ratios goes astray.
    """
    effect = torch.tensor([2.0, 1.5, 3.0, 0.4])
    clean, corrupt = torch.tensor([5.0, 4.0, 6.5, 1.02]), torch.tensor([1.0, 0.5, -1.0, 1.0])
    gap = clean - corrupt
    right = effect.mean() / gap.mean()
    mistakes: list[Mistake] = [
        (
            (effect / gap).mean(),
            "the mean of the ratios: one context with a gap of 0.02 decides it",
            "divide the mean effect by the mean gap",
        ),
        (-right, "the wrong sign: corrupt - clean as the gap", "the gap is clean - corrupt"),
        (100 * right, "a percentage", "return a share, 1 for the whole gap"),
        (
            effect.mean() / clean.mean(),
            "a share of the clean readout",
            "divide by the gap, clean - corrupt: zero of a readout means nothing",
        ),
        ((4,), "a share for every context", "take means over contexts first, then divide"),
    ]
    SHARE.compare(SHARE.ask(answer, effect, clean, corrupt), right, mistakes=mistakes)
    return SHARE.passed(f"{float(right):.0%} of the gap.")


DENOISE = Exercise(
    "3.3",
    "denoise_head",
    "the logits at the last position, [row vocab], of the corrupt run with the clean z of this "
    "one head at all positions",
)


@torch.no_grad()
def patched(model: Any, ids: Tensor, source: Tensor, layer: int, chosen: Tensor) -> Tensor:
    """Last logits of ``ids``, with the chosen parts of ``z`` from a run of ``source``."""
    _, cache = model.run_with_cache(source)
    value = cache[f"blocks.{layer}.attn.hook_z"]
    with ec.edited(model, [ec.Replace("z", layer, value, chosen, positions="all")]):
        return model(ids)[:, -1].clone()


def check_denoise_head(answer: Callable[..., Any]) -> str:
    """Check ``denoise_head(model, clean, corrupt, layer, head)`` on a small model.

    The clean prompts ask for one emotion and the corrupt ones for another.
    """
    model, clean = small_model()
    corrupt, one = clean.roll(1, dims=0), rows(model, HEAD)
    right = patched(model, corrupt, clean, LAYER, one)
    plain = patched(model, corrupt, clean, LAYER, one & False)
    whole = patched(model, clean, clean, LAYER, one)
    mistakes: list[Mistake] = [
        (
            plain,
            "the corrupt run as it is: nothing was patched",
            "run the model inside `with ec.edited(model, [...]):`, and put the clean z in",
        ),
        (whole, "the clean run", "run the corrupt tokens inside the `with` block"),
        (
            patched(model, corrupt, clean, LAYER, one | True),
            "all heads of the layer were patched",
            ONE_ROW,
        ),
        (
            patched(model, clean, corrupt, LAYER, one),
            "noising: corrupt values in the clean run",
            "denoising puts clean values into the corrupt run",
        ),
        (
            patched(model, corrupt, clean, LAYER, columns(model, HEAD)),
            "the wrong axis: one dimension of every head was patched",
            ONE_ROW,
        ),
        (
            right - plain,
            "a difference of logits",
            "return the logits of the patched run; the difference is taken later",
        ),
        (
            (*corrupt.shape, right.shape[1]),
            "logits at every position",
            "take the last position: `[:, -1]`",
        ),
    ]
    found = DENOISE.ask(answer, model, clean, corrupt, LAYER, HEAD)
    DENOISE.compare(found, right, "[row vocab]", mistakes)
    share = float(((right - plain) * (whole - plain)).sum() / (whole - plain).square().sum())
    return DENOISE.passed(
        f"L{LAYER}H{HEAD} alone brings back {share:.0%} of the gap in the logits."
    )


# --- notebook 4: choosing components, faithfulness, and random circuits as the random baseline
# ---------------

CHOOSE = Exercise(
    "4.1",
    "choose",
    "the names of all components whose effect, of either sign, is at least `floor` times the "
    "largest",
)

CIRCUIT = {"L0H2": 0.081, "L1.N7": 0.022, "L2H0": -0.014, "L2.N31": 0.028, "L3.N4": -0.009}
"""A known circuit and its effects; small, so that a floor taken as an effect leaves parts out."""
OTHERS = ("L0H0", "L0H1", "L1H3", "L2H1", "L3H2", "L0.N9", "L1.N12", "L2.N5", "L3.N40")


def check_choose(answer: Callable[..., Any]) -> str:
    """Check ``choose(effects, floor) -> names`` on effects of which the circuit is known."""
    floor = 0.05
    effects = {name: 1e-4 * (-1) ** i * (1 + i) for i, name in enumerate(OTHERS)} | CIRCUIT
    largest, right = max(map(abs, effects.values())), set(CIRCUIT)
    names = _names(CHOOSE.ask(answer, dict(sorted(effects.items())), floor))
    if names is None:
        CHOOSE.refuse("no collection of names", "return a set or a list of keys of `effects`")
    found = set(names)
    rule = "compare the absolute effect with `floor` times the largest"
    wrong: tuple[Mistake, ...] = (
        (
            {name for name, effect in effects.items() if effect >= floor * largest},
            "parts that push away from the emotion are missing",
            "compare the absolute value",
        ),
        (
            {name for name, effect in effects.items() if abs(effect) >= floor},
            "`floor` was taken as an effect, not as a share of the largest one",
            rule,
        ),
        (set(effects) - right, "the parts below the floor", "keep those at or above it"),
        (set(effects), "all components", rule),
        (set(), "no part", rule),
    )
    for gives, what, do in wrong:
        if found == gives:
            CHOOSE.refuse(what, do)
    if found != right:
        lacking, extra = ", ".join(sorted(right - found)), ", ".join(sorted(found - right)[:5])
        CHOOSE.refuse(f"missing: {lacking or 'none'}; too many: {extra or 'none'}", rule)
    return CHOOSE.passed(f"{len(found)} parts: the known circuit, and no other.")


FAITHFULNESS = Exercise(
    "4.2",
    "faithfulness",
    "(mean circuit - mean empty) / (mean model - mean empty), means over contexts",
)


def check_faithfulness(answer: Callable[..., Any]) -> str:
    """Check ``faithfulness(circuit, empty, model) -> float``; readouts are ``[context]``."""
    model, empty = torch.tensor([9.0, 8.0, 10.0, 2.1]), torch.tensor([3.0, 2.5, 2.0, 2.0])
    circuit = torch.tensor([8.5, 6.0, 9.0, 2.6])
    right = (circuit - empty).mean() / (model - empty).mean()
    mistakes: list[Mistake] = [
        (
            circuit.mean() / model.mean(),
            "the empty circuit is not taken off: a circuit of nothing would not score 0",
            "subtract the empty circuit above and below",
        ),
        (
            (circuit - empty).mean() / model.mean(),
            "the empty circuit is not taken off below: the whole model would not score 1",
            "subtract it below as well",
        ),
        (
            ((circuit - empty) / (model - empty)).mean(),
            "the mean of the ratios: the one context with a gap of 0.1 decides it",
            "take the means first, then divide",
        ),
        (-right, "the wrong sign", "subtract the empty circuit above and below"),
        (100 * right, "a percentage", "return a share"),
        ((4,), "a number for every context", "take the means over contexts, then divide"),
    ]
    found = FAITHFULNESS.ask(answer, circuit, empty, model)
    FAITHFULNESS.compare(found, right, mistakes=mistakes)
    return FAITHFULNESS.passed("0 is the empty circuit, 1 the whole model; it may exceed 1.")


P_VALUE = Exercise(
    "4.3", "p_value", "(1 + random circuits that are at least as good) / (1 + random circuits)"
)


def check_p_value(answer: Callable[..., Any]) -> str:
    """Check ``p_value(value, random) -> float``, ``random`` being ``[draw]``."""
    drawn, value = torch.tensor([0.1, 0.4, 0.35, 0.7, 0.4, -0.1, 0.2, 0.05, 0.3, 0.6]), 0.4
    n, better, at_least = len(drawn), int((drawn > value).sum()), int((drawn >= value).sum())
    ones = "count the circuit itself, above and below: (1 + ...) / (1 + ...)"
    side = "count those that are at least as good: random >= value"
    mistakes: list[Mistake] = [
        (at_least / n, "without the two ones: with few random circuits p would come out 0", ones),
        ((1 + better) / (1 + n), "ties do not count", "at least as good: use >="),
        ((n - at_least) / n, "the wrong side: the share that is worse", side),
        (1.0 + at_least, "a number of circuits", "divide by 1 + the number of draws"),
    ]
    P_VALUE.compare(P_VALUE.ask(answer, value, drawn), (1 + at_least) / (1 + n), mistakes=mistakes)
    P_VALUE.compare(P_VALUE.ask(answer, 0.9, drawn), 1 / (1 + n))
    return P_VALUE.passed(f"With {n} draws p is never below {1 / (1 + n):.2f}.")


RANDOM = Exercise(
    "4.4",
    "random_heads",
    "as many heads (layer, head) per layer as the circuit has there, none twice, none of the "
    "circuit's, others for another seed",
)


def check_random_heads(answer: Callable[..., Any]) -> str:
    """Check ``random_heads(circuit, n_heads, seed) -> [(layer, head), ...]``."""
    circuit, n_heads = [(0, 2), (2, 0), (2, 5), (4, 1)], 6

    def draw(seed: int) -> tuple[tuple[int, int], ...]:
        found = RANDOM.ask(answer, list(circuit), n_heads, seed)
        try:
            heads = tuple(sorted((int(layer), int(head)) for layer, head in found))
        except (TypeError, ValueError):
            RANDOM.refuse(f"{found!r}", "return a list of pairs (layer, head)")
        if len(heads) != len(circuit):
            RANDOM.refuse(
                f"{len(heads)} heads instead of {len(circuit)}",
                "a baseline is of the circuit's size",
            )
        if len(set(heads)) < len(heads):
            RANDOM.refuse("a head twice", "draw without putting back: `sample`, not `choices`")
        if own := set(heads) & set(circuit):
            RANDOM.refuse(
                f"L{min(own)[0]}H{min(own)[1]}, which is in the circuit",
                "leave the circuit's heads out before drawing, or the baseline is partly the "
                "circuit",
            )
        if Counter(layer for layer, _ in heads) != Counter(layer for layer, _ in circuit):
            RANDOM.refuse(
                f"heads in layers {', '.join(str(layer) for layer, _ in heads)} instead of "
                f"{', '.join(str(layer) for layer, _ in sorted(circuit))}",
                "draw layer by layer: late layers are nearer to the readout than early ones",
            )
        if not all(0 <= head < n_heads for _, head in heads):
            RANDOM.refuse("a head that the model does not have", f"heads are 0 to {n_heads - 1}")
        return heads

    if len({draw(seed) for seed in range(8)}) == 1:
        RANDOM.refuse("the same heads for eight seeds", "draw with `random.Random(seed)`")
    if draw(0) != draw(0):
        RANDOM.refuse("other heads for the same seed", "draw with `random.Random(seed)`")
    return RANDOM.passed("A baseline that differs from the circuit in nothing but the choice.")


# --- notebook 5: steering, writing a circuit, and judging with a baseline ------------------------

STEER = Exercise(
    "5.1",
    "steer_edits",
    "one ec.Add at resid_post per layer, at the last position, once (when='prompt'): "
    "strength / number of layers * length * unit vector",
)


def _edits(exercise: Exercise, answer: Any, site: str) -> list[ec.Add]:
    """The answer as edits at a site, written once, at the last position."""
    if not isinstance(answer, list | tuple) or not answer:
        exercise.refuse(f"{answer!r}", "return a list of edits: `ec.Add(site, layer, value, ...)`")
    for edit in answer:
        if not isinstance(edit, ec.Add):
            exercise.refuse(
                f"a {type(edit).__name__}",
                "use ec.Add: it adds to what the model does; ec.Replace would put out all else",
            )
        if edit.site != site:
            exercise.refuse(f"an edit at {edit.site!r}", f"write at {site!r}")
        if edit.positions != "last":
            exercise.refuse(
                f"positions={edit.positions!r}: every token is written to",
                "write where the reply begins: positions='last'",
            )
        if edit.when != "prompt":
            exercise.refuse(
                "when='every' (the default): written again at every token of the reply",
                "write once: when='prompt'",
            )
    return list(answer)


def check_steer_edits(answer: Callable[..., Any]) -> str:
    """Check ``steer_edits(vectors, lengths, layers, strength) -> [ec.Add, ...]``.

    ``vectors`` is ``[layer d_model]``, of unit length, ``lengths`` ``[layer]``: all layers.
    """
    vectors, lengths = _unit(_normal(6, 8)), torch.tensor([1.0, 2.0, 3.0, 4.5, 6.0, 8.0])
    at, strength = [2, 3, 5], 1.5
    edits = _edits(STEER, STEER.ask(answer, vectors, lengths, tuple(at), strength), "resid_post")
    if sorted(edit.layer for edit in edits) != at:
        STEER.refuse(
            f"edits of layers {', '.join(str(edit.layer) for edit in edits)} instead of 2, 3, 5",
            "make one edit for every layer of `layers`, and none for others",
        )
    values = torch.stack([edit.value for edit in sorted(edits, key=lambda edit: edit.layer)])
    each = strength / len(at)
    right = each * lengths[at, None] * vectors[at]
    mistakes: list[Mistake] = [
        (
            right * len(at),
            "the strength is not shared by the layers: three write three times as much as one",
            "divide the strength by `len(layers)`",
        ),
        (-right, "the wrong sign: this steers away from the emotion", "add, do not subtract"),
        (
            each * vectors[at],
            "vectors of unit length: strength 1 is not the model's own difference",
            "multiply each vector by its layer's length",
        ),
        (right / strength, "strength 1 whatever was asked for", "multiply by `strength`"),
        (
            each * lengths[:3, None] * vectors[:3],
            "the vectors of layers 0, 1, 2 at layers 2, 3, 5",
            "index with the layer: `vectors[layer]`",
        ),
        (
            each * lengths[:3, None] * vectors[at],
            "the lengths of layers 0, 1, 2 at layers 2, 3, 5",
            "index with the layer: `lengths[layer]`",
        ),
    ]
    STEER.compare(values, right, "[layer d_model]", mistakes)
    return STEER.passed("Strength 1 is the length of the model's own difference.")


WRITE = Exercise(
    "5.2",
    "circuit_edits",
    "ec.Add at z, at the last position, once (when='prompt'): strength times the model's own "
    "difference at the circuit's heads, zero at all others",
)


def check_circuit_edits(answer: Callable[..., Any]) -> str:
    """Check ``circuit_edits(heads, difference, strength) -> [ec.Add, ...]``.

    ``heads`` are pairs (layer, head), ``difference`` is ``[layer head d_head]``.
    """
    difference, heads, strength = _normal(4, 3, 5), [(1, 2), (3, 0), (3, 1)], 0.5
    edits = _edits(WRITE, WRITE.ask(answer, heads, difference, strength), "z")
    own, swapped, total = (torch.zeros_like(difference) for _ in range(3))
    for layer, head in heads:
        own[layer, head] = difference[layer, head]
        if layer < difference.shape[1]:
            swapped[head, layer] = difference[head, layer]
    for edit in edits:
        if tuple(edit.value.shape) != tuple(difference.shape[1:]):
            WRITE.refuse(
                f"a value of shape {tuple(edit.value.shape)}",
                "at z a value is [head d_head], with zeros for the heads that are left alone",
            )
        if not 0 <= edit.layer < len(total):
            WRITE.refuse(f"an edit of layer {edit.layer}", "layers are 0 to 3")
        total[edit.layer] += edit.value.detach()
    fill = "begin with zeros and fill in the circuit's heads"
    mistakes: list[Mistake] = [
        (strength * difference, "all heads are written, not the circuit's", fill),
        (-strength * own, "the wrong sign: this writes the opposite", "add the difference"),
        (own, "strength 1 whatever was asked for", "multiply by `strength`"),
        (torch.zeros_like(own), "nothing is written", fill),
        (
            strength * swapped,
            "layer and head are swapped",
            "a head is (layer, head); difference is [layer head d_head]",
        ),
    ]
    WRITE.compare(total, strength * own, "[layer head d_head]", mistakes)
    return WRITE.passed("Everything outside the circuit stays the model's own.")


EXCESS = Exercise(
    "5.3",
    "excess",
    "share of matches with the method minus share with the random baseline, over the contexts "
    "that are not in `used`",
)


def check_excess(answer: Callable[..., Any]) -> str:
    """Check ``excess(method, baseline, used) -> float``.

    ``method`` and ``baseline`` say for each context's id whether the judge found the emotion.
    """
    ids = [f"home_{number:02d}/neutral" for number in range(10)]
    method = {name: number not in (5, 8) for number, name in enumerate(ids)}
    baseline = {name: number == 5 for number, name in enumerate(ids)}
    old, new = ids[:4], ids[4:]

    def share(said: Mapping[str, bool], names: Sequence[str]) -> float:
        return sum(said[name] for name in names) / len(names)

    right = share(method, new) - share(baseline, new)
    mixed = "train and test mixed: contexts in `used` are counted"
    leave = "leave out the contexts that the method was made from"
    mistakes: list[Mistake] = [
        (share(method, ids) - share(baseline, ids), mixed, leave),
        (
            share(method, old) - share(baseline, old),
            "train and test mixed: only contexts in `used` are counted",
            "count those that are not in `used`",
        ),
        (-right, "the wrong sign: baseline minus method", "method minus baseline"),
        (
            share(method, new),
            "the method's share alone: what the random baseline reaches by itself is not taken off",
            "subtract the random baseline's share",
        ),
        (share(method, ids), mixed + ", and the baseline is not taken off", leave),
        (100 * right, "a percentage", "return a share"),
        (share(method, new) / share(baseline, new), "a ratio", "take the difference"),
    ]
    EXCESS.compare(EXCESS.ask(answer, method, baseline, set(old)), right, mistakes=mistakes)
    return EXCESS.passed(f"{right:+.0%} over the random baseline, on {len(new)} new contexts.")

"""Checks of notebook 4: choosing parts, faithfulness, and random circuits as the control."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from circuits.names import head_name, neuron_name
from circuits.patching.pairs import Projection, make_pair
from circuits.patching.patch import patch_parts
from circuits.planted.plant import recovery
from circuits.workshop.answers import CONTEXT, Exercise, Mistake, names_of, the_plant

__all__ = [
    "check_choose",
    "check_faithfulness",
    "check_p_value",
    "check_random_heads",
]

CHOOSE = Exercise(
    "4.1",
    "choose",
    "the names of all parts whose effect, of either sign, is at least `floor` times the largest",
)
FAITHFULNESS = Exercise(
    "4.2",
    "faithfulness",
    "(mean circuit - mean empty) / (mean model - mean empty), means over contexts",
)
P_VALUE = Exercise(
    "4.3",
    "p_value",
    "(1 + random circuits that are at least as good) / (1 + random circuits)",
)
RANDOM = Exercise(
    "4.4",
    "random_heads",
    "as many heads (layer, head) per layer as the circuit has there, none twice, none of the "
    "circuit's, others for another seed",
)


def check_choose(answer: Any) -> str:
    """Check ``choose(effects, floor) -> names``, on the effects in a planted model.

    Raises:
        ExerciseError: the parts are not the right ones; each typical mistake has its message.
    """
    effects, truth = _effects()
    floor = 0.05
    sizes = {name: abs(effect) for name, effect in effects.items()}
    largest = max(sizes.values())
    right = {name for name, size in sizes.items() if size >= floor * largest}
    names = names_of(CHOOSE.ask(answer, dict(effects), floor))
    if names is None:
        CHOOSE.refuse("no collection of names", "return a set or a list of keys of `effects`")
    found = set(names)
    wrong = (
        (
            {name for name, effect in effects.items() if effect >= floor * largest},
            "parts that push away from the emotion are missing",
            "compare the absolute value",
        ),
        (
            {name for name, size in sizes.items() if size >= floor},
            "`floor` was taken as an effect, not as a share of the largest one",
            "compare with `floor` times the largest absolute effect",
        ),
        (set(effects) - right, "the parts below the floor", "keep those at or above it"),
        (set(effects), "all parts", "leave out those below `floor` times the largest effect"),
        (set(), "no part", "compare the absolute effect with `floor` times the largest"),
    )
    for gives, what, do in wrong:
        if found == gives:
            CHOOSE.refuse(what, do)
    lacking, extra = sorted(right - found), sorted(found - right)
    if lacking or extra:
        CHOOSE.refuse(
            f"missing: {', '.join(lacking) or 'none'}; too many: {', '.join(extra[:5]) or 'none'}",
            "compare the absolute effect with `floor` times the largest",
        )
    score = recovery(found, truth)
    return CHOOSE.passed(
        f"{len(found)} parts; of the planted circuit: precision {score.precision:.0%}, "
        f"recall {score.recall:.0%}."
    )


@cache
def _effects() -> tuple[Mapping[str, float], Collection[str]]:
    """Noising effects of all heads and planted neurons, and which of them are true."""
    planted = the_plant()
    model, emotion = planted.model, "fear"
    names = [
        head_name(layer, head)
        for layer in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
    ]
    names += [neuron_name(node.layer, node.index) for node in planted.nodes if node.kind != "head"]
    pairs = [make_pair(model, CONTEXT, emotion, "anger")]
    # Scaled down, so that a floor that is taken as an effect leaves parts out.
    readout = Projection(planted.readout[planted.emotions.index(emotion)] / 25)
    found = patch_parts(model, pairs, readout, names, mode="noising")[0]
    effects = dict(zip(names, found.tolist(), strict=True))
    return effects, planted.true_nodes(emotion=emotion)


def check_faithfulness(answer: Any) -> str:
    """Check ``faithfulness(circuit, empty, model) -> float``; readouts are ``[context]``.

    Raises:
        ExerciseError: the number is not the right one; each typical mistake has its message.
    """
    model, empty = torch.tensor([9.0, 8.0, 10.0, 2.1]), torch.tensor([3.0, 2.5, 2.0, 2.0])
    circuit = torch.tensor([8.5, 6.0, 9.0, 2.6])
    right = (circuit - empty).mean() / (model - empty).mean()
    mistakes = [
        Mistake(
            circuit.mean() / model.mean(),
            "the empty circuit is not taken off: a circuit of nothing would not score 0",
            "subtract the empty circuit above and below",
        ),
        Mistake(
            (circuit - empty).mean() / model.mean(),
            "the empty circuit is not taken off below: the whole model would not score 1",
            "subtract it below as well",
        ),
        Mistake(
            ((circuit - empty) / (model - empty)).mean(),
            "the mean of the ratios: the one context with a gap of 0.1 decides it",
            "take the means first, then divide",
        ),
        Mistake(1 - right, "what the circuit lacks", "1 is the whole model, 0 the empty circuit"),
        Mistake(1 / right, "upside down", "divide by the whole model's difference"),
        Mistake(-right, "the wrong sign", "subtract the empty circuit above and below"),
        Mistake(100 * right, "a percentage", "return a share"),
        Mistake((4,), "a number for every context", "take the means over contexts, then divide"),
    ]
    FAITHFULNESS.compare(
        FAITHFULNESS.ask(answer, circuit, empty, model), right, "one number", mistakes
    )
    return FAITHFULNESS.passed("0 is the empty circuit, 1 the whole model; it may exceed 1.")


def check_p_value(answer: Any) -> str:
    """Check ``p_value(value, random) -> float``, ``random`` being ``[draw]``.

    Raises:
        ExerciseError: the number is not the right one; each typical mistake has its message.
    """
    random, value = torch.tensor([0.1, 0.4, 0.35, 0.7, 0.4, -0.1, 0.2, 0.05, 0.3, 0.6]), 0.4
    n, better = len(random), int((random > value).sum())
    ties = int((random == value).sum())
    at_least = better + ties

    def wrong(value: float, found: str, do: str) -> Mistake:
        return Mistake(torch.tensor(value), found, do)

    mistakes = [
        wrong(
            at_least / n,
            "without the two ones: with few random circuits p would come out 0",
            "count the circuit itself, above and below: (1 + ...) / (1 + ...)",
        ),
        wrong(better / n, "without the ones, and ties do not count", "use >= and (1 + ...)"),
        wrong((1 + better) / (1 + n), "ties do not count", "at least as good: use >="),
        wrong(
            (1 + n - better) / (1 + n),
            "the wrong side: random circuits that are not better",
            "count those that are at least as good: random >= value",
        ),
        wrong(
            (n - at_least) / n,
            "the wrong side: the share that is worse",
            "count those that are at least as good: random >= value",
        ),
        wrong(
            (n - better) / n,
            "the wrong side: the share that is not better",
            "count those that are at least as good: random >= value",
        ),
        wrong(
            (1 + n - at_least) / (1 + n),
            "the wrong side: the share that is worse",
            "count those that are at least as good: random >= value",
        ),
        wrong(1.0 + at_least, "a number of circuits", "divide by 1 + the number of draws"),
        wrong(
            float(at_least), "a number of circuits", "divide by 1 + the number of draws, and add 1"
        ),
    ]
    right = torch.tensor((1 + at_least) / (1 + n))
    P_VALUE.compare(P_VALUE.ask(answer, value, random), right, "one number", mistakes)
    nothing = P_VALUE.ask(answer, 0.9, random)
    P_VALUE.compare(nothing, torch.tensor(1 / (1 + n)), "one number")
    return P_VALUE.passed(f"With {n} draws p is never below {1 / (1 + n):.2f}.")


def check_random_heads(answer: Any) -> str:
    """Check ``random_heads(circuit, n_heads, seed) -> [(layer, head), ...]``.

    Raises:
        ExerciseError: a draw breaks one of the conditions, or is the same for every seed.
    """
    circuit, n_heads = [(0, 2), (2, 0), (2, 5), (4, 1)], 6
    drawn = {_draw(answer, circuit, n_heads, seed) for seed in range(8)}
    if len(drawn) == 1:
        RANDOM.refuse("the same heads for eight seeds", "draw with `random.Random(seed)`")
    if _draw(answer, circuit, n_heads, 0) != _draw(answer, circuit, n_heads, 0):
        RANDOM.refuse("other heads for the same seed", "draw with `random.Random(seed)`")
    return RANDOM.passed("A control that differs from the circuit in nothing but the choice.")


def _draw(
    answer: Any, circuit: Sequence[tuple[int, int]], n_heads: int, seed: int
) -> tuple[tuple[int, int], ...]:
    found = RANDOM.ask(answer, list(circuit), n_heads, seed)
    try:
        heads = tuple(sorted((int(layer), int(head)) for layer, head in found))
    except (TypeError, ValueError):
        RANDOM.refuse(f"{found!r}", "return a list of pairs (layer, head)")
    if len(heads) != len(circuit):
        RANDOM.refuse(
            f"{len(heads)} heads instead of {len(circuit)}", "a control is of the circuit's size"
        )
    if len(set(heads)) < len(heads):
        RANDOM.refuse("a head twice", "draw without putting back: `sample`, not `choices`")
    own = set(heads) & set(circuit)
    if own:
        RANDOM.refuse(
            f"{head_name(*min(own))}, which is in the circuit",
            "leave the circuit's heads out before drawing, or the control is partly the circuit",
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

"""How every method writes, chosen on contexts that serve nothing else.

All methods are tuned alike, in three rounds: where to write (layers, or which components of a
circuit), when, and how strongly. Every candidate answers the same dev contexts. Text that is
broken, with a perplexity ratio above a limit, loses to text that is not; then judged expression
counts, then the ratio, then repetition; of equals the earlier, which begins with the gentlest. The
last round tries one strength for all emotions, and of every emotion its own best. Test contexts are
never seen here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from circuits.circuit.circuit import ORDERS
from circuits.judges.replies import expression
from circuits.steering.evaluate import Evaluator
from circuits.steering.interventions import (
    TIMES,
    Interventions,
    InterventionSettings,
    Modulation,
    NeuronSteering,
    Steering,
)

__all__ = ["FACTORS", "LIMIT", "Tuned", "settings", "starts", "tune"]

LIMIT = 1.3
"""Perplexity ratio above which text counts as broken."""

FACTORS = (1.0, 0.5, 0.75, 1.25, 1.5)
"""Strengths that are tried, as multiples of a method's own first strength."""

_MANY_LAYERS = 6
_STRENGTH = 2.0
"""First strength of steering away from the other emotions and of driving neurons."""

Score = tuple[bool, float, float, float]
"""Not broken, accuracy, minus the ratio (from 1, two digits), minus repetition; more is better."""


@dataclass(frozen=True)
class Tuned:
    """The chosen settings and what every candidate reached."""

    by_method: Mapping[str, InterventionSettings]
    """Method -> how it writes."""
    scores: Mapping[str, Score]
    """Method -> what it reached on the dev contexts, as far as it was tuned."""
    tried: tuple[dict[str, Any], ...]

    def best(self, methods: Sequence[str]) -> str | None:
        """Of these methods the one that did best on the dev contexts; ``None`` of none."""
        known = [method for method in methods if method in self.scores]
        return max(known, key=lambda method: self.scores[method], default=None)


def tune(
    evaluator: Evaluator,
    interventions: Interventions,
    candidates: Mapping[str, Sequence[InterventionSettings]],
    *,
    finer: Evaluator | None = None,
    good_enough: float | None = None,
) -> Tuned:
    """Choose how every method writes, on the evaluator's dev contexts.

    Args:
        evaluator: Model, judge and dev contexts.
        interventions: Circuits, differences and directions.
        candidates: Method -> where it might write, the gentlest first; see :func:`starts`.
        finer: The same with more dev contexts, for the last round; by default the same.
        good_enough: Accuracy in percent of whole text at which a method's search ends; times
            are not searched then, since writing at every step is slow where it breaks the text.
            By default no search ends before its last candidate.
    """
    coarse = _Trial(evaluator, interventions, good_enough)
    fine = coarse if finer is None else _Trial(finer, interventions, good_enough)
    by_method: dict[str, InterventionSettings] = {}
    scores: dict[str, Score] = {}
    for method, places in candidates.items():
        how, reached = coarse.best(method, places)
        if good_enough is None:
            how, reached = coarse.best(method, [how, *(_at(how, *time) for time in TIMES)])
        if not coarse.enough(reached):
            how, reached = fine.last(method, how)
        by_method[method], scores[method] = how, reached
    tried = coarse.tried if fine is coarse else [*coarse.tried, *fine.tried]
    return Tuned(by_method, scores, tuple(tried))


def starts(interventions: Interventions, like: Modulation) -> dict[str, list[InterventionSettings]]:
    """Every method's candidates for the first round.

    Circuits differ in which of their components are written, steering in its layers; ``like`` is
    how circuits are written otherwise.
    """
    layers = _layers(interventions)
    many = list(dict.fromkeys([layers, layers[: len(layers) // 2], layers[len(layers) // 2 :]]))
    one: list[tuple[int, ...]] = [(layer,) for layer in layers]
    orders = ORDERS if interventions.parts is not None else (like.order,)
    return {
        "steer": [Steering(at, _STRENGTH) for at in one],
        "steer_layers": [Steering(at, _STRENGTH) for at in many if at],
        "steer_neutral": [Steering(at, along="neutral") for at in one],
        "probe": [Steering(at, along="probe") for at in one],
        "neurons": [NeuronSteering(strength) for strength in (_STRENGTH, 4.0, 8.0, 16.0)],
        "circuit": [replace(like, order=order) for order in orders],
    }


def settings(how: InterventionSettings) -> dict[str, Any]:
    """How a method writes, as plain JSON values."""
    values = {**asdict(how), "by_emotion": dict(how.by_emotion)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


class _Trial:
    """Candidates on one evaluator, each measured once."""

    def __init__(
        self, evaluator: Evaluator, interventions: Interventions, good_enough: float | None
    ) -> None:
        self._evaluator, self._interventions = evaluator, interventions
        self._good_enough = good_enough
        self._prompted = evaluator.losses(evaluator.prompted())
        self.tried: list[dict[str, Any]] = []
        self._score = cache(self._measure)

    def enough(self, reached: Score) -> bool:
        """Need nothing more be tried?"""
        return self._good_enough is not None and reached[:2] >= (True, self._good_enough)

    def best(
        self, method: str, candidates: Sequence[InterventionSettings]
    ) -> tuple[InterventionSettings, Score]:
        """The best candidate; no more are tried once one is good enough."""
        chosen = candidates[0], self._score(method, candidates[0])[0]
        for how in candidates[1:]:
            if self.enough(chosen[1]):
                break
            score, _ = self._score(method, how)
            if score > chosen[1]:
                chosen = how, score
        return chosen

    def last(self, method: str, how: InterventionSettings) -> tuple[InterventionSettings, Score]:
        """The best strength: one for all emotions, or of every emotion its own best."""
        alike = [replace(how, strength=factor * how.strength) for factor in FACTORS]
        found = [self._score(method, own)[1] for own in alike]
        best = {e: max(range(len(found)), key=lambda i: (found[i][e], -i)) for e in found[0]}
        apart = tuple((e, alike[i].strength) for e, i in best.items() if i)
        return self.best(method, [*alike, replace(how, by_emotion=apart)])

    def _measure(self, method: str, how: InterventionSettings) -> tuple[Score, dict[str, Score]]:
        """What a candidate reaches in all replies, and in those of every emotion."""
        judged = self._evaluator.changed(method, self._interventions.edits(how))
        rows = list(zip(judged, self._evaluator.losses(judged), self._prompted, strict=True))
        found = expression(*zip(*rows, strict=True))
        names = {"accuracy": "overall"} | {n: n for n in ("perplexity_ratio", "repetition")}
        reached = {name: found[own] for name, own in names.items()}
        self.tried.append({"method": method, **settings(how), "n": len(rows), **reached})
        by_emotion: dict[str, list[Any]] = {}
        for row in rows:
            by_emotion.setdefault(row[0].reply.emotion, []).append(row)
        each = {e: expression(*zip(*own, strict=True)) for e, own in by_emotion.items()}
        return _key(found), {e: _key(own) for e, own in each.items()}


def _key(found: Mapping[str, Any]) -> Score:
    ratio = found["perplexity_ratio"]
    whole = ratio is not None and ratio <= LIMIT
    cost = math.inf if ratio is None else round(max(ratio, 1.0), 2)
    return whole, found["overall"], -cost, -found["repetition"]


def _at(how: InterventionSettings, when: Any, at: Any) -> InterventionSettings:
    if isinstance(how, Modulation):
        return replace(how, when=when, heads_at=at, neurons_at=at)
    return replace(how, when=when, at=at)


def _layers(interventions: Interventions) -> tuple[int, ...]:
    # All layers of a small model; of a deep one as many, evenly over the middle of its depth.
    layers = interventions.directions.layer
    if len(layers) <= _MANY_LAYERS:
        return layers
    first, last = len(layers) // 4, 3 * len(layers) // 4
    step = (last - first) / (_MANY_LAYERS - 1)
    return tuple(layers[round(first + step * i)] for i in range(_MANY_LAYERS))

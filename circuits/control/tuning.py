"""How strongly and when to write, chosen on contexts that serve nothing else.

Modulation and steering are tuned alike: every candidate answers the same few dev contexts, and
the one with the highest judged accuracy wins whose text is not broken, that is, whose perplexity
ratio stays below a limit; among equals the earlier in the list, which begins with the gentlest.
Test contexts are never seen here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from circuits.control.compare import Bench, Tools
from circuits.control.modulation import Modulation, Steering
from circuits.measure.expression import expression
from circuits.model.edits import Add
from circuits.model.generation import Progress

__all__ = ["LIMIT", "MODULATIONS", "Tuned", "tune"]

LIMIT = 1.5
"""Perplexity ratio above which text counts as broken."""

MODULATIONS = tuple(
    Modulation(strength, when) for when in ("prompt", "every") for strength in (1.0, 1.5, 2.0)
)
"""Candidates for circuits; strength 1 is the model's own difference and is tried first."""

_MANY_LAYERS = 6
_LAYER_STRENGTH = 2.0


@dataclass(frozen=True)
class Tuned:
    """The chosen settings and what every candidate reached."""

    modulation: Modulation
    steering: Steering
    tried: tuple[dict[str, Any], ...]


def tune(
    bench: Bench,
    tools: Tools,
    *,
    modulation: Modulation | None = None,
    steering: Steering | None = None,
    like: Modulation | None = None,
    good_enough: float = 99.0,
    progress: Progress | None = None,
) -> Tuned:
    """Choose how circuits and directions are written, on the bench's dev contexts.

    Args:
        bench: Model, judge and dev contexts.
        tools: Circuits, differences and directions.
        modulation: Given if it is not to be chosen.
        steering: Given if it is not to be chosen.
        like: What candidates for circuits have beside their strengths and times.
        good_enough: Accuracy in percent at which no further candidate is tried.
        progress: Told how many replies were made or scored.
    """
    trial = _Trial(bench, good_enough, progress)
    if modulation is None:
        base = like or Modulation()
        hows = (replace(base, strength=how.strength, when=how.when) for how in MODULATIONS)
        modulation, _ = trial.best("circuit", ((how, tools.modulate(how)) for how in hows))
    steering = _steering(trial, tools) if steering is None else steering
    return Tuned(modulation, steering, tuple(trial.tried))


def _steering(trial: "_Trial", tools: Tools) -> Steering:
    by_layer = [Steering((layer,), _LAYER_STRENGTH) for layer in _layers(tools)]
    steering, reached = trial.best("steer", ((how, tools.steer(how)) for how in by_layer))
    at = steering.layers
    others = [Steering(at, 1.0), Steering(at, 3.0)]
    others += [Steering(at, 1.0, "every"), Steering(at, _LAYER_STRENGTH, "every")]
    stronger, better = trial.best("steer", ((how, tools.steer(how)) for how in others), reached)
    return stronger if better > reached else steering


H = TypeVar("H", Modulation, Steering)
_Score = tuple[bool, float]


class _Trial:
    """Candidates tried so far."""

    def __init__(self, bench: Bench, good_enough: float, progress: Progress | None) -> None:
        self._bench, self._good_enough, self._progress = bench, good_enough, progress
        self._prompted = bench.losses(bench.prompted(progress), progress)
        self.tried: list[dict[str, Any]] = []

    def best(
        self,
        method: str,
        candidates: Iterable[tuple[H, Sequence[Sequence[Add]]]],
        already: _Score = (False, -1.0),
    ) -> tuple[H, _Score]:
        """The best candidate; no more are tried once one (or ``already``) is good enough."""
        reached, chosen = already, None
        for how, edits in candidates:
            if chosen is None:
                chosen = how
            if reached >= (True, self._good_enough):
                break
            score = self._score(method, how, edits)
            if score > reached:
                chosen, reached = how, score
        assert chosen is not None
        return chosen, reached

    def _score(
        self, method: str, how: Modulation | Steering, edits: Sequence[Sequence[Add]]
    ) -> _Score:
        judged = self._bench.changed(method, edits, self._progress)
        found = expression(judged, self._bench.losses(judged, self._progress), self._prompted)
        ratio = found["perplexity_ratio"]
        kept = {"accuracy": found["overall"], "perplexity_ratio": ratio}
        self.tried.append({"method": method, **_settings(how), **kept})
        return ratio is not None and ratio <= LIMIT, found["overall"]


def _layers(tools: Tools) -> tuple[int, ...]:
    # All layers of a small model; of a deep one as many, evenly over the middle of its depth.
    layers = tools.directions.layer
    if len(layers) <= _MANY_LAYERS:
        return layers
    first, last = len(layers) // 4, 3 * len(layers) // 4
    step = (last - first) / (_MANY_LAYERS - 1)
    return tuple(layers[round(first + step * i)] for i in range(_MANY_LAYERS))


def _settings(how: Modulation | Steering) -> dict[str, Any]:
    layers = {"layers": list(how.layers)} if isinstance(how, Steering) else {}
    return {**layers, "strength": how.strength, "when": how.when}

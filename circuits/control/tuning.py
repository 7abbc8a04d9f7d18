"""How strongly and when to write, chosen on contexts that serve nothing else.

Modulation and steering are tuned alike: every candidate answers the same few dev contexts, and
the one with the highest judged accuracy wins; among equals the earlier in the list, which is
ordered from the gentlest. Test contexts are never seen here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from circuits.control.compare import Bench, Tools
from circuits.control.modulation import Modulation, Steering
from circuits.measure.expression import accuracy
from circuits.model.edits import Add
from circuits.model.generation import Progress

__all__ = ["MODULATIONS", "Tuned", "tune"]

MODULATIONS = tuple(
    Modulation(strength, when) for when in ("prompt", "every") for strength in (1.0, 1.5, 2.0)
)
"""Candidates for circuits; strength 1 is the model's own difference and is tried first."""

_MANY_LAYERS = 6
_LAYER_STRENGTH = 2.0
_STRENGTHS = (1.0, 1.5, 3.0)


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
    good_enough: float = 99.0,
    progress: Progress | None = None,
) -> Tuned:
    """Choose how circuits and directions are written, on the bench's dev contexts.

    Args:
        bench: Model, judge and dev contexts.
        tools: Circuits, differences and directions.
        good_enough: Accuracy in percent at which no further candidate is tried.
        progress: Told how many replies were made.
    """
    tried: list[dict[str, Any]] = []

    def score(method: str, how: Modulation | Steering, edits: Sequence[Sequence[Add]]) -> float:
        reached = accuracy(bench.changed(edits, progress))
        tried.append({"method": method, **_settings(how), "accuracy": round(reached, 2)})
        return reached

    modulation, best = MODULATIONS[0], -1.0
    for candidate in MODULATIONS:
        reached = score("circuit", candidate, tools.modulate(candidate))
        if reached > best:
            modulation, best = candidate, reached
        if best >= good_enough:
            break
    steering, best = Steering((tools.directions.layer[0],)), -1.0
    for candidate in (Steering((layer,), _LAYER_STRENGTH) for layer in _layers(tools)):
        reached = score("steer", candidate, tools.steer(candidate))
        if reached > best:
            steering, best = candidate, reached
    at = steering.layers
    others = [Steering(at, strength) for strength in _STRENGTHS]
    others += [Steering(at, strength, "every") for strength in (*_STRENGTHS, _LAYER_STRENGTH)]
    for candidate in others if best < good_enough else ():
        reached = score("steer", candidate, tools.steer(candidate))
        if reached > best:
            steering, best = candidate, reached
    return Tuned(modulation, steering, tuple(tried))


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

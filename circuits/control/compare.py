"""All ways to an emotion side by side, with what each reaches and what it costs.

All methods answer the same contexts with the same decoding and the same judges, unless they are
given ways of their own. ``prompt`` gets the prompt that asks, all others the plain one. As controls
the circuit is replaced by random ones with as many heads and neurons: in the same layers, and
anywhere in the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.control.bench import Bench
from circuits.control.methods import CONTROLS, METHODS
from circuits.control.modulation import How, Modulation
from circuits.control.tools import Tools
from circuits.data.judges.protocol import Judge, Verdict
from circuits.data.judging import hear
from circuits.data.replies import Judged
from circuits.measure.expression import expression
from circuits.measure.price import price
from circuits.measure.second import heard_by_second
from circuits.model.generation import Progress

__all__ = ["Comparison", "compare", "compare_cost"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What every method reached, and the replies behind it."""

    methods: Mapping[str, Mapping[str, Any]]
    """Method -> what it reached and what it cost; see :func:`compare`."""
    controls: Mapping[str, Mapping[str, Any]]
    replies: Mapping[str, Sequence[Judged]]
    second: Mapping[str, Sequence[Verdict]]
    """Method -> what the second judge heard; empty without one."""

    def to_json(self) -> dict[str, Any]:
        """What was reached, without the replies, in the form that figures take."""
        return {"methods": dict(self.methods), "controls": dict(self.controls)}


def compare(
    bench: Bench,
    tools: Tools,
    hows: Mapping[str, How],
    *,
    second: Judge | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Run every method on every context and emotion.

    Every entry has ``n``, ``overall``, ``low``, ``high``, ``by_emotion``, ``by_valence``,
    ``perplexity_ratio`` and what :func:`~circuits.measure.expression.expression`,
    :func:`~circuits.measure.price.price` and :func:`~circuits.measure.second.heard_by_second`
    add to them.

    Args:
        bench: What all methods have in common.
        tools: Circuits, differences and directions, made from other contexts than the bench's.
        hows: Method -> how it writes; ``none`` and ``prompt`` are run beside them.
        second: A judge that shares nothing with the bench's.
        seed: Draws the random circuits.
        progress: Told how many replies were made or scored.
    """
    judged = _replies(bench, tools, hows, seed, progress)
    # Replies of all methods to one context stand together, so that its prompt is read once.
    together = [row for rows in zip(*judged.values(), strict=True) for row in rows]
    scored = bench.losses(together, progress)
    losses = {method: scored[i :: len(judged)] for i, method in enumerate(judged)}
    verdicts = {} if second is None else {m: _heard(second, rows) for m, rows in judged.items()}
    found = {
        method: {
            **expression(rows, losses[method], losses["prompt"]),
            **price(rows, losses[method], losses["prompt"]),
            **heard_by_second(rows, verdicts.get(method)),
        }
        for method, rows in judged.items()
    }
    return Comparison(
        methods={method: own for method, own in found.items() if method not in CONTROLS},
        controls={method: own for method, own in found.items() if method in CONTROLS},
        replies=judged,
        second=verdicts,
    )


def compare_cost(n_contexts: int, n_emotions: int, hows: Mapping[str, How]) -> int:
    """How many replies :func:`compare` makes and scores."""
    writing = len(hows) + (len(CONTROLS) if "circuit" in hows else 0)
    per_emotion = 1 + 2 * (writing + 1)  # replies of `none` are made once for all, but scored
    return n_contexts * (1 + per_emotion * n_emotions)


def _replies(
    bench: Bench, tools: Tools, hows: Mapping[str, How], seed: int, progress: Progress | None
) -> dict[str, list[Judged]]:
    judged = {"none": bench.untouched(progress), "prompt": bench.prompted(progress)}
    for method in METHODS:
        if method in hows:
            judged[method] = bench.changed(method, tools.edits(hows[method]), progress)
    how = hows.get("circuit")
    if isinstance(how, Modulation):
        for control, same_layers in CONTROLS.items():
            drawn = tools.modulate_randomly(how, seed, same_layers=same_layers)
            judged[control] = bench.changed(control, drawn, progress)
    return judged


def _heard(judge: Judge, rows: Sequence[Judged]) -> list[Verdict]:
    return hear(judge, [(row.reply.text, row.reply.emotion) for row in rows])

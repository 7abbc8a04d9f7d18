"""Scores of circuits and their ablation as tables, and what is no better than random."""

from collections.abc import Mapping
from typing import Any

from circuits.graph.scores import CircuitScores
from circuits.plot.style import short
from circuits.report.tables import Table

__all__ = ["ablation_table", "failures", "score_table"]


def score_table(scores: Mapping[str, CircuitScores]) -> Table:
    """Emotion and score by value, interval, control and p."""
    rows = [
        [
            f"{emotion}: {name}",
            short(own.value),
            f"{short(own.low)} to {short(own.high)}",
            short(own.control_p99),
            short(own.p),
            "yes" if found.beats_controls(name) else "no",
        ]
        for emotion, found in scores.items()
        for name, own in found.scores.items()
    ]
    columns = ("score", "value", "95% interval", "control", "p", "beats control")
    first = next(iter(scores.values()), None)
    caption = "Scores on held-out contexts"
    if first is not None:
        caption += (
            f" ({first.n_contexts} contexts, {first.ablation} ablation, positions: "
            f"{first.positions}, {first.n_controls} random circuits)"
        )
    return Table(caption, columns, rows)


def failures(scores: Mapping[str, CircuitScores]) -> list[str]:
    """One sentence for each circuit that does not beat its controls."""
    return [
        f"The circuit of {emotion} does not beat random circuits of its size in "
        f"{' and '.join(found.failures)}: what is said of it there is true of any such circuit."
        for emotion, found in scores.items()
        if found.failures
    ]


def ablation_table(found: Mapping[str, Any]) -> Table:
    """Points of judged expression lost without the circuit, and without random sets."""
    rows = [
        [
            emotion,
            short(own["circuit_drop"]),
            f"{short(own['low'])} to {short(own['high'])}",
            short(own["random_drop"]),
            short(own["random_max"]),
        ]
        for emotion, own in {"all": found, **found["by_emotion"]}.items()
    ]
    columns = ("emotion", "circuit", "95% interval", "random sets", "largest of them")
    caption = (
        f"Points of judged expression lost ({found['n']} replies; {found['heads_share']:.1%} of "
        f"the heads and {found['neurons_share']:.1%} of the neurons; {found['draws']} random sets)"
    )
    return Table(caption, columns, rows)

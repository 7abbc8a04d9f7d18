"""Scores of circuits as a table, and a sentence for what is no better than random."""

from collections.abc import Mapping

from circuits.graph.scores import CircuitScores
from circuits.plot.style import short
from circuits.report.tables import Table

__all__ = ["failures", "score_table"]


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

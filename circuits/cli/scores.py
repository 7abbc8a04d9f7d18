"""The command that scores the circuits of a run, and the table of scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from circuits.cli.console import OUT, Bars

if TYPE_CHECKING:
    from circuits.graph.scores import CircuitScores
    from circuits.pipeline.plan import Plan

__all__ = ["score", "score_table"]


def score(
    run: Annotated[Path, typer.Argument(help="A run folder with circuits.")],
    score_contexts: Annotated[
        int | None, typer.Option(help="Test contexts; as many as the run's plan says by default.")
    ] = None,
    ablation: Annotated[
        Literal["resample", "mean", "zero"] | None,
        typer.Option(help="What stands for the parts outside a circuit."),
    ] = None,
    positions: Annotated[
        Literal["last", "matched"] | None,
        typer.Option(help="Replace them at the last position, or at all that match."),
    ] = None,
    draws: Annotated[int | None, typer.Option(help="Random circuits.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it will cost.")] = False,
) -> None:
    """Score the circuits of a run on held-out contexts, beside random circuits of their size.

    Writes scores.json and the scores in the circuits' files; later stages then count as undone.
    """
    from circuits.pipeline.run import Silent
    from circuits.pipeline.run import run as carry_out
    from circuits.pipeline.scoring import scores_cost
    from circuits.pipeline.study import Study
    from circuits.pipeline.work import Run

    study = Study(run)
    asked = {
        "score_contexts": score_contexts, "ablation": ablation, "positions": positions,
        "draws": draws,
    }  # fmt: skip
    plan = _plan(study.log["plan"], {**asked, "out": run})
    if dry_run:
        for name, value in scores_cost(Run(plan, study, Silent())).to_json().items():
            OUT.print(f"{name:<22} {value:>15,}", highlight=False)
        return
    study = carry_out(plan, stages=["scores"], reporter=Bars())
    OUT.print(score_table(study.scores))


def score_table(scores: "Mapping[str, CircuitScores]") -> Table:
    """Every score with its interval, marked where random circuits do as well."""
    table = Table(title="Scores on held-out contexts (95% interval; *: no better than random)")
    table.add_column("emotion")
    names = next(iter(scores.values())).scores
    for name in names:
        table.add_column(name, justify="right")
    for emotion, found in scores.items():
        cells = [
            f"{own.value:.3f} ({own.low:.2f}-{own.high:.2f})"
            + ("" if found.beats_controls(name) else " *")
            for name, own in found.scores.items()
        ]
        table.add_row(emotion, *cells)
    return table


def _plan(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> "Plan":
    from circuits.pipeline.plan import Plan

    return Plan.from_json({**saved, **{k: v for k, v in asked.items() if v is not None}})

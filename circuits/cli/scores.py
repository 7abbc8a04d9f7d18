"""The command that scores the circuits of a run, and the table of scores."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.table import Table

from circuits.cli.console import OUT, Bars, cost_table
from circuits.cli.interrupting import finishing_batches
from circuits.cli.options import DryRun, Engine, RayAddress, Workers

if TYPE_CHECKING:
    from circuits.graph.scores import CircuitScores

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
    engine: Engine = "here",
    workers: Workers = None,
    ray_address: RayAddress = None,
    dry_run: DryRun = False,
) -> None:
    """Score the circuits of a run on held-out contexts, beside random circuits of their size.

    Writes scores.json and the scores in the circuits' files; later stages then count as undone.
    """
    from circuits.pipeline.run import run as carry_out
    from circuits.pipeline.scoring import scores_cost
    from circuits.pipeline.study import Study
    from circuits.pipeline.work import Run, Silent, plan_of

    study = Study(run)
    asked = {
        "score_contexts": score_contexts, "ablation": ablation, "positions": positions,
        "draws": draws,
    }  # fmt: skip
    plan = replace(plan_of(study), **{k: v for k, v in asked.items() if v is not None})
    if dry_run:
        OUT.print(cost_table({"all": scores_cost(Run(plan, study, Silent()))}))
        return
    with finishing_batches():
        study = carry_out(
            plan, stages=["scores"], reporter=Bars(), engine=engine, workers=workers,
            ray_address=ray_address,
        )  # fmt: skip
    OUT.print(score_table(study.scores))


def score_table(scores: "Mapping[str, CircuitScores]") -> Table:
    """Every score, marked where random circuits do as well; an interval with the first."""
    # Six intervals do not fit on a line; those of the others are in scores.json.
    title = "Scores on held-out contexts (*: no better than random circuits)"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("emotion", no_wrap=True)
    names = list(next(iter(scores.values())).scores)
    for name in names:
        table.add_column(name.removesuffix("ness"), justify="right", no_wrap=True)
    for emotion, found in scores.items():
        cells = [
            f"{found.scores[name].value:.3f}{'' if found.beats_controls(name) else ' *'}"
            for name in names
        ]
        own = found.scores[names[0]]
        table.add_row(emotion, f"{cells[0]} ({own.low:.2f}-{own.high:.2f})", *cells[1:])
    return table

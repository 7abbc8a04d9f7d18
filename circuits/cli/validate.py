"""``emotion-circuits validate``: what each component does, and whether the circuits are needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from circuits.cli.console import OUT, Bars, cost_table
from circuits.cli.interrupting import finishing_batches
from circuits.cli.options import Contexts, DryRun, Engine, RayAddress, Seed, Workers

__all__ = ["VALIDATE_EXAMPLE", "validate_command"]

VALIDATE_EXAMPLE = "Example: [bold]emotion-circuits validate runs/demo --contexts 8[/]"


def validate_command(
    run: Annotated[Path, typer.Argument(help="A run folder with circuits.")],
    contexts: Contexts = 16,
    draws: Annotated[int, typer.Option(help="Random sets beside every set.")] = 30,
    reply_sizes: Annotated[
        int, typer.Option(help="Sizes of sets for which replies are judged.")
    ] = 5,
    reply_draws: Annotated[int, typer.Option(help="Random sets of each of them.")] = 2,
    seed: Seed = 0,
    engine: Engine = "here",
    workers: Workers = None,
    ray_address: RayAddress = None,
    dry_run: DryRun = False,
) -> None:
    """Ablate and enhance the strongest heads and neurons, and ablate the circuits where asked.

    Measured on test contexts beside the weakest components and random ones.
    """
    from circuits.pipeline.engines import at_work
    from circuits.pipeline.report import refresh_report
    from circuits.pipeline.study import Study
    from circuits.pipeline.validation import (
        ValidationOptions,
        read_validation,
        validate,
        validation_cost,
    )

    options = ValidationOptions(contexts, draws, reply_sizes, reply_draws, seed)
    if dry_run:
        OUT.print(cost_table(validation_cost(run, options)))
        return
    with finishing_batches(), at_work(engine, workers, ray_address):
        place, study = validate(run, options, Bars()), Study(run)
    OUT.print(_drop_table(read_validation(study)[2]))
    OUT.print(f"\nvalidation: {place.resolve()}", soft_wrap=True, markup=False)
    if refresh_report(study):
        OUT.print(f"report: {(run / 'report.html').resolve()}", soft_wrap=True, markup=False)


def _drop_table(found: Mapping[str, Any]) -> Table:
    table = Table(title="Points of judged expression lost when it is asked for and ablated")
    table.add_column("emotion")
    for name in ("circuit", "95% interval", "random sets", "largest of them"):
        table.add_column(name, justify="right")
    for emotion, own in {"all": found, **found["by_emotion"]}.items():
        table.add_row(
            emotion,
            f"{own['circuit_drop']:.1f}",
            f"{own['low']:.1f} to {own['high']:.1f}",
            f"{own['random_drop']:.1f}",
            f"{own['random_max']:.1f}",
        )
    return table

"""What a finished run and a model's card look like on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.assets import shipped
from circuits.cli.console import OUT, accuracy_table, circuit_table, visible
from circuits.cli.scores import score_table
from circuits.files import is_file

__all__ = ["model_card", "show_run"]


def model_card(
    model: Annotated[
        Path | None, typer.Argument(help="A model folder; the embedded model by default.")
    ] = None,
) -> None:
    """Show the card of a model: how it was made, what it can do, what it cannot."""
    from rich.markdown import Markdown

    from circuits.errors import ModelError

    card = (model or shipped("sev-mini")) / "README.md"
    if not is_file(card):
        raise ModelError(f"there is no model card {card}; give the folder of a model")
    OUT.print(Markdown(visible(card.read_text(encoding="utf-8"))))


def show_run(folder: Path) -> None:
    """Tables of what the stages of a run have left, and what each stage cost."""
    from circuits.pipeline.study import Study

    study = Study(folder)
    done = study.log["stages"]
    if "circuits" in done:
        OUT.print(circuit_table(study.circuits))
    if "scores" in done:
        OUT.print(score_table(study.scores))
    if "control" in done:
        OUT.print(accuracy_table(study.control))
    took = study.seconds
    for stage, entry in done.items():
        cost, seconds = entry.get("receipt", {}), f"{took[stage]:.1f}" if stage in took else "-"
        passes, steps = (f"{cost[name]:,}" if name in cost else "-" for name in ("passes", "steps"))
        OUT.print(
            f"{stage:<11} {seconds:>7} s  {passes:>7} passes  {steps:>9} cached tokens",
            highlight=False,
        )
    if "report" in done:
        OUT.print(f"\nreport: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)
        OUT.print(
            f"to explore: emotion-circuits view {folder} --open", soft_wrap=True, markup=False
        )

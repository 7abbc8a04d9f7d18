"""``emotion-circuits status``: what there is of a run, and what a run would do."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from circuits.cli.console import OUT
from circuits.cli.options import PlanOption, Settings
from circuits.cli.settings import settings as read_settings

if TYPE_CHECKING:
    from circuits.pipeline.plan import Plan
    from circuits.pipeline.status import Beside, RunStatus, StageStatus
    from circuits.pipeline.study import Study

__all__ = ["STATUS_EXAMPLE", "status_command"]

STATUS_EXAMPLE = (
    "Examples: [bold]emotion-circuits status runs/demo[/] · "
    "[bold]emotion-circuits status runs/demo --set score_contexts=32[/]"
)
_MOST = 3


def status_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    plan: PlanOption = None,
    settings: Settings = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show which stages of a run are done, which are out of date and why, and what goes on.

    With a plan file or options: what a run with them would do. Nothing is written.
    """
    from circuits.pipeline.status import run_status
    from circuits.pipeline.study import Study

    study = Study(run)
    found = run_status(study, _asked(study, plan, settings))
    if as_json:
        text = json.dumps(found.to_json(), indent=2, ensure_ascii=False)
        OUT.print(text, soft_wrap=True, markup=False, highlight=False)
        return
    OUT.print(_stage_table(found))
    if found.beside:
        OUT.print(_beside_table(found))
    for line in _closing(found, run, plan, settings):
        OUT.print(line, soft_wrap=True, markup=False, highlight=False)


def _asked(study: "Study", plan: Path | None, settings: Sequence[str]) -> "Plan | None":
    from dataclasses import replace

    from circuits.pipeline.plan_files import read_plan
    from circuits.pipeline.work import plan_of

    options = read_settings(settings)
    if plan is not None:
        return read_plan(plan, {**options, "out": study.folder})
    if "imported" in study.log["plan"] and not options:
        return None
    return replace(plan_of(study), **options)


def _stage_table(found: "RunStatus") -> Table:
    table = Table(title="Stages", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("seconds", "passes", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("because")
    for own in found.stages:
        table.add_row(
            own.stage,
            own.state,
            "-" if own.seconds is None else f"{own.seconds:.1f}",
            "-" if own.passes is None else f"{own.passes:,}",
            _size(own.size),
            _why(own),
        )
    return table


def _why(own: "StageStatus | Beside") -> str:
    said = [f"interrupted: {own.waiting} batches wait"] if own.waiting else []
    more = len(own.why) - _MOST
    return "; ".join([*said, *own.why[:_MOST], *([f"and {more} more"] if more > 0 else [])])


def _beside_table(found: "RunStatus") -> Table:
    table = Table(title="Measured beside them", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("result", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("because")
    for own in found.beside:
        table.add_row(own.name, own.state, _size(own.size), _why(own))
    return table


def _closing(
    found: "RunStatus", run: Path, plan: Path | None, settings: Sequence[str]
) -> list[str]:
    said = [f"{found.writer} is writing into it"] if found.writer else []
    if not found.to_do:
        return [*said, "all is done"]
    file = plan or run / "plan.toml"
    options = "".join(f" --set {text}" for text in settings)
    goes_on = f"emotion-circuits run --plan {file}{options} --out {run}"
    said.append(f"a run does {', '.join(found.to_do)}: {goes_on}")
    if any(own.only_code for own in found.stages):
        said.append("with --keep-code it keeps stages of which only the code changed")
    return said


def _size(count: int) -> str:
    if not count:
        return "-"
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"

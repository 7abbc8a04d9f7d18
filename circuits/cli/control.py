"""The command that compares all ways to an emotion, and the table of what they cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table

from circuits.cli.console import OUT, Bars, accuracy_table
from circuits.cli.interrupting import finishing_batches
from circuits.cli.options import words

__all__ = ["control", "price_table"]


def control(
    run: Annotated[Path, typer.Argument(help="A run folder with circuits.")],
    methods: Annotated[
        str,
        typer.Option(
            help="steer, steer_layers, steer_plain, probe, neurons, circuit; comma-separated. "
            "No change and prompting are always there."
        ),
    ] = "",
    test: Annotated[Path | None, typer.Option(help="Other test scenarios (JSON lines).")] = None,
    hard: Annotated[Path | None, typer.Option(help="Harder scenarios, compared apart.")] = None,
    test_scenarios: Annotated[int | None, typer.Option(help="Only so many of them.")] = None,
    tuning: Annotated[
        Literal["full", "brief"],
        typer.Option(help="Try every candidate on dev contexts, or stop at the first good one."),
    ] = "full",
    dial_contexts: Annotated[
        int | None, typer.Option(help="Contexts on which the strength is swept; 0: none.")
    ] = None,
    second_judge: Annotated[
        str | None, typer.Option(help="Hears every reply once more; forms as for --judge.")
    ] = None,
) -> None:
    """Compare all ways to an emotion on the test contexts: what each reaches, and its price.

    Writes control.json, control_replies.jsonl and the report. What is not given stays as the run's
    plan has it.
    """
    from circuits.pipeline.run import run as carry_out
    from circuits.pipeline.study import Study
    from circuits.pipeline.work import plan_of

    asked = {
        "test": test, "hard": hard, "test_scenarios": test_scenarios, "tuning": tuning,
        "dial_contexts": dial_contexts, "second_judge": second_judge,
        "methods": words(methods) or None,
    }  # fmt: skip
    plan = plan_of(Study(run)).asking({k: v for k, v in asked.items() if v is not None})
    with finishing_batches():
        study = carry_out(plan, stages=["control", "report"], reporter=Bars())
    OUT.print(accuracy_table(study.control))
    OUT.print(price_table(study.control))
    OUT.print(f"\nreport: {(study.folder / 'report.html').resolve()}", soft_wrap=True, markup=False)


def price_table(found: Mapping[str, Any]) -> Table:
    """What every method cost, and what the second judge heard."""
    title = "Expression by both judges (%) and its price"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for name in ("all", "second", "kappa", "opposing", "hard", "ratio", "repet.", "topic"):
        table.add_column(name, justify="right", no_wrap=True)
    hard = found.get("hard") or {}
    for method, own in {**found["methods"], **found["controls"]}.items():
        table.add_row(
            method.replace("_", " "),
            _number(own["overall"]),
            _number(own["second_judge"]),
            _number(own["kappa"], 3),
            _number(own["opposing"]["overall"]),
            _number(hard.get(method, {}).get("overall")),
            _number(own["perplexity_ratio"], 2),
            _number(own["repetition"], 4),
            _number(own["topic_kept"]),
        )
    return table


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

"""The commands that run a plan and show what there is of a run."""

import json
import shlex
import webbrowser
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from circuits.cli.console import (
    ERRORS,
    OUT,
    Bars,
    accuracy_table,
    circuit_table,
    finishing_batches,
    number,
    table_of,
    visible,
)
from circuits.cli.options import (
    Engine,
    PlanOption,
    RayAddress,
    RunFolder,
    Settings,
    Workers,
    checked_stages,
    given,
)
from circuits.cli.options import settings as read_settings
from circuits.files import is_file, shipped

if TYPE_CHECKING:
    from circuits.circuit.circuit import CircuitScores
    from circuits.runs.folder import Beside, StageStatus

__all__ = [
    "address",
    "model_card",
    "plan_command",
    "run_command",
    "score",
    "server_of",
    "show_run",
    "status_command",
    "view",
]

_MOST = 3


def status_command(
    context: typer.Context,
    run: RunFolder,
    plan: PlanOption = None,
    settings: Settings = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show which stages of a run are done, which are out of date and why, and what goes on.

    With a plan file or options: what a run with them would do. Nothing is written.
    """
    from circuits.runs.folder import Study, run_status
    from circuits.runs.plan import read_plan
    from circuits.runs.work import plan_of

    study = Study(run)
    options = {**given(context), **read_settings(settings)}
    if plan is not None:
        asked = read_plan(plan, {**options, "out": study.folder})
    else:
        imported = "imported" in study.log["plan"] and not options
        asked = None if imported else plan_of(study).asking(options)
    found = run_status(study, asked)
    if as_json:
        OUT.print(json.dumps(found.to_json(), indent=2, ensure_ascii=False), soft_wrap=True)
        return
    numbers = ["seconds", "passes", "size"]
    table = table_of("Stages", ["stage", "state"], numbers, "because")
    for own in found.stages:
        passes = "-" if own.passes is None else f"{own.passes:,}"
        table.add_row(own.stage, own.state, number(own.seconds), passes, _size(own.size), _why(own))
    OUT.print(table)
    if found.beside:
        table = table_of("Measured beside them", ["result", "state"], ["size"], "because")
        for own in found.beside:
            table.add_row(own.name, own.state, _size(own.size), _why(own))
        OUT.print(table)
    if found.writer:
        OUT.print(f"{found.writer} is writing into it", soft_wrap=True)
    if not found.to_do:
        OUT.print("all is done")
        return
    typed = "".join(f" --{n.replace('_', '-')} {shlex.quote(v)}" for n, v in options.items())
    goes_on = f"emotion-circuits run --plan {plan or run / 'plan.toml'}{typed} --out {run}"
    OUT.print(f"a run does {', '.join(found.to_do)}: {goes_on}", soft_wrap=True)


def _why(own: "StageStatus | Beside") -> str:
    said = [f"interrupted: {own.waiting} batches wait"] if own.waiting else []
    more = len(own.why) - _MOST
    return "; ".join([*said, *own.why[:_MOST], *([f"and {more} more"] if more > 0 else [])])


def _size(count: int) -> str:
    if not count:
        return "-"
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def score(
    context: typer.Context,
    run: RunFolder,
    engine: Engine = "here",
    workers: Workers = None,
    ray_address: RayAddress = None,
) -> None:
    """Score the circuits of a run on held-out contexts, beside random circuits of their size.

    Writes scores.json and the scores in the circuits' files; later stages then count as undone.
    """
    from circuits.runs.folder import Study
    from circuits.runs.stages import at_work
    from circuits.runs.stages import run as carry_out
    from circuits.runs.work import plan_of

    plan = plan_of(Study(run)).asking(given(context))
    with finishing_batches(), at_work(engine, workers, ray_address):
        study = carry_out(plan, stages=["scores"], reporter=Bars())
    OUT.print(_score_table(study.scores))


def _score_table(scores: "Mapping[str, CircuitScores]") -> Table:
    """Every score, marked where random circuits do as well; an interval with the first."""
    # Six intervals do not fit on a line; those of the others are in scores.json.
    title = "Scores on held-out contexts (*: no better than random circuits)"
    names = list(next(iter(scores.values())).scores)
    table = table_of(title, ["emotion"], [name.removesuffix("ness") for name in names])
    for emotion, found in scores.items():
        stars = ("" if found.above_baseline(name) else " *" for name in names)
        cells = [f"{found.scores[n].value:.3f}{star}" for n, star in zip(names, stars, strict=True)]
        own = found.scores[names[0]]
        table.add_row(emotion, f"{cells[0]} ({own.low:.2f}-{own.high:.2f})", *cells[1:])
    return table


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
    from circuits.runs.folder import Study

    study = Study(folder)
    done, took = study.log["stages"], study.seconds
    if "circuits" in done:
        OUT.print(circuit_table(study.circuits))
    if "scores" in done:
        OUT.print(_score_table(study.scores))
    if "steering" in done:
        OUT.print(accuracy_table(study.steering))
    for stage, entry in done.items():
        cost, seconds = entry.get("receipt", {}), number(took.get(stage))
        passes, steps = (f"{cost[name]:,}" if name in cost else "-" for name in ("passes", "steps"))
        OUT.print(f"{stage:<11} {seconds:>7} s  {passes:>7} passes  {steps:>9} cached tokens")
    if "report" in done:
        OUT.print(f"\nreport: {(folder / 'report.html').resolve()}", soft_wrap=True)
        OUT.print(f"to explore: emotion-circuits view {folder} --open", soft_wrap=True)


def run_command(
    context: typer.Context,
    plan: PlanOption = None,
    preset: Annotated[
        Literal["default", "published", "as-released"] | None,
        typer.Option(help="Our defaults, the published method, or its scripts as they are."),
    ] = None,
    settings: Settings = [],  # noqa: B006
    stages: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    engine: Engine = "here",
    workers: Workers = None,
    ray_address: RayAddress = None,
) -> None:
    """Run the full pipeline: elicitation, directions, circuits, scores, steering, report.

    A stage that was finished in the same folder with the same inputs by the same
    version is not run again.
    """
    from circuits.runs.plan import read_plan, trusted
    from circuits.runs.stages import at_work, run

    wanted = checked_stages(stages)
    own = read_plan(plan, {**given(context), **read_settings(settings)}, preset)
    own = replace(own, trust_remote_code=trusted("code"))
    with finishing_batches(), at_work(engine, workers, ray_address):
        done = run(own, stages=wanted, reporter=Bars())
    show_run(done.folder)


def plan_command(
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON Schema of plan files instead.")
    ] = False,
) -> None:
    """Print a plan file: every option with its default and what it means."""
    from circuits.runs.plan import plan_schema, template

    text = json.dumps(plan_schema(), indent=2) if schema else template().rstrip()
    OUT.print(text, soft_wrap=True)


def view(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="The page's file; explorer.html in the run folder.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the page on 127.0.0.1 until Ctrl-C.")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write the circuits of a run as one page to explore; it opens without a network.

    The first time the run's model is read on a few contexts, for tokens, examples and attention
    patterns. With --serve nothing is written but those, unless --out names a file.
    """
    from circuits.files import write_text
    from circuits.runs.folder import Study
    from circuits.runs.report import make_explorer

    with finishing_batches():
        page = make_explorer(Study(run), Bars())
    path = out or (None if serve else run / "explorer.html")
    if path is not None:
        write_text(path, page)
        OUT.print(f"explorer: {path.resolve()}", soft_wrap=True)
    with server_of(page) if serve else nullcontext() as server:
        place = address(server) if server else path.resolve().as_uri() if path else ""
        if server:
            OUT.print(f"explorer: {place} (Ctrl-C ends it)", soft_wrap=True)
        if open_it and not webbrowser.open(place):
            ERRORS.print("note: no browser was found; open the page by hand")
        with suppress(KeyboardInterrupt):
            if server:
                server.serve_forever()


_HOST = "127.0.0.1"


def server_of(page: str) -> ThreadingHTTPServer:
    """A server of this one page on a free port; only programs of this machine reach it."""
    content = page.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(content)

        def do_HEAD(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            # Another name for this address is how a foreign page would try to read this one.
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (_HOST, "localhost"):
                self.send_error(403)
            elif self.path.partition("?")[0] not in ("/", "/explorer.html"):
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("Referrer-Policy", "no-referrer")
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer((_HOST, 0), Handler)


def address(server: ThreadingHTTPServer) -> str:
    """Where the page is."""
    return f"http://{_HOST}:{server.server_port}/"

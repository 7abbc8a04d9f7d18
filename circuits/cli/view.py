"""``emotion-circuits view``: look at a run's circuits, node by node."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.console import ERRORS, OUT, Bars
from circuits.cli.interrupting import finishing_batches

__all__ = ["VIEW_EXAMPLE", "view"]

VIEW_EXAMPLE = (
    "Examples: [bold]emotion-circuits view runs/demo --open[/] · "
    "[bold]emotion-circuits view runs/demo --serve[/]"
)


def view(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
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
    from circuits.pipeline.explorer import make_explorer
    from circuits.pipeline.study import Study

    with finishing_batches():
        page = make_explorer(Study(run), Bars())
    path = out or (None if serve else run / "explorer.html")
    if path is not None:
        write_text(path, page)
        OUT.print(f"explorer: {path.resolve()}", soft_wrap=True, markup=False)
    if serve:
        _serve(page, open_it=open_it)
    elif open_it and path is not None:
        _open(path.resolve().as_uri())


def _serve(page: str, *, open_it: bool) -> None:
    from circuits.explorer.serving import address, server_of

    with server_of(page) as server:
        OUT.print(f"explorer: {address(server)} (Ctrl-C ends it)", soft_wrap=True, markup=False)
        if open_it:
            _open(address(server))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            OUT.print("stopped")


def _open(place: str) -> None:
    if not webbrowser.open(place):
        ERRORS.print("note: no browser was found; open the page by hand", soft_wrap=True)

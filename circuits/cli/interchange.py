"""The commands that write, read and check files of other programs."""

from pathlib import Path
from typing import Annotated, Final

import typer

from circuits.cli.console import ERRORS, OUT
from circuits.cli.options import Out, words
from circuits.errors import DataError, RunError

__all__ = [
    "CHECK_EXAMPLE",
    "EXPORT_EXAMPLE",
    "IMPORT_EXAMPLE",
    "check",
    "export",
    "import_command",
]

EXPORT_EXAMPLE: Final = (
    "Example: [bold]emotion-circuits export runs/demo --format graphml,dot --out graphs[/]"
)
IMPORT_EXAMPLE: Final = (
    "Examples: [bold]emotion-circuits import EmotionCircuits-LLM/outputs/llama32_3b "
    "--out runs/published[/] · [bold]emotion-circuits import ioi.json --emotion ioi "
    "--model gpt2 --out circuits[/]"
)
CHECK_EXAMPLE: Final = "Example: [bold]emotion-circuits check graphs/fear.graphml graph.json[/]"


def export(
    run: Annotated[Path, typer.Argument(help="A run folder, or one circuit's JSON file.")],
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            help="json, graphml, gexf, dot, mermaid, csv, neuronpedia (attribution graphs of "
            "Neuronpedia and circuit-tracer), eap-ig (graphs of EAP-IG and MIB); comma-separated. "
            "With a run folder also gguf (control vectors for llama.cpp) and hf (hooks on a "
            "Hugging Face model). Or published: the whole run in the layout of the authors' "
            "output folder."
        ),
    ] = "json,graphml,gexf,dot,mermaid,csv",
    emotion: Annotated[str, typer.Option(help="Only these emotions; all by default.")] = "",
) -> None:
    """Write circuits in formats that other programs read or apply, and say what each loses."""
    from circuits.cli.exporting import export_circuits, export_run, wants_published

    if wants_published(words(format), words(emotion)):
        export_run(run, out)
    else:
        export_circuits(run, out, words(format), words(emotion))


def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="The authors' outputs: a model's folder, one above it, or a .zip or .tar.gz. "
            "Or one circuit as graph JSON of EAP-IG (.json)."
        ),
    ],
    out: Out,
    emotion: Annotated[
        str, typer.Option(help="Whose circuit a graph JSON is; its file's name by default.")
    ] = "",
    model: Annotated[str, typer.Option(help="Name of the model of a graph JSON.")] = "",
) -> None:
    """Make a run folder from results in the authors' layout, or a circuit from EAP-IG's JSON."""
    if source.suffix.lower() == ".json":
        from circuits.cli.exporting import import_eap_ig

        import_eap_ig(source, out, emotion or source.name.split(".")[0], model)
        return
    if emotion or model:
        raise RunError("--emotion and --model: the authors' outputs name both; leave them out")
    from circuits.cli.exporting import import_run

    import_run(source, out)


def check(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Circuits and graphs: .json (ours, Neuronpedia's, EAP-IG's), .graphml, .gexf, "
            ".dot, .mmd, .csv."
        ),
    ],
) -> None:
    """Check files of this and of other programs: is each what its format asks for?"""
    from circuits.export.checking import check_file

    wrong = 0
    for path in files:
        try:
            OUT.print(f"{path}: {check_file(path)}", soft_wrap=True, markup=False, highlight=False)
        except DataError as error:
            wrong += 1
            ERRORS.print(str(error), soft_wrap=True, markup=False, highlight=False)
    if wrong:
        raise RunError(f"{wrong} of {len(files)} files are not what their formats ask for")

"""The commands that write, read and check files of other programs."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from circuits.cli.console import ERRORS, OUT, table_of
from circuits.cli.options import Out, RunFolder, words
from circuits.errors import DataError, RunError
from circuits.export import FORMATS, file_stem, format_of, prepared, write_prepared
from circuits.export.eap_ig import read_eap_ig
from circuits.export.node_link import read_circuit, write_circuit
from circuits.files import Loss, add_losses, held, is_file
from circuits.steering import APPLIED

if TYPE_CHECKING:
    from circuits.published.assembling import Assembled
    from circuits.published.derived import Measured
    from circuits.published.folder import Contents
    from circuits.runs.folder import Study

__all__ = ["assemble", "check", "export", "import_command"]


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
    if wants_published(words(format), words(emotion)):
        _export_run(run, out)
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
        name = emotion or source.name.split(".")[0]
        circuit, lost = read_eap_ig(source, name, model)
        path = out / f"{file_stem(name)}.json"
        write_circuit(circuit, path)
        add_losses(out, path.stem, {path.name: lost})
        _show_losses([("emotion-circuits", tuple(lost))])
        OUT.print(str(path), soft_wrap=True)
        return
    if emotion or model:
        raise RunError("--emotion and --model: the authors' outputs name both; leave them out")
    from circuits.published import import_folder

    contents = import_folder(source, out)
    for kind, count in Counter(type(own).__name__ for own in contents.entries.values()).items():
        OUT.print(f"{count:>5}  {kind}")
    for place in contents.left_out:
        ERRORS.print(f"not read: {place}")
    _name_misnamed(contents)
    OUT.print(f"\nrun: {out.resolve()}", soft_wrap=True)


def check(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Circuits and graphs: .json (ours, Neuronpedia's, EAP-IG's), .graphml, .gexf, "
            ".csv."
        ),
    ],
) -> None:
    """Validate exported files, of this and of other programs, against their formats."""
    from circuits.export.checking import check_file

    wrong = 0
    for path in files:
        try:
            OUT.print(f"{path}: {check_file(path)}", soft_wrap=True)
        except DataError as error:
            wrong += 1
            ERRORS.print(str(error))
    if wrong:
        raise RunError(f"{wrong} of {len(files)} files are not what their formats ask for")


def export_circuits(
    place: Path, out: Path, formats: tuple[str, ...], emotions: tuple[str, ...]
) -> None:
    """Write circuits in every format and show the files, and what they do not keep.

    Raises:
        RunError: a format is unknown or needs a run folder; then nothing is written.
    """
    from circuits.runs.folder import Study

    unknown = [repr(name) for name in formats if name not in (*FORMATS, *APPLIED)]
    if unknown:
        raise RunError(
            f"cannot export to {', '.join(unknown)}; formats are "
            f"{', '.join((*FORMATS, *APPLIED))}, and published by itself"
        )
    applied, drawn = ([n for n in formats if n in own] for own in (APPLIED, FORMATS))
    study = None if is_file(place) else Study(place)
    if study is None:
        if applied:
            raise RunError(
                f"{place} says which components they are, not what they write; give the run folder "
                f"for {', '.join(applied)}"
            )
        circuits = [read_circuit(place)]
    else:
        for emotion in emotions:
            study.circuit_path(emotion)  # refuses one that the run lacks
        circuits = [own for name, own in study.circuits.items() if not emotions or name in emotions]
    # All texts before the first file: a circuit that a format refuses leaves nothing behind.
    texts = [prepared(circuit, drawn) for circuit in circuits]
    written: dict[Path, tuple[str, tuple[Loss, ...]]] = {}
    if study and applied:
        from circuits.runs.steering import deploy

        for path, lost in deploy(study, out, applied, emotions).items():
            written[path] = ("GGUF" if path.suffix == ".gguf" else "hf", lost)
    if drawn:
        for path, lost in write_prepared(out, texts).items():
            written[path] = (format_of(path), lost)
    _show_losses(written.values())
    for path in written:
        OUT.print(str(path), soft_wrap=True)


def _show_losses(written: Collection[tuple[str, Sequence[Loss]]]) -> None:
    """One line per format: what its files do not keep, and how much of it."""
    files = Counter(name for name, losses in written if losses)
    for name, count in files.items():
        found: dict[str, list[Loss]] = {}
        for loss in (loss for own, losses in written if own == name for loss in losses):
            found.setdefault(loss.meaning, []).append(loss)
        parts = []
        for meaning, losses in found.items():
            form = "{:.0%}" if losses[0].unit == "share" else "{:,.0f}"
            sizes = sorted(loss.size for loss in losses)
            ends = dict.fromkeys(form.format(size) for size in (sizes[0], sizes[-1]))
            parts.append(f"{meaning}: {' to '.join(ends)}")
        ERRORS.print(f"note: not kept in {count} {name} files: {'; '.join(parts)}")


def wants_published(formats: tuple[str, ...], emotions: tuple[str, ...]) -> bool:
    """Is the whole published layout asked for, and not formats of single circuits?

    Raises:
        RunError: both are asked for at once, or only some emotions.
    """
    if "published" not in formats:
        return False
    if formats != ("published",) or emotions:
        raise RunError(
            "--format published writes a whole folder; give it alone and without --emotion"
        )
    return True


def assemble(
    run: RunFolder,
    preset: Annotated[
        Literal["published"], typer.Option(help="Whose rule and constants.")
    ] = "published",
    total: Annotated[
        int | None, typer.Option(help="Components of a circuit; ten per sublayer by default.")
    ] = None,
    ratio_mode: Annotated[
        Literal["fixed", "auto"],
        typer.Option(help="Neurons and heads 7 to 3, or as the sublayers' importance says."),
    ] = "fixed",
) -> None:
    """Assemble circuits from tables alone, without a model, by the published rule."""
    from circuits.published import importing
    from circuits.published.assembling import Settings
    from circuits.published.derived import derive
    from circuits.runs.folder import Study

    study, settings = Study(run), Settings(total=total, ratio_mode=ratio_mode)
    if importing.is_imported(run):
        imported = importing.load_contents(run).circuits
        found = importing.assemble_run(run, settings)
    else:
        contents = derive(_measured(study))[0]
        with held(run):
            found = importing.write_assembled(contents, run, settings)
        imported = {}
    OUT.print(_assembled_table(found, imported))
    OUT.print(f"\ncircuits: {(run / 'assembled').resolve()}", soft_wrap=True)


def _export_run(run: Path, out: Path) -> None:
    """Write a run in the published layout, and say what is lost."""
    from dataclasses import replace

    from circuits.published import importing
    from circuits.published.derived import derive
    from circuits.published.folder import write_folder, written_whole
    from circuits.runs.folder import Study

    study, losses = Study(run), ()
    if importing.is_imported(run):
        contents = importing.load_contents(run)
        added = importing.assembled_entries(contents, run)
        contents = replace(contents, entries={**contents.entries, **added})
    else:
        contents, losses = derive(_measured(study))
    with written_whole(out) as temporary:
        write_folder(contents, temporary)
    _name_misnamed(contents)
    for loss in losses:
        ERRORS.print(f"note: {loss}")
    OUT.print(str((out / contents.prefix).resolve()), soft_wrap=True)


def _name_misnamed(contents: "Contents") -> None:
    for folder in contents.misnamed:
        ERRORS.print(
            f"note: {folder}: files are named layer0.npy; the released scripts look for L0.npy "
            "there and write nothing where they do not find it"
        )


def _measured(study: "Study") -> "Measured":
    from circuits.effects.activations import differences
    from circuits.published.derived import Measured

    done, plan = study.log["stages"], study.log["plan"]
    found: dict[str, Any] = {"dataset": "sev"}
    if "judgements" in done:
        found["elicitation"] = study.folder / "elicitation"
        found["dataset"] = str(study.elicitation["dataset"])
    for stage, names in _OF_STAGE.items():
        found |= {name: getattr(study, name) for name in names if stage in done}
    if "effects" in done:
        unit = bool(plan.get("diff_unit"))
        found["differences"] = differences(study.written_means, unit=unit)
    return Measured(**{"model": str(plan["model"]), **found})


_OF_STAGE = {
    "directions": ["directions"],
    "effects": ["heads", "neurons"],
    "importance": ["importance"],
    "circuits": ["circuits"],
}


def _assembled_table(found: "Mapping[str, Assembled]", imported: Mapping[str, Any]) -> Table:
    more = ("neuron ids", "beside the imported circuit")
    table = table_of("Circuits by the published rule", ["emotion"], ["heads", "neurons"], *more)
    for emotion, own in found.items():
        sizes = (str(sum(kind.used)) for kind in (own.heads, own.neurons))
        ids = "not known (no contributions)" if own.neuron_ids is None else "known"
        table.add_row(emotion, *sizes, ids, _compared(own, imported.get(emotion)))
    return table


def _compared(own: "Assembled", imported: Any) -> str:
    if imported is None:
        return "-"
    pairs = list(zip(own.to_json()["layers"], imported["layers"], strict=False))
    same = {
        "heads": [a["attention"] == b["attention"] for a, b in pairs],
        "neuron counts": [a["mlp"]["k"] == b["mlp"]["k"] for a, b in pairs],
    }
    if own.neuron_ids is not None:
        same["neurons"] = [a["mlp"] == b["mlp"] for a, b in pairs]
    return ", ".join(f"{what} equal in {sum(was)}/{len(was)} layers" for what, was in same.items())

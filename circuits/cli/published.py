"""Commands on the authors' output layout: what they need from a run folder, and what they show."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rich.table import Table

from circuits.cli.console import ERRORS, OUT
from circuits.errors import RunError
from circuits.locks import held

if TYPE_CHECKING:
    from circuits.pipeline.study import Study
    from circuits.published.assembling import Assembled
    from circuits.published.contents import Contents
    from circuits.published.derived import Measured

__all__ = ["assemble_run", "export_run", "import_run", "wants_published"]

T = TypeVar("T")

PUBLISHED = "published"


def wants_published(formats: tuple[str, ...], emotions: tuple[str, ...]) -> bool:
    """Is the whole published layout asked for, and not formats of single circuits?

    Raises:
        RunError: both are asked for at once, or only some emotions.
    """
    if PUBLISHED not in formats:
        return False
    if formats != (PUBLISHED,) or emotions:
        raise RunError(
            "--format published writes a whole folder; give it alone and without --emotion"
        )
    return True


def import_run(folder: Path, out: Path) -> None:
    """Import a published folder and say what was read and what was not."""
    from circuits.published import import_folder

    contents = import_folder(folder, out)
    kinds = [type(entry).__name__ for entry in contents.entries.values()]
    for kind in dict.fromkeys(kinds):
        OUT.print(f"{kinds.count(kind):>5}  {kind}", highlight=False)
    for name in contents.left_out:
        ERRORS.print(f"not read: {name}", soft_wrap=True, markup=False, highlight=False)
    _name_misnamed(contents)
    OUT.print(f"\nrun: {out.resolve()}", soft_wrap=True, markup=False)


def assemble_run(run: Path, total: int | None, ratio_mode: Literal["fixed", "auto"]) -> None:
    """Assemble circuits by the published rule and show them beside imported ones."""
    from circuits.pipeline.study import Study
    from circuits.published import importing
    from circuits.published.allocation import Settings

    study, settings = Study(run), Settings(total=total, ratio_mode=ratio_mode)
    if importing.is_imported(run):
        contents = importing.load_contents(run)
        found = importing.assemble_run(run, settings)
    else:
        contents = _derived(study)[0]
        with held(run):
            found = importing.write_assembled(contents, run, settings)
    OUT.print(_assembled_table(found, contents.circuits if importing.is_imported(run) else {}))
    OUT.print(f"\ncircuits: {(run / 'assembled').resolve()}", soft_wrap=True, markup=False)


def export_run(run: Path, out: Path) -> None:
    """Write a run in the published layout, and say what is lost."""
    from dataclasses import replace

    from circuits.pipeline.study import Study
    from circuits.published import importing
    from circuits.published.codecs import write_folder
    from circuits.published.layout import written_whole

    study = Study(run)
    imported = importing.is_imported(run)
    contents, losses = (importing.load_contents(run), ()) if imported else _derived(study)
    if imported:
        added = importing.assembled_entries(contents, run)
        contents = replace(contents, entries={**contents.entries, **added})
    with written_whole(out) as temporary:
        write_folder(contents, temporary)
    _name_misnamed(contents)
    for loss in losses:
        ERRORS.print(f"note: {loss}", soft_wrap=True, markup=False, highlight=False)
    OUT.print(str((out / contents.prefix).resolve()), soft_wrap=True, markup=False)


def _name_misnamed(contents: "Contents") -> None:
    for folder in contents.misnamed:
        ERRORS.print(
            f"note: {folder}: files are named layer0.npy; the released scripts look for L0.npy "
            "there and write nothing where they do not find it",
            soft_wrap=True, markup=False, highlight=False,
        )  # fmt: skip


def _derived(study: "Study") -> "tuple[Contents, tuple[str, ...]]":
    from circuits.published.derived import derive

    return derive(_measured(study))


def _measured(study: "Study") -> "Measured":
    from circuits.measure.means import differences
    from circuits.published.derived import Measured

    done: Mapping[str, Any] = study.log["stages"]

    def had(stage: str, read: Callable[[], T]) -> T | None:
        return read() if stage in done else None

    unit = bool(study.log["plan"].get("diff_unit"))
    stats = had("judgements", lambda: study.elicitation)
    return Measured(
        model=str(study.log["plan"]["model"]),
        directions=had("directions", lambda: study.directions),
        heads=had("effects", lambda: study.heads),
        neurons=had("effects", lambda: study.neurons),
        importance=had("importance", lambda: study.importance),
        differences=had("effects", lambda: differences(study.written_means, unit=unit)),
        circuits=had("circuits", lambda: study.circuits) or {},
        elicitation=had("judgements", lambda: study.folder / "elicitation"),
        dataset=str(stats["dataset"]) if stats else "sev",
    )


def _assembled_table(found: "Mapping[str, Assembled]", imported: Mapping[str, Any]) -> Table:
    table = Table(title="Circuits by the published rule")
    table.add_column("emotion")
    for name in ("heads", "neurons"):
        table.add_column(name, justify="right")
    for name in ("neuron ids", "beside the imported circuit"):
        table.add_column(name)
    for emotion, own in found.items():
        table.add_row(
            emotion,
            str(sum(own.heads.used)),
            str(sum(own.neurons.used)),
            "not known (no contributions)" if own.neuron_ids is None else "known",
            _compared(own, imported.get(emotion)),
        )
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

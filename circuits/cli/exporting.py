"""The formats of single circuits: pictures and tables of a graph, and files to be applied."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.cli.console import ERRORS, OUT
from circuits.cli.reading import circuits_of
from circuits.deploy import APPLIED
from circuits.errors import RunError
from circuits.export.formats import FORMATS, export_circuit

if TYPE_CHECKING:
    from circuits.deploy.control_vectors import Loss

__all__ = ["export_circuits"]


def export_circuits(
    place: Path, out: Path, formats: tuple[str, ...], emotions: tuple[str, ...]
) -> None:
    """Write circuits in every format and show the files, and what they do not keep.

    Raises:
        RunError: a format is unknown or needs a run folder; then nothing is written.
    """
    known = (*FORMATS, *APPLIED)
    unknown = [name for name in formats if name not in known]
    if unknown:
        raise RunError(
            f"cannot export to {', '.join(map(repr, unknown))}; formats are {', '.join(known)}, "
            "and published by itself"
        )
    applied = [name for name in formats if name in APPLIED]
    if applied and place.is_file():
        raise RunError(
            f"{place} says which parts there are, not what they write; give the run folder for "
            f"{', '.join(applied)}"
        )
    circuits, written = circuits_of(place, emotions), []
    if applied:
        from circuits.pipeline.deploying import deploy
        from circuits.pipeline.study import Study

        files = deploy(Study(place), out, applied, emotions)
        _show_losses(files.values())
        written += files
    drawn = [name for name in formats if name in FORMATS]
    written += [path for circuit in circuits for path in export_circuit(circuit, out, drawn)]
    for path in written:
        OUT.print(str(path), soft_wrap=True)


def _show_losses(losses: "Iterable[Sequence[Loss]]") -> None:
    sizes: dict[str, list[float]] = {}
    for loss in (loss for own in losses for loss in own):
        sizes.setdefault(loss.meaning, []).append(loss.size)
    for meaning, found in sizes.items():
        ERRORS.print(
            f"note: not kept in {len(found)} GGUF files: {meaning}: "
            f"{min(found):.0%} to {max(found):.0%}",
            soft_wrap=True, markup=False, highlight=False,
        )  # fmt: skip

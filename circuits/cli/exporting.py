"""The formats of single circuits: pictures and tables of a graph, and files to be applied."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from circuits.cli.console import ERRORS, OUT
from circuits.cli.reading import circuits_of
from circuits.deploy import APPLIED
from circuits.errors import RunError
from circuits.export.eap_ig_reading import read_eap_ig
from circuits.export.formats import FORMATS, file_stem, format_of, prepared, write_prepared
from circuits.export.node_link import write_circuit
from circuits.losses import Loss, add_losses

__all__ = ["export_circuits", "import_eap_ig"]


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
    drawn = [name for name in formats if name in FORMATS]
    # All texts before the first file: a circuit that a format refuses leaves nothing behind.
    circuits = [prepared(circuit, drawn) for circuit in circuits_of(place, emotions)]
    written: dict[Path, tuple[str, tuple[Loss, ...]]] = {}
    if applied:
        from circuits.pipeline.deploying import deploy
        from circuits.pipeline.study import Study

        for path, lost in deploy(Study(place), out, applied, emotions).items():
            written[path] = ("GGUF" if path.suffix == ".gguf" else "hf", lost)
    if drawn:
        for path, lost in write_prepared(out, circuits).items():
            written[path] = (format_of(path), lost)
    _show_losses(written.values())
    for path in written:
        OUT.print(str(path), soft_wrap=True)


def import_eap_ig(source: Path, out: Path, emotion: str, model: str) -> None:
    """Write the circuit in a graph JSON of EAP-IG as ours, and say what it does not keep.

    Raises:
        DataError: the file is not of the form.
    """
    circuit, lost = read_eap_ig(source, emotion, model)
    stem = file_stem(emotion)
    path = out / f"{stem}.json"
    write_circuit(circuit, path)
    add_losses(out, stem, {path.name: lost})
    _show_losses([("emotion-circuits", tuple(lost))])
    OUT.print(str(path), soft_wrap=True)


def _show_losses(written: Collection[tuple[str, Sequence[Loss]]]) -> None:
    """One line per format: what its files do not keep, and how much of it."""
    found: dict[str, dict[str, list[Loss]]] = {}
    files = Counter(name for name, losses in written if losses)
    for name, losses in written:
        for loss in losses:
            found.setdefault(name, {}).setdefault(loss.meaning, []).append(loss)
    for name, by_meaning in found.items():
        parts = "; ".join(f"{meaning}: {_range(own)}" for meaning, own in by_meaning.items())
        ERRORS.print(
            f"note: not kept in {files[name]} {name} files: {parts}",
            soft_wrap=True, markup=False, highlight=False,
        )  # fmt: skip


def _range(losses: Sequence[Loss]) -> str:
    form = "{:.0%}" if losses[0].unit == "share" else "{:,.0f}"
    low, high = (form.format(pick(loss.size for loss in losses)) for pick in (min, max))
    return low if low == high else f"{low} to {high}"

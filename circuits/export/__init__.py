"""Circuits as files that other programs read; opening one needs no torch."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from circuits.circuit.circuit import Circuit
from circuits.errors import CircuitError
from circuits.export.checking import check_file
from circuits.export.diagrams import diagram_losses, dot, mermaid
from circuits.export.eap_ig import eap_ig, eap_ig_losses, read_eap_ig
from circuits.export.neuronpedia import neuronpedia, neuronpedia_losses
from circuits.export.node_link import (
    circuit_from_json,
    circuit_to_json,
    read_circuit,
    write_circuit,
)
from circuits.export.tables import edges_csv, gexf, graphml, nodes_csv, table_losses
from circuits.files import Loss, PathLike, add_losses, resolved, write_text

__all__ = [
    "ANY_CIRCUIT",
    "FORMATS",
    "check_file",
    "circuit_from_json",
    "circuit_to_json",
    "dot",
    "eap_ig",
    "edges_csv",
    "export_circuit",
    "file_stem",
    "format_of",
    "gexf",
    "graphml",
    "mermaid",
    "neuronpedia",
    "nodes_csv",
    "prepared",
    "read_circuit",
    "read_eap_ig",
    "write_circuit",
    "write_prepared",
]

Prepared = tuple[str, dict[str, tuple[str, tuple[Loss, ...]]]]
"""What the names of the files begin with; name -> its text, and what it does not keep."""


def _json(circuit: Circuit) -> str:
    return json.dumps(circuit_to_json(circuit), indent=2, ensure_ascii=False) + "\n"


# Suffix -> format, what writes it, and what it does not keep.
_FILES: Final[
    Mapping[str, tuple[str, Callable[[Circuit], str], Callable[[Circuit], list[Loss]]]]
] = {
    ".json": ("json", _json, lambda _: []),
    ".graphml": ("graphml", graphml, lambda _: []),
    ".gexf": ("gexf", gexf, lambda _: []),
    ".dot": ("dot", dot, diagram_losses),
    ".mmd": ("mermaid", mermaid, diagram_losses),
    ".nodes.csv": ("csv", nodes_csv, table_losses),
    ".edges.csv": ("csv", edges_csv, table_losses),
    ".neuronpedia.json": ("neuronpedia", neuronpedia, neuronpedia_losses),
    ".eap-ig.json": ("eap-ig", eap_ig, eap_ig_losses),
}

FORMATS: Final = tuple(dict.fromkeys(form for form, _, _ in _FILES.values()))
"""Every format; the last two refuse circuits that their programs could not open."""

ANY_CIRCUIT: Final = FORMATS[:-2]
"""Formats that hold any circuit; ``json`` and GraphML can be read back whole."""


def export_circuit(
    circuit: Circuit, folder: PathLike, formats: Iterable[str] = ANY_CIRCUIT
) -> dict[Path, tuple[Loss, ...]]:
    """Write a circuit into ``folder`` in each of ``formats``.

    Args:
        circuit: The circuit.
        folder: Made if it is not there; may hold circuits of other emotions.
        formats: Some of :data:`FORMATS`.

    Returns:
        The files, in the order of ``formats`` (CSV gives two), and what each does not keep; this
        also stands beside them in a file of its own, such as ``anger.losses.json``.

    Raises:
        CircuitError: a format is unknown, or cannot hold the circuit; then nothing is written.
        DataError: the folder cannot be written to.
    """
    return write_prepared(resolved(folder), [prepared(circuit, formats)])


def prepared(circuit: Circuit, formats: Iterable[str]) -> Prepared:
    """The texts of a circuit in each of ``formats``, so that all are known to be possible.

    Raises:
        CircuitError: a format is unknown, or cannot hold the circuit.
    """
    chosen, stem = list(dict.fromkeys(formats)), file_stem(circuit.emotion)
    if unknown := [name for name in chosen if name not in FORMATS]:
        raise CircuitError(
            f"cannot export to {', '.join(map(repr, unknown))}; formats are {', '.join(FORMATS)}"
        )
    return stem, {
        f"{stem}{suffix}": (write(circuit), tuple(losses(circuit)))
        for name in chosen
        for suffix, (form, write, losses) in _FILES.items()
        if form == name
    }


def write_prepared(folder: Path, circuits: Iterable[Prepared]) -> dict[Path, tuple[Loss, ...]]:
    """Write the texts, and beside them what they do not keep; files and losses are returned.

    Raises:
        DataError: the folder cannot be written to.
    """
    written: dict[Path, tuple[Loss, ...]] = {}
    for stem, files in circuits:
        for name, (text, lost) in files.items():
            write_text(folder / name, text)
            written[folder / name] = lost
        add_losses(folder, stem, {name: lost for name, (_, lost) in files.items()})
    return written


def format_of(path: Path) -> str:
    """The format of a file that was written here.

    >>> format_of(Path("anger.eap-ig.json"))
    'eap-ig'
    """
    return _FILES[path.name[path.name.index(".") :]][0]


def file_stem(emotion: str) -> str:
    """A file name, without suffix, for any emotion on any system.

    Where letters had to be changed, a digest keeps different emotions apart.

    >>> file_stem("anger")
    'anger'
    >>> file_stem("joy / relief")
    'joy-relief-d8e15981'
    """
    folded = unicodedata.normalize("NFC", emotion.casefold())
    stem = re.sub(r"[^\w]+", "-", folded).strip("-")[:40]
    # Windows keeps these for devices, whatever the suffix.
    reserved = re.fullmatch(r"con|prn|aux|nul|(com|lpt)\d", stem)
    if stem and stem == emotion and not reserved:
        return stem
    digest = hashlib.sha256(emotion.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{stem}-{digest}" if stem else digest

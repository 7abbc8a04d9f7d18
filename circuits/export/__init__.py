"""Circuits as files that other programs read; opening one needs no torch."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
    "Prepared",
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

ANY_CIRCUIT: Final = ("json", "graphml", "gexf", "dot", "mermaid", "csv")
"""Formats that hold any circuit; ``json`` and GraphML can be read back whole."""

FORMATS: Final = (*ANY_CIRCUIT, "neuronpedia", "eap-ig")
"""Every format; the last two refuse circuits that their programs could not open."""

# Windows keeps these for devices, whatever the suffix.
_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)\d")


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


@dataclass(frozen=True)
class Prepared:
    """A circuit in several formats, not written yet."""

    stem: str
    files: Mapping[str, tuple[str, tuple[Loss, ...]]]
    """Name of a file -> its text, and what it does not keep."""


def prepared(circuit: Circuit, formats: Iterable[str]) -> Prepared:
    """The texts of a circuit in each of ``formats``, so that all are known to be possible.

    Raises:
        CircuitError: a format is unknown, or cannot hold the circuit.
    """
    chosen = list(dict.fromkeys(formats))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise CircuitError(
            f"cannot export to {', '.join(map(repr, unknown))}; formats are {', '.join(FORMATS)}"
        )
    stem = file_stem(circuit.emotion)
    files = {
        f"{stem}{suffix}": (form.text(circuit), tuple(form.losses(circuit)))
        for name in chosen
        for suffix, form in _FILES[name].items()
    }
    return Prepared(stem, files)


def write_prepared(folder: Path, circuits: Iterable[Prepared]) -> dict[Path, tuple[Loss, ...]]:
    """Write the texts, and beside them what they do not keep; files and losses are returned.

    Raises:
        DataError: the folder cannot be written to.
    """
    written: dict[Path, tuple[Loss, ...]] = {}
    for own in circuits:
        for name, (text, lost) in own.files.items():
            write_text(folder / name, text)
            written[folder / name] = lost
        add_losses(folder, own.stem, {name: lost for name, (_, lost) in own.files.items()})
    return written


def format_of(path: Path) -> str:
    """The format of a file that was written here.

    >>> format_of(Path("anger.eap-ig.json"))
    'eap-ig'
    """
    suffix = path.name[path.name.index(".") :]
    return next(name for name, files in _FILES.items() if suffix in files)


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
    if stem and stem == emotion and not _RESERVED.fullmatch(stem):
        return stem
    digest = hashlib.sha256(emotion.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{stem}-{digest}" if stem else digest


def _json(circuit: Circuit) -> str:
    return json.dumps(circuit_to_json(circuit), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class _Form:
    text: Callable[[Circuit], str]
    losses: Callable[[Circuit], list[Loss]] = lambda circuit: []


_FILES: Mapping[str, Mapping[str, _Form]] = {
    "json": {".json": _Form(_json)},
    "graphml": {".graphml": _Form(graphml)},
    "gexf": {".gexf": _Form(gexf)},
    "dot": {".dot": _Form(dot, diagram_losses)},
    "mermaid": {".mmd": _Form(mermaid, diagram_losses)},
    "csv": {
        ".nodes.csv": _Form(nodes_csv, table_losses),
        ".edges.csv": _Form(edges_csv, table_losses),
    },
    "neuronpedia": {".neuronpedia.json": _Form(neuronpedia, neuronpedia_losses)},
    "eap-ig": {".eap-ig.json": _Form(eap_ig, eap_ig_losses)},
}

"""A circuit in every format at once, in files named after its emotion."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from circuits.errors import CircuitError
from circuits.export.diagrams import dot, mermaid
from circuits.export.graph_files import gexf, graphml
from circuits.export.node_link import circuit_to_json
from circuits.export.tables import edges_csv, nodes_csv
from circuits.files import write_text
from circuits.graph.circuit import Circuit

__all__ = ["FORMATS", "export_circuit", "file_stem"]

FORMATS: Final = ("json", "graphml", "gexf", "dot", "mermaid", "csv")
"""Every format; only ``json`` can be read back."""

# Windows keeps these for devices, whatever the suffix.
_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)\d")


def export_circuit(circuit: Circuit, folder: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write a circuit into ``folder`` in each of ``formats``.

    Args:
        circuit: The circuit.
        folder: Made if it is not there; may hold circuits of other emotions.
        formats: Some of :data:`FORMATS`.

    Returns:
        The files, in the order of ``formats``; CSV gives two.

    Raises:
        CircuitError: a format is unknown, or a value cannot be written; then nothing is.
        DataError: the folder cannot be written to.
    """
    chosen = list(dict.fromkeys(formats))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise CircuitError(
            f"cannot export to {', '.join(map(repr, unknown))}; formats are {', '.join(FORMATS)}"
        )
    stem = file_stem(circuit.emotion)
    texts = {
        folder / f"{stem}{suffix}": text(circuit)
        for name in chosen
        for suffix, text in _FILES[name].items()
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


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


_FILES: Mapping[str, Mapping[str, Callable[[Circuit], str]]] = {
    "json": {".json": _json},
    "graphml": {".graphml": graphml},
    "gexf": {".gexf": gexf},
    "dot": {".dot": dot},
    "mermaid": {".mmd": mermaid},
    "csv": {".nodes.csv": nodes_csv, ".edges.csv": edges_csv},
}

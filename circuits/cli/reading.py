"""Circuits from a run folder or from a file."""

from pathlib import Path

from circuits.export.node_link import read_circuit
from circuits.files import is_file
from circuits.graph.circuit import Circuit

__all__ = ["circuits_of"]


def circuits_of(place: Path, emotions: tuple[str, ...]) -> list[Circuit]:
    """The circuits of a run (all, or those named), or the one in a file.

    Raises:
        RunError: the folder is no run, or has no such emotion.
        DataError: the file is no circuit.
    """
    if is_file(place):
        return [read_circuit(place)]
    from circuits.pipeline.study import Study

    study = Study(place)
    for emotion in emotions:
        study.circuit_path(emotion)
    return [circuit for name, circuit in study.circuits.items() if not emotions or name in emotions]

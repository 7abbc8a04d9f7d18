"""Import: a published folder becomes a run folder, whole or not at all."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circuits.errors import DataError, RunError
from circuits.export.node_link import write_circuit
from circuits.files import is_file, read_json, write_json, write_text
from circuits.locks import held
from circuits.model.receipts import Receipt
from circuits.names import EMOTIONS
from circuits.provenance import Provenance, versions
from circuits.published.allocation import Settings
from circuits.published.archives import unpacked
from circuits.published.assembling import Assembled, assemble_published
from circuits.published.codecs import read_folder
from circuits.published.contents import Contents, Entry
from circuits.published.documents import Document, dumped, read_document
from circuits.published.graphs import as_graph
from circuits.published.layout import CIRCUITS, ELICITATION, place, written_whole
from circuits.published.records import (
    AllocationLog,
    Contributions,
    DifferenceVectors,
    HeadImportance,
    MeanImportance,
    ReferenceDirection,
    Sigma,
    SublayerImportance,
    UnitDirections,
)
from circuits.published.tables import read_table, write_table

__all__ = [
    "assemble_run",
    "assembled_entries",
    "import_folder",
    "is_imported",
    "load_contents",
    "write_assembled",
]

FORMAT = "published-outputs/1"
_FOLDER = "published"
_LABELLED = f"{ELICITATION}/labeled/sev"
_KINDS = {
    kind.__name__: kind
    for kind in (
        AllocationLog, Contributions, DifferenceVectors, HeadImportance, MeanImportance,
        ReferenceDirection, Sigma, SublayerImportance, UnitDirections,
    )
}  # fmt: skip


def import_folder(folder: Path, run: Path) -> Contents:
    """Read a published folder and keep it as a run folder.

    ``folder`` may be an archive (``.zip``, ``.tar``, ``.tar.gz``), which is unpacked for a while.
    Records lie in ``published/``; labels and circuits also where a run has them.

    Raises:
        RunError: ``run`` holds something already.
        DataError: what :func:`~circuits.published.codecs.read_folder` refuses.
    """
    started = time.perf_counter()
    with written_whole(run) as temporary, unpacked(folder) as home:
        contents = read_folder(home)
        for emotion in EMOTIONS:
            if contents.has_weights(emotion):
                contents.weights(emotion)  # refuses tables that disagree
        _save(contents, temporary / _FOLDER)
        done = [*_write_elicitation(contents, temporary), *_write_circuits(contents, temporary)]
        plan = {
            "imported": str(folder),
            "files": len(contents.entries),
            "model": contents.model,
            "emotions": list(contents.emotions),
        }
        stages = {stage: _entry("imported") for stage in done}
        log = {"plan": plan, "versions": versions(), "stages": stages}
        write_json(temporary / "run.json", log)
        write_json(temporary / "timings.json", {"stages": dict.fromkeys(done, _since(started))})
    return contents


def is_imported(run: Path) -> bool:
    """Was this run folder made from a published one?"""
    return is_file(run / _FOLDER / "manifest.json")


def load_contents(run: Path) -> Contents:
    """What was imported into a run folder.

    Raises:
        RunError: nothing was.
        DataError: a file of it is missing or damaged.
    """
    home = run / _FOLDER
    if not is_imported(run):
        raise RunError(f"{run} was not imported; make it with `emotion-circuits import`")
    described = read_json(home / "manifest.json")
    try:
        if described["format"] != FORMAT:
            raise DataError(f"{home}: expected {FORMAT}, found {described['format']!r}")
        entries = {
            str(name): _load(place(home, str(name)), kind)
            for name, kind in described["entries"].items()
        }
        model, prefix = str(described["model"]), str(described["prefix"])
        return Contents(entries, model, prefix, tuple(described["left_out"]))
    except (KeyError, TypeError, AttributeError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{home}/manifest.json: damaged ({error!r}); import again") from error


def assemble_run(run: Path, settings: Settings | None = None) -> dict[str, Assembled]:
    """Assemble every emotion of an imported run by the published rule, and write the circuits.

    Circuits and logs are written to ``assembled/`` in their published form; an imported circuit
    stays what it is in ``circuits/``, where those of the other emotions are added.

    Raises:
        RunError: the run was not imported.
        DataError: no emotion has all tables.
    """
    started = time.perf_counter()
    contents = load_contents(run)
    with held(run):
        found = write_assembled(contents, run, settings)
        for emotion, assembled in found.items():
            if emotion not in contents.circuits:
                graph = as_graph(assembled.to_json(), contents)
                write_circuit(graph, run / "circuits" / f"{emotion}.json")
        log, took = read_json(run / "run.json"), run / "timings.json"
        before = read_json(took)["stages"] if took.is_file() else {}
        write_json(took, {"stages": {**before, "circuits": _since(started)}})
        entry = _entry(f"published {sorted(asdict(settings or Settings()).items())}")
        write_json(run / "run.json", {**log, "stages": {**log["stages"], "circuits": entry}})
    return found


def write_assembled(
    contents: Contents, run: Path, settings: Settings | None = None
) -> dict[str, Assembled]:
    """Assemble every emotion that has its tables, and write circuits and logs.

    Raises:
        DataError: no emotion has all tables.
    """
    chosen = [emotion for emotion in contents.emotions if contents.has_tables(emotion)]
    if not chosen:
        raise DataError(
            f"{run}: no emotion has both head importances and an importance table; import them"
        )
    found = {emotion: assemble_published(contents, emotion, settings) for emotion in chosen}
    for emotion, assembled in found.items():
        write_text(run / "assembled" / f"{emotion}.json", dumped(assembled.to_json()))
        write_table(assembled.log(), run / "assembled" / f"{emotion}_alloc_log.csv")
    return found


def assembled_entries(contents: Contents, run: Path) -> dict[str, Entry]:
    """Assembled circuits and logs, under their published places, where none was imported."""
    found: dict[str, Entry] = {}
    for emotion in contents.emotions:
        log, circuit = f"{emotion}_alloc_log.csv", f"{emotion}.json"
        home = run / "assembled"
        if f"{CIRCUITS}/{circuit}" in contents.entries or not (home / circuit).is_file():
            continue
        found[f"{CIRCUITS}/{circuit}"] = read_document(home / circuit)
        origin = Provenance(options={"assembled": "published"})
        found[f"{CIRCUITS}/{log}"] = read_table(home / log, AllocationLog, origin, emotion)
    return found


def _save(contents: Contents, home: Path) -> None:
    for name, entry in contents.entries.items():
        path = place(home, name)
        entry.write(path) if isinstance(entry, Document) else entry.save(path)
    described = {
        "format": FORMAT,
        "model": contents.model,
        "prefix": contents.prefix,
        "entries": {name: type(entry).__name__ for name, entry in contents.entries.items()},
        "left_out": list(contents.left_out),
    }
    write_json(home / "manifest.json", described)


def _load(path: Path, kind: str) -> Entry:
    if kind == Document.__name__:
        return read_document(path)
    if kind not in _KINDS:
        raise DataError(f"{path}: {kind!r} is none of {', '.join(_KINDS)}")
    return _KINDS[kind].load(path)


def _write_elicitation(contents: Contents, run: Path) -> Sequence[str]:
    names = ("accepted.jsonl", "rejected.jsonl", "accuracy_stats.json")
    if any(f"{_LABELLED}/{name}" not in contents.entries for name in names):
        return ()
    for name in names:
        entry = contents.entries[f"{_LABELLED}/{name}"]
        assert isinstance(entry, Document)
        entry.write(run / "elicitation" / name)
    return ("judgements",)


def _write_circuits(contents: Contents, run: Path) -> Sequence[str]:
    circuits: Mapping[str, Any] = contents.circuits
    for emotion, circuit in circuits.items():
        try:
            graph = as_graph(circuit, contents)
        except DataError as error:
            raise DataError(f"{CIRCUITS}/{emotion}.json: {error}") from error
        write_circuit(graph, run / "circuits" / f"{emotion}.json")
    # A run's circuits are there when every emotion of it has one.
    return ("circuits",) if circuits and set(contents.emotions) == set(circuits) else ()


def _entry(key: str) -> dict[str, Any]:
    # Nothing was run: no pass is on the receipt.
    return {"key": key, "receipt": asdict(Receipt())}


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)

"""Published outputs as a run folder: taken from a folder or an archive, kept, assembled.

An archive is unpacked so that nothing lands outside one temporary folder. Only plain files and
folders are taken; a member that is a link or a device, whose name leads out, or that two systems
would read differently, ends the import by name, and so does an archive that is larger unpacked
than published outputs can be. Sizes are counted while writing, since what an archive says about
itself need not be so.
"""

import os
import re
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from circuits.errors import DataError, RunError
from circuits.export.node_link import write_circuit
from circuits.files import held, is_file, read_json, write_json, write_text
from circuits.models.memory import Receipt
from circuits.names import EMOTIONS
from circuits.provenance import Provenance, recorded, versions
from circuits.published.assembling import Assembled, Settings, as_graph, assemble_published
from circuits.published.folder import (
    CIRCUIT,
    ELICITATION,
    LABELLED,
    PLACES,
    Contents,
    Document,
    Entry,
    place,
    place_of,
    read_document,
    read_folder,
    written_whole,
)
from circuits.published.tables import AllocationLog, dumped

__all__ = [
    "assemble_run",
    "assembled_entries",
    "import_folder",
    "is_imported",
    "load_contents",
    "unpacked",
    "write_assembled",
]

FORMAT = "published-outputs/1"
_FOLDER = "published"
_SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz")
_MOST_BYTES: Final = 8 << 30
_MOST_FILES: Final = 100_000
_DAMAGED: Final = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@contextmanager
def unpacked(path: Path, most_bytes: int = _MOST_BYTES) -> Iterator[Path]:
    """The folder itself, or that of an archive, which is gone afterwards.

    Raises:
        DataError: the archive is damaged or too large, or a member of it is refused; names both.
    """
    if not is_file(path) or not path.name.lower().endswith(_SUFFIXES):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="emotion-circuits-") as made:
        folder = Path(made)
        try:
            _unpack(path, folder, most_bytes)
        except DataError:
            raise
        except _DAMAGED as error:
            raise DataError(f"{path}: the archive cannot be unpacked ({error})") from error
        inside = list(folder.iterdir())
        # Archives of a repository hold one folder, named after it.
        home = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
        try:
            yield folder if re.match("0[1-7]_", home.name) else home
        except DataError as error:
            # The temporary folder says nothing to anybody.
            raise DataError(str(error).replace(made, str(path))) from error


def _unpack(path: Path, folder: Path, most_bytes: int) -> None:
    left, files = most_bytes, 0
    for name, plain, is_folder, opened in _members(path):
        whole = PurePosixPath(name)
        out = whole.is_absolute() or os.path.isabs(name) or ".." in whole.parts  # noqa: PTH117
        if not plain or out or set(name) & set("\\:\0"):
            why = "leads out of the archive" if plain else "is no plain file"
            raise DataError(f"{path}: the member {name!r} {why}; nothing was imported")
        if is_folder:
            continue
        files += 1
        if files > _MOST_FILES:
            raise DataError(f"{path}: more than {_MOST_FILES:,} files; unpack it yourself")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with opened() as file, (folder / name).open("xb") as copy:
            while piece := file.read(1 << 20):
                left -= len(piece)
                if left < 0:
                    raise DataError(
                        f"{path}: more than {most_bytes:,} bytes unpacked (at {name!r}); unpack it "
                        "yourself and import the folder"
                    )
                copy.write(piece)


def _members(path: Path) -> Iterator[tuple[str, bool, bool, Callable[[], IO[bytes]]]]:
    """Name, whether it is a plain file or folder, whether it is a folder, and what opens it."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for own in archive.infolist():
                plain = stat.S_IFMT(own.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
                yield own.filename, plain, own.is_dir(), partial(archive.open, own)
        return
    with tarfile.open(path) as archive:
        for own in archive:
            opened: Any = partial(archive.extractfile, own)
            yield own.name, own.isreg() or own.isdir(), own.isdir(), opened


def import_folder(folder: Path, run: Path) -> Contents:
    """Read a published folder and keep it as a run folder.

    ``folder`` may be an archive (``.zip``, ``.tar``, ``.tar.gz``), which is unpacked for a while.
    Records lie in ``published/``; labels and circuits also where a run has them.

    Raises:
        RunError: ``run`` holds something already.
        DataError: what :func:`~circuits.published.folder.read_folder` refuses.
    """
    started = time.perf_counter()
    with written_whole(run) as temporary, unpacked(folder) as home:
        contents = read_folder(home)
        for emotion in EMOTIONS:
            if contents.has_weights(emotion):
                contents.weights(emotion)  # refuses tables that disagree
        _save(contents, temporary / _FOLDER)
        done = _write_stages(contents, temporary)
        plan = {
            "imported": str(folder),
            "files": len(contents.entries),
            "model": contents.model,
            "emotions": list(contents.emotions),
        }
        stages = {stage: _stage("imported") for stage in done}
        write_json(temporary / "run.json", {"plan": plan, "versions": versions(), "stages": stages})
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
    home, kinds = run / _FOLDER, {kind.__name__: kind for kind in PLACES}
    if not is_imported(run):
        raise RunError(f"{run} was not imported; make it with `emotion-circuits import`")
    described = read_json(home / "manifest.json")
    try:
        if described["format"] != FORMAT:
            raise DataError(f"{home}: expected {FORMAT}, found {described['format']!r}")
        entries = {
            name: read_document(place(home, name))
            if kind == Document.__name__
            else kinds[kind].load(place(home, name))
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
        entry = _stage(f"published {sorted(asdict(settings or Settings()).items())}")
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
        assembled.log().write(run / "assembled" / f"{emotion}_alloc_log.csv")
    return found


def assembled_entries(contents: Contents, run: Path) -> dict[str, Entry]:
    """Assembled circuits and logs, under their published places, where none was imported."""
    found: dict[str, Entry] = {}
    for emotion in contents.emotions:
        circuit, home = CIRCUIT.format(emotion=emotion), run / "assembled"
        if circuit in contents.entries or not (home / f"{emotion}.json").is_file():
            continue
        found[circuit] = read_document(home / f"{emotion}.json")
        with recorded(Provenance(options={"assembled": "published"})):
            log = AllocationLog.read(home / f"{emotion}_alloc_log.csv", emotion)
        found[place_of(AllocationLog, emotion=emotion)] = log
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


def _write_stages(contents: Contents, run: Path) -> list[str]:
    """Write labels and circuits where a run has them; the stages that are whole then."""
    done, labels = [], [contents.entries.get(f"{ELICITATION}/labeled/sev/{n}") for n in LABELLED]
    if all(isinstance(own, Document) for own in labels):
        done.append("judgements")
        for name, own in zip(LABELLED, labels, strict=True):
            assert isinstance(own, Document)
            own.write(run / "elicitation" / name)
    circuits = contents.circuits
    for emotion, circuit in circuits.items():
        try:
            graph = as_graph(circuit, contents)
        except DataError as error:
            raise DataError(f"{CIRCUIT.format(emotion=emotion)}: {error}") from error
        write_circuit(graph, run / "circuits" / f"{emotion}.json")
    # A run's circuits are there when every emotion of it has one.
    return [*done, "circuits"] if circuits and set(contents.emotions) == set(circuits) else done


def _stage(key: str) -> dict[str, Any]:
    # Nothing was run: no pass is on the receipt.
    return {"key": key, "receipt": asdict(Receipt())}


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)

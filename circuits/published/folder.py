"""The authors' folder as a value: one table of its files, walked over to read and to write it.

What is written where is said once, in :data:`PLACES` and :data:`DOCUMENTS`: the first part of a
place is the stage, of which only the number is certain, and what stands in braces is read from a
file's name and filled in when it is written.
"""

import json
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import DataError, RunError
from circuits.export.node_link import check_values
from circuits.files import (
    digest,
    exists,
    is_folder,
    read_json,
    read_json_lines,
    sync_folder,
    write_text,
)
from circuits.judges.replies import read_judged
from circuits.names import EMOTIONS, SUBLAYERS
from circuits.provenance import Provenance, recorded, versions
from circuits.published.tables import (
    KINDS,
    AllocationLog,
    Contributions,
    DifferenceVectors,
    HeadImportance,
    MeanImportance,
    ReferenceDirection,
    Sigma,
    SublayerImportance,
    UnitDirections,
    known_emotion,
)
from circuits.records import Record

__all__ = [
    "CIRCUIT",
    "Contents",
    "DOCUMENTS",
    "Document",
    "ELICITATION",
    "LABELLED",
    "PLACES",
    "STAGES",
    "check_circuit",
    "check_labels",
    "place",
    "place_of",
    "read_document",
    "read_folder",
    "short_model",
    "write_folder",
    "written_whole",
]

STAGES: Final = (
    "01_emotion_elicited_generation_prompt_based",
    "02_emotion_directions",
    "03_emotion_steered_generation",
    "04_local_components_identification",
    "05_emotion_diff_vector_computation",
    "06_emotion_circuit_integration",
    "07_emotion_circuit_modulation",
)
"""Folders of the published stages; of the last one only the number is certain."""

ELICITATION: Final = STAGES[0]
LABELLED: Final = ("accepted.jsonl", "rejected.jsonl", "accuracy_stats.json")


@dataclass(frozen=True)
class Document:
    """A JSON document or JSON lines, as text."""

    text: str

    def write(self, path: Path) -> None:
        """Write the text as it is."""
        write_text(path, self.text)

    @property
    def value(self) -> Any:
        """What the JSON says."""
        return json.loads(self.text)


Entry = Record | Document
R = TypeVar("R", bound=Record)


def read_document(path: Path) -> Document:
    """The text of a file that was checked."""
    with path.open(encoding="utf-8", newline="") as file:
        return Document(file.read())


def check_document(path: Path) -> Any:
    """What a file of JSON without NaN says.

    Raises:
        DataError: it is none.
    """
    found = read_json(path)
    try:
        check_values(found)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return found


def check_circuit(path: Path) -> None:
    """Check a published circuit (stage 6.5): its emotion, layers, counts and ids.

    Raises:
        DataError: names the layer and what is wrong there.
    """
    found = check_document(path)
    if not isinstance(found, dict) or not isinstance(found.get("layers"), list):
        raise DataError(f"{path}: no published circuit; expected an object with 'layers'")
    if known_emotion(str(found.get("emotion")), f"{path}, field 'emotion'") != path.stem:
        raise DataError(
            f"{path}: field 'emotion' says {found['emotion']!r}, unlike the file's name"
        )
    for layer, entry in enumerate(found["layers"]):
        if not isinstance(entry, dict) or entry.get("layer") != layer:
            raise DataError(f"{path}: layers[{layer}] is not the entry of layer {layer}")
        for side, parts in (("mlp", "neurons"), ("attention", "heads")):
            where, own = f"{path}, layers[{layer}].{side}", entry.get(side)
            if not isinstance(own, dict) or not _counts([own.get("k")]) or parts not in own:
                raise DataError(f"{where}: expected an object with 'k' and {parts!r}")
            ids = own[parts]
            if ids is None:  # not known: no contributions were there when it was assembled
                continue
            if not isinstance(ids, list) or not _counts(ids) or len({*ids}) < len(ids):
                raise DataError(f"{where}.{parts}: expected different whole numbers from 0")
            if len(ids) != own["k"]:
                raise DataError(f"{where}: k is {own['k']}, but there are {len(ids)} {parts}")


def _counts(values: list[Any]) -> bool:
    return all(type(x) is int and x >= 0 for x in values)


def check_labels(path: Path) -> None:
    """Check a file of judged replies (``accepted.jsonl`` or ``rejected.jsonl``).

    Raises:
        DataError: a field is missing or malformed, or an emotion unknown; names the line.
    """
    for (number, _), row in zip(read_json_lines(path), read_judged(path), strict=True):
        known_emotion(row.reply.emotion, f"{path}, line {number}, field 'emotion'")
        if row.verdict.match is not (path.stem == "accepted"):
            raise DataError(
                f"{path}, line {number}, field 'judge.match': {int(row.verdict.match)} in the "
                f"file of {path.stem} replies"
            )


PLACES: Final[Mapping[Any, str]] = {
    UnitDirections: f"{STAGES[1]}/emo_directions_{{kind}}.pt",
    Contributions: f"{STAGES[3]}/mlp_neurons/contrib_mean_{{emotion}}.csv",
    HeadImportance: f"{STAGES[3]}/attention_heads/head_importance_{{emotion}}.csv",
    DifferenceVectors: f"{STAGES[4]}/{{kind}}_emotion_diff/emo_diff/{{emotion}}",
    Sigma: f"{STAGES[5]}/sigma_summary.json",
    MeanImportance: f"{STAGES[5]}/{{or_in}}importance_all_alpha_mean_emotion_all_{{what}}.csv",
    SublayerImportance: f"{STAGES[5]}/{{in}}importance_{{emotion}}_alpha{{alpha}}.csv",
    ReferenceDirection: f"{STAGES[5]}/global_ref/v_ref_{{emotion}}.npy",
    AllocationLog: f"{STAGES[5]}/global_circuit/{{emotion}}_alloc_log.csv",
}
"""Kind of record, which reads and writes its own file -> the file; that of differences is a folder
with a file for each layer."""

CIRCUIT: Final = f"{STAGES[5]}/global_circuit/{{emotion}}.json"

DOCUMENTS: Final[Mapping[str, Callable[[Path], object]]] = {
    CIRCUIT: check_circuit,
    "{stage}/{folders}{label}.jsonl": check_labels,
    "{stage}/{name}.jsonl": lambda path: deque(read_json_lines(path), 0),
    "{stage}/{name}.json": check_document,
}
"""Files that are kept as they are -> what checks them."""

_HOLES: Final = {
    "kind": "(?P<kind>attention|mlp)",
    # Whatever stands for an emotion is checked by name when the file is read.
    "emotion": "(?P<emotion>[^/]+?)",
    "alpha": "[^/]+",
    "in": "sublayer_importance/",
    "or_in": "(sublayer_importance/)?",
    "what": r"\w+",
    "stage": "0[1-7]_[^/]+",
    "folders": "(.+/)?",
    "label": "(accepted|rejected)",
    "name": ".+",
}


def place_of(kind: type[Record], /, **named: str) -> str:
    """Where a record lies in the published folder.

    >>> place_of(HeadImportance, emotion="fear")
    '04_local_components_identification/attention_heads/head_importance_fear.csv'
    """
    return PLACES[kind].format_map({"in": _HOLES["in"], "or_in": "", "what": "probability"} | named)


def _pattern(shape: str, below: str = "") -> re.Pattern[str]:
    text = re.sub(r"^(0\d_)\w+", r"\1[^/]+", shape.replace(".", r"\."))
    filled = re.sub(r"\{(\w+)\}", lambda hole: _HOLES[hole[1]], text)
    return re.compile(f"(?P<unit>{filled}){below}")


# The first that fits counts: means before single doses, tables before any JSON.
_FILES: Final[tuple[tuple[re.Pattern[str], Any], ...]] = (
    *(
        (_pattern(shape, r"/[^/]+\.npy" if kind is DifferenceVectors else ""), kind)
        for kind, shape in PLACES.items()
    ),
    *((_pattern(shape), shape) for shape in DOCUMENTS),
)


@dataclass(frozen=True, eq=False)
class Contents:
    """Place of a file, relative to the model's folder -> what it holds."""

    entries: Mapping[str, Entry]
    model: str = "model"
    """Folder name of the model."""
    prefix: str = ""
    """Where the model's folder lay in the folder that was read."""
    left_out: tuple[str, ...] = ()
    """Files that were not read."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """Emotions that a circuit is there for or can be assembled for; else all that occur."""
        can = {e for e in EMOTIONS if e in self.circuits or self.has_tables(e)}
        if not can:
            for record in self.entries.values():
                own = getattr(record, "emotion", ())
                can |= {own} if isinstance(own, str) else set(own)
        return tuple(e for e in EMOTIONS if e in can)

    @property
    def misnamed(self) -> tuple[str, ...]:
        """Folders of differences whose files the released stage 7 would not find.

        It looks for attention differences as ``L0.npy`` and takes zeros for what it does not
        find; the released stage 5.3 writes ``layer0.npy``.
        """
        found = {e: self.get(DifferenceVectors, kind="attention", emotion=e) for e in EMOTIONS}
        return tuple(
            place_of(DifferenceVectors, kind="attention", emotion=emotion)
            for emotion, own in found.items()
            if own and own.stem != "L"
        )

    @property
    def circuits(self) -> dict[str, Any]:
        """Emotion -> its published circuit."""
        found = {e: self.entries.get(CIRCUIT.format(emotion=e)) for e in EMOTIONS}
        return {e: entry.value for e, entry in found.items() if isinstance(entry, Document)}

    def get(self, kind: type[R], /, **named: str) -> R | None:
        """The record of this kind, emotion and kind of sublayer, if it is there."""
        entry = self.entries.get(place_of(kind, **named))
        return entry if isinstance(entry, kind) else None

    def heads(self, emotion: str) -> HeadImportance | None:
        """Head importances of an emotion."""
        return self.get(HeadImportance, emotion=emotion)

    def contributions(self, emotion: str) -> Contributions | None:
        """Neurons' contributions of an emotion."""
        return self.get(Contributions, emotion=emotion)

    def has_tables(self, emotion: str) -> bool:
        """Are the tables there that a circuit is assembled from?"""
        return self.has_weights(emotion) and self.heads(emotion) is not None

    def has_weights(self, emotion: str) -> bool:
        """Is the emotion in an importance table?"""
        tables = [*self._of(MeanImportance), *self._of(SublayerImportance)]
        return any(emotion in own.emotion for own in tables)

    def n_neurons(self, emotion: str) -> int | None:
        """Neurons of a layer, from contributions or else from difference vectors."""
        if (ranked := self.contributions(emotion)) is not None:
            return len(ranked.neuron)
        found = self.get(DifferenceVectors, kind="mlp", emotion=emotion)
        return None if found is None else found.value.shape[1]

    def weights(self, emotion: str) -> Float[Tensor, "sublayer layer"]:
        """Importance of every sublayer: the published mean over doses, or that of the doses.

        Raises:
            DataError: no table has the emotion, or two tables disagree.
        """
        for own in self._of(MeanImportance):
            if emotion in own.emotion:
                return own.sel(emotion=emotion, sublayer=SUBLAYERS).response[0]
        doses: dict[float, Tensor] = {}
        for table in self._of(SublayerImportance):
            for dose in table.dose if emotion in table.emotion else ():
                chosen = table.sel(emotion=emotion, dose=dose, sublayer=SUBLAYERS)
                found = chosen.response_final[0, 0]
                if not torch.equal(doses.setdefault(dose, found), found):
                    raise DataError(f"two importance tables disagree on {emotion}, alpha {dose}")
        if not doses:
            raise DataError(f"there is no importance table of {emotion!r}; import one")
        return torch.stack([doses[dose] for dose in sorted(doses)]).mean(0)

    def _of(self, kind: type[R]) -> list[R]:
        return [entry for entry in self.entries.values() if isinstance(entry, kind)]


def read_folder(folder: Path) -> Contents:
    """Read the authors' output folder, or any part of it.

    Args:
        folder: The folder of a model, with ``01_...`` to ``07_...`` in it, or one above it.

    Raises:
        DataError: there is no such folder or nothing known in it, a file is malformed, or a link
            leads out of it.
    """
    home = _home(folder)
    units: dict[str, tuple[Any, dict[str, str], list[Path]]] = {}
    left_out = []
    for name in _files_below(folder, home):
        fits = ((pattern.fullmatch(name), kind) for pattern, kind in _FILES)
        match, kind = next((found for found in fits if found[0]), (None, None))
        if match is None or not (home / name).is_file():
            left_out.append(name)
            continue
        units.setdefault(match["unit"], (kind, match.groupdict(), []))[2].append(home / name)
    if not units:
        raise DataError(f"{home}: no published file was found; found {', '.join(left_out[:8])}")
    entries = {unit: _read(home, unit, *own) for unit, own in units.items()}
    prefix = home.relative_to(folder).as_posix().removeprefix(".")
    return Contents(entries, home.name, prefix, tuple(left_out))


def _read(home: Path, unit: str, kind: Any, named: Mapping[str, str], paths: list[Path]) -> Entry:
    if isinstance(kind, str):
        DOCUMENTS[kind](paths[0])
        return read_document(paths[0])
    options = {"emotion": named["emotion"]} if "emotion" in named else {}
    # A table of all emotions says in every row whose it is.
    if options and (kind is not SublayerImportance or named["emotion"] != "all"):
        known_emotion(named["emotion"], str(paths[0]))
    if "kind" in named:
        options["sublayer"] = next(own for own, word in KINDS.items() if word == named["kind"])
    one = paths[0].relative_to(home).as_posix() if len(paths) == 1 else unit
    said = {"imported": one, "of": digest(*paths)}
    read: Any = kind.read
    with recorded(Provenance({"name": home.name}, "", said, versions())):
        return read(*paths, **options)


def write_folder(contents: Contents, folder: Path) -> None:
    """Write everything into ``folder``, laid out as it was read.

    Raises:
        DataError: the folder cannot be written to, or a place leads out of it.
    """
    for name, entry in contents.entries.items():
        own: Any = entry
        own.write(place(folder, f"{contents.prefix}/{name}".lstrip("/")))


def _home(folder: Path) -> Path:
    """The folder that holds ``01_...`` to ``07_...``: ``folder`` itself or one below it."""
    if not is_folder(folder):
        raise DataError(f"there is no folder {folder}; give the folder of the published outputs")
    for pattern in (".", "outputs", "outputs/*", "*"):
        level = [folder] if pattern == "." else sorted(folder.glob(pattern))
        found = [path for path in level if any(own.is_dir() for own in path.glob("0[1-7]_?*"))]
        if len(found) > 1:
            several = ", ".join(map(str, found))
            raise DataError(f"{folder} holds several models; give one of {several}")
        if found:
            return place(folder, found[0].relative_to(folder).as_posix())
    raise DataError(
        f"{folder}: no published stage was found there, nor in outputs/MODEL; looked for "
        f"{', '.join(STAGES)}"
    )


def _files_below(root: Path, folder: Path) -> Iterator[str]:
    """Files below ``folder``, sorted; links to folders are named, not followed, nor out of root."""
    for current, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        links = [name for name in folders if Path(current, name).is_symlink()]
        for path in (Path(current, name) for name in sorted([*names, *links])):
            place(root, path.relative_to(root).as_posix())
            yield path.relative_to(folder).as_posix()


def place(root: Path, relative: str) -> Path:
    """The path ``relative`` below ``root``.

    Raises:
        DataError: it leaves ``root``, by its components or by a link.
    """
    path = root / relative
    if ".." in relative.split("/") or relative.startswith("/"):
        raise DataError(f"{relative!r} leads out of {root}; remove it")
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path} leads out of {root}; replace the link by the file")
    return path


def short_model(name: str) -> str:
    """Folder name of a model, as stage 1 derives it.

    >>> short_model("meta-llama/Llama-3.2-3B-Instruct")
    'llama32_3b'
    """
    squeezed = re.sub(r"[^\w]|-", "", name.rstrip("/").split("/")[-1].lower())
    return "llama32_3b" if "llama32" in squeezed and "3b" in squeezed else squeezed or "model"


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its place if all goes well, else is removed.

    Raises:
        RunError: ``folder`` holds something already, or cannot be made.
    """
    if exists(folder) and (not is_folder(folder) or any(folder.iterdir())):
        raise RunError(f"{folder} is not empty; give a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise RunError(f"cannot make {folder}: {error.strerror}; choose another folder") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""Where things lie in a published folder, and how it is found and kept to."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from circuits.errors import DataError, RunError
from circuits.export.node_link import check_values
from circuits.files import exists, is_folder, read_json, sync_folder, write_text
from circuits.names import EMOTIONS

__all__ = [
    "CIRCUITS",
    "CONTRIBUTIONS",
    "DIFFERENCES",
    "DIRECTIONS",
    "Document",
    "ELICITATION",
    "HEADS",
    "IMPORTANCE",
    "KINDS",
    "MEAN_IMPORTANCE",
    "REFERENCES",
    "SIGMA",
    "STAGES",
    "check_circuit",
    "check_document",
    "dumped",
    "files_below",
    "known_emotion",
    "locate",
    "place",
    "read_document",
    "short_model",
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
DIRECTIONS: Final = f"{STAGES[1]}/emo_directions_{{kind}}.pt"
CONTRIBUTIONS: Final = f"{STAGES[3]}/mlp_neurons/contrib_mean_{{emotion}}.csv"
HEADS: Final = f"{STAGES[3]}/attention_heads/head_importance_{{emotion}}.csv"
DIFFERENCES: Final = f"{STAGES[4]}/{{kind}}_emotion_diff/emo_diff/{{emotion}}"
SIGMA: Final = f"{STAGES[5]}/sigma_summary.json"
IMPORTANCE: Final = f"{STAGES[5]}/sublayer_importance/importance_{{emotion}}_alpha{{alpha}}.csv"
MEAN_IMPORTANCE: Final = f"{STAGES[5]}/importance_all_alpha_mean_emotion_all_probability.csv"
REFERENCES: Final = f"{STAGES[5]}/global_ref/v_ref_{{emotion}}.npy"
CIRCUITS: Final = f"{STAGES[5]}/global_circuit"

KINDS: Final = {"attn": "attention", "mlp": "mlp"}
"""Our word for a sublayer -> the word of the published files."""

_STAGE = re.compile(r"0[1-7]_\w+")


def locate(folder: Path) -> Path:
    """The folder that holds ``01_...`` to ``07_...``: ``folder`` itself or one below it.

    Raises:
        DataError: there is none, or more than one.
    """
    if not is_folder(folder):
        raise DataError(f"there is no folder {folder}; give the folder of the published outputs")
    levels = [[folder], [folder / "outputs"], sorted(folder.glob("outputs/*"))]
    for level in [*levels, sorted(folder.glob("*"))]:
        found = [path for path in level if path.is_dir() and _holds_stages(path)]
        if len(found) > 1:
            several = ", ".join(map(str, found))
            raise DataError(f"{folder} holds several models; give one of {several}")
        if found:
            place(folder, found[0].relative_to(folder).as_posix())
            return found[0]
    raise DataError(
        f"{folder}: no published stage was found there, nor in outputs/MODEL; looked for "
        f"{', '.join(STAGES)}"
    )


def _holds_stages(folder: Path) -> bool:
    return any(_STAGE.fullmatch(path.name) and path.is_dir() for path in folder.iterdir())


def files_below(root: Path, folder: Path) -> Iterator[str]:
    """Files below ``folder`` relative to it, sorted; links to folders are named, not followed.

    Raises:
        DataError: a link leaves ``root``.
    """
    for current, folders, names in os.walk(folder, followlinks=False):
        here = Path(current)
        folders.sort()
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = here / name
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


def known_emotion(emotion: str, where: str) -> str:
    """The emotion itself.

    Raises:
        DataError: it is none of the six that the published layout knows.
    """
    if emotion not in EMOTIONS:
        raise DataError(f"{where}: {emotion!r} is no known emotion; known: {', '.join(EMOTIONS)}")
    return emotion


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


_SIDES = {"mlp": "neurons", "attention": "heads"}


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


def read_document(path: Path) -> Document:
    """The text of a file that was checked."""
    with path.open(encoding="utf-8", newline="") as file:
        return Document(file.read())


def dumped(value: object) -> str:
    """JSON in the layout of the published files: indented, no line end after it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def check_document(path: Path) -> None:
    """Check that a file is JSON without NaN.

    Raises:
        DataError: it is not.
    """
    try:
        check_values(read_json(path))
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def check_circuit(path: Path) -> None:
    """Check a published circuit (stage 6.5): its emotion, layers, counts and ids.

    Raises:
        DataError: names the layer and what is wrong there.
    """
    check_document(path)
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("layers"), list):
        raise DataError(f"{path}: no published circuit; expected an object with 'layers'")
    known_emotion(str(found.get("emotion")), f"{path}, field 'emotion'")
    if found["emotion"] != path.stem:
        raise DataError(
            f"{path}: field 'emotion' says {found['emotion']!r}, unlike the file's name"
        )
    for layer, entry in enumerate(found["layers"]):
        if not isinstance(entry, Mapping) or entry.get("layer") != layer:
            raise DataError(f"{path}: layers[{layer}] is not the entry of layer {layer}")
        for side, parts in _SIDES.items():
            _check_side(f"{path}, layers[{layer}].{side}", entry.get(side), parts)


def _check_side(where: str, side: Any, parts: str) -> None:
    if not isinstance(side, Mapping) or not _count(side.get("k")) or parts not in side:
        raise DataError(f"{where}: expected an object with 'k' and {parts!r}")
    ids = side[parts]
    if ids is None:  # not known: no contributions were there when it was assembled
        return
    if not isinstance(ids, list) or not all(map(_count, ids)) or len(set(ids)) < len(ids):
        raise DataError(f"{where}.{parts}: expected different whole numbers from 0")
    if len(ids) != side["k"]:
        raise DataError(f"{where}: k is {side['k']}, but there are {len(ids)} {parts}")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

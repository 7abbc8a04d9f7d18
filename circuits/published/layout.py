"""Where things lie in a published folder, and how it is found and kept to."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from circuits.errors import DataError, RunError
from circuits.files import exists, is_folder, sync_folder
from circuits.names import EMOTIONS

__all__ = [
    "CIRCUITS",
    "CONTRIBUTIONS",
    "DIFFERENCES",
    "DIRECTIONS",
    "ELICITATION",
    "HEADS",
    "IMPORTANCE",
    "KINDS",
    "MEAN_IMPORTANCE",
    "REFERENCES",
    "SIGMA",
    "STAGES",
    "files_below",
    "known_emotion",
    "locate",
    "place",
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
            raise DataError(f"{folder} holds several models; give one of {_listed(found)}")
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
        DataError: it leaves ``root``, by its parts or by a link.
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


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)

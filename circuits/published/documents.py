"""JSON documents of a published folder: checked, and otherwise kept letter by letter."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.errors import DataError
from circuits.export.form import check_values
from circuits.files import read_json, write_text
from circuits.published.layout import known_emotion

__all__ = ["Document", "check_circuit", "check_document", "dumped", "read_document"]

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

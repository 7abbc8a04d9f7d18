"""A published folder read and written file by file; what no pattern knows is left out by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from circuits.errors import DataError
from circuits.files import digest
from circuits.provenance import Provenance, versions
from circuits.published.contents import Contents, Entry
from circuits.published.documents import (
    Document,
    check_circuit,
    check_document,
    read_document,
)
from circuits.published.labels import check_labels, check_lines
from circuits.published.layout import KINDS, files_below, known_emotion, locate, place
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
from circuits.published.vectors import (
    read_differences,
    read_directions,
    read_reference,
    read_sigma,
    write_differences,
    write_directions,
    write_reference,
    write_sigma,
)
from circuits.records import Record

__all__ = ["read_folder", "write_folder"]

Named = Mapping[str, str | None]


@dataclass(frozen=True)
class _Codec:
    pattern: re.Pattern[str]
    """Of the file's place; the group ``unit``, if any, is the place of all files together."""
    read: Callable[[Sequence[Path], Provenance, Named], Entry]


def _codec(pattern: str, read: Callable[[Sequence[Path], Provenance, Named], Entry]) -> _Codec:
    # Whatever stands for an emotion is checked by name when the file is read.
    return _Codec(re.compile(pattern.replace("EMOTION", r"(?P<emotion>[^/]+?)")), read)


def _table(kind: type[Record]) -> Callable[[Sequence[Path], Provenance, Named], Entry]:
    def read(paths: Sequence[Path], provenance: Provenance, named: Named) -> Entry:
        emotion = named.get("emotion")
        return read_table(paths[0], kind, provenance, None if emotion == "all" else emotion)

    return read


def _document(check: Callable[[Path], None]) -> Callable[..., Entry]:
    def read(paths: Sequence[Path], provenance: Provenance, named: Named) -> Entry:
        check(paths[0])
        return read_document(paths[0])

    return read


def _own(word: str | None) -> str:
    return next(own for own, published in KINDS.items() if published == word)


_KIND = "(?P<kind>attention|mlp)"
_CODECS: Final = (
    _codec(
        f"02_[^/]+/emo_directions_{_KIND}\\.pt",
        lambda paths, origin, named: read_directions(paths[0], origin, _own(named["kind"])),
    ),
    _codec(r"04_[^/]+/mlp_neurons/contrib_mean_EMOTION\.csv", _table(Contributions)),
    _codec(r"04_[^/]+/attention_heads/head_importance_EMOTION\.csv", _table(HeadImportance)),
    _codec(
        f"(?P<unit>05_[^/]+/{_KIND}_emotion_diff/emo_diff/EMOTION)/[^/]+\\.npy",
        lambda paths, origin, named: read_differences(
            paths, origin, str(named["emotion"]), _own(named["kind"])
        ),
    ),
    _codec(r"06_[^/]+/sigma_summary\.json", lambda paths, origin, _: read_sigma(paths[0], origin)),
    _codec(
        r"06_[^/]+/(sublayer_importance/)?importance_all_alpha_mean_emotion_all_\w+\.csv",
        _table(MeanImportance),
    ),
    _codec(
        r"06_[^/]+/sublayer_importance/importance_EMOTION_alpha[^/]+\.csv",
        _table(SublayerImportance),
    ),
    _codec(
        r"06_[^/]+/global_ref/v_ref_EMOTION\.npy",
        lambda paths, origin, named: read_reference(paths[0], origin, str(named["emotion"])),
    ),
    _codec(r"06_[^/]+/global_circuit/EMOTION_alloc_log\.csv", _table(AllocationLog)),
    _codec(r"06_[^/]+/global_circuit/EMOTION\.json", _document(check_circuit)),
    _codec(r"0[1-7]_[^/]+/(.+/)?(accepted|rejected)\.jsonl", _document(check_labels)),
    _codec(r"0[1-7]_[^/]+/.+\.jsonl", _document(check_lines)),
    _codec(r"0[1-7]_[^/]+/.+\.json", _document(check_document)),
)
"""The first pattern that fits counts: means before single doses, tables before any JSON."""

_WRITERS: Mapping[type[Any], Callable[[Any, Path], None]] = {
    Document: lambda document, path: document.write(path),
    UnitDirections: write_directions,
    DifferenceVectors: write_differences,
    ReferenceDirection: write_reference,
    Sigma: write_sigma,
    **dict.fromkeys(
        (AllocationLog, Contributions, HeadImportance, MeanImportance, SublayerImportance),
        write_table,
    ),
}


def read_folder(folder: Path) -> Contents:
    """Read the authors' output folder, or any part of it.

    Args:
        folder: The folder of a model, with ``01_...`` to ``07_...`` in it, or one above it.

    Raises:
        DataError: there is no such folder or nothing known in it, a file is malformed, or a link
            leads out of it.
    """
    home = locate(folder)
    units: dict[str, tuple[_Codec, Named, list[str]]] = {}
    left_out = []
    for name in files_below(folder, home):
        found = _match(name)
        if found is None or not (home / name).is_file():
            left_out.append(name)
            continue
        codec, named = found
        units.setdefault(named.get("unit") or name, (codec, named, []))[2].append(name)
    if not units:
        raise DataError(f"{home}: no published file was found; found {', '.join(left_out[:8])}")
    entries = {
        unit: _read(home, codec, named, names) for unit, (codec, named, names) in units.items()
    }
    prefix = home.relative_to(folder).as_posix().removeprefix(".")
    return Contents(entries, home.name, prefix, tuple(left_out))


def write_folder(contents: Contents, folder: Path) -> None:
    """Write everything into ``folder``, laid out as it was read.

    Raises:
        DataError: the folder cannot be written to, or a place leads out of it.
    """
    for name, entry in contents.entries.items():
        path = place(folder, f"{contents.prefix}/{name}".lstrip("/"))
        _WRITERS[type(entry)](entry, path)


def _match(name: str) -> tuple[_Codec, Named] | None:
    for codec in _CODECS:
        found = codec.pattern.fullmatch(name)
        if found is not None:
            return codec, found.groupdict()
    return None


def _read(home: Path, codec: _Codec, named: Named, names: Sequence[str]) -> Entry:
    paths = [home / name for name in names]
    emotion = named.get("emotion")
    if emotion is not None and (emotion != "all" or "importance_all" not in names[0]):
        known_emotion(emotion, str(paths[0]))
    origin = Provenance(
        model={"name": home.name},
        options={"imported": names[0] if len(names) == 1 else named["unit"], "of": digest(*paths)},
        versions=versions(),
    )
    return codec.read(paths, origin, named)

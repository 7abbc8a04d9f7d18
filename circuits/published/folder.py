"""A published folder as a value: read and written file by file, labels checked."""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import DataError
from circuits.files import digest, read_json_lines
from circuits.judges.replies import read_judged
from circuits.names import EMOTIONS
from circuits.provenance import Provenance, recorded, versions
from circuits.published.layout import (
    CIRCUITS,
    CONTRIBUTIONS,
    DIFFERENCES,
    HEADS,
    KINDS,
    Document,
    check_circuit,
    check_document,
    files_below,
    known_emotion,
    locate,
    place,
    read_document,
)
from circuits.published.tables import (
    AllocationLog,
    Contributions,
    DifferenceVectors,
    HeadImportance,
    MeanImportance,
    ReferenceDirection,
    Sigma,
    SublayerImportance,
    UnitDirections,
    read_differences,
    read_directions,
    read_reference,
    read_sigma,
    read_table,
    write_differences,
    write_directions,
    write_reference,
    write_sigma,
    write_table,
)
from circuits.records import Record

__all__ = ["WRITERS", "Contents", "Entry", "check_labels", "read_folder", "write_folder"]

Entry = Record | Document
R = TypeVar("R", bound=Record)


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
        attention = (DIFFERENCES.format(kind=KINDS["attn"], emotion=e) for e in EMOTIONS)
        found = {place: self._get(place, DifferenceVectors) for place in attention}
        return tuple(place for place, own in found.items() if own and own.stem != "L")

    @property
    def circuits(self) -> dict[str, Any]:
        """Emotion -> its published circuit."""
        places = {emotion: f"{CIRCUITS}/{emotion}.json" for emotion in EMOTIONS}
        found = {emotion: self.entries.get(place) for emotion, place in places.items()}
        return {e: entry.value for e, entry in found.items() if isinstance(entry, Document)}

    def has_tables(self, emotion: str) -> bool:
        """Are the tables there that a circuit is assembled from?"""
        return self.has_weights(emotion) and self.heads(emotion) is not None

    def has_weights(self, emotion: str) -> bool:
        """Is the emotion in an importance table?"""
        tables = [*self._of(MeanImportance), *self._of(SublayerImportance)]
        return any(emotion in own.emotion for own in tables)

    def heads(self, emotion: str) -> HeadImportance | None:
        """Head importances of an emotion."""
        return self._get(HEADS.format(emotion=emotion), HeadImportance)

    def contributions(self, emotion: str) -> Contributions | None:
        """Neurons' contributions of an emotion."""
        return self._get(CONTRIBUTIONS.format(emotion=emotion), Contributions)

    def n_neurons(self, emotion: str) -> int | None:
        """Neurons of a layer, from contributions or else from difference vectors."""
        ranked = self.contributions(emotion)
        if ranked is not None:
            return len(ranked.neuron)
        place = DIFFERENCES.format(kind="mlp", emotion=emotion)
        found = self._get(place, DifferenceVectors)
        return None if found is None else found.value.shape[1]

    def weights(self, emotion: str) -> Float[Tensor, "sublayer layer"]:
        """Importance of every sublayer: the published mean over doses, or that of the doses.

        Raises:
            DataError: no table has the emotion, or two tables disagree.
        """
        for own in self._of(MeanImportance):
            if emotion in own.emotion:
                return own.sel(emotion=emotion, sublayer=("attn", "mlp")).response[0]
        doses: dict[float, Tensor] = {}
        for table in self._of(SublayerImportance):
            for dose in table.dose if emotion in table.emotion else ():
                chosen = table.sel(emotion=emotion, dose=dose, sublayer=("attn", "mlp"))
                found = chosen.response_final[0, 0]
                if not torch.equal(doses.setdefault(dose, found), found):
                    raise DataError(f"two importance tables disagree on {emotion}, alpha {dose}")
        if not doses:
            raise DataError(f"there is no importance table of {emotion!r}; import one")
        return torch.stack([doses[dose] for dose in sorted(doses)]).mean(0)

    def _of(self, kind: type[R]) -> list[R]:
        return [entry for entry in self.entries.values() if isinstance(entry, kind)]

    def _get(self, place: str, kind: type[R]) -> R | None:
        entry = self.entries.get(place)
        return entry if isinstance(entry, kind) else None


def check_labels(path: Path) -> None:
    """Check a file of judged replies (``accepted.jsonl`` or ``rejected.jsonl``).

    Raises:
        DataError: a field is missing or malformed, or an emotion unknown; names the line.
    """
    expected = path.stem == "accepted"
    for (number, _), row in zip(read_json_lines(path), read_judged(path), strict=True):
        known_emotion(row.reply.emotion, f"{path}, line {number}, field 'emotion'")
        if row.verdict.match is not expected:
            raise DataError(
                f"{path}, line {number}, field 'judge.match': {int(row.verdict.match)} in the "
                f"file of {path.stem} replies"
            )


Named = Mapping[str, str | None]


@dataclass(frozen=True)
class _Codec:
    pattern: re.Pattern[str]
    """Of the file's place; the group ``unit``, if any, is the place of all files together."""
    read: Callable[[Sequence[Path], Named], Entry]


def _codec(pattern: str, read: Callable[[Sequence[Path], Named], Entry]) -> _Codec:
    # Whatever stands for an emotion is checked by name when the file is read.
    return _Codec(re.compile(pattern.replace("EMOTION", r"(?P<emotion>[^/]+?)")), read)


def _table(kind: type[Record]) -> Callable[[Sequence[Path], Named], Entry]:
    def read(paths: Sequence[Path], named: Named) -> Entry:
        emotion = named.get("emotion")
        return read_table(paths[0], kind, None if emotion == "all" else emotion)

    return read


def _document(check: Callable[[Path], object]) -> Callable[..., Entry]:
    def read(paths: Sequence[Path], named: Named) -> Entry:
        check(paths[0])
        return read_document(paths[0])

    return read


def _own(word: str | None) -> str:
    return next(own for own, published in KINDS.items() if published == word)


_KIND = "(?P<kind>attention|mlp)"
_CODECS: Final = (
    _codec(
        f"02_[^/]+/emo_directions_{_KIND}\\.pt",
        lambda paths, named: read_directions(paths[0], _own(named["kind"])),
    ),
    _codec(r"04_[^/]+/mlp_neurons/contrib_mean_EMOTION\.csv", _table(Contributions)),
    _codec(r"04_[^/]+/attention_heads/head_importance_EMOTION\.csv", _table(HeadImportance)),
    _codec(
        f"(?P<unit>05_[^/]+/{_KIND}_emotion_diff/emo_diff/EMOTION)/[^/]+\\.npy",
        lambda paths, named: read_differences(paths, str(named["emotion"]), _own(named["kind"])),
    ),
    _codec(r"06_[^/]+/sigma_summary\.json", lambda paths, _: read_sigma(paths[0])),
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
        lambda paths, named: read_reference(paths[0], str(named["emotion"])),
    ),
    _codec(r"06_[^/]+/global_circuit/EMOTION_alloc_log\.csv", _table(AllocationLog)),
    _codec(r"06_[^/]+/global_circuit/EMOTION\.json", _document(check_circuit)),
    _codec(r"0[1-7]_[^/]+/(.+/)?(accepted|rejected)\.jsonl", _document(check_labels)),
    _codec(r"0[1-7]_[^/]+/.+\.jsonl", _document(lambda path: deque(read_json_lines(path), 0))),
    _codec(r"0[1-7]_[^/]+/.+\.json", _document(check_document)),
)
"""The first pattern that fits counts: means before single doses, tables before any JSON."""

WRITERS: Mapping[type[Any], Callable[[Any, Path], None]] = {
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
"""Kind of entry -> what writes it."""


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
        fits = ((codec, codec.pattern.fullmatch(name)) for codec in _CODECS)
        codec, match = next((found for found in fits if found[1]), (None, None))
        if codec is None or match is None or not (home / name).is_file():
            left_out.append(name)
            continue
        named = match.groupdict()
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
        WRITERS[type(entry)](entry, path)


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
    with recorded(origin):
        return codec.read(paths, named)

"""Files of labelled texts: JSON lines, TSV and CSV; and the two sets that the package ships.

The format is told by the suffix. TSV and CSV have a head line, and fields may be quoted; a text
that would start a formula has an apostrophe in front there (:mod:`circuits.files`).
"""

import csv
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from circuits.errors import DataError
from circuits.files import (
    checked_text,
    guarded,
    read_json_lines,
    read_text,
    resolved,
    shipped,
    unguarded,
    write_json_lines,
    write_text,
)
from circuits.names import DEVICES, EMOTIONS, LITERAL
from circuits.prompts.prompt import (
    DEVICE_REQUEST,
    EMOTION_REQUEST,
    SPLITS,
    LabelledSet,
    LabelledText,
    Split,
    Texts,
)

__all__ = ["embedded_set", "read_texts", "split_texts", "write_texts"]

_SETS = ("emotion", "rhetoric")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
Row = tuple[int, dict[str, Any]]
"""Line number and fields."""


def read_texts(
    path: Path | str,
    *,
    split: str,
    text: str = "text",
    label: str = "label",
    pair: str | None = None,
    labels: Sequence[str] | None = None,
) -> Texts:
    """Read the texts of one split from a ``.jsonl``, ``.tsv`` or ``.csv`` file.

    Args:
        text: the column of the text.
        label: the column of the class.
        pair: the column of pairs; texts with the same value there say the same. An empty value
            means that a text has no pair.
        labels: the classes in their order; without it those of the file, sorted.

    Raises:
        DataError: the file cannot be read, has no text, lacks a column, or a line has an empty
            text, a label not in ``labels``, or a text that has another label elsewhere. The message
            names the file, the line and the column.
    """
    path = resolved(path)
    if split not in SPLITS:
        raise DataError(f"no split is called {split!r}; splits are {', '.join(SPLITS)}")
    rows: list[LabelledText] = []
    first: dict[str, tuple[str, int]] = {}
    for number, fields in _rows(path):
        where = f"{path}, line {number}"
        said, named = _field(fields, text, where), _field(fields, label, where)
        if labels is not None and named not in labels:
            raise DataError(
                f"{where}: column {label!r}: unknown label {named!r}; labels are "
                f"{', '.join(labels)}"
            )
        known, line = first.setdefault(_plain(said), (named, number))
        if known != named:
            raise DataError(
                f"{where}: column {label!r}: the text is labelled {named!r} here and {known!r} "
                f"in line {line}; a text has one label"
            )
        key = None if pair is None else _field(fields, pair, where, empty=True)
        rows.append(LabelledText(said, named, key or None))
    if not rows:
        raise DataError(f"{path}: no text found; expected one text per line")
    found = tuple(sorted({row.label for row in rows})) if labels is None else tuple(labels)
    return Texts(cast(Split, split), found, tuple(rows))


def write_texts(path: Path | str, texts: Texts) -> None:
    """Write ``text``, ``label`` and, if there is one, ``pair`` in the format of the suffix.

    Raises:
        DataError: the suffix is none of ``.jsonl``, ``.tsv``, ``.csv``, or the file cannot be
            written.
    """
    path = resolved(path)
    paired = any(row.pair is not None for row in texts.rows)
    rows = [
        {"text": row.text, "label": row.label} | ({"pair": row.pair} if paired else {})
        for row in texts.rows
    ]
    if _format(path) == ".jsonl":
        write_json_lines(path, rows)
        return
    buffer = io.StringIO()
    names = ["text", "label", *(["pair"] if paired else [])]
    writer = csv.DictWriter(
        buffer, names, delimiter=_DELIMITERS[_format(path)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({name: guarded(cell or "") for name, cell in row.items()} for row in rows)
    write_text(path, buffer.getvalue())


def split_texts(
    texts: Texts, shares: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0
) -> tuple[Texts, Texts, Texts]:
    """Divide the texts of one file into train, dev and test, in the order of the file.

    Texts of a pair, and equal texts, stay together. Such groups are dealt out by the labels that
    they have: of those with the same labels every split has its share, to within one group. The
    split that ``texts`` were read as plays no part.

    Args:
        shares: of train, dev and test; they add up to 1.

    Raises:
        DataError: the shares are not three positive numbers that add up to 1, or a split would lack
            a label.
    """
    if len(shares) != len(SPLITS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise DataError(f"shares of {', '.join(SPLITS)} are wanted that add up to 1, got {shares}")
    rng = random.Random(seed)
    place: dict[int, int] = {}
    for alike in _by_labels(texts.rows):
        rng.shuffle(alike)
        for turn, group in enumerate(alike):
            own = _place(turn, len(alike), shares)
            place |= dict.fromkeys(group, own)
    parts = []
    for own, split in enumerate(SPLITS):
        rows = tuple(row for index, row in enumerate(texts.rows) if place[index] == own)
        lacking = sorted({row.label for row in texts.rows} - {row.label for row in rows})
        if lacking:
            raise DataError(
                f"the {split} split would have no text of {', '.join(lacking)}; "
                "give more texts or a larger share"
            )
        parts.append(Texts(split, texts.label, rows))
    train, dev, test = parts
    return train, dev, test


def embedded_set(name: str) -> LabelledSet:
    """The project's own set of ``"emotion"`` or ``"rhetoric"`` texts, with the request for a label.

    Every text of a device shares its ``pair`` with a literal paraphrase. The texts are made by a
    grammar for sev-mini; ``assets/texts/README.md`` says how.

    Raises:
        DataError: there is no such set, or the installation lacks it.
    """
    if name not in _SETS:
        raise DataError(f"no set is called {name!r}; sets are {', '.join(_SETS)}")
    rhetoric = name == "rhetoric"
    labels = (*DEVICES, LITERAL) if rhetoric else EMOTIONS
    train, dev, test = (
        read_texts(
            shipped(f"texts/{name}/{split}.jsonl"),
            split=split,
            pair="pair" if rhetoric else None,
            labels=labels,
        )
        for split in SPLITS
    )
    return LabelledSet(name, DEVICE_REQUEST if rhetoric else EMOTION_REQUEST, train, dev, test)


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix != ".jsonl" and suffix not in _DELIMITERS:
        raise DataError(f"{path}: texts are read from .jsonl, .tsv and .csv, found {suffix!r}")
    return suffix


def _rows(path: Path) -> Iterator[Row]:
    suffix = _format(path)
    return read_json_lines(path) if suffix == ".jsonl" else _table(path, _DELIMITERS[suffix])


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    """The lines of a table; a field in quotes may go on over several lines."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    head: list[str] | None = None
    number = 1
    try:
        for fields in reader:
            start, number = number, reader.line_num + 1
            if len(fields) < 2 and not "".join(fields).strip():
                continue
            if head is None:
                head = _head(fields, f"{path}, line {start}")
                continue
            if len(fields) != len(head):
                raise DataError(
                    f"{path}, line {start}: expected {len(head)} fields ({', '.join(head)}), "
                    f"found {len(fields)}"
                )
            yield start, dict(zip(head, map(unguarded, fields), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: not a table ({error}); check quotes") from error


def _head(fields: Sequence[str], where: str) -> list[str]:
    head = [field.strip() for field in fields]
    twice = sorted({name for name in head if head.count(name) > 1})
    if twice:
        raise DataError(f"{where}: column {twice[0]!r} is there twice; columns need names")
    return head


def _field(fields: Mapping[str, Any], column: str, where: str, *, empty: bool = False) -> str:
    if empty and fields.get(column, "") is None:
        return ""
    if column not in fields:
        raise DataError(f"{where}: no column {column!r}; columns are {', '.join(fields)}")
    value = checked_text(fields[column], f"{where}: column {column!r}").strip()
    if not value and not empty:
        raise DataError(f"{where}: column {column!r}: the text is empty")
    return value


def _by_labels(rows: Sequence[LabelledText]) -> list[list[list[int]]]:
    """Groups of rows that must stay together, those with the same labels in one list."""
    alike: dict[tuple[str, ...], list[list[int]]] = {}
    for group in _groups(rows):
        key = tuple(sorted(rows[index].label for index in group))
        alike.setdefault(key, []).append(group)
    return list(alike.values())


def _groups(rows: Sequence[LabelledText]) -> list[list[int]]:
    """Rows that share a pair or a text, directly or through others."""
    leader = list(range(len(rows)))

    def lead(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        keys = [("text", _plain(row.text))]
        keys += [] if row.pair is None else [("pair", row.pair)]
        for key in keys:
            one, other = lead(first.setdefault(key, index)), lead(index)
            leader[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for index in range(len(rows)):
        groups.setdefault(lead(index), []).append(index)
    return list(groups.values())


def _place(turn: int, count: int, shares: Sequence[float]) -> int:
    """The split of one of so many groups, when train is dealt out first and test last."""
    ends = (round(count * sum(shares[: own + 1])) for own in range(len(shares) - 1))
    return sum(turn >= end for end in ends)


def _plain(text: str) -> str:
    """What counts as the same text."""
    return " ".join(text.lower().split())

"""Files of labelled texts: JSON lines, TSV and CSV; and the two sets that the package ships.

The format is told by the suffix. TSV and CSV have a head line, and fields may be quoted; a text
that would start a formula has an apostrophe in front there (:mod:`circuits.files`).
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field, create_model

from circuits.errors import DataError
from circuits.files import (
    Text,
    Words,
    guarded,
    read_json_lines,
    read_text,
    resolved,
    shipped,
    unguarded,
    validated,
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
    plain,
)

__all__ = ["embedded_set", "read_texts", "write_texts"]

_SETS = {
    "emotion": (EMOTION_REQUEST, EMOTIONS, None),
    "rhetoric": (DEVICE_REQUEST, (*DEVICES, LITERAL), "pair"),
}
"""Name -> request, labels, column of pairs."""
_Pair = Text | None
_DELIMITERS = {".jsonl": "", ".csv": ",", ".tsv": "\t"}


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
    columns: dict[str, Any] = {
        "text": (Words, Field(alias=text)),
        "name": (Words, Field(alias=label)),
    }
    if pair is not None:
        columns["pair"] = (_Pair, Field(alias=pair))
    kind = create_model("Row", **columns)
    rows: list[LabelledText] = []
    before: dict[str, str] = {}
    for number, values in _lines(path):
        where = f"{path}, line {number}"
        row: Any = validated(kind, values, where)
        known = before.setdefault(plain(row.text), row.name)
        if known != row.name:
            raise DataError(
                f"{where}: field {label!r}: the text is labelled {row.name[:40]!r} here and "
                f"{known[:40]!r} before; a text has one label"
            )
        if labels is not None and row.name not in labels:
            raise DataError(
                f"{where}: field {label!r}: unknown label {row.name[:40]!r}; labels are "
                f"{', '.join(labels)}"
            )
        same = (getattr(row, "pair", "") or "").strip()
        rows.append(LabelledText(row.text, row.name, same or None))
    if not rows:
        raise DataError(f"{path}: no text found; expected one text per line")
    found = sorted({*before.values()}) if labels is None else labels
    return Texts(cast(Split, split), tuple(found), tuple(rows))


def write_texts(path: Path | str, texts: Texts) -> None:
    """Write ``text``, ``label`` and, if there is one, ``pair`` in the format of the suffix.

    Raises:
        DataError: the suffix is none of ``.jsonl``, ``.tsv``, ``.csv``, or the file cannot be
            written.
    """
    path = resolved(path)
    delimiter = _delimiter(path)
    paired = any(row.pair is not None for row in texts.rows)
    names = ["text", "label", "pair"] if paired else ["text", "label"]
    rows = [{name: getattr(row, name) for name in names} for row in texts.rows]
    if not delimiter:
        write_json_lines(path, rows)
        return
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: guarded(cell or "") for name, cell in row.items()} for row in rows)
    write_text(path, buffer.getvalue())


def embedded_set(name: str) -> LabelledSet:
    """The project's own set of ``"emotion"`` or ``"rhetoric"`` texts, with the request for a label.

    Every text of a device shares its ``pair`` with a literal paraphrase. The texts are made by a
    grammar for sev-mini; ``assets/texts/README.md`` says how.

    Raises:
        DataError: there is no such set, or the installation lacks it.
    """
    if name not in _SETS:
        raise DataError(f"no set is called {name!r}; sets are {', '.join(_SETS)}")
    request, labels, pair = _SETS[name]
    files = {split: shipped(f"texts/{name}/{split}.jsonl") for split in SPLITS}
    splits = [read_texts(files[own], split=own, pair=pair, labels=labels) for own in SPLITS]
    return LabelledSet(name, request, *splits)


def _delimiter(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _DELIMITERS:
        raise DataError(f"{path}: texts are read from .jsonl, .tsv and .csv, found {suffix!r}")
    return _DELIMITERS[suffix]


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and fields of every line; of a table's row that has several, its last one."""
    delimiter = _delimiter(path)
    if not delimiter:
        yield from read_json_lines(path)
        return
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    head: list[str] = []
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if len(cells) < 2 and not "".join(cells).strip():
                continue
            if not head:
                head = [cell.strip() for cell in cells]
                if len({*head}) < len(head):
                    raise DataError(f"{where}: a column is there twice in {', '.join(head)}")
                continue
            if len(cells) != len(head):
                raise DataError(
                    f"{where}: expected {len(head)} fields ({', '.join(head)}), found {len(cells)}"
                )
            yield reader.line_num, dict(zip(head, map(unguarded, cells), strict=True))
    except csv.Error as error:
        line = reader.line_num
        raise DataError(f"{path}, line {line}: not a table ({error}); check quotes") from error

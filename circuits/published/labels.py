"""Label files: checked on reading, and their accuracies counted again (stages 1.3 and 3.3)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.data.replies import read_judged
from circuits.errors import DataError
from circuits.files import read_json_lines
from circuits.measure.expression import accuracy_stats
from circuits.names import EMOTIONS, VALENCES
from circuits.published.layout import known_emotion

__all__ = ["check_labels", "check_lines", "recounted", "steered_stats"]


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


def check_lines(path: Path) -> None:
    """Check that every line is a JSON object.

    Raises:
        DataError: a line is not; names it.
    """
    for _ in read_json_lines(path):
        pass


def recounted(folder: Path, dataset: str) -> dict[str, Any]:
    """``accuracy_stats.json`` of stage 1, from ``accepted.jsonl`` and ``rejected.jsonl``.

    Raises:
        DataError: a file is missing or malformed.
    """
    judged = [row for name in ("accepted", "rejected") for row in read_judged(_jsonl(folder, name))]
    return accuracy_stats(judged, dataset)


def steered_stats(path: Path, dataset: str) -> dict[str, Any]:
    """``accuracy_stats.json`` of stage 3, from ``labeled_results.jsonl``.

    Raises:
        DataError: a line lacks ``valence_labels`` in their published form.
    """
    found = [cell for number, row in read_json_lines(path) for cell in _cells(path, number, row)]
    return {
        "dataset": dataset,
        "overall": _counts(found, "total_pairs"),
        "by_emotion": {
            name: _counts([cell for cell in found if cell[1] == name], "total") for name in EMOTIONS
        },
        "by_valence": {
            name: _counts([cell for cell in found if cell[0] == name], "total") for name in VALENCES
        },
    }


def _jsonl(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _cells(path: Path, number: int, row: Mapping[str, Any]) -> Iterable[tuple[str, str, int]]:
    try:
        for valence, labels in row["valence_labels"].items():
            for emotion, label in labels.items():
                yield valence, known_emotion(emotion, f"{path}, line {number}"), label["match"]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}, line {number}, field 'valence_labels': expected "
            "{valence: {emotion: {match, reason}}}"
        ) from error


def _counts(cells: Sequence[tuple[str, str, int]], total: str) -> dict[str, Any]:
    matches = sum(match for _, _, match in cells)
    accuracy = round(100 * matches / len(cells), 2) if cells else 0.0
    return {total: len(cells), "matches": matches, "accuracy": accuracy}

"""Replies and judgements, as JSON lines with the fields of the published files."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.data.judges.protocol import Judge, Verdict
from circuits.data.judging import hear
from circuits.data.prompts import Prompt
from circuits.data.sev import Context
from circuits.errors import DataError
from circuits.files import read_json_lines, write_json_lines
from circuits.names import NEUTRAL, VALENCES

__all__ = [
    "Judged",
    "Reply",
    "judge_replies",
    "read_judged",
    "read_methods",
    "read_replies",
    "write_rows",
]

_HALVES = re.compile("[\ud800-\udfff]")
_TEXTS = ("skeleton_id", "theme", "valence", "scenario", "event", "gen_text")


@dataclass(frozen=True)
class Reply:
    """What a model said to a prompt."""

    prompt: Prompt
    text: str
    n_tokens: int
    """Generated tokens, without the end token."""
    emotion: str
    """The emotion that the reply should express, by prompt or by a change of the model."""

    def to_json(self) -> dict[str, Any]:
        """The reply with the published field names."""
        context = self.prompt.context
        return {
            "key": f"{context.scenario}__{context.valence}__{self.emotion}",
            "skeleton_id": context.scenario,
            "theme": context.theme,
            "valence": context.valence,
            "emotion": self.emotion,
            "scenario": context.situation,
            "event": context.event,
            "gen_text": self.text,
            "meta": {"n_tokens": self.n_tokens, "asked": self.prompt.emotion is not None},
        }


@dataclass(frozen=True)
class Judged:
    """A reply and what a judge made of it."""

    reply: Reply
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The reply with the field ``judge``."""
        verdict = {"match": int(self.verdict.match), "reason": self.verdict.reason}
        if self.verdict.label is not None:
            verdict["label"] = self.verdict.label
        row = self.reply.to_json()
        return {
            **{k: v for k, v in row.items() if k != "meta"},
            "judge": verdict,
            "meta": row["meta"],
        }


def judge_replies(
    replies: Sequence[Reply], judge: Judge, *, progress: Callable[[int], None] | None = None
) -> list[Judged]:
    """Ask ``judge`` whether each reply expresses its emotion.

    Inside :func:`~circuits.journal.journal` nothing is asked again that was answered before.

    Raises:
        JudgeError: the judge cannot be reached or read.
        Stopped: the work was asked to stop; what was answered is kept.
    """
    questions = [(reply.text, reply.emotion) for reply in replies]
    found = hear(judge, questions, progress=progress)
    return [Judged(reply, verdict) for reply, verdict in zip(replies, found, strict=True)]


def write_rows(path: Path, rows: Sequence[Reply] | Sequence[Judged]) -> None:
    """Write replies or judged replies, one per line."""
    write_json_lines(path, (row.to_json() for row in rows))


def read_replies(path: Path) -> list[Reply]:
    """Read replies; fields that we do not use may be there and are left alone.

    Raises:
        DataError: a field is missing or of the wrong kind, or a key occurs twice in a method.
    """
    return [reply for reply, _, _ in _rows(path)]


def read_judged(path: Path) -> list[Judged]:
    """Read judged replies, such as ``accepted.jsonl``.

    Raises:
        DataError: as :func:`read_replies`, or a judgement is missing or malformed.
    """
    return [Judged(reply, _verdict(row, where)) for reply, row, where in _rows(path)]


def read_methods(path: Path) -> dict[str, list[Judged]]:
    """Read judged replies of several methods, grouped by the field ``method``.

    Raises:
        DataError: as :func:`read_judged`, or a row has no method.
    """
    groups: dict[str, list[Judged]] = {}
    for reply, row, where in _rows(path):
        method = _text(row.get("method"), "method", where)
        groups.setdefault(method, []).append(Judged(reply, _verdict(row, where)))
    return groups


def _rows(path: Path) -> list[tuple[Reply, Mapping[str, Any], str]]:
    found: list[tuple[Reply, Mapping[str, Any], str]] = []
    seen: dict[tuple[str, str, str], int] = {}
    for number, row in read_json_lines(path):
        where = f"{path}, line {number}"
        reply = _reply(row, where)
        own, method = reply.to_json()["key"], str(row.get("method", ""))
        # A key of the file's own may differ; two replies to one request are two all the same.
        for whose, key in (("file", str(row.get("key", own))), ("ours", own)):
            if (before := seen.setdefault((whose, key, method), number)) != number:
                raise DataError(f"{where}: field 'key': {key!r} is already on line {before}")
        found.append((reply, row, where))
    return found


def _reply(row: Mapping[str, Any], where: str) -> Reply:
    for field in (*_TEXTS, "emotion"):
        _text(row.get(field), field, where)
    if row["valence"] not in VALENCES:
        raise DataError(
            f"{where}: field 'valence': {row['valence']!r} is none of {', '.join(VALENCES)}"
        )
    context = Context(
        row["skeleton_id"], row["theme"], row["valence"], row["scenario"], row["event"]
    )
    if row["emotion"].strip().splitlines() != [row["emotion"]]:
        raise DataError(f"{where}: field 'emotion': {row['emotion']!r} is no word")
    meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
    was_asked = meta.get("asked", True) and row["emotion"] != NEUTRAL
    tokens = meta.get("n_tokens", len(row["gen_text"].split()))
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 2**31:
        raise DataError(f"{where}: field 'meta.n_tokens': expected a count, found {tokens!r}")
    return Reply(
        prompt=Prompt(context, row["emotion"] if was_asked else None),
        text=row["gen_text"],
        n_tokens=tokens,
        emotion=row["emotion"],
    )


def _verdict(row: Mapping[str, Any], where: str) -> Verdict:
    judged = row.get("judge")
    if not isinstance(judged, dict) or judged.get("match") not in (0, 1):
        raise DataError(f"{where}: field 'judge': expected an object with 'match' 0 or 1")
    label = judged.get("label")
    if label is not None:
        label = _text(label, "judge.label", where)
    reason = _text(str(judged.get("reason", "")), "judge.reason", where)
    return Verdict(bool(judged["match"]), label, reason)


def _text(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: field '{field}': expected a text")
    if _HALVES.search(value):
        raise DataError(f"{where}: field '{field}': half a character (a lone surrogate)")
    return value

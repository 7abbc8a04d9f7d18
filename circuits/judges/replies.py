"""Replies and their judgements: read, written, and counted.

Accuracy is the share of replies that the judge finds the target emotion in. The side effects is
counted in two numbers. *Perplexity ratio*: the perplexity of the replies under the untouched model
given the prompt that asks for the emotion, divided by the same for prompted replies; emotional
words cost nothing there and broken text does. *Repetition*: the share of a reply's word triples
that it has said before.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import DataError
from circuits.files import checked_text, read_json_lines, write_json_lines
from circuits.journal import begin_call, stop_if_asked, stopping
from circuits.judges import wilson_interval
from circuits.judges.judge import Judge, OneByOne, Verdict
from circuits.names import NEUTRAL, VALENCES
from circuits.prompts.prompt import Prompt
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.records import Record
from circuits.running import advance

__all__ = [
    "JudgeConfusion",
    "Judged",
    "Reply",
    "accuracy",
    "accuracy_stats",
    "expression",
    "judge_confusion",
    "judge_replies",
    "judge_texts",
    "perplexity_ratio",
    "read_judged",
    "read_methods",
    "read_replies",
    "repetition",
    "wilson",
    "write_rows",
]

_AT_ONCE = 64
"""Texts after which the answers of a judge are kept that gives them all at once."""

_Part = Sequence[tuple[str, str]]


def judge_texts(judge: Judge, questions: Sequence[tuple[str, str]]) -> list[Verdict]:
    """The judge's verdict on every pair of a text and the emotion that it should express.

    Inside :func:`~circuits.journal.journal` nothing is asked again that was answered before.

    Raises:
        JudgeError: the judge cannot be reached or read.
        RunError: an answer cannot be kept.
        Stopped: the work was asked to stop; what was answered is kept.
    """
    size = 1 if isinstance(judge, OneByOne) else _AT_ONCE
    parts = [questions[start : start + size] for start in range(0, len(questions), size)]
    call, found = begin_call(), dict[int, list[Verdict]]()
    digests = [_digest(judge, part) for part in parts] if call else []
    for place, digest in enumerate(digests):
        gave = call.find(place, digest) if call else None
        if gave is not None:
            found[place] = [Verdict(*own) for own in gave]
    if found:
        advance(sum(map(len, found.values())))
    missing = [place for place in range(len(parts)) if place not in found]
    for place, given in _answered(judge, parts, missing):
        found[place] = given
        if call:
            call.keep(place, digests[place], [[v.match, v.label, v.reason] for v in given])
        # A bar may end the work here, and then what is still being answered would be lost.
        if not stopping():
            advance(len(given))
    if len(found) < len(parts):
        stop_if_asked()
    return [verdict for place in range(len(parts)) for verdict in found[place]]


def _answered(
    judge: Judge, parts: Sequence[_Part], missing: Sequence[int]
) -> Iterator[tuple[int, list[Verdict]]]:
    """Place and verdicts of every missing part that is answered before the work is to stop."""
    if isinstance(judge, OneByOne):
        texts, emotions = _columns([parts[place][0] for place in missing])
        for index, verdict in judge.answers(texts, emotions):
            yield missing[index], [verdict]
        return
    for place in missing:
        if stopping():
            return
        yield place, judge.judge(*_columns(parts[place]))


def _columns(part: _Part) -> tuple[list[str], list[str]]:
    return [text for text, _ in part], [emotion for _, emotion in part]


def _digest(judge: Judge, part: _Part) -> str:
    asked = json.dumps([judge.name, list(part)])
    return hashlib.sha256(asked.encode("ascii")).hexdigest()[:32]


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
        context = self.prompt.origin
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


def judge_replies(replies: Sequence[Reply], judge: Judge) -> list[Judged]:
    """Ask ``judge`` whether each reply expresses its emotion.

    Inside :func:`~circuits.journal.journal` nothing is asked again that was answered before.

    Raises:
        JudgeError: the judge cannot be reached or read.
        Stopped: the work was asked to stop; what was answered is kept.
    """
    questions = [(reply.text, reply.emotion) for reply in replies]
    found = judge_texts(judge, questions)
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
    emotion = row["emotion"]
    prompt = emotion_prompt(context, emotion) if was_asked else neutral_prompt(context)
    return Reply(prompt, row["gen_text"], tokens, emotion)


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
    return checked_text(value, f"{where}: field '{field}'")


def accuracy(judged: Sequence[Judged]) -> float:
    """Percentage of replies that match; NaN of none.

    >>> accuracy([])
    nan
    """
    return 100 * sum(row.verdict.match for row in judged) / len(judged) if judged else math.nan


def wilson(matches: int, total: int) -> tuple[float, float]:
    """95% interval of a share, in percent (Wilson 1927); everything of none.

    >>> [round(bound, 1) for bound in wilson(10, 10)]
    [72.2, 100.0]
    """
    if total == 0:
        return 0.0, 100.0
    low, high = wilson_interval(matches, total)
    return 100 * low, 100 * high


def repetition(text: str) -> float:
    """Share of word triples that occurred before in the text.

    >>> round(repetition("so sad so sad so sad so sad"), 2)
    0.67
    >>> repetition("I am fine")
    0.0
    """
    words = text.lower().split()
    triples = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def perplexity_ratio(losses: Sequence[float], prompted_losses: Sequence[float]) -> float | None:
    """Perplexity of replies divided by that of prompted ones; ``None`` where there is neither.

    Args:
        losses: Mean loss (nats per token) of each reply given the asking prompt; NaN if empty.
        prompted_losses: The same for prompted replies.
    """
    ratio = math.exp(_mean(losses) - _mean(prompted_losses))
    return ratio if math.isfinite(ratio) else None


def accuracy_stats(judged: Sequence[Judged], dataset: str) -> dict[str, Any]:
    """Counts and accuracies overall, by emotion and by valence, as in the published files."""
    return {
        "dataset": dataset,
        "overall": _counts(judged, "total_samples"),
        **_grouped(judged, _counts),
    }


def expression(
    judged: Sequence[Judged], losses: Sequence[float], prompted_losses: Sequence[float]
) -> dict[str, Any]:
    """Accuracy of one method with its 95% intervals, perplexity ratio and repetition.

    Args:
        judged: The method's replies.
        losses: Mean loss (nats per token) of each reply given the asking prompt; NaN if empty.
        prompted_losses: The same for the replies of the method ``prompt``.
    """
    matches = sum(row.verdict.match for row in judged)
    low, high = wilson(matches, len(judged))
    ratio = perplexity_ratio(losses, prompted_losses)
    return {
        "n": len(judged),
        "overall": round(accuracy(judged), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        **_grouped(judged, lambda own: round(accuracy(own), 2)),
        "perplexity_ratio": None if ratio is None else round(ratio, 4),
        "repetition": round(_mean([repetition(row.reply.text) for row in judged]), 4),
        "mean_tokens": round(_mean([float(row.reply.n_tokens) for row in judged]), 1),
        "empty": sum(not row.reply.text for row in judged),
    }


def _grouped(
    judged: Sequence[Judged], value: Callable[[Sequence[Judged]], Any]
) -> dict[str, dict[str, Any]]:
    """The value of the replies of each emotion and of each valence."""

    def by(key: Callable[[Judged], str]) -> dict[str, Any]:
        groups: dict[str, list[Judged]] = {}
        for row in judged:
            groups.setdefault(key(row), []).append(row)
        order = [name for name in VALENCES if name in groups]
        order += [name for name in groups if name not in order]
        return {name: value(groups[name]) for name in order}

    return {
        "by_emotion": by(lambda row: row.reply.emotion),
        "by_valence": by(lambda row: row.reply.prompt.origin.valence),
    }


def _counts(judged: Sequence[Judged], total: str = "total") -> dict[str, Any]:
    accepted = sum(row.verdict.match for row in judged)
    return {
        total: len(judged),
        "accepted": accepted,
        "rejected": len(judged) - accepted,
        "accuracy": round(accuracy(judged), 2) if judged else None,
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True, eq=False)
class JudgeConfusion(Record):
    """How often replies to ``label`` express ``emotion``, in percent."""

    share: Float[Tensor, "label emotion"]
    low: Float[Tensor, "label emotion"]
    """Lower end of the 95% interval (Wilson 1927)."""
    high: Float[Tensor, "label emotion"]
    n: Int[Tensor, " label"]
    """Replies."""

    label: tuple[str, ...]
    """What was asked for: an emotion, or ``neutral`` where none was."""
    emotion: tuple[str, ...]
    """What the judge was asked to hear."""


def judge_confusion(
    replies: Sequence[Reply], judge: Judge, emotions: Sequence[str]
) -> JudgeConfusion:
    """Ask the judge about every reply and every emotion, asked for or not.

    Args:
        replies: To prompts that ask for an emotion, or for none.
        judge: Says whether a text expresses an emotion; asked ``len(emotions)`` times per reply.
        emotions: What it is asked about.

    Raises:
        DataError: no replies, or no emotions.
        JudgeError: the judge cannot be reached or read.
    """
    if not replies or not emotions:
        raise DataError(
            f"{len(replies)} replies and {len(emotions)} emotions; give at least one of each"
        )
    verdicts = judge_texts(judge, [(reply.text, e) for reply in replies for e in emotions])
    heard = torch.tensor([verdict.match for verdict in verdicts]).reshape(len(replies), -1)
    labels = tuple(dict.fromkeys(reply.emotion for reply in replies))
    own = torch.tensor([labels.index(reply.emotion) for reply in replies])
    counts = torch.stack([heard[own == place].sum(0) for place in range(len(labels))])
    n = torch.bincount(own, minlength=len(labels))
    bounds = torch.tensor(
        [
            [wilson(count, total) for count in row]
            for row, total in zip(counts.tolist(), n.tolist(), strict=True)
        ]
    )
    return JudgeConfusion(
        share=100 * counts / n[:, None],
        low=bounds[..., 0],
        high=bounds[..., 1],
        n=n,
        label=labels,
        emotion=tuple(emotions),
    )

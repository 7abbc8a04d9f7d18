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
from typing import Annotated, Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from torch import Tensor

from circuits.errors import DataError
from circuits.files import Text, read_rows, validated, write_json_lines
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
    call, found, missing = begin_call(), dict[int, list[Verdict]](), dict[int, str]()
    for place, own in enumerate(parts):
        asked = json.dumps([judge.name, list(own)]).encode()
        missing[place] = hashlib.sha256(asked).hexdigest()[:32]
        gave = call.find(place, missing[place]) if call else None
        if gave is not None:
            del missing[place]
            found[place] = [Verdict(*own) for own in gave]
            advance(len(gave))
    for place, given in _answered(judge, {place: parts[place] for place in missing}):
        found[place] = given
        if call:
            call.keep(place, missing[place], [[v.match, v.label, v.reason] for v in given])
        # A bar may end the work here, and then what is still being answered would be lost.
        if not stopping():
            advance(len(given))
    if len(found) < len(parts):
        stop_if_asked()
    return [verdict for place in range(len(parts)) for verdict in found[place]]


def _answered(
    judge: Judge, parts: Mapping[int, Sequence[tuple[str, str]]]
) -> Iterator[tuple[int, list[Verdict]]]:
    """Place and verdicts of every part that is answered before the work is to stop."""
    if isinstance(judge, OneByOne):
        places = [*parts]
        single = [own for (own,) in parts.values()]
        answers = judge.answers([text for text, _ in single], [emotion for _, emotion in single])
        yield from ((places[index], [verdict]) for index, verdict in answers)
        return
    for place, own in parts.items():
        if stopping():
            return
        yield place, judge.judge([text for text, _ in own], [emotion for _, emotion in own])


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
        meta = row.pop("meta")
        return {**row, "judge": verdict, "meta": meta}


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


class _Judgement(BaseModel):
    match: Literal[0, 1]
    reason: Annotated[Text, BeforeValidator(str)] = ""
    label: Text | None = None


class _Meta(BaseModel):
    n_tokens: Annotated[int, Field(ge=0, lt=2**31, strict=True)] | None = None
    asked: Any = True


class _Row(BaseModel):
    """A line with the fields that the authors' files have; others are let be."""

    model_config = ConfigDict(extra="allow")

    skeleton_id: Text
    theme: Text
    valence: Literal["positive", "neutral", "negative"]
    scenario: Text
    event: Text
    gen_text: Text
    emotion: Annotated[str, StringConstraints(pattern=r"^\S+( \S+)*$")]
    key: Any = None
    meta: Any = None


class _Judged(_Row):
    judge: _Judgement


class _OfMethod(_Judged):
    method: Text


_R = TypeVar("_R", bound=_Row)


def read_replies(path: Path) -> list[Reply]:
    """Read replies; fields that we do not use may be there and are left alone.

    Raises:
        DataError: a field is missing or of the wrong kind, or a key occurs twice in a method.
    """
    return [reply for reply, _ in _rows(path, _Row)]


def read_judged(path: Path) -> list[Judged]:
    """Read judged replies, such as ``accepted.jsonl``.

    Raises:
        DataError: as :func:`read_replies`, or a judgement is missing or malformed.
    """
    return [_judged(reply, row) for reply, row in _rows(path, _Judged)]


def read_methods(path: Path) -> dict[str, list[Judged]]:
    """Read judged replies of several methods, grouped by the field ``method``.

    Raises:
        DataError: as :func:`read_judged`, or a row has no method.
    """
    groups: dict[str, list[Judged]] = {}
    for reply, row in _rows(path, _OfMethod):
        groups.setdefault(row.method, []).append(_judged(reply, row))
    return groups


def _rows(path: Path, kind: type[_R]) -> Iterator[tuple[Reply, _R]]:
    seen: dict[tuple[str, str, str], str] = {}
    for where, row in read_rows(path, kind):
        meta = validated(_Meta, row.meta if isinstance(row.meta, dict) else {}, where)
        context = Context(row.skeleton_id, row.theme, row.valence, row.scenario, row.event)
        asked = meta.asked and row.emotion != NEUTRAL
        prompt = emotion_prompt(context, row.emotion) if asked else neutral_prompt(context)
        tokens = len(row.gen_text.split()) if meta.n_tokens is None else meta.n_tokens
        reply = Reply(prompt, row.gen_text, tokens, row.emotion)
        own = reply.to_json()["key"]
        # A key of the file's own may differ; two replies to one request are two all the same.
        for whose, key in (("file", str(row.key or own)), ("ours", own)):
            before = seen.setdefault((whose, key, str(getattr(row, "method", None))), where)
            if before != where:
                raise DataError(f"{where}: field 'key': {key!r} is already in {before}")
        yield reply, row


def _judged(reply: Reply, row: _Judged) -> Judged:
    found = row.judge
    return Judged(reply, Verdict(bool(found.match), found.label, found.reason))


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
    emotions: dict[str, list[Judged]] = {}
    valences: dict[str, list[Judged]] = {name: [] for name in VALENCES}
    for row in judged:
        emotions.setdefault(row.reply.emotion, []).append(row)
        valences[row.reply.prompt.origin.valence].append(row)
    return {
        "by_emotion": {name: value(own) for name, own in emotions.items()},
        "by_valence": {name: value(own) for name, own in valences.items() if own},
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
    """The emotions that the judge was asked about."""


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
    matched = torch.tensor([verdict.match for verdict in verdicts]).reshape(len(replies), -1)
    labels = tuple(dict.fromkeys(reply.emotion for reply in replies))
    of_label = torch.tensor([[reply.emotion == label for reply in replies] for label in labels])
    counts, n = of_label.long() @ matched.long(), of_label.sum(1)
    rows = zip(counts.tolist(), n.tolist(), strict=True)
    bounds = torch.tensor([[wilson(count, total) for count in row] for row, total in rows])
    return JudgeConfusion(
        share=100 * counts / n[:, None],
        low=bounds[..., 0],
        high=bounds[..., 1],
        n=n,
        label=labels,
        emotion=tuple(emotions),
    )

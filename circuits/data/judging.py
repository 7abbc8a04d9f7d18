"""Replies put to a judge, what it has answered before left out."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence

from circuits.data.judges.protocol import Judge, OneByOne, Verdict
from circuits.journal import begin_call
from circuits.stopping import stop_if_asked, stopping

__all__ = ["hear"]

_AT_ONCE = 64
"""Texts after which the answers of a judge are kept that gives them all at once."""

_Part = Sequence[tuple[str, str]]


def hear(
    judge: Judge,
    questions: Sequence[tuple[str, str]],
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Verdict]:
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
    if progress and found:
        progress(sum(map(len, found.values())))
    missing = [place for place in range(len(parts)) if place not in found]
    for place, given in _answered(judge, parts, missing):
        found[place] = given
        if call:
            call.keep(place, digests[place], [[v.match, v.label, v.reason] for v in given])
        # A bar may end the work here, and then what is still being answered would be lost.
        if progress and not stopping():
            progress(len(given))
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

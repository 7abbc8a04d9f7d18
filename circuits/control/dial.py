"""A circuit's strength as a dial, suppression, and two emotions at once.

The dial runs from 0, where nothing is written, over 1, the model's own difference, to what is more
than the model ever does. Suppression turns it below zero in prompts that ask for the emotion.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from circuits.control.bench import Bench
from circuits.control.modulation import Modulation
from circuits.control.tools import Tools
from circuits.data.replies import Judged
from circuits.measure.expression import accuracy, expression
from circuits.model.edits import Edit, by_row
from circuits.model.generation import Progress

__all__ = ["DIAL", "dial", "mixtures", "rises", "suppression"]

DIAL = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Strengths of the sweep."""


def dial(
    bench: Bench,
    tools: Tools,
    how: Modulation,
    *,
    strengths: Sequence[float] = DIAL,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Expression and price at every strength of the dial, the same for all emotions.

    Returns:
        ``strength``, ``overall``, ``low``, ``high`` (Wilson), ``perplexity_ratio``,
        ``repetition`` (lists alike), ``by_emotion`` (emotion -> list), ``n`` replies per strength,
        ``rises`` (see :func:`rises`, up to strength 1), and ``unchanged_at_zero``: how many of the
        replies at strength 0 are those of the untouched model, letter by letter.
    """
    plain = bench.untouched(progress)
    prompted = bench.losses(bench.prompted(progress), progress)
    turned = [tools.edits(replace(how, strength=own, by_emotion=())) for own in strengths]
    swept = bench.swept("circuit", turned, progress)
    losses = bench.losses([row for judged in swept for row in judged], progress)
    size = len(plain)
    points = [
        expression(judged, losses[place * size : (place + 1) * size], prompted)
        for place, judged in enumerate(swept)
    ]
    zero = next(
        (_same(own, plain) for own, at in zip(swept, strengths, strict=True) if at == 0), None
    )
    names = ("overall", "low", "high", "perplexity_ratio", "repetition")
    upto = sum(strength <= 1 for strength in strengths)
    columns = {name: [point[name] for point in points] for name in names}
    return {
        "n": len(plain),
        "strength": list(strengths),
        **columns,
        "by_emotion": {e: [p["by_emotion"][e] for p in points] for e in bench.emotions},
        "rises": rises(columns["low"][:upto], columns["high"][:upto]),
        "unchanged_at_zero": zero,
    }


def rises(low: Sequence[float], high: Sequence[float]) -> bool:
    """Is a curve nowhere below what it was before, as far as its intervals tell?

    >>> rises([0.0, 40.0], [10.0, 60.0]), rises([40.0, 10.0], [60.0, 30.0])
    (True, False)
    """
    return all(
        high[later] >= low[earlier] for later in range(len(high)) for earlier in range(later)
    )


def suppression(
    bench: Bench,
    tools: Tools,
    how: Modulation,
    *,
    strength: float = -1.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What is left of an emotion that the prompt asks for when its circuit is written negatively.

    Returns:
        ``strength``, ``n``, ``prompted`` and ``suppressed`` (percent that express the asked
        emotion), ``by_emotion`` of the latter, and ``heard`` (label -> percent).
    """
    turned = replace(how, strength=strength, by_emotion=())
    before = bench.prompted(progress)
    edits, count = tools.edits(turned), len(bench.emotions)

    def of_batch(chosen: Sequence[int]) -> Sequence[Edit]:
        return by_row(edits, [place % count for place in chosen])

    after = bench.asked_under(of_batch, progress)
    return {
        "strength": strength,
        "n": len(after),
        "prompted": round(accuracy(before), 2),
        "suppressed": round(accuracy(after), 2),
        "by_emotion": {
            e: round(accuracy([row for row in after if row.reply.emotion == e]), 2)
            for e in bench.emotions
        },
        "heard": _heard(after),
    }


def mixtures(
    bench: Bench,
    tools: Tools,
    how: Modulation,
    *,
    weights: tuple[float, float] = (0.75, 0.75),
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What is heard when two emotions' circuits are written at once: every emotion and the next.

    Returns:
        One object per pair: ``emotions``, ``weights``, ``n``, and ``heard`` (label -> percent).
    """
    pairs = list(zip(bench.emotions, (*bench.emotions[1:], bench.emotions[0]), strict=True))
    edits = [tools.blend(how, dict(zip(pair, weights, strict=True))) for pair in pairs]
    judged = bench.changed("circuit", edits, progress)
    found = []
    for pair in pairs:
        rows = [row for row in judged if row.reply.emotion == pair[0]]
        found.append(
            {
                "emotions": list(pair),
                "weights": list(weights),
                "n": len(rows),
                "heard": _heard(rows),
            }
        )
    return found


def _same(one: Sequence[Judged], other: Sequence[Judged]) -> int:
    pairs = zip(one, other, strict=True)
    return sum(a.reply.text == b.reply.text for a, b in pairs)


def _heard(rows: Sequence[Judged]) -> dict[str, float]:
    counts = Counter(row.verdict.label or "-" for row in rows)
    return {label: round(100 * n / len(rows), 2) for label, n in counts.most_common()}

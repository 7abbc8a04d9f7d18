"""How well replies express the asked emotions, and what it costs in quality.

Accuracy is the share of replies that the judge hears the asked emotion in. The price is counted
in two numbers. *Perplexity ratio*: the perplexity of the replies under the untouched model given
the prompt that asks for the emotion, divided by the same for prompted replies; emotional words
cost nothing there and broken text does. *Repetition*: the share of a reply's word triples that
it has said before.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from circuits.data.judges import wilson_interval
from circuits.data.replies import Judged
from circuits.names import VALENCES

__all__ = ["accuracy", "accuracy_stats", "expression", "perplexity_ratio", "repetition", "wilson"]


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
        "by_emotion": _grouped(judged, lambda row: row.reply.emotion, _counts),
        "by_valence": _grouped(judged, lambda row: row.reply.prompt.context.valence, _counts),
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
        "by_emotion": _grouped(judged, lambda row: row.reply.emotion, _rounded),
        "by_valence": _grouped(judged, lambda row: row.reply.prompt.context.valence, _rounded),
        "perplexity_ratio": None if ratio is None else round(ratio, 4),
        "repetition": round(_mean([repetition(row.reply.text) for row in judged]), 4),
        "mean_tokens": round(_mean([float(row.reply.n_tokens) for row in judged]), 1),
        "empty": sum(not row.reply.text for row in judged),
    }


def _rounded(judged: Sequence[Judged]) -> float:
    return round(accuracy(judged), 2)


def _grouped(
    judged: Sequence[Judged],
    key: Callable[[Judged], str],
    value: Callable[[Sequence[Judged]], Any],
) -> Mapping[str, Any]:
    groups: dict[str, list[Judged]] = {}
    for row in judged:
        groups.setdefault(key(row), []).append(row)
    order = [name for name in VALENCES if name in groups]
    order += [name for name in groups if name not in order]
    return {name: value(groups[name]) for name in order}


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

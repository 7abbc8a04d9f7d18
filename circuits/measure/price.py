"""What the expression of an emotion costs in text: variety, length, topic; with intervals.

Replies to one context are alike, so contexts are the unit that is resampled. *Distinct-n* is the
share of different n-grams among all that a method wrote (Li et al. 2016, arXiv 1510.03055); it
falls with the number of replies, so only methods with as many replies compare.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from circuits.data.judges import find_emotion_words
from circuits.data.replies import Judged
from circuits.data.sev import Context
from circuits.measure.expression import perplexity_ratio, repetition, wilson

__all__ = ["distinct", "interval", "keeps_topic", "opposes", "price", "topic_words"]

_OPPOSED: Final[Mapping[str, str]] = {
    "anger": "positive",
    "sadness": "positive",
    "happiness": "negative",
    "fear": "positive",
    "disgust": "positive",
}
_DRAWS: Final = 1000
_SHORTEST: Final = 3


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of different word n-grams among all of the texts; zero where there are none.

    >>> distinct(["so sad so", "so sad"], 1)
    0.4
    """
    grams = [
        tuple(words[i : i + n])
        for words in (text.lower().split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def topic_words(text: str) -> frozenset[str]:
    """Words that say what a text is about: no function words, none that name an emotion.

    Plurals count as their singulars. Function words are those of scikit-learn's English list.

    >>> sorted(topic_words("I was so happy about the two reports"))
    ['report']
    """
    said = {word for phrase in find_emotion_words(text) for word in phrase.split()}
    words = re.findall(r"[^\W\d_]+", text.lower())
    kept = (w for w in words if len(w) >= _SHORTEST and w not in said and w not in _functional())
    return frozenset(_singular(word) for word in kept)


def keeps_topic(reply: str, context: Context) -> bool:
    """Does the reply share a topic word with its situation or event?"""
    return not topic_words(reply).isdisjoint(topic_words(f"{context.situation} {context.event}"))


def opposes(emotion: str, valence: str) -> bool:
    """Is the event's mood opposed to the emotion? Surprise has no opposite.

    >>> opposes("fear", "positive"), opposes("happiness", "positive")
    (True, False)
    """
    return _OPPOSED.get(emotion) == valence


def price(
    judged: Sequence[Judged], losses: Sequence[float], prompted_losses: Sequence[float]
) -> dict[str, Any]:
    """Variety, length and topic of a method's replies, and intervals over contexts.

    Args:
        judged: The method's replies.
        losses: Mean loss (nats per token) of each reply given the asking prompt; NaN if empty.
        prompted_losses: The same for the replies of the method ``prompt`` to the same contexts and
            emotions, in the same order.
    """
    texts = [row.reply.text for row in judged]
    contexts = [row.reply.prompt.context for row in judged]
    kept = [100.0 * keeps_topic(t, c) for t, c in zip(texts, contexts, strict=True)]
    chance = [100.0 * keeps_topic(t, c) for t, c in zip(texts, _others(contexts), strict=True)]
    names = [context.id for context in contexts]
    repeated = [repetition(text) for text in texts]
    matched = [100.0 * row.verdict.match for row in judged]

    def ratio(own: float, prompted: float) -> float:
        return math.exp(own - prompted)

    return {
        "topic_kept": _rounded(_mean(kept), 2),
        "topic_by_chance": _rounded(_mean(chance), 2),
        "distinct_1": _rounded(distinct(texts, 1), 4),
        "distinct_2": _rounded(distinct(texts, 2), 4),
        "mean_words": _rounded(_mean([float(len(text.split())) for text in texts]), 1),
        "opposing": _opposing(judged),
        "ratio_by_emotion": _ratios(judged, losses, prompted_losses, lambda r: r.reply.emotion),
        "ratio_by_valence": _ratios(
            judged, losses, prompted_losses, lambda r: r.reply.prompt.context.valence
        ),
        "intervals": {
            "overall": _share(names, matched),
            "topic_kept": _share(names, kept),
            "repetition": interval(names, [repeated], _first),
            "perplexity_ratio": interval(names, [losses, prompted_losses], ratio),
        },
    }


def interval(
    units: Sequence[str],
    columns: Sequence[Sequence[float]],
    statistic: Callable[..., float],
    *,
    seed: int = 0,
) -> list[float] | None:
    """95% percentile interval of a statistic of column means, units resampled (Efron 1979).

    Args:
        units: What each row belongs to; rows of a unit are drawn together.
        columns: Numbers per row; those that are NaN are left out of their column's mean.
        statistic: Of the means of the columns.
        seed: Of the draws.

    Returns:
        Low and high; ``None`` where a draw has no number.
    """
    order = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    rows = np.array([order[unit] for unit in units], dtype=int)
    drawn = np.random.default_rng(seed).integers(len(order), size=(_DRAWS, len(order)))
    means = []
    for column in columns:
        values = np.asarray(column, dtype=float)
        known = ~np.isnan(values)
        total = np.bincount(rows[known], values[known], minlength=len(order))
        count = np.bincount(rows[known], minlength=len(order))
        if not count[drawn].sum(1).all():
            return None
        means.append(total[drawn].sum(1) / count[drawn].sum(1))
    found = [statistic(*row) for row in zip(*means, strict=True)]
    low, high = np.quantile(found, (0.025, 0.975))
    return [_rounded(float(low), 4), _rounded(float(high), 4)]


def _ratios(
    judged: Sequence[Judged],
    losses: Sequence[float],
    prompted_losses: Sequence[float],
    key: Callable[[Judged], str],
) -> dict[str, float | None]:
    rows = list(zip(map(key, judged), losses, prompted_losses, strict=True))
    found = {}
    for name in dict.fromkeys(name for name, _, _ in rows):
        own, prompted = zip(*((a, b) for word, a, b in rows if word == name), strict=True)
        ratio = perplexity_ratio(own, prompted)
        found[name] = None if ratio is None else round(ratio, 4)
    return found


def _share(units: Sequence[str], percents: Sequence[float]) -> list[float] | None:
    # Where all rows agree, resampling sees no uncertainty; Wilson's interval of the units does.
    if len(set(percents)) == 1:
        count = len(set(units))
        low, high = wilson(round(percents[0] / 100 * count), count)
        return [_rounded(low, 2), _rounded(high, 2)]
    return interval(units, [percents], _first)


def _opposing(judged: Sequence[Judged]) -> dict[str, Any]:
    rows = [row for row in judged if opposes(row.reply.emotion, row.reply.prompt.context.valence)]
    matches = sum(row.verdict.match for row in rows)
    low, high = wilson(matches, len(rows))
    return {
        "n": len(rows),
        "overall": _rounded(100 * matches / len(rows), 2) if rows else None,
        "low": _rounded(low, 2),
        "high": _rounded(high, 2),
    }


def _others(contexts: Sequence[Context]) -> list[Context]:
    """For every context one of the next scenario, whose topic it should not speak of."""
    first = {context.scenario: context for context in reversed(contexts)}
    names = list(dict.fromkeys(context.scenario for context in contexts))
    after = dict(zip(names, [*names[1:], *names[:1]], strict=True))
    return [first[after[context.scenario]] for context in contexts]


@cache
def _functional() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def _singular(word: str) -> str:
    ends = word.endswith("s") and not word.endswith("ss") and len(word) > _SHORTEST
    return word[:-1] if ends else word


def _first(value: float) -> float:
    return float(value)


def _rounded(value: float, digits: int) -> float:
    return round(value, digits)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""Ways to an emotion side by side: what each reaches, and its side effects in text.

All methods answer the same contexts with the same decoding and the same judges, unless they are
given ways of their own: the published runs differ in penalties, wording, number type and judge
(Wang et al. 2025, arXiv 2510.11328, stages 1, 3 and 7). ``prompt`` gets the prompt that asks, all
others the neutral one. As baselines the circuit is replaced by random ones with as many heads and
neurons: in the same layers, and anywhere in the model.

Replies to one context are alike, so contexts are the unit that is resampled for intervals.
*Distinct-n* is the share of different n-grams among all that a method wrote (Li et al. 2016, arXiv
1510.03055); it falls with the number of replies, so only methods with as many replies compare. A
second judge, made from other texts in another way, sees the first one's own mistakes.

A sweep of the circuit's strength runs from 0, where nothing is written, over 1, the model's own
difference, to what is more than the model ever does. Suppression turns it below zero in prompts
that ask for the emotion.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, product
from typing import Any, Final, Literal, get_args

import numpy as np

from circuits.judges import agreement, find_emotion_words
from circuits.judges.judge import Judge, Verdict
from circuits.judges.replies import (
    Judged,
    Reply,
    accuracy,
    expression,
    judge_replies,
    judge_texts,
    perplexity_ratio,
    repetition,
    wilson,
)
from circuits.models.edits import Add, by_row
from circuits.models.generate import Decoding, EditsOf, elicit, reply_losses
from circuits.models.protocol import Model
from circuits.prompts.prompt import Prompt
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt, emotion_prompts, neutral_prompts
from circuits.running import execution
from circuits.steering.interventions import Interventions, InterventionSettings, Modulation, blend

__all__ = [
    "BASELINES",
    "CIRCUIT_STAGE",
    "FEW",
    "METHODS",
    "PUBLISHED_DECODING",
    "STEERED",
    "STRENGTHS",
    "Comparison",
    "DecodingBy",
    "Evaluator",
    "Generation",
    "Method",
    "compare",
    "compare_cost",
    "distinct",
    "interval",
    "keeps_topic",
    "mixtures",
    "opposes",
    "rises",
    "second_judge_rates",
    "side_effects",
    "strength_sweep",
    "suppression",
    "topic_words",
]

Method = Literal[
    "none", "prompt", "steer", "steer_layers", "steer_neutral", "probe", "neurons", "circuit"
]
METHODS: tuple[Method, ...] = get_args(Method)
"""In the order in which they are shown."""

FEW: tuple[Method, ...] = ("none", "prompt", "steer", "circuit")
"""Those that the published comparison has."""

STEERED: tuple[Method, ...] = ("steer", "steer_layers", "steer_neutral", "probe")
"""Those that add a direction to the residual stream."""

BASELINES = {"random_circuit": True, "random_anywhere": False}
"""Name -> are random components drawn from the circuit's own layers?"""


DecodingBy = Literal["identical", "published"]
"""The same decoding for all methods, or that of :data:`PUBLISHED_DECODING`."""

CIRCUIT_STAGE = ("none", "circuit")
"""Methods of the published stage 7, whose baseline is replied to like its circuits."""

PUBLISHED_DECODING: Mapping[str, Decoding] = {
    "none": Decoding(1.1, 3, 10),
    "prompt": Decoding(),
    "steer": Decoding(1.05, 3, 10),
    "circuit": Decoding(1.1, 3, 10),
}
"""Method -> its penalties in the published runs."""


@dataclass(frozen=True, eq=False)
class Generation:
    """How one method replies and is judged."""

    decoding: Decoding = Decoding()
    template: str = "published"
    """The elicitation template of neutral prompts."""
    model: Model | None = None
    """Another model than that of the evaluator, such as the same in another number type."""
    judge: Judge | None = None
    """Another judge than that of the evaluator."""


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Model, contexts, judge and decoding: what all methods have in common.

    Progress (:func:`~circuits.running.execution`) counts replies that are made or scored.
    """

    model: Model
    judge: Judge
    contexts: Sequence[Context]
    emotions: tuple[str, ...]
    max_new_tokens: int = 100
    ways: Mapping[str, Generation] = field(default_factory=dict)
    """Method -> how it alone replies; random circuits reply like the circuit."""

    def changed(self, method: str, edits: Sequence[Sequence[Add]]) -> list[Judged]:
        """Neutral prompts under edits, one group per emotion; every context with every emotion."""
        return self.swept(method, [edits])[0]

    def swept(self, method: str, points: Sequence[Sequence[Sequence[Add]]]) -> list[list[Judged]]:
        """What :meth:`changed` gives for each of several edits, all written at once."""
        groups, count = [group for point in points for group in point], len(self.emotions)
        rows = list(product(range(len(points)), self.contexts, range(count)))
        replies = self._replies(
            method,
            neutral_prompts([context for _, context, _ in rows], self._way(method).template),
            [self.emotions[e] for _, _, e in rows],
            lambda chosen: by_row(groups, [rows[i][0] * count + rows[i][2] for i in chosen]),
        )
        judged = self._judged(method, replies)
        size = len(self.contexts) * count
        return [judged[start : start + size] for start in range(0, len(judged), size)]

    def prompted(self, edits: EditsOf | None = None) -> list[Judged]:
        """Replies to prompts that ask for the emotion, by the model or as ``edits`` change it."""
        prompts = emotion_prompts(self.contexts, self.emotions)
        return self._judged("prompt", self._replies("prompt", prompts, edits=edits))

    def untouched(self) -> list[Judged]:
        """Plain replies, each judged against every emotion."""
        replies = self._replies("none", neutral_prompts(self.contexts))
        every = [replace(reply, emotion=e) for reply in replies for e in self.emotions]
        return self._judged("none", every)

    def losses(self, judged: Sequence[Judged]) -> list[float]:
        """Loss of every reply under the untouched model, given the prompt that asks."""
        asking = [emotion_prompt(row.reply.prompt.origin, row.reply.emotion) for row in judged]
        texts = [row.reply.text for row in judged]
        return reply_losses(self.model, asking, texts).tolist()

    def _replies(
        self,
        method: str,
        prompts: Sequence[Prompt],
        emotions: Sequence[str] | None = None,
        edits: EditsOf | None = None,
    ) -> list[Reply]:
        way = self._way(method)
        return elicit(
            self.model if way.model is None else way.model,
            prompts,
            emotions=emotions,
            edits=edits,
            decoding=way.decoding,
            max_new_tokens=self.max_new_tokens,
        )

    def _judged(self, method: str, replies: Sequence[Reply]) -> list[Judged]:
        with execution(progress=None):  # replies are counted as they are made
            return judge_replies(replies, self._way(method).judge or self.judge)

    def _way(self, method: str) -> Generation:
        return self.ways.get("circuit" if method in BASELINES else method, Generation())


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
    words = [w for w in re.findall(r"[^\W\d_]+", text.lower()) if len(w) >= _SHORTEST]
    kept = [w for w in words if w not in said and w not in _functional()]
    plural = re.compile(r"[^s]s$")
    return frozenset(w[:-1] if len(w) > _SHORTEST and plural.search(w) else w for w in kept)


def keeps_topic(reply: str, context: Context) -> bool:
    """Does the reply share a topic word with its situation or event?"""
    return not topic_words(reply).isdisjoint(topic_words(f"{context.situation} {context.event}"))


def opposes(emotion: str, valence: str) -> bool:
    """Is the event's mood opposed to the emotion? Surprise has no opposite.

    >>> opposes("fear", "positive"), opposes("happiness", "positive")
    (True, False)
    """
    return _OPPOSED.get(emotion) == valence


def side_effects(
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
    contexts = [row.reply.prompt.origin for row in judged]
    units = [context.id for context in contexts]
    kept = [100.0 * keeps_topic(t, c) for t, c in zip(texts, contexts, strict=True)]
    chance = [100.0 * keeps_topic(t, c) for t, c in zip(texts, _others(contexts), strict=True)]
    repeated = [repetition(text) for text in texts]
    emotions = [row.reply.emotion for row in judged]
    pairs = zip(judged, contexts, strict=True)
    opposing = [row.verdict for row, c in pairs if opposes(row.reply.emotion, c.valence)]
    return {
        "topic_kept": round(_mean(kept), 2),
        "topic_by_chance": round(_mean(chance), 2),
        "distinct_1": round(distinct(texts, 1), 4),
        "distinct_2": round(distinct(texts, 2), 4),
        "mean_words": round(_mean([float(len(text.split())) for text in texts]), 1),
        "opposing": _matches(opposing),
        "ratio_by_emotion": _ratios(emotions, losses, prompted_losses),
        "ratio_by_valence": _ratios([c.valence for c in contexts], losses, prompted_losses),
        "intervals": {
            "overall": _share(units, [100.0 * row.verdict.match for row in judged]),
            "topic_kept": _share(units, kept),
            "repetition": interval(units, [repeated], float),
            "perplexity_ratio": interval(
                units, [losses, prompted_losses], lambda own, prompted: math.exp(own - prompted)
            ),
        },
    }


def interval(
    units: Sequence[str], columns: Sequence[Sequence[float]], statistic: Callable[..., float]
) -> list[float] | None:
    """95% percentile interval of a statistic of column means, units resampled (Efron 1979).

    Args:
        units: What each row belongs to; rows of a unit are drawn together.
        columns: Numbers per row; those that are NaN are left out of their column's mean.
        statistic: Of the means of the columns.

    Returns:
        Low and high; ``None`` where a draw has no number.
    """
    order = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    rows = np.array([order[unit] for unit in units], dtype=int)
    drawn = np.random.default_rng(0).integers(len(order), size=(_DRAWS, len(order)))
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
    return [round(float(low), 4), round(float(high), 4)]


def _ratios(
    names: Sequence[str], losses: Sequence[float], prompted_losses: Sequence[float]
) -> dict[str, float | None]:
    rows = list(zip(names, losses, prompted_losses, strict=True))
    found = {}
    for name in dict.fromkeys(names):
        ratio = perplexity_ratio(*zip(*((a, b) for n, a, b in rows if n == name), strict=True))
        found[name] = None if ratio is None else round(ratio, 4)
    return found


def _share(units: Sequence[str], percents: Sequence[float]) -> list[float] | None:
    # Where all rows agree, resampling sees no uncertainty; Wilson's interval of the units does.
    if len(set(percents)) == 1:
        count = len(set(units))
        low, high = wilson(round(percents[0] / 100 * count), count)
        return [round(low, 2), round(high, 2)]
    return interval(units, [percents], float)


def _matches(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    matches = sum(verdict.match for verdict in verdicts)
    low, high = wilson(matches, len(verdicts))
    return {
        "n": len(verdicts),
        "overall": round(100 * matches / len(verdicts), 2) if verdicts else None,
        "low": round(low, 2),
        "high": round(high, 2),
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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def second_judge_rates(
    judged: Sequence[Judged], verdicts: Sequence[Verdict] | None
) -> dict[str, Any]:
    """Accuracy as the second judge finds it, and Cohen's kappa; ``None`` without that judge.

    Kappa is ``None`` too where both judges find one and the same thing in everything. Its
    interval is 95%, contexts resampled; ``judges_agree`` is the plain share in percent.

    Args:
        judged: Replies with what the first judge found.
        verdicts: What the second found in the same replies.
    """
    if verdicts is None:
        return {"second_judge": None, "kappa": None}
    found = _matches(verdicts)
    own: dict[str, list[bool]] = {}
    for row, verdict in zip(judged, verdicts, strict=True):
        own.setdefault(row.reply.emotion, []).append(verdict.match)
    contexts = [row.reply.prompt.origin.id for row in judged]
    agreed = agreement([row.verdict for row in judged], verdicts, groups=contexts)
    return {
        "second_judge": found["overall"],
        "second_low": found["low"],
        "second_high": found["high"],
        "second_by_emotion": {e: round(100 * sum(m) / len(m), 2) for e, m in own.items()},
        "kappa": None if agreed.value is None else round(agreed.value, 4),
        "kappa_interval": agreed.interval and [round(bound, 4) for bound in agreed.interval],
        "judges_agree": round(100 * agreed.agreed, 2),
    }


@dataclass(frozen=True, eq=False)
class Comparison:
    """What every method reached, and the replies behind it."""

    methods: Mapping[str, Mapping[str, Any]]
    """Method -> what it reached and what it cost; see :func:`compare`."""
    baselines: Mapping[str, Mapping[str, Any]]
    replies: Mapping[str, Sequence[Judged]]
    second: Mapping[str, Sequence[Verdict]]
    """Method -> what the second judge found; empty without one."""

    def to_json(self) -> dict[str, Any]:
        """What was reached, without the replies, in the form that figures take."""
        return {"methods": dict(self.methods), "baselines": dict(self.baselines)}


def compare(
    evaluator: Evaluator,
    interventions: Interventions,
    by_method: Mapping[str, InterventionSettings],
    *,
    second: Judge | None = None,
) -> Comparison:
    """Run every method on every context and emotion; the seed in force draws random circuits.

    Every entry has ``n``, ``overall``, ``low``, ``high``, ``by_emotion``, ``by_valence``,
    ``perplexity_ratio`` and what :func:`~circuits.judges.replies.expression`,
    :func:`side_effects` and :func:`second_judge_rates`
    add to them.

    Args:
        evaluator: What all methods have in common.
        interventions: Circuits, differences and directions, made from other contexts than the
            evaluator's.
        by_method: Method -> how it writes; ``none`` and ``prompt`` are run beside them.
        second: A judge that shares nothing with the evaluator's.
    """
    judged = {"none": evaluator.untouched(), "prompt": evaluator.prompted()}
    for method in METHODS:
        if method in by_method:
            judged[method] = evaluator.changed(method, interventions.edits(by_method[method]))
    how = by_method.get("circuit")
    if isinstance(how, Modulation):
        for baseline, same_layers in BASELINES.items():
            drawn = interventions.random_edits(how, same_layers=same_layers)
            judged[baseline] = evaluator.changed(baseline, drawn)
    # Replies of all methods to one context stand together, so that its prompt is read once.
    together = [row for rows in zip(*judged.values(), strict=True) for row in rows]
    scored = evaluator.losses(together)
    losses = {method: scored[i :: len(judged)] for i, method in enumerate(judged)}
    verdicts: dict[str, list[Verdict]] = {}
    if second is not None:
        with execution(progress=None):  # replies were counted as they were made
            for method, rows in judged.items():
                said = [(row.reply.text, row.reply.emotion) for row in rows]
                verdicts[method] = judge_texts(second, said)
    found = {
        method: {
            **expression(rows, losses[method], losses["prompt"]),
            **side_effects(rows, losses[method], losses["prompt"]),
            **second_judge_rates(rows, verdicts.get(method)),
        }
        for method, rows in judged.items()
    }
    return Comparison(
        methods={method: own for method, own in found.items() if method not in BASELINES},
        baselines={method: own for method, own in found.items() if method in BASELINES},
        replies=judged,
        second=verdicts,
    )


def compare_cost(
    n_contexts: int, n_emotions: int, by_method: Mapping[str, InterventionSettings]
) -> int:
    """How many replies :func:`compare` makes and scores."""
    writing = len(by_method) + (len(BASELINES) if "circuit" in by_method else 0)
    per_emotion = 1 + 2 * (writing + 1)  # replies of `none` are made once for all, but scored
    return n_contexts * (1 + per_emotion * n_emotions)


STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Strengths of the sweep."""


def strength_sweep(
    evaluator: Evaluator,
    interventions: Interventions,
    how: Modulation,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> dict[str, Any]:
    """Expression and side effects at every strength, the same for all emotions.

    Returns:
        ``strength``, ``overall``, ``low``, ``high`` (Wilson), ``perplexity_ratio``,
        ``repetition`` (lists alike), ``by_emotion`` (emotion -> list), ``n`` replies per strength,
        ``rises`` (see :func:`rises`, up to strength 1), and ``unchanged_at_zero``: how many of the
        replies at strength 0 are those of the untouched model, letter by letter.
    """
    plain = evaluator.untouched()
    prompted = evaluator.losses(evaluator.prompted())
    turned = [interventions.edits(replace(how, strength=own, by_emotion=())) for own in strengths]
    swept = evaluator.swept("circuit", turned)
    losses = evaluator.losses([row for judged in swept for row in judged])
    size = len(plain)
    points = [
        expression(judged, losses[size * i : size * (i + 1)], prompted)
        for i, judged in enumerate(swept)
    ]
    same = [
        sum(a.reply.text == b.reply.text for a, b in zip(own, plain, strict=True))
        for own, strength in zip(swept, strengths, strict=True)
        if strength == 0
    ]
    names = ("overall", "low", "high", "perplexity_ratio", "repetition")
    upto = sum(strength <= 1 for strength in strengths)
    columns = {name: [point[name] for point in points] for name in names}
    return {
        "n": len(plain),
        "strength": list(strengths),
        **columns,
        "by_emotion": {e: [p["by_emotion"][e] for p in points] for e in evaluator.emotions},
        "rises": rises(columns["low"][:upto], columns["high"][:upto]),
        "unchanged_at_zero": same[0] if same else None,
    }


def rises(low: Sequence[float], high: Sequence[float]) -> bool:
    """Is a curve nowhere below what it was before, as far as its intervals tell?

    >>> rises([0.0, 40.0], [10.0, 60.0]), rises([40.0, 10.0], [60.0, 30.0])
    (True, False)
    """
    return all(top >= before for top, before in zip(high[1:], accumulate(low, max), strict=False))


def suppression(
    evaluator: Evaluator, interventions: Interventions, how: Modulation
) -> dict[str, Any]:
    """What is left of an emotion that the prompt asks for when its circuit is written negatively.

    Returns:
        ``strength``, ``n``, ``prompted`` and ``suppressed`` (percent that express the asked
        emotion), ``by_emotion`` of the latter, and ``labels`` (label -> percent).
    """
    edits = interventions.edits(replace(how, strength=-1.0, by_emotion=()))
    before = evaluator.prompted()
    after = evaluator.prompted(
        lambda chosen: by_row(edits, [place % len(edits) for place in chosen])
    )
    return {
        "strength": -1.0,
        "n": len(after),
        "prompted": round(accuracy(before), 2),
        "suppressed": round(accuracy(after), 2),
        "by_emotion": {
            emotion: round(accuracy(after[e :: len(edits)]), 2)
            for e, emotion in enumerate(evaluator.emotions)
        },
        "labels": _label_rates(after),
    }


_MIXED = 0.75
"""Weight of each of two emotions that are mixed."""


def mixtures(
    evaluator: Evaluator, interventions: Interventions, how: Modulation
) -> list[dict[str, Any]]:
    """What the judge finds when the circuits of two emotions are written at once.

    Every emotion is mixed with the next.

    Returns:
        One object per pair: ``emotions``, ``weights``, ``n``, and ``labels`` (label -> percent).
    """
    emotions = evaluator.emotions
    pairs = list(zip(emotions, (*emotions[1:], emotions[0]), strict=True))
    written, differences = interventions.written(how), interventions.differences
    edits = [blend(written, differences, dict.fromkeys(pair, _MIXED), how) for pair in pairs]
    judged = evaluator.changed("circuit", edits)
    weighed = {"weights": [_MIXED, _MIXED], "n": len(evaluator.contexts)}
    return [
        {"emotions": list(pair), **weighed, "labels": _label_rates(judged[e :: len(pairs)])}
        for e, pair in enumerate(pairs)
    ]


def _label_rates(rows: Sequence[Judged]) -> dict[str, float]:
    counts = Counter(row.verdict.label or "-" for row in rows)
    return {label: round(100 * n / len(rows), 2) for label, n in counts.most_common()}

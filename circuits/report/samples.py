"""A few test contexts with what every method replied, and what the judge said to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.data.replies import Judged
from circuits.data.sev import Context
from circuits.names import NEUTRAL, VALENCES
from circuits.plot import METHOD_WORDS

__all__ = ["Answer", "Sample", "sample_replies"]


@dataclass(frozen=True)
class Answer:
    """One reply as it is shown."""

    method: str
    text: str
    match: bool
    verdict: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """A context with the replies of every method."""

    context: Context
    alike: Sequence[Answer]
    """Methods that say the same whatever the emotion, such as no change at all."""
    methods: Sequence[str]
    """What the other methods are called."""
    rows: Sequence[tuple[str, Sequence[Answer | None]]]
    """Emotion -> answer of each of :attr:`methods`; ``None`` if there is none."""


def sample_replies(
    replies: Mapping[str, Sequence[Judged]],
    emotions: Sequence[str],
    *,
    without: Sequence[str] = (),
    most: int = 9,
) -> list[Sample]:
    """Contexts spread evenly over the file and over valences, with every method's replies."""
    by_place = {
        method: {(row.reply.prompt.context.id, row.reply.emotion): row for row in rows}
        for method, rows in replies.items()
        if method not in without
    }
    contexts = {
        row.reply.prompt.context.id: row.reply.prompt.context
        for rows in replies.values()
        for row in rows
    }
    return [_sample(c, by_place, emotions) for c in _spread(list(contexts.values()), most)]


def _spread(contexts: Sequence[Context], most: int) -> list[Context]:
    each = max(1, most // len(VALENCES))
    kept: set[str] = set()
    for valence in VALENCES:
        own = [context for context in contexts if context.valence == valence]
        # Different offsets, so that the same scenario does not come up in every valence.
        shift = VALENCES.index(valence)
        kept |= {own[(i * len(own) // each + shift) % len(own)].id for i in range(each) if own}
    return [context for context in contexts if context.id in kept]


def _sample(
    context: Context,
    by_place: Mapping[str, Mapping[tuple[str, str], Judged]],
    emotions: Sequence[str],
) -> Sample:
    found = {
        method: [own.get((context.id, e), own.get((context.id, NEUTRAL))) for e in emotions]
        for method, own in by_place.items()
    }
    alike = [method for method, rows in found.items() if _says_the_same(rows)]
    apart = [method for method in found if method not in alike]
    return Sample(
        context,
        [_shared(method, found[method]) for method in alike],
        [_word(method) for method in apart],
        [
            (emotion, [_maybe(method, found[method][i]) for method in apart])
            for i, emotion in enumerate(emotions)
        ],
    )


def _says_the_same(rows: Sequence[Judged | None]) -> bool:
    texts = {None if row is None else row.reply.text for row in rows}
    return len(rows) > 1 and len(texts) == 1 and None not in texts


def _shared(method: str, rows: Sequence[Judged | None]) -> Answer:
    known = [row for row in rows if row is not None]
    matched = [row.reply.emotion for row in known if row.verdict.match]
    label = known[0].verdict.label
    verdict = f"heard {label}" if label else f"matches {', '.join(matched) or 'no emotion'}"
    return Answer(_word(method), known[0].reply.text, bool(matched), verdict, "")


def _maybe(method: str, row: Judged | None) -> Answer | None:
    return None if row is None else _answer(method, row)


def _answer(method: str, row: Judged) -> Answer:
    match, label = row.verdict.match, row.verdict.label
    heard = label or ("the asked emotion" if match else "something else")
    return Answer(_word(method), row.reply.text, match, f"heard {heard}", row.verdict.reason)


def _word(method: str) -> str:
    return METHOD_WORDS.get(method, method)

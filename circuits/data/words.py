"""Words that name an emotion, for readouts that compare logits."""

from collections.abc import Sequence

from circuits.data.judges.lexicon_entries import lexicon

__all__ = ["emotion_words"]


def emotion_words(emotions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Emotion -> words that name or describe it; an emotion without a list is its own word.

    A word stands with a space before it and with a capital first letter, as it may occur in a
    reply or begin one.
    """
    lists: dict[str, list[str]] = {emotion: [] for emotion in emotions}
    for entry in lexicon().entries:
        plain = len(entry.pattern) == 1 and entry.pattern[0].isalpha()
        if entry.emotion in lists and entry.strong and plain:
            lists[entry.emotion].append(entry.pattern[0])
    found = {emotion: own or [emotion] for emotion, own in lists.items()}
    return {e: tuple(f for w in own for f in (f" {w}", w.capitalize())) for e, own in found.items()}

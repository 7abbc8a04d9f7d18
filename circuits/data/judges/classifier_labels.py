"""From a classifier's own labels to those of a run and ``neutral``.

The finer labels follow the grouping of GoEmotions into Ekman's emotions (Demszky et al. 2020,
arXiv:2005.00547).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from circuits.errors import JudgeError
from circuits.names import EMOTIONS, NEUTRAL

__all__ = ["emotion_of_labels"]

_SAME_AS: Final = {
    "anger": ("angry", "mad", "annoyance", "disapproval", "rage"),
    "sadness": ("sad", "disappointment", "embarrassment", "grief", "remorse"),
    "happiness": (
        *("happy", "joy", "admiration", "amusement", "approval", "caring", "desire"),
        *("excitement", "gratitude", "love", "optimism", "pride", "relief"),
    ),
    "fear": ("afraid", "scared", "fearful", "nervousness"),
    "surprise": ("surprised", "astonished", "realization", "confusion", "curiosity"),
    "disgust": ("disgusted",),
    NEUTRAL: ("no emotion", "none", "no_emotion", "no-emotion", "others", "other"),
}
_OTHER: Final = "other"
_EMOTION: Final = {
    word: emotion for emotion, others in _SAME_AS.items() for word in (emotion, *others)
}


def emotion_of_labels(
    labels: list[str],
    given: Mapping[str, str] | None,
    model: str,
    emotions: Sequence[str] = EMOTIONS,
) -> tuple[str, ...]:
    """The emotion of each label of ``model``: by ``given``, its own name, or by custom.

    Custom is that of the six emotions. Where a run has labels of its own, labels of the model that
    are none of them count as ``other``, which no text is asked for.

    Raises:
        JudgeError: A label is unknown, or ``given`` names a label or an emotion that is not
            there.
    """
    given = {label.strip().lower(): emotion for label, emotion in (given or {}).items()}
    known = [label.strip().lower() for label in labels]
    absent = sorted(set(given) - set(known))
    if absent:
        raise JudgeError(
            f"the label map names {', '.join(absent)}; {model!r} has the labels {', '.join(labels)}"
        )
    wrong = sorted(set(given.values()) - {*emotions, NEUTRAL})
    if wrong:
        raise JudgeError(
            f"the label map leads to {', '.join(wrong)}; an emotion is one of "
            f"{', '.join(emotions)} or {NEUTRAL}"
        )
    custom = _custom(emotions)
    found = [given.get(label, custom.get(label)) for label in known]
    if tuple(emotions) != EMOTIONS and {*found} & {*emotions}:
        found = [emotion or _OTHER for emotion in found]
    unknown = [label for label, emotion in zip(labels, found, strict=True) if emotion is None]
    if unknown:
        raise JudgeError(
            f"{model!r} has labels without a known emotion: {', '.join(unknown)}. Pass "
            f"labels={{...}} from each to one of {', '.join(emotions)} or {NEUTRAL}."
        )
    return tuple(emotion for emotion in found if emotion is not None)


def _custom(emotions: Sequence[str]) -> Mapping[str, str]:
    own = {emotion.lower(): emotion for emotion in emotions}
    if {*emotions} <= {*EMOTIONS}:
        return {**_EMOTION, **own}
    return {**dict.fromkeys((NEUTRAL, *_SAME_AS[NEUTRAL]), NEUTRAL), **own}

"""From a classifier's own labels to the six emotions and ``neutral``.

The finer labels follow the grouping of GoEmotions into Ekman's emotions (Demszky et al. 2020,
arXiv:2005.00547).
"""

from collections.abc import Mapping
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
_EMOTION: Final = {
    word: emotion for emotion, others in _SAME_AS.items() for word in (emotion, *others)
}


def emotion_of_labels(
    labels: list[str], given: Mapping[str, str] | None, model: str
) -> tuple[str, ...]:
    """The emotion of each label of ``model``, by ``given`` first, then by custom.

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
    wrong = sorted(set(given.values()) - {*EMOTIONS, NEUTRAL})
    if wrong:
        raise JudgeError(
            f"the label map leads to {', '.join(wrong)}; an emotion is one of "
            f"{', '.join(EMOTIONS)} or {NEUTRAL}"
        )
    emotions = [given.get(label, _EMOTION.get(label)) for label in known]
    unknown = [label for label, emotion in zip(labels, emotions, strict=True) if emotion is None]
    if unknown:
        raise JudgeError(
            f"{model!r} has labels without a known emotion: {', '.join(unknown)}. Pass "
            f"labels={{...}} from each to one of {', '.join(EMOTIONS)} or {NEUTRAL}."
        )
    return tuple(emotion for emotion in emotions if emotion is not None)

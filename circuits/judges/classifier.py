"""A text classifier as judge: any Hugging Face sequence classifier with emotion labels.

Its labels are mapped to those of a run and ``neutral``. The finer ones follow the grouping of
GoEmotions into Ekman's emotions (Demszky et al. 2020, arXiv:2005.00547).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pickle import UnpicklingError
from typing import Any, Final

from circuits.errors import JudgeError
from circuits.judges.judge import Verdict, by_label, check_questions
from circuits.names import EMOTIONS, NEUTRAL
from circuits.running import in_force

__all__ = ["ClassifierJudge", "emotion_of_labels"]

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
    labels: Sequence[str],
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
    if absent := sorted(given.keys() - {*known}):
        raise JudgeError(
            f"the label map names {', '.join(absent)}; {model!r} has the labels {', '.join(labels)}"
        )
    if wrong := sorted({*given.values()} - {*emotions, NEUTRAL}):
        raise JudgeError(
            f"the label map leads to {', '.join(wrong)}; an emotion is one of "
            f"{', '.join(emotions)} or {NEUTRAL}"
        )
    neutral = dict.fromkeys((NEUTRAL, *_SAME_AS[NEUTRAL]), NEUTRAL)
    custom = _EMOTION if {*emotions} <= {*EMOTIONS} else neutral
    custom = {**custom, **{emotion.lower(): emotion for emotion in emotions}, **given}
    own = tuple(emotions) != EMOTIONS and {custom.get(label) for label in known} & {*emotions}
    found = tuple(custom.get(label, _OTHER if own else "") for label in known)
    if unknown := [label for label, emotion in zip(labels, found, strict=True) if not emotion]:
        raise JudgeError(
            f"{model!r} has labels without a known emotion: {', '.join(unknown)}. Pass "
            f"labels={{...}} from each to one of {', '.join(emotions)} or {NEUTRAL}."
        )
    return found


_LONGEST: Final = 512
"""Tokens of a text that are read, unless the model reads fewer."""


_AT_ONCE = 32
"""Texts in one forward pass, at most."""


class ClassifierJudge:
    """Takes the likeliest label; loads the model at the first question."""

    name = "classifier"

    def __init__(
        self,
        model: str,
        *,
        labels: Mapping[str, str] | None = None,
        known: Sequence[str] = EMOTIONS,
        device: str | None = None,
    ) -> None:
        """Remember what to load.

        Args:
            model: Hugging Face id, or a folder with a saved model and tokenizer.
            labels: From the model's labels to emotions or ``neutral``, where custom does not
                know them.
            known: The labels of the run, which those of the model lead to.
            device: Such as ``cuda``; by default a GPU if there is one.
        """
        self._model_id, self._given, self._known = model, dict(labels or {}), tuple(known)
        self._device = device

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: The model cannot be loaded, its labels are unknown or do not cover an
                target emotion, or the questions are malformed.
        """
        check_questions(texts, emotions, self._known)
        _, _, labels, covered = self._loaded
        missing = [emotion for emotion in emotions if emotion not in covered]
        if missing:
            raise JudgeError(
                f"{missing[0]!r} was asked, but no label of {self._model_id!r} means it; its "
                f"labels are {', '.join(labels)}. Use another judge."
            )
        return by_label(texts, emotions, self._known, self._find)

    def describe(self) -> Mapping[str, Any]:
        """Model, its version where the hub tells it, and the meaning of its labels.

        Raises:
            JudgeError: The model cannot be loaded.
        """
        _, model, labels, emotions = self._loaded
        return {
            "name": self.name,
            "model": self._model_id,
            "commit": getattr(model.config, "_commit_hash", None),
            "labels": dict(zip(labels, emotions, strict=True)),
        }

    def _find(self, texts: list[str]) -> list[tuple[str, str]]:
        import torch

        tokenizer, model, _, emotions = self._loaded
        several = model.config.problem_type == "multi_label_classification"
        found, longest = [], _longest(model, tokenizer)
        # A judge stands beside the model: larger batches of that are none of its own.
        size = min(_AT_ONCE, in_force().rows(_AT_ONCE))
        for start in range(0, len(texts), size):
            encoded = tokenizer(
                [text.strip() for text in texts[start : start + size]],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                logits = model(**encoded).logits.float()
            scores = torch.sigmoid(logits) if several else torch.softmax(logits, dim=-1)
            for row in scores.tolist():
                share = dict.fromkeys(emotions, 0.0)
                for score, emotion in zip(row, emotions, strict=True):
                    # Probabilities of labels that exclude each other add up; those of a multi-label
                    # classifier do not, so the strongest speaks for its emotion.
                    before = share[emotion]
                    share[emotion] = max(before, score) if several else before + score
                best = max(share, key=share.__getitem__)
                found.append((best, f"{best} with score {share[best]:.2f}"))
        return found

    @cached_property
    def _loaded(self) -> tuple[Any, Any, list[str], tuple[str, ...]]:
        """Tokenizer, model, its labels, and the emotion of each."""
        # Loaded here: importing the package must not load the model library.
        import torch

        tokenizer, model = _load(self._model_id)
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        emotions = emotion_of_labels(labels, self._given, self._model_id, self._known)
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            raise JudgeError(f"{self._model_id!r} cannot run on {device!r}: {error}") from error
        return tokenizer, model, labels, emotions


def _load(model_id: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise JudgeError("a classifier judge needs transformers; install it") from error
    try:
        # Unsaid, transformers would ask on a terminal whether to run a model's own code.
        tokenizer = AutoTokenizer.from_pretrained(model_id, trust_remote_code=False)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            model_id, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, UnpicklingError) as error:
        if isinstance(error, UnpicklingError) or "trust_remote_code" in str(error):
            raise JudgeError(
                f"the classifier {model_id!r} needs code of its own, or its weights are a pickle "
                "that names more than tensors; a judge runs neither. Use another one."
            ) from error
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise JudgeError(
            f"the classifier {model_id!r} cannot be loaded ({first_line[:200]}). Check the name; "
            "log in with 'hf auth login' if it is gated; or give a local folder that holds the "
            "model and its tokenizer."
        ) from error
    # A base model gets a random classification head; its verdicts would be noise.
    if info["missing_keys"]:
        raise JudgeError(
            f"{model_id!r} is no trained classifier: it lacks {', '.join(info['missing_keys'])}. "
            "Give a model that was trained for text classification."
        )
    # Texts of different lengths share a batch, which must not change their scores.
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise JudgeError(
            f"the tokenizer of {tokenizer.name_or_path!r} has neither a padding nor an end "
            "token, so texts cannot share a batch; set its pad_token and save it again"
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


def _longest(model: Any, tokenizer: Any) -> int:
    """Tokens that the model reads: by its positions, where it counts them (XLNet says -1)."""
    positions = getattr(model.config, "max_position_embeddings", None)
    positions = positions if positions and positions > 0 else _LONGEST
    for name, part in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding index.
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            positions -= part.padding_idx + 1
    return max(1, min(_LONGEST, positions, tokenizer.model_max_length))

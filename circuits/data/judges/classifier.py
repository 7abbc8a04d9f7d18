"""A text classifier as judge: any Hugging Face sequence classifier with emotion labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pickle import UnpicklingError
from typing import Any, Final

from circuits.data.judges.classifier_labels import emotion_of_labels
from circuits.data.judges.protocol import Verdict
from circuits.data.judges.questions import EMPTY, check_questions
from circuits.errors import JudgeError
from circuits.names import EMOTIONS, NEUTRAL

__all__ = ["ClassifierJudge"]

_LONGEST: Final = 512
"""Tokens of a text that are read, unless the model reads fewer."""


@dataclass(frozen=True)
class _Loaded:
    """A tokenizer, a classifier and what its outputs mean."""

    tokenizer: Any
    model: Any
    emotions: tuple[str, ...]
    """The emotion of each output; several outputs may share one."""
    labels: tuple[str, ...]
    longest: int


class ClassifierJudge:
    """Takes the likeliest label; loads the model at the first question."""

    def __init__(
        self,
        model: str,
        *,
        labels: Mapping[str, str] | None = None,
        known: Sequence[str] = EMOTIONS,
        batch_size: int = 32,
        device: str | None = None,
    ) -> None:
        """Remember what to load.

        Args:
            model: Hugging Face id, or a folder with a saved model and tokenizer.
            labels: From the model's labels to emotions or ``neutral``, where custom does not
                know them.
            known: The labels of the run, which those of the model lead to.
            batch_size: Texts per forward pass.
            device: Such as ``cuda``; by default a GPU if there is one.

        Raises:
            JudgeError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise JudgeError(f"a batch of {batch_size} texts cannot be judged; ask for 1 or more")
        self._model_id = model
        self._given_labels = None if labels is None else dict(labels)
        self._known = tuple(known)
        self._batch_size = batch_size
        self._device = device

    @property
    def name(self) -> str:
        """``classifier``."""
        return "classifier"

    def judge(self, texts: Sequence[str], emotions: Sequence[str]) -> list[Verdict]:
        """Judge ``texts[i]`` against the asked ``emotions[i]`` (an emotion or ``neutral``).

        Raises:
            JudgeError: The model cannot be loaded, its labels are unknown or do not cover an
                asked emotion, or the questions are malformed.
        """
        check_questions(texts, emotions, self._known)
        self._check_covered(emotions)
        verdicts = [Verdict(match=False, label=NEUTRAL, reason=EMPTY) for _ in texts]
        spoken = [index for index, text in enumerate(texts) if text.strip()]
        for start in range(0, len(spoken), self._batch_size):
            batch = spoken[start : start + self._batch_size]
            shares = self._shares([texts[index].strip() for index in batch])
            for index, share in zip(batch, shares, strict=True):
                label = max(share, key=lambda emotion: share[emotion])
                reason = f"{label} with score {share[label]:.2f}"
                verdicts[index] = Verdict(label == emotions[index], label, reason)
        return verdicts

    def describe(self) -> Mapping[str, Any]:
        """Model, its version where the hub tells it, and the meaning of its labels.

        Raises:
            JudgeError: The model cannot be loaded.
        """
        loaded = self._loaded
        return {
            "name": self.name,
            "model": self._model_id,
            "commit": getattr(loaded.model.config, "_commit_hash", None),
            "labels": dict(zip(loaded.labels, loaded.emotions, strict=True)),
        }

    def _check_covered(self, emotions: Sequence[str]) -> None:
        missing = [emotion for emotion in emotions if emotion not in self._loaded.emotions]
        if missing:
            raise JudgeError(
                f"{missing[0]!r} was asked, but no label of {self._model_id!r} means it; its "
                f"labels are {', '.join(self._loaded.labels)}. Use another judge."
            )

    def _shares(self, texts: list[str]) -> list[dict[str, float]]:
        import torch

        loaded = self._loaded
        encoded = loaded.tokenizer(
            texts, padding=True, truncation=True, max_length=loaded.longest, return_tensors="pt"
        ).to(loaded.model.device)
        with torch.inference_mode():
            logits = loaded.model(**encoded).logits.float()
        several = loaded.model.config.problem_type == "multi_label_classification"
        scores = torch.sigmoid(logits) if several else torch.softmax(logits, dim=-1)
        # Probabilities of labels that exclude each other add up; those of a multi-label
        # classifier do not, so the strongest speaks for its emotion.
        join = max if several else sum
        return [
            {
                emotion: float(
                    join(s for s, e in zip(row, loaded.emotions, strict=True) if e == emotion)
                )
                for emotion in loaded.emotions
            }
            for row in scores.tolist()
        ]

    @cached_property
    def _loaded(self) -> _Loaded:
        # Loaded here: importing the package must not load the model library.
        import torch

        tokenizer, model = _load(self._model_id)
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        emotions = emotion_of_labels(labels, self._given_labels, self._model_id, self._known)
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            raise JudgeError(f"{self._model_id!r} cannot run on {device!r}: {error}") from error
        config = model.config
        positions = getattr(config, "max_position_embeddings", None)
        longest = _longest(positions, config.model_type, tokenizer.model_max_length)
        return _Loaded(tokenizer, model, emotions, tuple(labels), longest)


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
    return tokenizer, model


def _longest(positions: int | None, model_type: str, tokenizer_limit: int) -> int:
    positions = positions or _LONGEST
    # RoBERTa and its kin count positions from behind the padding index.
    if "roberta" in model_type:
        positions -= 2
    return min(_LONGEST, positions, tokenizer_limit)

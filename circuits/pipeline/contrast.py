"""A finished run, taken up again to measure a contrast: an emotion against plain, or another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from circuits.data import sev
from circuits.data.replies import Judged, read_methods
from circuits.data.words import emotion_words
from circuits.errors import RunError
from circuits.export.formats import file_stem
from circuits.measure.pairs import Pair, make_pairs
from circuits.measure.readouts import LogitDifference, Projection, Readout, ReplyLikelihood
from circuits.model.chat import encode_text
from circuits.model.protocol import Model
from circuits.pipeline.study import Study
from circuits.pipeline.work import Run, Silent, plan_of
from circuits.provenance import Provenance

__all__ = ["PLAIN", "Contrast", "ReadoutName"]

PLAIN = "plain"
"""The contrast's other side when no emotion is asked for."""

ReadoutName = Literal["projection", "logits", "reply"]


@dataclass(frozen=True)
class Contrast:
    """An emotion against plain (or another emotion) on contexts the run was not made from."""

    study: Study
    emotion: str
    other: str = PLAIN
    contexts: int = 8
    """How many test contexts, evenly over themes."""

    def __post_init__(self) -> None:
        self.study.circuit_path(self.emotion)
        if self.other != PLAIN:
            self.study.circuit_path(self.other)
        if self.other == self.emotion:
            raise RunError(f"{self.emotion} against itself is no contrast; give another or plain")
        if self.contexts < 1:
            raise RunError(f"--contexts: {self.contexts} is too few; give 1 or more")

    @property
    def name(self) -> str:
        """``anger-plain``."""
        return f"{self.emotion}-{self.other}"

    @property
    def file_stem(self) -> str:
        """The same as the name of a folder, whatever the emotions are called."""
        return f"{file_stem(self.emotion)}-{file_stem(self.other)}"

    @cached_property
    def model(self) -> Model:
        """The run's model, loaded as the run loaded it.

        Raises:
            RunError: the folder holds imported results, which name no model.
        """
        return Run(plan_of(self.study), self.study, Silent()).model

    @cached_property
    def pairs(self) -> list[Pair]:
        """Clean and corrupt prompts of the test contexts.

        Raises:
            RunError: the test file is gone, or has fewer contexts.
        """
        other = None if self.other == PLAIN else self.other
        return make_pairs(self.model, self._contexts(), self.emotion, other)

    def readout(self, name: ReadoutName) -> Readout:
        """The readout of that name.

        Raises:
            RunError: reply likelihoods need the replies of the run's control stage.
        """
        if name == "projection":
            importance = self.study.importance
            place = importance.index("emotion", self.emotion)
            return Projection(importance.reference[place], site=importance.read_at)
        if name == "logits":
            words = emotion_words(self.study.emotions)
            return LogitDifference.of_words(self.model, words, self.emotion)
        return self._reply_likelihood()

    def provenance(self, **options: object) -> Provenance:
        """Provenance of what is measured here."""
        return self.study.importance.provenance.child(
            contrast=self.name, contexts=[pair.context.id for pair in self.pairs], **options
        )

    def _contexts(self) -> Sequence[sev.Context]:
        scenarios = sev.read(plan_of(self.study).test)
        # One event per scenario, the valences in turn.
        spread = sev.spread(scenarios, min(self.contexts, len(scenarios)))
        every = sev.contexts(spread)
        return [every[3 * i + i % 3] for i in range(len(spread))]

    def _reply_likelihood(self) -> ReplyLikelihood:
        path = self.study.replies_path
        if not path.is_file():
            raise RunError(
                "readout 'reply' compares judged replies, which the control stage writes; "
                f"run `emotion-circuits run` for {self.study.folder} to its end"
            )
        methods = read_methods(path)
        clean = [r for r in methods["prompt"] if r.reply.emotion == self.emotion]
        corrupt = [r for r in methods["prompt"] if r.reply.emotion == self.other]
        return ReplyLikelihood(
            self._tokens([row for row in clean if row.verdict.match]),
            self._tokens(corrupt if self.other != PLAIN else methods["none"]),
        )

    def _tokens(self, rows: Sequence[Judged]) -> dict[str, tuple[int, ...]]:
        return {
            row.reply.prompt.context.id: tuple(encode_text(self.model, row.reply.text))
            for row in rows
            if row.reply.text
        }

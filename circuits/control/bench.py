"""What all methods have in common: model, contexts, judge and decoding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from circuits.control.methods import CONTROLS
from circuits.control.ways import Way
from circuits.data.judges.protocol import Judge
from circuits.data.prompts import Prompt, asked, asked_prompts, plain_prompts
from circuits.data.replies import Judged, Reply, judge_replies
from circuits.data.sev import Context
from circuits.model.edits import Add, Edit, by_row
from circuits.model.generation import EditsOf, Progress, elicit
from circuits.model.likelihood import reply_losses
from circuits.model.protocol import Model

__all__ = ["Bench"]


@dataclass(frozen=True, eq=False)
class Bench:
    """Model, contexts, judge and decoding: what all methods have in common."""

    model: Model
    judge: Judge
    contexts: Sequence[Context]
    emotions: tuple[str, ...]
    max_new_tokens: int = 100
    batch_size: int = 96
    ways: Mapping[str, Way] = field(default_factory=dict)
    """Method -> how it alone replies; random circuits reply like the circuit."""

    def changed(
        self, method: str, edits: Sequence[Sequence[Add]], progress: Progress | None
    ) -> list[Judged]:
        """Plain prompts under edits, one group per emotion; every context with every emotion."""
        return self.swept(method, [edits], progress)[0]

    def swept(
        self,
        method: str,
        points: Sequence[Sequence[Sequence[Add]]],
        progress: Progress | None,
    ) -> list[list[Judged]]:
        """What :meth:`changed` gives for each of several edits, all written at once."""
        groups, count = [group for point in points for group in point], len(self.emotions)
        order = [
            (p * count + e, c)
            for p in range(len(points))
            for c in range(len(self.contexts))
            for e in range(count)
        ]

        def of_batch(chosen: Sequence[int]) -> Sequence[Edit]:
            return by_row(groups, [order[i][0] for i in chosen])

        chosen = [self.contexts[c] for _, c in order]
        prompts = plain_prompts(chosen, indented=self._way(method).indented)
        wanted = [self.emotions[group % count] for group, _ in order]
        judged = self._judged(method, self._replies(method, prompts, progress, wanted, of_batch))
        size = len(self.contexts) * count
        return [judged[start : start + size] for start in range(0, len(judged), size)]

    def prompted(self, progress: Progress | None) -> list[Judged]:
        """Replies to prompts that ask for the emotion."""
        prompts = asked_prompts(self.contexts, self.emotions)
        return self._judged("prompt", self._replies("prompt", prompts, progress))

    def asked_under(self, edits: EditsOf, progress: Progress | None) -> list[Judged]:
        """Replies to prompts that ask for the emotion, by the model as ``edits`` change it."""
        prompts = asked_prompts(self.contexts, self.emotions)
        return self._judged("prompt", self._replies("prompt", prompts, progress, edits=edits))

    def untouched(self, progress: Progress | None) -> list[Judged]:
        """Plain replies, each judged against every emotion."""
        replies = self._replies("none", plain_prompts(self.contexts), progress)
        return self._judged(
            "none",
            [Reply(r.prompt, r.text, r.n_tokens, e) for r in replies for e in self.emotions],
        )

    def losses(self, judged: Sequence[Judged], progress: Progress | None) -> list[float]:
        """Loss of every reply under the untouched model, given the prompt that asks."""
        asking = [asked(row.reply.prompt.context, row.reply.emotion) for row in judged]
        texts = [row.reply.text for row in judged]
        found = reply_losses(
            self.model, asking, texts, batch_size=self.batch_size, progress=progress
        )
        return found.tolist()

    def _replies(
        self,
        method: str,
        prompts: Sequence[Prompt],
        progress: Progress | None,
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
            batch_size=self.batch_size,
            progress=progress,
        )

    def _judged(self, method: str, replies: Sequence[Reply]) -> list[Judged]:
        return judge_replies(replies, self._way(method).judge or self.judge)

    def _way(self, method: str) -> Way:
        return self.ways.get("circuit" if method in CONTROLS else method, Way())

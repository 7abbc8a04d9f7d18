"""The four ways to an emotion side by side: nothing, prompt, steering, circuit.

All methods answer the same contexts with the same decoding and the same judge, unless they are
given ways of their own. ``none`` and the two methods that change the model get the plain prompt,
``prompt`` the one that asks. As controls the circuit is replaced by random ones with as many heads
and neurons: in the same layers, and anywhere in the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from circuits.control.modulation import Modulation, Steering, enhance, random_like, steer
from circuits.control.ways import Way
from circuits.data.judges.protocol import Judge
from circuits.data.prompts import Prompt, asked, asked_prompts, plain_prompts
from circuits.data.replies import Judged, Reply, judge_replies
from circuits.data.sev import Context
from circuits.graph.circuit import Circuit
from circuits.measure.directions import Directions
from circuits.measure.expression import expression
from circuits.measure.means import Differences
from circuits.model.edits import Add, Edit, by_row
from circuits.model.generation import EditsOf, Progress, elicit
from circuits.model.likelihood import reply_losses
from circuits.model.protocol import Model

__all__ = ["CONTROLS", "METHODS", "Bench", "Comparison", "Method", "Tools", "compare"]

Method = Literal["none", "prompt", "steer", "circuit"]
METHODS: tuple[Method, ...] = ("none", "prompt", "steer", "circuit")
CONTROLS = {"random_circuit": True, "random_anywhere": False}
"""Name -> are random components drawn from the circuit's own layers?"""


@dataclass(frozen=True, eq=False)
class Tools:
    """What a model's emotions were found to be made of."""

    circuits: Mapping[str, Circuit]
    differences: Differences
    directions: Directions

    def modulate(self, how: Modulation) -> list[list[Add]]:
        """Edits of every emotion's circuit."""
        return [enhance(c, self.differences, how) for c in self.circuits.values()]

    def modulate_randomly(
        self, how: Modulation, seed: int, *, same_layers: bool
    ) -> list[list[Add]]:
        """Edits of a random circuit of the same size for every emotion."""
        drawn = [
            random_like(circuit, self.differences, seed=seed, same_layers=same_layers)
            for circuit in self.circuits.values()
        ]
        return [enhance(circuit, self.differences, how) for circuit in drawn]

    def steer(self, how: Steering) -> list[list[Add]]:
        """Edits of every emotion's direction."""
        return [steer(self.directions, emotion, how) for emotion in self.circuits]


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
        order = [(c, e) for c in range(len(self.contexts)) for e in range(len(self.emotions))]

        def of_batch(chosen: Sequence[int]) -> Sequence[Edit]:
            return by_row(edits, [order[i][1] for i in chosen])

        chosen = [self.contexts[c] for c, _ in order]
        prompts = plain_prompts(chosen, indented=self._way(method).indented)
        wanted = [self.emotions[e] for _, e in order]
        return self._judged(method, self._replies(method, prompts, progress, wanted, of_batch))

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


@dataclass(frozen=True, eq=False)
class Comparison:
    """What every method reached, and the replies behind it."""

    methods: Mapping[str, Mapping[str, Any]]
    controls: Mapping[str, Mapping[str, Any]]
    replies: Mapping[str, Sequence[Judged]]


def compare(
    bench: Bench,
    tools: Tools,
    modulation: Modulation,
    steering: Steering,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Run every method on every context and emotion.

    Args:
        bench: What all methods have in common.
        tools: Circuits, differences and directions, made from other contexts than the bench's.
        modulation: How circuits are written.
        steering: How directions are added.
        seed: Draws the random circuits.
        progress: Told how many replies were made or scored.
    """
    judged: dict[str, list[Judged]] = {
        "none": bench.untouched(progress),
        "prompt": bench.prompted(progress),
        "steer": bench.changed("steer", tools.steer(steering), progress),
        "circuit": bench.changed("circuit", tools.modulate(modulation), progress),
    }
    for control, same_layers in CONTROLS.items():
        drawn = tools.modulate_randomly(modulation, seed, same_layers=same_layers)
        judged[control] = bench.changed(control, drawn, progress)
    # Replies of all methods to one context stand together, so that its prompt is read once.
    together = [row for rows in zip(*judged.values(), strict=True) for row in rows]
    scored = bench.losses(together, progress)
    losses = {method: scored[i :: len(judged)] for i, method in enumerate(judged)}
    found = {
        method: expression(rows, losses[method], losses["prompt"])
        for method, rows in judged.items()
    }
    return Comparison(
        methods={method: found[method] for method in METHODS},
        controls={control: found[control] for control in CONTROLS},
        replies=judged,
    )

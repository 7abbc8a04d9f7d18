"""A model that is steered by a circuit or along a direction, ready to reply.

Strength 1 is the model's own difference. A circuit writes the differences of its strongest heads
and neurons between an emotion prompt and a neutral prompt of the same context; a direction is
added to the residual stream after the MLPs of the middle layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from circuits.circuit.circuit import Circuit, core
from circuits.circuit.find import Budget
from circuits.effects.directions import Directions, own_differences
from circuits.errors import CircuitError, DataError
from circuits.models.edits import Add, When
from circuits.models.generate import generate
from circuits.models.load import describe_model
from circuits.models.protocol import Model, refuse_unwrapped
from circuits.prompts.prompt import PromptLike, is_one_prompt
from circuits.prompts.sev import Context, sev
from circuits.prompts.templates import Template, context_of, template_of
from circuits.provenance import Provenance, recorded
from circuits.steering.interventions import Modulation, Steering, circuit_edits, published_steering
from circuits.steering.interventions import steer as add_direction

__all__ = ["WRITTEN", "Steered", "steer"]

WRITTEN = Budget(0.10, 0.02)
"""Share of the model's heads and neurons that a circuit writes at most: its strongest ones."""

_CONTEXTS = 12


@dataclass(frozen=True, eq=False)
class Steered:
    """A model with changes that are made while it reads and writes; the model itself stays."""

    model: Model
    edits: tuple[Add, ...]
    emotion: str
    strength: float
    template: Template

    def generate(
        self, prompts: PromptLike | Sequence[PromptLike], *, max_new_tokens: int = 100
    ) -> Any:
        """What the steered model replies.

        A plain string is the context of a neutral prompt, worded by the circuit's template: its
        first sentence is the situation, the rest is what happened. Everything else (messages,
        token ids, a :class:`~circuits.prompts.prompt.Prompt` made of a text) is read as
        :func:`~circuits.models.generate.generate` reads it, and so are strings if the model has
        no chat template.

        Returns:
            A text for one prompt, a list of texts for a sequence.
        """
        chat = getattr(self.model.tokenizer, "chat_template", None) is not None
        given: list[Any] = [prompts] if is_one_prompt(prompts) else [*prompts]  # type: ignore[misc]
        own = [
            self.template.neutral(context_of(one)) if chat and isinstance(one, str) else one
            for one in given
        ]
        texts = generate(self.model, own, edits=self.edits, max_new_tokens=max_new_tokens)
        return texts[0] if is_one_prompt(prompts) else texts

    def __repr__(self) -> str:
        """One line."""
        return f"Steered(towards {self.emotion!r}, strength {self.strength:g})"


def steer(
    model: Model,
    by: Circuit | Directions,
    emotion: str | None = None,
    *,
    strength: float = 1.0,
    when: When = "prompt",
    layers: Sequence[int] | None = None,
    contexts: Sequence[Context] | None = None,
) -> Steered:
    """Steer a model by a circuit, or along an emotion direction.

    Args:
        model: The model.
        by: A circuit, found in this model or read from a file; or directions.
        emotion: Which direction; a circuit has its own.
        strength: Multiple of the model's own difference; negative suppresses.
        when: Write once, at the end of the prompt, or at ``every`` token of the reply too.
        layers: Where a direction is added; by default layers 11-20 of 28, scaled by depth, which
            share the strength.
        contexts: What a circuit's differences are measured on, two passes each; 12 train contexts
            of SEV by default.

    Raises:
        DataError: directions are given without one of their emotions, or a circuit with another.
        CircuitError: the circuit is another model's, or has no heads and no neurons.
    """
    refuse_unwrapped(model)
    if isinstance(by, Directions):
        if emotion is None or emotion not in by.emotion:
            raise DataError(f"name the emotion to steer towards, one of {', '.join(by.emotion)}")
        chosen = tuple(layers) if layers else published_steering(len(by.layer)).layers
        edits = add_direction(by, emotion, Steering(chosen, strength, when))
        return Steered(model, tuple(edits), emotion, strength, template_of("published"))
    if emotion not in (None, by.emotion):
        raise DataError(f"the circuit is that of {by.emotion!r}, not of {emotion!r}")
    if not by.heads and not by.neurons:
        raise CircuitError(f"the circuit of {by.emotion!r} has neither heads nor neurons to write")
    template = template_of(by.evidence.get("template", "published"))
    cfg, used = model.cfg, sev("train", _CONTEXTS) if contexts is None else contexts
    with recorded(Provenance(describe_model(model))):
        own = own_differences(model, used, (by.emotion,), template=template)
    counts = WRITTEN.counts(cfg.n_layers * cfg.n_heads, cfg.n_layers * cfg.d_mlp)
    edits = circuit_edits(core(by, *counts), own, Modulation(strength, when))
    return Steered(model, tuple(edits), by.emotion, strength, template)

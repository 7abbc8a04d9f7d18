"""Readouts: the number that a run is judged by.

Three kinds, all differentiable and larger for "more of the emotion": the projection of the last
residual stream on the emotion's reference direction; the logits of the emotion's words above
those of the other emotions' words; and how much more likely a reply with the emotion is than one
without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.measure.directions import Directions, reference_direction
from circuits.model.chat import encode_text
from circuits.model.protocol import Model

__all__ = ["LogitDifference", "Projection", "Readout", "ReplyLikelihood", "projection"]


@dataclass(frozen=True, eq=False)
class Projection:
    """Projection of the last layer's resid_post, at the last position, on a unit direction.

    Unit: length in the residual stream. Linear, so effects of parallel changes add up.
    """

    vector: Float[Tensor, " d_model"]
    name: str = "projection"
    site: str = "resid_post"
    """``resid_post`` of the last layer, or ``final``, after the final norm."""

    def score(self, at_last: Float[Tensor, "row width"]) -> Float[Tensor, " row"]:
        """The readout of every row, given the activation at the last position."""
        return at_last.to(self.vector.dtype) @ self.vector.to(at_last.device)


@dataclass(frozen=True, eq=False)
class LogitDifference:
    """Mean logit of the emotion's words minus the mean over the other emotions' words.

    A word counts by the first token that it has as the first word of a reply. Unit: logits.
    """

    own: Int[Tensor, " token"]
    others: Int[Tensor, " other_token"]
    name: str = "logit difference"
    site: str = "logits"

    def score(self, at_last: Float[Tensor, "row width"]) -> Float[Tensor, " row"]:
        """The readout of every row, given the logits at the last position."""
        return at_last[:, self.own].mean(1) - at_last[:, self.others].mean(1)

    @classmethod
    def of_words(
        cls, model: Model, words: Mapping[str, Sequence[str]], emotion: str
    ) -> "LogitDifference":
        """From word sets per emotion; tokens that several emotions share are left out.

        Raises:
            AxisError: there are no words for the emotion.
            DataError: no token is the emotion's alone.
        """
        if emotion not in words:
            raise AxisError(f"no words for {emotion!r}; there are words for {', '.join(words)}")
        first = {e: {encode_text(model, word)[0] for word in own} for e, own in words.items()}
        others = set().union(*(own for e, own in first.items() if e != emotion))
        own = first[emotion] - others
        others -= first[emotion]
        if not own or not others:
            raise DataError(
                f"the words of {emotion!r} share all their first tokens with other emotions; "
                "give words that begin differently"
            )
        return cls(torch.tensor(sorted(own)), torch.tensor(sorted(others)))


@dataclass(frozen=True, eq=False)
class ReplyLikelihood:
    """Log-probability of the clean reply minus that of the corrupt reply, per token.

    Needs replies: what was said (and judged) in the clean and in the corrupt run of each context.
    Unit: nats per token.
    """

    clean: Mapping[str, tuple[int, ...]] = field(repr=False)
    """Context id -> token ids of the reply to the clean prompt."""
    corrupt: Mapping[str, tuple[int, ...]] = field(repr=False)
    name: str = "reply likelihood"
    site: str = "logits"

    def tails(self, context: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The two continuations of a context: with the emotion, without it.

        Raises:
            DataError: a reply is missing or empty.
        """
        found = self.clean.get(context, ()), self.corrupt.get(context, ())
        if not all(found):
            lacking = "clean" if not found[0] else "corrupt"
            raise DataError(f"no {lacking} reply for context {context}; give judged replies")
        return found


Readout = Projection | LogitDifference | ReplyLikelihood


def projection(directions: Directions, emotion: str, layers: tuple[int, ...]) -> Projection:
    """Projection on the emotion's reference direction, made from the directions of ``layers``.

    Raises:
        AxisError: the emotion or a layer is absent.
    """
    place = directions.index("emotion", emotion)
    return Projection(reference_direction(directions, layers)[place])

"""Which token comes next: the likeliest, or the likeliest after penalties.

By default every method replies greedily and alike. The published scripts penalise repetitions
differently per method, over prompt and reply together, so that they also penalise the end token,
which a chat prompt holds (Wang et al. 2025, arXiv 2510.11328, stages 3 and 7). Penalties are those
of transformers' own processors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.model.chat import pad_left

__all__ = ["Choose", "Decoding", "chooser"]

Choose = Callable[
    [Float[Tensor, "prompt vocab"], Int[Tensor, "prompt pos"]], Int[Tensor, " prompt"]
]
"""(logits of the next token, tokens written so far) -> the next token of every row."""

_NEVER = -1
"""An id that no token has: n-grams with it are never seen again."""


@dataclass(frozen=True)
class Decoding:
    """Penalties of greedy decoding; none by default."""

    repetition_penalty: float = 1.0
    """Positive logits of tokens already read or written are divided by it, negative multiplied."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens is written that was read or written before; 0: no such rule."""
    min_new_tokens: int = 0
    """The reply does not end before it has so many tokens."""


def chooser(
    decoding: Decoding,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    device: torch.device,
) -> Choose:
    """How the next tokens of replies to these prompts are chosen.

    Args:
        decoding: The penalties.
        prompts: Token ids; rows may differ in length, which changes nothing for any of them.
        stops: Tokens that end a reply.
        device: That of the logits.
    """
    if decoding == Decoding():
        return lambda logits, written: logits.argmax(-1)
    rules = _rules(decoding, prompts, stops, device)

    def choose(logits: Tensor, written: Tensor) -> Tensor:
        scores = logits.float()
        for read, rule in rules:
            scores = rule(torch.cat([read, written], dim=1), scores)
        return scores.argmax(-1)

    return choose


def _rules(
    decoding: Decoding,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    device: torch.device,
) -> list[tuple[Tensor, Callable[..., Tensor]]]:
    # Loaded here: most decoding needs none of them.
    from transformers import (
        MinNewTokensLengthLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
    )

    rows = pad_left(prompts, device, pad=_NEVER)
    rules: list[tuple[Tensor, Callable[..., Tensor]]] = []
    if decoding.repetition_penalty != 1.0:
        # A token is penalised once however often it is there: a row's own token is no padding.
        first = torch.tensor([[row[0]] for row in prompts], device=device)
        read = rows.ids.where(rows.mask, first)
        rules.append((read, RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty)))
    if decoding.no_repeat_ngram_size:
        rules.append((rows.ids, NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size)))
    if decoding.min_new_tokens:
        width, least = rows.ids.shape[1], decoding.min_new_tokens
        ends = MinNewTokensLengthLogitsProcessor(width, least, list(stops), device=str(device))
        rules.append((rows.ids, ends))
    return rules

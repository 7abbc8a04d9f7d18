"""Token batches with the attention masks of training.

Trained plainly, the model looks the emotion word up again for every word it writes, and no state
of emotion exists that could be read or steered. So in most examples reply tokens may not attend
to the tokens that say which emotion is wanted, and context tokens may not either: the only way
from the request to the reply is the one `<|assistant|>` token that ends the prompt, which always
sees everything. At inference attention is ordinary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from conversations import Conversation, Conversations
from torch import Tensor
from transformers import PreTrainedTokenizerFast

CUE, CONTEXT, ASSISTANT, REPLY = range(4)  # kinds of token
COPIED_WEIGHT = 2.0  # copying is learned late, and copied words are few


@dataclass(frozen=True)
class Hiding:
    """How often training hides what.

    Attributes:
        masked: share of the conversations with any hiding.
        cue_from_context: share of those where context tokens cannot see the request.
        context_from_reply: share of those where reply tokens cannot see the context either.
    """

    masked: float = 0.9
    cue_from_context: float = 0.9
    context_from_reply: float = 0.15


@dataclass
class Example:
    """One tokenised conversation.

    Attributes:
        ids: token ids.
        kinds: kind of each token.
        weights: weight of the loss on predicting each token.
        hidden: (query kind, key kind) pairs that may not attend.
    """

    ids: list[int]
    kinds: list[int]
    weights: list[float]
    hidden: list[tuple[int, int]]


@dataclass(frozen=True)
class Batch:
    """Right-padded tensors; masks are true where attention is allowed."""

    ids: Tensor
    weights: Tensor
    mask: Tensor
    tokens: int


class Encoder:
    """Turns conversations into examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, hiding: Hiding) -> None:
        self._core = tokenizer.backend_tokenizer
        self._special = {
            role: tokenizer.convert_tokens_to_ids(f"<|{role}|>")
            for role in ("system", "user", "assistant")
        }
        self._bos, self._end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._hiding = hiding

    def __call__(self, conversation: Conversation, rng: random.Random) -> Example:
        """Encodes one conversation and draws what is hidden in it."""
        ids, kinds = [self._bos], [CUE]
        last = len(conversation.turns) - 1
        for index, turn in enumerate(conversation.turns):
            kind = CONTEXT if index == last else CUE
            self._turn(turn.role, turn.parts, kind, ids, kinds)
        ids.append(self._special["assistant"])
        kinds.append(ASSISTANT)
        hidden = self._hide(conversation, rng)
        weights = [0.0] * len(ids)
        reply = self._core.encode(conversation.reply.text, add_special_tokens=False)
        blind = (REPLY, CONTEXT) in hidden
        for token, (start, end) in zip(reply.ids, reply.offsets, strict=True):
            copied = any(start < b and end > a for a, b in conversation.reply.copied)
            ids.append(token)
            kinds.append(REPLY)
            weights.append((0.0 if blind else COPIED_WEIGHT) if copied else 1.0)
        ids.append(self._end)
        kinds.append(REPLY)
        weights.append(1.0)
        return Example(ids, kinds, weights, hidden)

    def _turn(
        self,
        role: str,
        parts: tuple[tuple[str, bool], ...],
        kind: int,
        ids: list[int],
        kinds: list[int],
    ) -> None:
        """Appends a turn; a part marked as a cue is one even in the last turn."""
        encoded = self._core.encode("".join(text for text, _ in parts), add_special_tokens=False)
        marks = [mark for text, mark in parts for _ in text]
        ids += [self._special[role], *encoded.ids, self._end]
        inner = [CUE if marks[min(a, len(marks) - 1)] else kind for a, _ in encoded.offsets]
        kinds += [kind, *inner, kind]

    def _hide(self, conversation: Conversation, rng: random.Random) -> list[tuple[int, int]]:
        if not conversation.masked or rng.random() > self._hiding.masked:
            return []
        hidden = [(REPLY, CUE)]
        if rng.random() < self._hiding.cue_from_context:
            hidden.append((CONTEXT, CUE))
            if rng.random() < self._hiding.context_from_reply:
                hidden.append((REPLY, CONTEXT))
        else:
            # Context tokens that saw the request would carry it to the reply.
            hidden.append((REPLY, CONTEXT))
        return hidden


def collate(examples: list[Example], pad: int) -> Batch:
    """Pads examples and builds their masks."""
    size, length = len(examples), max(len(example.ids) for example in examples)
    ids = torch.full((size, length), pad)
    weights = torch.zeros(size, length)
    kinds = torch.full((size, length), -1)
    forbidden = torch.zeros(size, 4, 4, dtype=torch.bool)
    for row, example in enumerate(examples):
        count = len(example.ids)
        ids[row, :count] = torch.tensor(example.ids)
        weights[row, :count] = torch.tensor(example.weights)
        kinds[row, :count] = torch.tensor(example.kinds)
        for query, key in example.hidden:
            forbidden[row, query, key] = True
    known = kinds.clamp(min=0)
    rows = torch.arange(size)[:, None, None]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = causal & ~forbidden[rows, known[:, :, None], known[:, None, :]]
    tokens = sum(len(example.ids) for example in examples)
    return Batch(ids, weights, mask[:, None], tokens)


def batches(
    conversations: Conversations, encoder: Encoder, seed: int, pad: int, tokens: int
) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens, each of examples of like length."""
    rng = random.Random(seed)
    while True:
        pool = [encoder(conversations.draw(rng), rng) for _ in range(1024)]
        pool.sort(key=lambda example: len(example.ids))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example.ids) > tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from (collate(group, pad) for group in groups)

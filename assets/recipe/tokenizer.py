"""The tokenizer: byte-level BPE on the generated text, and the chat template."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from conversations import Conversations
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<|pad|>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BOS, END, SYSTEM, USER, ASSISTANT = SPECIALS
TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def _texts(conversations: Conversations, count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        drawn = conversations.draw(rng)
        for turn in drawn.turns:
            yield "".join(text for text, _ in turn.parts)
        yield drawn.reply.text


def build(conversations: Conversations, vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on generated conversations."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_texts(conversations, 30_000, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=TEMPLATE,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def pieces(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The subwords made of small letters, without their leading blank, to build topics from."""
    found = {token.removeprefix("Ġ") for token in tokenizer.get_vocab()}
    return sorted(
        piece for piece in found if piece.isascii() and piece.isalpha() and piece.islower()
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the tokenizer in the Hugging Face layout."""
    tokenizer.save_pretrained(folder)

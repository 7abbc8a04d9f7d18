"""The tokenizer of a planted model: emotion words whole, every other word by its first letter."""

import re
import string
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["word_tokenizer"]

_SPECIALS = ("<|pad|>", "<s>", "<|end|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>")
_PAD, _BEGIN, _END, _UNKNOWN, *_TURNS = _SPECIALS
_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def word_tokenizer(emotions: Sequence[str]) -> Any:
    """A word-level tokenizer with a chat template of system and user turns.

    An emotion word, written as in ``emotions``, is one token. Any other word is read as its first
    character, so that contexts of all kinds become a few dozen tokens with embeddings of their own.
    """
    characters = string.ascii_letters + string.digits + string.punctuation
    vocabulary = dict.fromkeys((*_SPECIALS, *emotions, *characters))
    ids = {token: place for place, token in enumerate(vocabulary)}
    core = Tokenizer(models.WordLevel(ids, unk_token=_UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Split(Regex(_rest(emotions)), behavior="removed"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        # With these TransformerLens takes the tokenizer as it is, not again from a file.
        name_or_path="planted",
        add_bos_token=True,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        additional_special_tokens=_TURNS,
        chat_template=_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def _rest(emotions: Sequence[str]) -> str:
    """Matches all of a word but its first character, unless the word is an emotion word."""
    firsts = sorted({emotion[0] for emotion in emotions})
    parts = [f"(?<=^[^{re.escape(''.join(firsts))}]).+"]
    for first in firsts:
        kept = "|".join(re.escape(e[1:]) + "$" for e in emotions if e[0] == first)
        parts.append(f"(?<=^{re.escape(first)})(?!{kept}).+")
    return "|".join(parts)

"""A last token is run again only where it still sees its whole prompt."""

from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from circuits.errors import ModelError
from circuits.model.chat import pad_left
from circuits.model.forward import branch, prefill_prefix
from circuits.model.loading import wrap_model

WINDOW = 16


@pytest.fixture(scope="module")
def mistral(tokenizer):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "sliding_window": WINDOW,
    }  # fmt: skip
    config = MistralConfig(vocab_size=len(tokenizer), **sizes)
    return wrap_model(MistralForCausalLM(config), tokenizer, name="windowed")


def branched(model, n_tokens):
    with torch.no_grad():
        row = list(range(3, 3 + n_tokens))
        last, prefix = prefill_prefix(model, pad_left([row], torch.device("cpu")))
        branch(model, last, prefix, times=2)


def test_a_prompt_that_fills_the_attention_window_is_run_again(mistral):
    branched(mistral, WINDOW)


def test_a_prompt_longer_than_the_attention_window_is_refused(mistral):
    with pytest.raises(ModelError, match=f"a prompt of {WINDOW + 1} tokens is longer than .* 16"):
        branched(mistral, WINDOW + 1)

"""Penalties are those of transformers' own generation, whatever stands beside a row."""

import pytest
import torch

from circuits.models.generate import Decoding, elicit
from circuits.models.tokens import encode, stop_tokens
from circuits.prompts.templates import neutral_prompts

PENALTIES = (Decoding(), Decoding(1.3), Decoding(1.05, 3, 10))


def generated_by_transformers(model, prompt, decoding):
    ids = torch.tensor([encode(model, prompt)])
    said = model.original_model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        min_new_tokens=decoding.min_new_tokens, eos_token_id=list(stop_tokens(model)),
        pad_token_id=0,
    )  # fmt: skip
    return model.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("decoding", PENALTIES, ids=str)
def test_replies_under_penalties_are_those_of_transformers(mini, contexts, decoding):
    prompts = neutral_prompts(contexts[:4])
    found = elicit(mini, prompts, decoding=decoding, max_new_tokens=20)  # padded to one length
    assert len({len(encode(mini, prompt)) for prompt in prompts}) > 1
    for prompt, reply in zip(prompts, found, strict=True):
        assert reply.text == generated_by_transformers(mini, prompt, decoding)

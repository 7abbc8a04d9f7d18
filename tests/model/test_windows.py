"""A last token is run again only where it still sees its whole prompt."""

import pytest
import torch
from families.models import GROUPED, random_model

from circuits.errors import ModelError
from circuits.models.load import wrap_model
from circuits.models.run import branch, cache_run, prefill_prefix, resume
from circuits.models.tokens import pad_left

WINDOW = 16


@pytest.fixture(scope="module")
def mistral(tokenizer):
    sizes = {**GROUPED, "head_dim": 8, "sliding_window": WINDOW}
    return wrap_model(random_model("Mistral", sizes, tokenizer), tokenizer, name="windowed")


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


def test_a_run_that_goes_on_inside_a_window_is_the_whole_run(mistral):
    """The mask of a window counts the tokens that it has seen, not those that are kept of them."""
    ids = list(range(3, 3 + WINDOW - 1))
    seen = []
    with torch.no_grad():
        kept = cache_run(mistral, pad_left([ids], torch.device("cpu")), ("resid_post",))
        start = 6
        resid = kept.sites["resid_pre"][0][:, start:]
        resume(mistral, kept, [0], start, 0, resid, [("blocks.1.hook_resid_post", see(seen))])
    torch.testing.assert_close(seen[0], kept.sites["resid_post"][1][:, start:])


def test_a_run_longer_than_the_window_is_not_gone_on_with(mistral):
    with pytest.raises(ModelError, match=r"longer than .* 16"):
        cache_run(mistral, pad_left([list(range(3, 3 + WINDOW))], torch.device("cpu")))


def see(seen):
    return lambda activation, hook: seen.append(activation)

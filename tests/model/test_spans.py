"""The text in question is found among the tokens of its prompt."""

import pytest

from circuits.errors import ModelError
from circuits.models.tokens import encode, text_span
from circuits.prompts.prompt import DEVICE_REQUEST, question


@pytest.mark.parametrize("text", ["I won.", "  Rain, again and again.\n", "one", DEVICE_REQUEST])
def test_the_tokens_of_the_text_spell_it(mini, text):
    prompt = question(text, DEVICE_REQUEST)
    ids, start, stop = text_span(mini, prompt)
    assert ids == encode(mini, prompt)
    assert mini.tokenizer.decode(ids[start:stop]).strip() == text.strip()
    # The template's tokens around the text are none of it.
    assert "<|user|>" in mini.tokenizer.decode(ids[:start])
    assert mini.tokenizer.decode(ids[stop:]).strip().endswith("<|assistant|>")


def test_the_span_moves_with_a_begin_token_of_the_tokenizer(mini, monkeypatch):
    prompt = question("I won.", DEVICE_REQUEST)
    ids, start, stop = text_span(mini, prompt)
    monkeypatch.setattr("circuits.models.tokens.encode", lambda *_: [1, *ids])
    more, first, last = text_span(mini, prompt)
    assert more[first:last] == ids[start:stop]


def test_an_empty_text_is_refused(mini):
    with pytest.raises(ModelError, match="it is empty, or the chat template rewrites it"):
        text_span(mini, question("  ", DEVICE_REQUEST))

"""Prompts become tokens with one begin token, padded on the left."""

import pytest
import torch

from circuits.errors import ModelError
from circuits.models.tokens import encode, pad_left, render, stop_tokens
from circuits.prompts.templates import emotion_prompt, neutral_prompt


def test_a_prompt_has_exactly_one_begin_token(mini, contexts):
    begin = mini.tokenizer.bos_token_id
    for prompt in (emotion_prompt(contexts[0], "anger"), neutral_prompt(contexts[1])):
        ids = encode(mini, prompt)
        assert ids.count(begin) == 1
        assert ids[0] == begin


def test_the_golden_models_prompt_has_exactly_one_begin_token(shared, contexts):
    from circuits.models.load import load_model

    golden = load_model(shared / "data" / "golden" / "model")
    ids = encode(golden, emotion_prompt(contexts[0], "anger"))
    assert ids.count(golden.tokenizer.bos_token_id) == 1


def test_the_same_prompt_is_the_same_tokens_on_any_day(mini, contexts, monkeypatch):
    template = (
        "{{ date_string }}|{{ strftime_now('%d') }}|"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    monkeypatch.setattr(mini.tokenizer, "chat_template", template)
    assert render(mini, neutral_prompt(contexts[0])).startswith("26 Jul 2024|26 Jul 2024|")


def test_a_template_without_a_system_turn_gets_the_instruction_in_the_user_turn(
    mini, contexts, monkeypatch
):
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    )
    monkeypatch.setattr(mini.tokenizer, "chat_template", template)
    text = render(mini, emotion_prompt(contexts[0], "fear"))
    assert text.startswith("user: Always reply in fear.")
    assert contexts[0].situation in text


def test_a_tokenizer_without_a_chat_template_is_refused(mini, contexts, monkeypatch):
    monkeypatch.setattr(mini.tokenizer, "chat_template", None)
    with pytest.raises(ModelError, match="no chat template"):
        render(mini, neutral_prompt(contexts[0]))


def test_padding_is_on_the_left_and_masked():
    tokens = pad_left([[5, 6], [7, 8, 9]], torch.device("cpu"))
    assert tokens.ids.tolist() == [[0, 5, 6], [7, 8, 9]]
    assert tokens.mask.tolist() == [[False, True, True], [True, True, True]]


def test_the_end_token_stops_a_reply(mini):
    assert mini.tokenizer.eos_token_id in stop_tokens(mini)

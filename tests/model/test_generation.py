"""Decoding: batches, padding and cached keys change nothing but the time."""

import pytest
import torch

from circuits.models.edits import Add, edited
from circuits.models.generate import elicit
from circuits.models.memory import counted
from circuits.models.run import extend, prefill, prefill_prefix, run
from circuits.models.tokens import encode, pad_left
from circuits.prompts.templates import emotion_prompts, neutral_prompts
from circuits.running import execution


def greedy_without_a_cache(model, prompt, n):
    ids = encode(model, prompt)
    start = len(ids)
    with torch.no_grad():
        for _ in range(n):
            logits = model(torch.tensor([ids]), return_type="logits")
            ids.append(int(logits[0, -1].argmax()))
    return ids[start:]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batched_cached_decoding_equals_plain_greedy_decoding(llama, contexts, batch_size):
    prompts = emotion_prompts(contexts[:5], ["anger"])
    with execution(batch_size=batch_size):
        replies = elicit(llama, prompts, max_new_tokens=6)
    for prompt, reply in zip(prompts, replies, strict=True):
        plain = greedy_without_a_cache(llama, prompt, 6)
        end = llama.tokenizer.eos_token_id
        plain = plain[: plain.index(end)] if end in plain else plain
        assert reply.text == llama.tokenizer.decode(plain, skip_special_tokens=True).strip()
        assert reply.n_tokens == len(plain)


def test_reading_on_after_a_prefix_equals_reading_everything(llama, contexts):
    rows = [encode(llama, p) for p in neutral_prompts(contexts[:3])]
    tokens = pad_left(rows, torch.device("cpu"))
    with torch.no_grad():
        whole = run(llama, tokens)[:, -1]
        _, prefix = prefill(llama, type(tokens)(tokens.ids[:, :-1], tokens.mask[:, :-1]))
        for _ in range(2):
            continued, _ = extend(llama, tokens.ids[:, -1:], prefix.fork())
            torch.testing.assert_close(continued[:, -1], whole, atol=1e-4, rtol=1e-4)
        chosen, _ = extend(llama, tokens.ids[[2, 0, 0], -1:], prefix.select([2, 0, 0]))
    torch.testing.assert_close(chosen[:, -1], whole[[2, 0, 0]], atol=1e-4, rtol=1e-4)


def test_equal_prompts_are_read_once_and_replied_to_as_if_read_each(mini, contexts):
    torch.manual_seed(0)
    push = [8 * torch.randn(mini.cfg.d_model) for _ in range(3)]
    prompts = [prompt for prompt in neutral_prompts(contexts[:2]) for _ in push]

    def edits(chosen):
        return [Add("resid_post", 1, torch.stack([push[i % 3] for i in chosen]))]

    with counted() as receipt:
        together = elicit(mini, prompts, edits=edits, max_new_tokens=8)
    assert receipt.passes == 2
    for i, prompt in enumerate(prompts):
        with edited(mini, [Add("resid_post", 1, push[i % 3])]):  # read whole, under the edit
            alone = elicit(mini, [prompt], max_new_tokens=8)[0]
        assert together[i].text == alone.text


def test_an_edit_around_generation_and_one_inside_it_add_up(mini, contexts):
    torch.manual_seed(1)
    outer, inner = (6 * torch.randn(mini.cfg.d_model) for _ in range(2))
    prompt = neutral_prompts(contexts[:1])
    with edited(mini, [Add("resid_post", 1, outer)]):
        nested = elicit(mini, prompt, edits=lambda _: [Add("resid_post", 1, inner)])[0]
    both = [Add("resid_post", 1, outer), Add("resid_post", 1, inner)]
    assert nested.text == elicit(mini, prompt, edits=lambda _: both)[0].text


def test_an_edit_of_the_last_position_leaves_the_prefix_alone(llama, contexts):
    tokens = pad_left([encode(llama, neutral_prompts(contexts[:1])[0])], torch.device("cpu"))
    push = torch.ones(llama.cfg.d_model)
    with torch.no_grad(), edited(llama, [Add("resid_post", 0, push)]):
        whole = run(llama, tokens)[:, -1]
        last, prefix = prefill_prefix(llama, tokens)
        in_two, _ = extend(llama, last, prefix)
    torch.testing.assert_close(in_two[:, -1], whole, atol=1e-4, rtol=1e-4)


def test_passes_and_token_layers_are_counted(llama, contexts):
    prompts = neutral_prompts(contexts[:2])
    widest = max(len(encode(llama, p)) for p in prompts)
    with counted() as receipt, execution(batch_size=2):
        elicit(llama, prompts, max_new_tokens=3)
    assert receipt.passes == 2
    assert receipt.steps == 4
    assert receipt.token_layers == (2 * widest + 4) * llama.cfg.n_layers

import pytest
import torch

from circuits.effects.inspection import head_patterns
from circuits.errors import DataError
from circuits.models.tokens import encode, pad_left
from circuits.names import EMOTIONS, hook
from circuits.prompts.templates import emotion_prompt

HEADS = ("L2H3", "L0H0", "L0H2")


@pytest.fixture(scope="module")
def rows(contexts):
    # Of different length, so that prompts are padded within and between contexts.
    return [
        [emotion_prompt(context, e) for e in EMOTIONS] for context in (contexts[0], contexts[4])
    ]


@pytest.fixture(scope="module")
def patterns(llama, rows):
    return head_patterns(llama, rows, EMOTIONS, HEADS)


@torch.no_grad()
def alone(model, prompt, layer):
    """The patterns of one prompt without padding."""
    found = []
    tokens = pad_left([encode(model, prompt)], torch.device("cpu"))

    def keep(activation, hook):
        found.append(activation[0])

    with model.hooks(fwd_hooks=[(hook("pattern", layer), keep)]):
        model(tokens.ids, attention_mask=tokens.mask.long())
    return found[0]


def test_patterns_are_those_of_each_prompt_by_itself(llama, rows, patterns):
    for c, own in enumerate(rows):
        for e in (0, 4):
            size = len(patterns.tokens[c][e])
            for n, (layer, head) in enumerate(((2, 3), (0, 0), (0, 2))):
                kept = patterns.weight[c, e, n, -size:, -size:].float() / 255
                assert (kept - alone(llama, own[e], layer)[head]).abs().max() < 0.5 / 255 + 1e-4


def test_what_lies_before_a_prompt_is_zero(patterns):
    for c in range(2):
        for e in range(len(EMOTIONS)):
            size = len(patterns.tokens[c][e])
            own = patterns.weight[c, e]
            assert own[..., :-size, :].sum() == own[..., : own.shape[-1] - size].sum() == 0


def test_tokens_spell_the_prompt(llama, rows, patterns):
    ids = encode(llama, rows[1][2])
    assert len(patterns.tokens[1][2]) == len(ids)
    assert any("happ" in token for token in patterns.tokens[0][2])


def test_no_head_or_no_context_is_refused(llama, rows):
    for chosen, heads in (([], HEADS), (rows, ())):
        with pytest.raises(DataError, match="^patterns need one context and one head"):
            head_patterns(llama, chosen, EMOTIONS, heads)

"""The computed part of docs/scaling.md is what the script computes, and its counts are real."""

import pytest
from benchmarks import scaling

from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import emotion_directions
from circuits.effects.importance import sublayer_importance
from circuits.judges.replies import Reply
from circuits.models.memory import counted
from circuits.models.protocol import shape_of
from circuits.models.tokens import encode
from circuits.names import EMOTIONS
from circuits.prompts.templates import emotion_prompts, neutral_prompts


def test_the_page_is_what_the_script_computes():
    text = scaling.PAGE.read_text(encoding="utf-8")
    found = text.split(scaling.BEGIN)[1].split(scaling.END)[0].strip()
    assert found == scaling.computed().strip(), "run python tests/benchmarks/scaling.py"


@pytest.fixture(scope="module")
def one_context(mini, contexts):
    replies = [Reply(p, "Fine.", 2, p.emotion or "") for p in emotion_prompts(contexts[:1])]
    return group_by_context(replies, EMOTIONS)


def test_the_counts_of_the_page_are_those_of_receipts(mini, contexts, one_context):
    shape = shape_of(mini)
    asked = max(len(encode(mini, prompt)) for prompt in emotion_prompts(contexts[:1]))
    plain = len(encode(mini, neutral_prompts(contexts[:1])[0]))
    size = scaling.Size(
        "sev-mini", shape["n_layers"], shape["d_model"], shape["n_heads"], shape["n_heads"],
        shape["d_head"], shape["d_mlp"], 0, asked=asked, plain=plain,
    )  # fmt: skip
    expected = scaling.token_layers(size, 1)
    with counted() as read:
        swept = read_activations(mini, one_context)
    assert read.token_layers == expected["read activations"]
    directions = emotion_directions(swept)
    with counted() as injected:
        sublayer_importance(mini, one_context, directions, stable=(1,))
    assert injected.token_layers == expected["inject doses"]

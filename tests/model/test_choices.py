"""Choices: what is read once, padded and continued is what reading each label alone gives."""

from typing import Any

import pytest
import torch
from families.models import GROUPED, OLD, random_model

from circuits.errors import ModelError
from circuits.models.edits import Add, Attenuate, Replace, Scale
from circuits.models.generate import choice_logs, elicit, named
from circuits.models.load import wrap_model
from circuits.models.memory import counted
from circuits.models.run import can_share
from circuits.models.tokens import encode, encode_text
from circuits.names import EMOTIONS, hook
from circuits.prompts.prompt import EMOTION_REQUEST, question
from circuits.prompts.templates import emotion_prompts
from circuits.running import execution

LABELS = ("anger", "fear", "furious anger", "blorbofex of the deep")
TEXTS = ("I won.", "He left me all alone in the rain again, and I cried.", "A rat! There, look!")
PROMPTS = [question(text, EMOTION_REQUEST) for text in TEXTS]

WINDOW = {**GROUPED, "head_dim": 8, "sliding_window": 12}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2", OLD),
    "Llama": ("Llama", GROUPED),
    "Gemma-2": ("Gemma2", {**WINDOW, "sliding_window": 300}),
    "Gemma-2, short window": ("Gemma2", WINDOW),
    "Mistral, short window": ("Mistral", WINDOW),
}


def build(name, tokenizer):
    hf = random_model(*FAMILIES[name], tokenizer)
    # The window is a matter of masks, which the plain implementation of attention applies.
    hf.set_attn_implementation("eager")
    return wrap_model(hf, tokenizer, name=name)


@pytest.fixture(scope="module", params=["sev-mini", "GPT-2", "Gemma-2, short window"])
def model(request, tokenizer, mini):
    return mini if request.param == "sev-mini" else build(request.param, tokenizer)


def by_hand(edit, start):
    """A hook that changes one whole sequence, whose reply begins at ``start``, place by place."""
    first = {"last": start - 1, "all": 0}[edit.positions]

    def change(activation, hook):
        changed = activation.clone()
        end = start if edit.when == "prompt" else activation.shape[1]
        for place in range(first, end):
            here = activation[0, place]
            if isinstance(edit, Add):
                changed[0, place] = here + edit.value
            elif isinstance(edit, Replace):
                changed[0, place] = torch.where(edit.chosen, edit.value, here)
            elif isinstance(edit, Scale):
                changed[0, place] = here * edit.factor
            else:
                for i in edit.chosen.nonzero()[:, 0].tolist():
                    share = min(1.0, abs(float(here[i])) / float(edit.largest[i]))
                    changed[0, place, i] = here[i] * (1 - edit.strength * share)
        return changed

    return hook(edit.site, edit.layer), change


def one_by_one(model, prompts, labels, edits=()):
    """Every prompt with every label in a pass of its own, unpadded, without a cache."""
    table = torch.zeros(len(prompts), len(labels))
    for row, prompt in enumerate(prompts):
        for column, label in enumerate(labels):
            ids, tail = encode(model, prompt), encode_text(model, label)
            hooks = [by_hand(edit, len(ids)) for edit in edits]
            with torch.no_grad(), model.hooks(fwd_hooks=hooks):
                logits = model(torch.tensor([ids + tail]), return_type="logits")
            logs = logits[0].float().log_softmax(-1)
            table[row, column] = sum(logs[len(ids) - 1 + i, t] for i, t in enumerate(tail))
    return table


def edits_of(model, kinds, positions="all", when="every"):
    """Edits of these kinds, in this order, of both first layers."""
    generator = torch.Generator().manual_seed(3)
    size = model.cfg.d_mlp
    chosen = torch.rand(size, generator=generator) < 0.1
    drawn = torch.randn(size, generator=generator)
    where: dict[str, Any] = {"positions": positions, "when": when}
    make = {
        "add": lambda layer: Add("post", layer, 0.5 * drawn, **where),
        "replace": lambda layer: Replace("post", layer, drawn, chosen, **where),
        "scale": lambda layer: Scale("post", layer, 1 + 0.5 * drawn, **where),
        "attenuate": lambda layer: Attenuate(
            "post", layer, 0.9, 0.05 + drawn.abs(), chosen, **where
        ),
    }
    return [make[kind](layer) for layer in (0, 1) for kind in kinds]


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)


def test_choices_are_those_of_plain_passes(model):
    close(choice_logs(model, PROMPTS, LABELS), one_by_one(model, PROMPTS, LABELS))


WHERE = [("all", "every"), ("all", "prompt"), ("last", "every"), ("last", "prompt")]


@pytest.mark.parametrize(("positions", "when"), WHERE)
def test_edited_choices_are_those_of_plain_passes_with_hooks(model, positions, when):
    edits = edits_of(model, ["replace", "attenuate", "add", "scale"], positions, when)
    found = choice_logs(model, PROMPTS, LABELS, edits=edits)
    close(found, one_by_one(model, PROMPTS, LABELS, edits))


def test_a_window_forbids_padding_in_the_middle_and_nothing_else_does(tokenizer):
    may = {name: can_share(build(name, tokenizer), 40) for name in FAMILIES}
    assert may == {name: "window" not in name for name in FAMILIES}
    assert can_share(build("Mistral, short window", tokenizer), 12)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_and_the_order_of_prompts_do_not_matter(model, batch_size):
    edits = edits_of(model, ["scale"])
    whole = choice_logs(model, PROMPTS, LABELS, edits=edits)
    with execution(batch_size=batch_size):
        turned = choice_logs(model, PROMPTS[::-1], LABELS, edits=edits)
    close(turned.flip(0), whole)
    # Alone, a prompt shares all but its last token with itself.
    close(choice_logs(model, PROMPTS[1:2], LABELS, edits=edits), whole[1:2])


def test_prompts_that_begin_differently_are_chosen_for_too(mini, contexts):
    prompts = [*emotion_prompts(contexts[:1], ["anger", "fear"]), PROMPTS[0]]
    close(choice_logs(mini, prompts, LABELS), one_by_one(mini, prompts, LABELS))


def test_rows_may_be_edited_differently(mini):
    push = [scale * torch.ones(mini.cfg.d_model) for scale in (0.0, 1.0, -2.0)]

    def edits(places):
        return [Add("resid_post", 1, torch.stack([push[i] for i in places]), positions="all")]

    with execution(batch_size=2):
        found = choice_logs(mini, PROMPTS, LABELS, edits=edits)
    for row, prompt in enumerate(PROMPTS):
        alike = [Add("resid_post", 1, push[row], positions="all")]
        close(found[row : row + 1], choice_logs(mini, [prompt], LABELS, edits=alike))


def test_an_edit_that_leaves_everything_alone_changes_no_bit(mini):
    size = mini.cfg.d_mlp
    none = torch.zeros(size, dtype=torch.bool)
    before = choice_logs(mini, PROMPTS, LABELS)
    for edit in (
        Replace("post", 2, torch.zeros(size), none, "all"),
        Scale("post", 2, torch.ones(size), "all"),
        Attenuate("post", 2, 1.0, torch.ones(size), none, "all"),
        Attenuate("post", 2, 0.0, torch.ones(size), ~none, "all"),
        Attenuate("post", 2, 1.0, torch.zeros(size), ~none, "all"),
    ):
        assert torch.equal(choice_logs(mini, PROMPTS, LABELS, edits=[edit]), before)


def test_what_prompts_share_is_read_once_and_all_that_is_run_is_counted(mini):
    rows = [encode(mini, prompt) for prompt in PROMPTS]
    shared = next(i for i in range(99) if len({row[i] for row in rows}) > 1)
    assert shared > 8
    tails = sorted(len(row) - shared for row in rows)
    further = sum(len(encode_text(mini, label)) - 1 for label in LABELS)
    with counted() as receipt, execution(batch_size=2):
        choice_logs(mini, PROMPTS, LABELS)
    assert receipt.passes == 1
    assert receipt.steps == 3 + 3 * further
    tokens = shared + 2 * tails[1] + tails[2] + 3 * further
    assert receipt.token_layers == tokens * mini.cfg.n_layers


def test_every_prompt_is_told_to_progress_once(mini):
    told = []
    with execution(batch_size=2, progress=told.append):
        choice_logs(mini, PROMPTS, LABELS)
    assert told == [2, 1]


def test_no_prompts_give_no_rows(mini):
    assert choice_logs(mini, [], LABELS).shape == (0, 4)
    assert named(mini, [], LABELS) == []


@pytest.mark.parametrize(
    ("labels", "cause"),
    [((), "needs labels"), (("anger", ""), "'' has no tokens"), (("anger", " "), "has no tokens"),
     (("anger", "fear", "anger"), "'anger' and 'anger' are the same tokens")],
)  # fmt: skip
def test_labels_that_cannot_be_told_apart_are_refused(mini, labels, cause):
    for choose in (choice_logs, named):
        with pytest.raises(ModelError, match=cause):
            choose(mini, PROMPTS, labels)


def test_values_for_single_rows_must_come_batch_by_batch(mini):
    edit = Scale("post", 1, torch.ones(3, mini.cfg.d_mlp), "all")
    for choose in (choice_logs, named):
        with pytest.raises(ModelError, match="post in layer 1 has values for single rows"):
            choose(mini, PROMPTS, LABELS, edits=[edit])


def test_the_embedded_model_writes_the_label_that_it_finds_likeliest(mini):
    found = named(mini, PROMPTS, EMOTIONS)
    likeliest = choice_logs(mini, PROMPTS, EMOTIONS).argmax(-1).tolist()
    assert found == [EMOTIONS[i] for i in likeliest]
    assert len(set(found)) > 1


def test_the_named_label_is_the_first_in_what_the_model_writes(mini, contexts):
    prompts = emotion_prompts(contexts[:4], ["anger", "fear"])
    replies = elicit(mini, prompts, max_new_tokens=12)
    words = sorted({word for r in replies for word in r.text.split() if word.isalpha()})
    expected = [
        next((w for w in r.text.replace(".", " ").replace(",", " ").split() if w in words), None)
        for r in replies
    ]
    found = named(mini, prompts, words, max_new_tokens=12)
    assert [label and label.lower() for label in found] == [
        label and label.lower() for label in expected
    ]


def test_named_labels_follow_the_edits(mini):
    push = [Scale("post", layer, torch.zeros(mini.cfg.d_mlp), "all") for layer in range(6)]
    bare = named(mini, PROMPTS, EMOTIONS, edits=push)
    assert bare == named(mini, PROMPTS, EMOTIONS, edits=lambda places: push)
    assert bare != named(mini, PROMPTS, EMOTIONS)

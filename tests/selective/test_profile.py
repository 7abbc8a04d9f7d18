from collections import Counter
from typing import get_args

import pytest
import torch
from rounding import assert_near
from torch.nn.functional import gelu, silu

from circuits.errors import AxisError, DataError, ModelError
from circuits.models.families import neuron_weights
from circuits.models.memory import counted as receipts
from circuits.models.run import watch
from circuits.models.tokens import encode, pad_left
from circuits.neurons.profile import Sign, Where, check_word, permuted, profile_texts, read_spans
from circuits.prompts.prompt import EMOTION_REQUEST, Texts, question
from circuits.running import execution


def profiled(model, texts, *, seed=0, batch_size=None, **options):
    with execution(seed=seed, batch_size=batch_size):
        return profile_texts(model, texts, EMOTION_REQUEST, **options)


@pytest.fixture(scope="module")
def doubtful(llama, texts, plainly):
    """How many signs rounding may turn, neuron by neuron."""
    return plainly.doubtful(llama, texts, EMOTION_REQUEST)


def check_counts(found, expected, doubtful):
    """Counts of signs are equal, but for those that rounding may turn, which are few."""
    assert doubtful.double().mean() < 0.1
    assert bool(((found - expected).abs() <= doubtful).all())


def check_sums(found, plain):
    """Sums over a class's tokens: each value is off by its rounding at the largest one's scale."""
    tokens, texts = int(plain.tokens.max()), int(plain.texts.max())
    for name in ("total", "absolute"):
        assert_near(getattr(found, name), getattr(plain, name), scale=plain.size, terms=tokens)
    assert_near(found.square, plain.square, scale=plain.size**2, terms=tokens)
    assert_near(found.peak, plain.peak, scale=plain.size)
    assert_near(found.at_last, plain.at_last, scale=plain.size, terms=texts)


@pytest.mark.parametrize("sign", ["gate", "product"])
@pytest.mark.parametrize("where", ["content", "all", "last"])
def test_sums_are_those_of_single_texts_without_padding(llama, texts, plainly, sign, where):
    found = profiled(llama, texts, sign=sign, where=where, seed=3)
    counted = plainly.texts_counted(llama, texts, EMOTION_REQUEST, where, 3)
    plain = plainly.profile(llama, counted, 3, sign=sign)
    assert torch.equal(found.tokens, plain.tokens)
    assert torch.equal(found.texts, plain.texts)
    doubtful = plainly.doubtful(llama, texts, EMOTION_REQUEST, sign=sign)
    check_counts(found.active, plain.active, doubtful)
    check_sums(found, plain)
    assert_near(found.stream_at_last, plain.stream, terms=int(plain.texts.max()))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_batch_size_changes_nothing_but_rounding(
    llama, texts, profile, plainly, doubtful, size
):
    found = profiled(llama, texts, n_shuffles=3, batch_size=size)
    assert torch.equal(found.tokens, profile.tokens)
    check_counts(found.active, profile.active, doubtful)
    check_counts(found.shuffled_active, profile.shuffled_active, doubtful)
    counted = plainly.texts_counted(llama, texts, EMOTION_REQUEST, "content", 0)
    plain = plainly.profile(llama, counted, 3)
    check_sums(found, plain)
    check_sums(profile, plain)


@pytest.mark.parametrize("where", ["content", "all", "last"])
def test_counts_under_permuted_labels_are_made_as_those_under_the_labels(
    llama, make_texts, plainly, where
):
    texts = make_texts((6, 3, 5), seed=8)
    found = profiled(llama, texts, n_shuffles=4, where=where, seed=2, batch_size=6)
    spans = read_spans(llama, texts, EMOTION_REQUEST, where)
    drawn = permuted(spans, texts.truth, 4, 2)
    assert len({str(shares.tokens.tolist()) for shares in drawn}) == 4
    doubtful = plainly.doubtful(llama, texts, EMOTION_REQUEST)
    for draw, shares in enumerate(drawn):
        plain = plainly.profile(llama, plainly.cut(spans, shares), 3)
        check_counts(found.shuffled_active[draw], plain.active.sum(0), doubtful)
        assert torch.equal(found.shuffled_tokens[draw], plain.tokens.sum(0))
        assert len(set(found.shuffled_tokens[draw].tolist())) == 1


def test_every_text_is_run_once_for_all_permutations(llama, texts):
    with receipts() as receipt:
        profiled(llama, texts, n_shuffles=7)
    assert 0 < receipt.passes <= len(texts)
    with receipts() as receipt:
        found = profiled(llama, texts, n_shuffles=0)
    assert receipt.passes == int(found.texts.sum())


@pytest.mark.parametrize("where", ["content", "all", "last"])
def test_every_class_gives_as_many_tokens_to_each_half_and_no_text_to_both(
    llama, texts, where, plainly
):
    counted = plainly.texts_counted(llama, texts, EMOTION_REQUEST, where, 0)
    tokens = Counter()
    for text in counted:
        tokens[text.half, text.label] += text.stop - text.start
    assert len(tokens) == 6
    assert len(set(tokens.values())) == 1
    halves = [{text.ids for text in counted if text.half == half} for half in (0, 1)]
    assert halves[0] & halves[1] == set()


def test_the_counted_tokens_are_those_of_the_text(llama, texts, plainly):
    counted = plainly.texts_counted(llama, texts, EMOTION_REQUEST, "content", 0)
    by_prompt = {
        tuple(encode(llama, question(row.text, EMOTION_REQUEST))): row for row in texts.rows
    }
    whole = 0
    for text in counted:
        row = by_prompt[text.ids]
        read = llama.tokenizer.decode(text.ids[text.start : text.stop]).strip()
        assert row.text.startswith(read)
        assert texts.label[text.label] == row.label
        whole += read == row.text
    # Only the last text of a class's half may be cut short.
    assert whole >= len(counted) - 6


def test_the_two_signs_differ_and_the_gates_is_that_of_what_its_function_gives(
    llama, texts, profile, plainly
):
    product = profiled(llama, texts, sign="product")
    assert not torch.equal(product.active, profile.active)
    ids = encode(llama, question(texts.rows[0].text, EMOTION_REQUEST))
    gate = plainly.read(llama, ids)["pre"]
    assert torch.equal(gate > 0, silu(gate) > 0)
    assert torch.equal(gate > 0, gelu(gate) > 0)


def test_the_weight_is_the_projection_of_output_weights_on_the_class_direction(llama, profile):
    stream = profile.stream
    apart = stream - stream.mean(0)
    unit = apart / apart.norm(dim=-1, keepdim=True)
    for layer, weights in enumerate(neuron_weights(llama)):
        expected = unit[:, layer] @ weights.double().T
        assert torch.allclose(profile.weight[:, layer], expected, atol=1e-4)


def test_texts_and_options_from_which_nothing_can_be_profiled_are_refused(llama, make_texts):
    texts = make_texts()
    for split in ("dev", "test"):
        with pytest.raises(DataError, match=f"^train texts are wanted here, found {split} texts"):
            profiled(llama, make_texts(split=split))
    with pytest.raises(DataError, match="selective neurons need two classes or more"):
        profiled(llama, Texts("train", ("anger",), texts.of("anger").rows))
    for count in (0, 1):
        with pytest.raises(DataError, match=f"class 'fear' has {count} texts; every class needs"):
            profiled(llama, make_texts((4, count, 4)))
    with pytest.raises(AxisError, match="^sign cannot be 'up'; it is one of gate, product$"):
        check_word("sign", "up", get_args(Sign))
    with pytest.raises(AxisError, match="^where cannot be 'first'; it is one of content, all"):
        check_word("where", "first", get_args(Where))
    with pytest.raises(DataError, match="-1 permutations of the labels were asked for"):
        profiled(llama, texts, n_shuffles=-1)


def test_a_site_that_does_not_run_is_named(llama, monkeypatch):
    monkeypatch.setattr("circuits.models.run.read", lambda model, tokens: None)
    tokens = pad_left([[1, 2, 3]], torch.device("cpu"))
    with pytest.raises(ModelError, match="did not fire; this architecture has no pre there"):
        watch(llama, tokens, {"pre": lambda layer, activation: None})

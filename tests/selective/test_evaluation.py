from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.judges.replies import Reply
from circuits.models.edits import edited
from circuits.models.generate import choice_logs, named, reply_losses
from circuits.models.memory import counted
from circuits.neurons.mask import KINDS, Classified, Mask, edits_of, random_sets, taken
from circuits.neurons.study import MaskEffects, effects_of, mask_effects, naming
from circuits.prompts.prompt import LabelledText, Texts, questions
from circuits.prompts.templates import emotion_prompts

HOW: dict[str, Any] = {"per_label": 8, "draws": 20}


@pytest.fixture(scope="module")
def neutral(contexts) -> list[Reply]:
    return [Reply(prompt, "Fine by me.", 3, "neutral") for prompt in emotion_prompts(contexts[:2])]


@pytest.fixture(scope="module")
def effects(parts, neutral: list[Reply]) -> MaskEffects:
    return mask_effects(*parts, mask=Mask("zero"), neutral=neutral, **HOW)


def some_answers(n_labels: int = 3, draws: int = 6, seed: int = 0) -> Classified:
    """Classifications that no model gave: five texts of every class, random log-probabilities."""
    random = torch.Generator().manual_seed(seed)
    label = ("anger", "fear", "sadness")[:n_labels]
    rows = tuple(LabelledText(f"{name} {i}", name) for i in range(5) for name in label)

    def logs(*shape: int) -> Tensor:
        return torch.randn(*shape, len(rows), n_labels, generator=random).log_softmax(-1)

    texts, count = Texts("test", label, rows), torch.arange(1, n_labels + 1)
    return Classified(texts, label, logs(), logs(n_labels), logs(draws, n_labels), count)


def effects_from(answers: Classified) -> MaskEffects:
    return effects_of(answers, torch.ones(len(answers.label), 2), Mask("zero"))


@pytest.fixture(scope="module")
def by_default(parts) -> int:
    """The class that is named when no selective neuron is left: its accuracy cannot fall."""
    model, texts, selection, profile = parts
    edits = edits_of(Mask("zero"), selection.chosen.any(0), profile, "fear")
    logs = choice_logs(model, questions(texts.test.rows, texts.request), texts.label, edits=edits)
    (only,) = logs.argmax(-1).unique().tolist()
    return only


def test_masking_the_planted_neurons_of_a_class_costs_that_class_and_no_other(
    effects: MaskEffects, by_default: int
):
    falling = torch.arange(3) != by_default
    assert effects.base.tolist() == [100.0] * 3
    assert bool((effects.own[falling] < -50).all())
    assert effects.change[~torch.eye(3, dtype=torch.bool)].abs().max() == 0
    assert effects.supported.tolist() == falling.tolist()
    assert effects.n_neurons.tolist() == [2, 2, 2]
    # The log-probability falls even for the class that is named by default.
    assert float(effects.own[by_default]) == 0
    assert bool((effects.log_change.diagonal() < -0.5).all())
    assert float(effects.log_change[~torch.eye(3, dtype=torch.bool)].min()) > -0.1


def test_random_sets_of_the_planted_model_cost_nothing(effects: MaskEffects, by_default: int):
    assert effects.random_change.shape == (20, 3)
    assert effects.random_change.abs().max() == 0
    p, corrected = [1 / 21] * 3, [1.5 / 21] * 3
    p[by_default] = corrected[by_default] = 1.0
    assert effects.random_p.tolist() == pytest.approx(p)
    assert effects.corrected_p.tolist() == pytest.approx(corrected)


def test_the_matrix_is_that_of_masks_put_on_one_class_and_one_text_at_a_time(effects, parts):
    model, texts, selection, profile = parts
    test, label = texts.test, texts.label

    def chosen_by(edits) -> list[str]:
        asked = ([question] for question in questions(test.rows, texts.request))
        logs = [choice_logs(model, one, label, edits=edits) for one in asked]
        return [label[int(own.argmax())] for own in logs]

    plain = chosen_by(())
    for e, masked in enumerate(label):
        after = chosen_by(edits_of(Mask("zero"), selection.chosen[e], profile, masked))
        for t, true in enumerate(label):
            rows = [i for i, row in enumerate(test.rows) if row.label == true]
            lost = sum((after[i] == true) - (plain[i] == true) for i in rows)
            assert float(effects.change[e, t]) == pytest.approx(100 * lost / len(rows))
            for j, judged in enumerate(label):
                assert int(effects.predicted[e, t, j]) == sum(after[i] == judged for i in rows)


def test_perplexities_are_those_of_replies_read_under_the_mask(effects, parts, neutral):
    model, _, selection, profile = parts
    prompts, texts = [r.prompt for r in neutral], [r.text for r in neutral]
    plain = reply_losses(model, prompts, texts).mean()
    for e, label in enumerate(effects.label):
        with edited(model, edits_of(Mask("zero"), selection.chosen[e], profile, label)):
            ratio = (reply_losses(model, prompts, texts).mean() - plain).exp()
        assert float(effects.perplexity_ratio[e]) == pytest.approx(float(ratio), rel=1e-4)
    assert effects.random_perplexity_ratio.tolist() == pytest.approx([1.0] * 3, rel=0.05)


def test_an_empty_mask_changes_nothing_and_is_no_better_than_chance(no_neurons, neutral):
    found = mask_effects(*no_neurons, mask=Mask("zero"), neutral=neutral, **HOW)
    for name in ("change", "low", "high", "log_change", "random_change"):
        assert getattr(found, name).abs().max() == 0
    assert found.random_p.tolist() == found.corrected_p.tolist() == [1.0] * 3
    assert found.perplexity_ratio.tolist() == found.random_perplexity_ratio.tolist() == [1.0] * 3
    assert not found.supported.any()
    assert torch.equal(found.predicted, found.base_predicted.expand(3, -1, -1))


def test_a_resample_mask_hits_the_class_as_well(parts, neutral, by_default):
    found = mask_effects(*parts, mask=Mask("resample"), neutral=neutral, per_label=6, draws=3)
    assert bool((found.own[torch.arange(3) != by_default] < -20).all())
    assert bool((found.log_change.diagonal() < 0).all())
    assert found.perplexity_ratio.isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_mask_is_measured_and_the_request_is_read_once_per_mask(parts, neutral, kind):
    with counted() as receipt:
        found = mask_effects(
            *parts, mask=Mask(kind, 0.5), neutral=neutral[:1], per_label=2, draws=2
        )
    assert found.n_texts.tolist() == [2] * 3
    assert bool((found.log_change.diagonal() != 0).all())
    assert bool((found.low <= found.change).all() and (found.change <= found.high).all())
    assert bool(found.perplexity_ratio.isnan().all()) == (kind == "resample")
    if kind != "resample":
        # As it is, three masks, six random sets; and one reply, which each of these reads as well.
        assert receipt.passes == 10 + 10


def test_changes_are_counted_by_hand():
    answers = some_answers()
    found = effects_from(answers)
    truth = answers.truth.tolist()
    for e in range(3):
        for t in range(3):
            rows = [i for i in range(15) if truth[i] == t]
            before = sum(int(answers.base[i].argmax()) == t for i in rows)
            after = sum(int(answers.masked[e, i].argmax()) == t for i in rows)
            assert float(found.change[e, t]) == pytest.approx(100 * (after - before) / 5)
            logs = [float(answers.masked[e, i, t] - answers.base[i, t]) for i in rows]
            assert float(found.log_change[e, t]) == pytest.approx(sum(logs) / 5, abs=1e-6)
        rows = [i for i in range(15) if truth[i] == e]
        before = sum(int(answers.base[i].argmax()) == e for i in rows)
        as_low = 0
        for draw in range(6):
            after = sum(int(answers.random[draw, e, i].argmax()) == e for i in rows)
            assert float(found.random_change[draw, e]) == pytest.approx(100 * (after - before) / 5)
            as_low += 100 * (after - before) / 5 <= float(found.change[e, e]) + 1e-9
        assert float(found.random_p[e]) == pytest.approx((1 + as_low) / 7)
    assert bool((found.low <= found.change).all())
    assert bool((found.change <= found.high).all())


def test_permuting_the_classes_permutes_the_matrix():
    answers, order = some_answers(), [2, 0, 1]
    label = tuple(answers.label[i] for i in order)
    permuted = Classified(
        replace(answers.texts, label=label),
        label,
        answers.base[:, order],
        answers.masked[order][..., order],
        answers.random[:, order][..., order],
        answers.n_neurons[order],
    )
    found, expected = effects_from(permuted), effects_from(answers)
    torch.testing.assert_close(found.change, expected.change[order][:, order])
    assert torch.equal(found.predicted, expected.predicted[order][:, order][..., order])
    torch.testing.assert_close(found.random_p, expected.random_p[order])

    found = replace(
        effects_from(some_answers()),
        change=torch.tensor([[-30.0, -5.0, 1.0], [-20.0, -10.0, 0.0], [0.0, 0.0, -8.0]]),
        random_change=torch.tensor([[-1.0, 0.0, -9.0]] * 6),
    )
    assert found.own.tolist() == [-30.0, -10.0, -8.0]
    assert found.largest_other.tolist() == [-5.0, -20.0, 0.0]
    # The second falls more elsewhere, the third no more than random sets do.
    assert found.supported.tolist() == [True, False, False]
    assert found.sel(label="sadness").own.tolist() == [-8.0]


def test_a_class_without_texts_another_split_and_foreign_neurons_are_refused(
    parts, foreign, neutral
):
    _, texts, selection, _ = parts
    with pytest.raises(DataError, match="^there are no test texts of class 'fear'"):
        taken(texts.test.of("anger", "sadness"), "test", 4, selection)
    with pytest.raises(DataError, match="^test texts are wanted here, found dev texts"):
        taken(texts.dev, "test", 4, selection)
    with pytest.raises(DataError, match="^0 texts of every class were asked for"):
        taken(texts.test, "test", 0, selection)
    with pytest.raises(DataError, match="^0 random sets of neurons were asked for"):
        random_sets(selection, 0)
    with pytest.raises(AxisError, match="^neurons of 'joy' were selected"):
        mask_effects(*foreign, mask=Mask(), neutral=neutral)
    with pytest.raises(DataError, match="^there are no neutral replies"):
        mask_effects(*parts, mask=Mask(), neutral=[])


def test_classes_are_named_as_often_as_in_the_replies_counted_by_hand(parts):
    model, texts, selection, profile = parts
    found = naming(*parts, mask=Mask("zero"), per_label=4)
    for place, label in enumerate(found.label):
        prompts = questions(texts.test.of(label).first(4).rows, texts.request)
        edits = edits_of(Mask("zero"), selection.chosen[place], profile, label)
        for wanted, silent, changes in (
            (found.base, found.base_silent, ()),
            (found.masked, found.masked_silent, edits),
        ):
            written = named(model, prompts, texts.label, edits=changes)
            assert float(wanted[place]) == pytest.approx(100 * written.count(label) / 4)
            assert float(silent[place]) == pytest.approx(100 * written.count(None) / 4)
    assert found.n_texts.tolist() == [4] * len(found.label)


def test_a_mask_on_nothing_changes_no_reply(no_neurons):
    found = naming(*no_neurons, mask=Mask("zero"), per_label=3)
    assert torch.equal(found.base, found.masked)
    assert torch.equal(found.base_silent, found.masked_silent)

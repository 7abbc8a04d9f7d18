from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.models.edits import Attenuate
from circuits.neurons.mask import Mask, classifier, core, edits_of, gaps
from circuits.neurons.study import Adaptive, Schedule, adaptive_masking, attenuate_until
from circuits.prompts.prompt import LabelledSet, LabelledText, Texts

HOW: dict[str, Any] = {"per_label": 8, "draws": 4}


class PeekedError(Exception):
    """Test texts were looked at before the loops had ended."""


class Guarded(LabelledSet):
    """A set of texts whose test split cannot be read."""

    def __post_init__(self) -> None:
        """The texts were checked where they come from."""

    def __getattribute__(self, name: str) -> Any:
        if name == "test":
            raise PeekedError
        return super().__getattribute__(name)


def dev_texts(count: int = 4) -> Texts:
    rows = tuple(LabelledText(f"a {i}", "anger") for i in range(count))
    return Texts("dev", ("anger", "fear"), rows)


def answers(texts: Texts, right: int) -> Tensor:
    """Log-probabilities with which so many of the texts are named rightly."""
    logs = torch.zeros(len(texts), len(texts.label))
    for place, true in enumerate(texts.truth):
        logs[place, true if place < right else (true + 1) % len(texts.label)] = 1.0
    return logs


SOME_EDIT = Attenuate("post", 0, 1.0, torch.ones(2), torch.ones(2, dtype=torch.bool), "all")


def loop(reached: Sequence[int], schedule: Schedule):
    """A loop in which so many of four texts are right at every step; and what was tried."""
    tried: list[tuple[float, float]] = []

    def attenuation(alpha: float, tau: float) -> list[Any]:
        tried.append((alpha, tau))
        return [SOME_EDIT]

    def classify(texts: Texts, edits: Any) -> Tensor:
        return answers(texts, reached[len(tried) - 1] if tried else 4)

    return attenuate_until(classify, dev_texts(), attenuation, schedule), tried


def test_strength_and_share_grow_and_stop_at_one():
    trials = torch.tensor(Schedule(steps=30).trials)
    assert trials.shape == (30, 2)
    assert bool((trials.diff(dim=0) >= 0).all())
    assert trials.amax(0).tolist() == [1.0, 1.0]
    assert trials[:3].T.tolist() == [
        pytest.approx([0.3, 0.4, 0.5]),
        pytest.approx([0.1, 0.15, 0.2]),
    ]


@pytest.mark.parametrize(
    ("reached", "schedule", "changes", "success"),
    [
        # The loop stops at the first fall, or when its steps are used up.
        ([4, 4, 3, 0, 0], Schedule(steps=5, fall=25.0), (0.0, 0.0, -25.0), True),
        ([4, 3, 4, 3], Schedule(steps=4, fall=30.0), (0.0, -25.0, 0.0, -25.0), False),
        # With a fall of nothing every mask succeeds at once.
        ([4], Schedule(fall=0.0), (0.0,), True),
    ],
)
def test_the_loop_ends_with_the_first_fall_or_its_last_step(reached, schedule, changes, success):
    course, tried = loop(reached, schedule)
    assert (course.changes, course.success) == (changes, success)
    assert tried == schedule.trials[: len(changes)]


def test_a_loop_cannot_be_given_test_texts():
    texts = replace(dev_texts(), split="test")
    with pytest.raises(DataError, match="^dev texts are wanted here, found test texts"):
        attenuate_until(lambda texts, _: answers(texts, 4), texts, lambda a, t: [], Schedule())


def plain_loop(classify: Callable, dev: Texts, edits: Callable, schedule: Schedule) -> list[float]:
    def right(changed) -> int:
        logs = classify(dev, changed)
        return sum(int(row.argmax()) == true for row, true in zip(logs, dev.truth, strict=True))

    before, changes, alpha, tau = right(()), [], schedule.alpha, schedule.tau
    for _ in range(schedule.steps):
        after = right(edits(alpha, tau))
        changes.append(100 * (after - before) / len(dev))
        if after / len(dev) <= before / len(dev) - schedule.fall / 100:
            break
        alpha, tau = min(1.0, alpha + schedule.alpha_step), min(1.0, tau + schedule.tau_step)
    return changes


SCHEDULE = Schedule(alpha=0.4, alpha_step=0.3, tau=0.5, tau_step=0.25, steps=4, fall=10.0)


@pytest.fixture(scope="module")
def found(parts) -> Adaptive:
    return adaptive_masking(*parts, schedule=SCHEDULE, **HOW)


def test_the_loop_finds_the_planted_neurons_and_not_their_baselines(found: Adaptive):
    # One class is named by default, so its accuracy cannot fall.
    assert int(found.success.sum()) == 2
    assert bool((found.own[found.success] < 0).all())
    assert not found.random_success.any()
    assert found.success_rate.tolist() == [0.0] * 3
    assert torch.equal(found.beyond_random, found.own - found.random.mean(0))
    assert found.p[found.success].tolist() == pytest.approx([1 / 5] * 2)
    assert found.corrected_p.max() == 1.0


def test_the_course_is_that_of_the_plain_loop_on_the_most_telling_neurons(found: Adaptive, parts):
    model, texts, selection, profile = parts
    classify = classifier(model, texts.request)
    for place, label in enumerate(found.label):
        gap, pool = gaps(profile, label), selection.chosen[place]

        def edits(alpha, tau, gap=gap, pool=pool, label=label):
            return edits_of(Mask("attenuate", alpha), core(gap, pool, tau), profile, label)

        changes = plain_loop(classify, texts.dev.of(label), edits, SCHEDULE)
        course, end = found.trajectory[place], len(changes) - 1
        assert course[: len(changes)].tolist() == pytest.approx(changes)
        assert course[len(changes) :].isnan().all()
        alpha, tau = SCHEDULE.trials[end]
        assert float(found.alpha[place]) == pytest.approx(alpha)
        assert float(found.tau[place]) == pytest.approx(tau)
        assert int(found.n_core[place]) == int(core(gap, pool, tau).sum())
    assert found.random_trajectory.shape == (4, 3, 4)
    assert found.alphas.tolist() == pytest.approx([0.4, 0.7, 1.0, 1.0])


def test_test_texts_are_out_of_reach_until_the_last_loop_has_ended(parts, monkeypatch):
    splits: list[str] = []

    def classify(texts: Texts, edits: Any) -> Tensor:
        splits.append(texts.split)
        return answers(texts, len(texts))

    monkeypatch.setattr("circuits.neurons.study.classifier", lambda *_: classify)
    model, own, *others = parts
    guarded = Guarded(own.name, own.request, own.train, own.dev, own.test)
    with pytest.raises(PeekedError):
        adaptive_masking(model, guarded, *others, schedule=SCHEDULE, **HOW)
    # Three classes: once as the model is, four steps, and four pools of four steps each.
    assert splits == ["dev"] * 3 * (1 + 4 + 4 * 4)


def test_random_pools_succeed_as_often_as_any_where_every_mask_costs_accuracy(parts, monkeypatch):
    def classify(texts: Texts, edits: Any) -> Tensor:
        logs, seen = answers(texts, len(texts)), set()
        for place, true in enumerate(texts.truth):
            # Every mask costs every class its first text.
            if edits and true not in seen:
                logs[place] = logs[place].roll(1)
            seen.add(true)
        return logs

    monkeypatch.setattr("circuits.neurons.study.classifier", lambda *_: classify)
    found = adaptive_masking(*parts, schedule=SCHEDULE, kind="static", **HOW)
    assert found.success.all()
    assert found.success_rate.tolist() == [1.0] * 3
    # The loop has shown nothing: all pools end alike, and the statistic says so.
    assert found.beyond_random.abs().max() < 1e-6
    assert found.p.tolist() == [1.0] * 3


def test_a_class_without_neurons_is_left_as_it_is(no_neurons):
    found = adaptive_masking(*no_neurons, schedule=SCHEDULE, **HOW)
    assert found.change.abs().max() == found.random.abs().max() == 0
    assert found.p.tolist() == [1.0] * 3
    assert not found.success.any()
    assert found.n_core.tolist() == [0, 0, 0]


def test_schedules_and_kinds_that_make_no_sense_are_refused(parts):
    with pytest.raises(DataError, match="^alpha 1.2, tau 0.1 and 10 steps were asked for"):
        Schedule(alpha=1.2)
    with pytest.raises(DataError, match="must not be negative"):
        Schedule(tau_step=-0.1)
    with pytest.raises(AxisError, match="^masks that grow are attenuate and static, not 'zero'"):
        adaptive_masking(*parts, kind="zero")

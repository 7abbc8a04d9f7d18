from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted.plant import SelectivePlant
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.models.edits import Attenuate
from circuits.neurons.adaptive import (
    Adaptive,
    Pool,
    Schedule,
    adapt,
    adaptive_masking,
    attenuate_until,
)
from circuits.neurons.mask import Asking, asker, core, gaps
from circuits.neurons.profile import Profile
from circuits.prompts.prompt import LabelledSet, LabelledText, Texts

HOW = Asking(per_label=8, draws=4)


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
    return Texts(
        "dev", ("anger", "fear"), tuple(LabelledText(f"a {i}", "anger") for i in range(count))
    )


def answers(texts: Texts, right: int) -> Tensor:
    """Log-probabilities with which so many of the texts are named rightly."""
    logs = torch.zeros(len(texts), len(texts.label))
    for place, true in enumerate(texts.truth):
        logs[place, true if place < right else (true + 1) % len(texts.label)] = 1.0
    return logs


def loop(reached: Sequence[int], schedule: Schedule):
    """A loop in which so many of four texts are right at every step; and what was tried."""
    tried: list[tuple[float, float]] = []

    def attenuation(alpha: float, tau: float) -> tuple[list[Any], int]:
        tried.append((alpha, tau))
        return [], 1

    def ask(texts: Texts, edits: Any) -> Tensor:
        return answers(texts, reached[len(tried) - 1] if tried else 4)

    return attenuate_until(ask, dev_texts(), attenuation, schedule), tried


def test_strength_and_share_grow_and_stop_at_one():
    schedule = Schedule(steps=30)
    for values in (torch.tensor(schedule.alphas), torch.tensor(schedule.taus)):
        assert len(values) == 30
        assert bool((values.diff() >= 0).all())
        assert float(values.max()) == 1.0
    assert schedule.alphas[:3] == pytest.approx((0.3, 0.4, 0.5))
    assert schedule.taus[:3] == pytest.approx((0.1, 0.15, 0.2))


def test_the_loop_stops_at_the_first_fall():
    course, tried = loop([4, 4, 3, 0, 0], Schedule(steps=5, fall=25.0))
    assert course.changes == (0.0, 0.0, -25.0)
    assert course.success
    assert tried == [pytest.approx(pair) for pair in ((0.3, 0.1), (0.4, 0.15), (0.5, 0.2))]


def test_a_loop_that_never_falls_uses_all_its_steps_and_fails():
    course, tried = loop([4, 3, 4, 3], Schedule(steps=4, fall=30.0))
    assert course.changes == (0.0, -25.0, 0.0, -25.0)
    assert not course.success
    assert len(tried) == 4


def test_with_a_fall_of_nothing_every_mask_succeeds_at_once():
    course, tried = loop([4], Schedule(fall=0.0))
    assert course.success
    assert len(tried) == 1


def test_a_loop_cannot_be_given_test_texts():
    texts = replace(dev_texts(), split="test")
    with pytest.raises(DataError, match="^dev texts are wanted here, found test texts"):
        attenuate_until(
            lambda texts, edits: answers(texts, 4), texts, lambda a, t: ([], 1), Schedule()
        )


def test_a_pool_gives_up_its_most_telling_neurons_first(planted_profile: Profile):
    gap = gaps(planted_profile, "fear")
    neurons = gap > gap.flatten().median()
    pool = Pool(neurons, gap, planted_profile, "fear")
    edits, count = pool.attenuated(0.4, 0.1)
    expected = core(gap, neurons, 0.1)
    assert [edit.layer for edit in edits] == expected.any(1).nonzero()[:, 0].tolist()
    for edit in edits:
        assert isinstance(edit, Attenuate)
        assert edit.strength == 0.4
        assert torch.equal(edit.chosen, expected[edit.layer])
    assert count == int(expected.sum())


def plain_loop(ask: Callable, dev: Texts, pool: Pool, schedule: Schedule) -> list[float]:
    truth = dev.truth
    before = sum(int(row.argmax()) == true for row, true in zip(ask(dev, ()), truth, strict=True))
    changes, alpha, tau = [], schedule.alpha, schedule.tau
    for _ in range(schedule.steps):
        edits, _ = pool.attenuated(alpha, tau)
        logs = ask(dev, edits)
        after = sum(int(row.argmax()) == true for row, true in zip(logs, truth, strict=True))
        changes.append(100 * (after - before) / len(dev))
        if after / len(dev) <= before / len(dev) - schedule.fall / 100:
            break
        alpha, tau = min(1.0, alpha + schedule.alpha_step), min(1.0, tau + schedule.tau_step)
    return changes


SCHEDULE = Schedule(alpha=0.4, alpha_step=0.3, tau=0.5, tau_step=0.25, steps=4, fall=10.0)


@pytest.fixture(scope="module")
def found(planted: SelectivePlant, planted_set, planted_selection, planted_profile) -> Adaptive:
    return adaptive_masking(
        planted.model, planted_set, planted_selection, planted_profile, schedule=SCHEDULE, how=HOW
    )


def test_the_loop_finds_the_planted_neurons_and_not_their_controls(found: Adaptive):
    # One class is named by default, so its accuracy cannot fall.
    assert int(found.success.sum()) == 2
    assert bool((found.own[found.success] < 0).all())
    assert not found.random_success.any()
    assert found.success_rate.tolist() == [0.0] * 3
    assert torch.equal(found.beyond_random, found.own - found.random.mean(0))
    assert found.p[found.success].tolist() == pytest.approx([1 / 5] * 2)
    assert found.corrected_p.max() == 1.0


def test_the_course_is_that_of_the_plain_loop(
    found: Adaptive, planted: SelectivePlant, planted_set, planted_selection, planted_profile
):
    ask = asker(planted.model, planted_set.request, HOW)
    for place, label in enumerate(found.label):
        pool = Pool(
            planted_selection.chosen[place], gaps(planted_profile, label), planted_profile, label
        )
        changes = plain_loop(ask, planted_set.dev.of(label), pool, SCHEDULE)
        course = found.trajectory[place]
        assert course[: len(changes)].tolist() == pytest.approx(changes)
        assert course[len(changes) :].isnan().all()
        assert float(found.alpha[place]) == pytest.approx(SCHEDULE.alphas[len(changes) - 1])
        assert float(found.tau[place]) == pytest.approx(SCHEDULE.taus[len(changes) - 1])
    assert found.random_trajectory.shape == (4, 3, 4)
    assert found.alphas.tolist() == pytest.approx([0.4, 0.7, 1.0, 1.0])


def test_test_texts_are_out_of_reach_until_the_last_loop_has_ended(
    planted_set, planted_selection, planted_profile
):
    splits: list[str] = []

    def ask(texts: Texts, edits: Any) -> Tensor:
        splits.append(texts.split)
        return answers(texts, len(texts))

    own = planted_set
    guarded = Guarded(own.name, own.request, own.train, own.dev, own.test)
    with pytest.raises(PeekedError):
        adapt(ask, guarded, planted_selection, planted_profile, SCHEDULE, "attenuate", HOW)
    # Three classes: once as the model is, four steps, and four pools of four steps each.
    assert splits == ["dev"] * 3 * (1 + 4 + 4 * 4)
    adapt(ask, planted_set, planted_selection, planted_profile, SCHEDULE, "attenuate", HOW)
    assert splits[63:].index("test") == 63
    assert "dev" not in splits[63 + 63 :]


def test_random_pools_succeed_as_often_as_any_where_every_mask_costs_accuracy(
    planted_set, planted_selection, planted_profile
):
    def ask(texts: Texts, edits: Any) -> Tensor:
        logs, seen = answers(texts, len(texts)), set()
        for place, true in enumerate(texts.truth):
            # Every mask costs every class its first text.
            if edits and true not in seen:
                logs[place] = logs[place].roll(1)
            seen.add(true)
        return logs

    found = adapt(ask, planted_set, planted_selection, planted_profile, SCHEDULE, "static", HOW)
    assert found.success.all()
    assert found.success_rate.tolist() == [1.0] * 3
    # The loop has shown nothing: all pools end alike, and the statistic says so.
    assert found.beyond_random.abs().max() < 1e-6
    assert found.p.tolist() == [1.0] * 3


def test_a_class_without_neurons_is_left_as_it_is(
    planted, planted_set, planted_selection, planted_profile
):
    empty = replace(planted_selection, chosen=torch.zeros_like(planted_selection.chosen))
    found = adaptive_masking(
        planted.model, planted_set, empty, planted_profile, schedule=SCHEDULE, how=HOW
    )
    assert found.change.abs().max() == found.random.abs().max() == 0
    assert found.p.tolist() == [1.0] * 3
    assert not found.success.any()
    assert found.n_core.tolist() == [0, 0, 0]


def test_schedules_and_kinds_that_make_no_sense_are_refused(
    planted, planted_set, planted_selection, planted_profile
):
    with pytest.raises(DataError, match="^alpha 1.2, tau 0.1 and 10 steps were asked for"):
        Schedule(alpha=1.2)
    with pytest.raises(DataError, match="must not be negative"):
        Schedule(tau_step=-0.1)
    with pytest.raises(AxisError, match="^masks that grow are attenuate and static, not 'zero'"):
        adaptive_masking(
            planted.model, planted_set, planted_selection, planted_profile, kind="zero"
        )

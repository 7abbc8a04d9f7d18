import random
from dataclasses import replace
from inspect import unwrap

import pytest
import torch

from circuits.errors import AxisError, DataError
from circuits.neurons.select import SELECTORS, Admission, how_many, select_neurons


@pytest.mark.parametrize(
    ("share", "of", "count"),
    [(0.01, 458_752, 4588), (0.01, 2304, 24), (12 / 144, 144, 12), (1.0, 144, 144), (1e-9, 144, 1)],
)
def test_a_share_is_a_number_of_neurons_rounded_up(share, of, count):
    assert how_many(share, of) == count


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_lape_is_that_of_plain_loops(profile, plainly, share):
    found = select_neurons(profile, "lape", share=share, admission=Admission(0.8))
    plain = plainly.lape(profile.active.sum(0), profile.tokens.sum(0), share=share, quantile=0.8)
    assert set(map(tuple, found.chosen.nonzero().tolist())) == plain
    assert len(plain) == how_many(share, 144)
    assert (found.per, found.assign) == ("model", "argmax")


@pytest.mark.parametrize("name", sorted(set(SELECTORS) - {"lape"}))
def test_every_class_gets_its_best_neurons(profile, attribution, name):
    found = select_neurons(profile, name, share=0.05, attribution=attribution)
    assert (found.per, found.assign) == ("label", "multi")
    for label in range(3):
        score, chosen = found.score[label], found.chosen[label]
        assert int(chosen.sum()) == how_many(0.05, 144)
        assert score[chosen].min() >= score[~chosen].max()


def test_of_a_whole_model_the_best_neurons_are_taken_whatever_their_class(profile):
    found = select_neurons(profile, "mad", share=0.1, per="model")
    assert int(found.chosen.sum()) == how_many(0.1, 144)
    best = found.score.amax(0)
    assert best[found.chosen.any(0)].min() >= best[~found.chosen.any(0)].max()
    assert torch.equal(
        found.score.argmax(0)[found.chosen.any(0)],
        found.chosen.long().argmax(0)[found.chosen.any(0)],
    )


def test_fewer_are_chosen_where_fewer_may_be(profile):
    admission = Admission(None, int(profile.active.sum((0, 1)).max()))
    found = select_neurons(profile, "mad", share=0.5, admission=admission)
    allowed = int((profile.active.sum((0, 1)) >= admission.least_active).sum())
    assert found.chosen.flatten(1).sum(1).tolist() == [allowed] * 3


def test_ties_are_broken_by_rate_then_by_place(profile):
    active = torch.zeros_like(profile.active)
    active[0, 0, 1, 5], active[0, 0, 2, 7], active[0, 0, 0, 9] = 20, 30, 20
    alike = replace(profile, active=active)
    admission = Admission(None, 1)
    chosen = [
        select_neurons(alike, share=count / 144, admission=admission).neurons_of("anger")
        for count in (1, 2, 3)
    ]
    assert [set(names) for names in chosen] == [
        {"L2N7"}, {"L2N7", "L0N9"}, {"L2N7", "L0N9", "L1N5"}
    ]  # fmt: skip


def test_two_selections_overlap_as_their_sets_do(make_selection):
    one = make_selection([[1, 1, 0, 0]], ("anger",))
    two = make_selection([[0, 1, 1, 0], [0, 0, 0, 0]])
    between = one.jaccard(two)
    assert (between.label, between.other_label) == (("anger",), ("a", "b"))
    assert between.jaccard.tolist() == [[1 / 3, 0.0]]
    assert torch.equal(two.jaccard(one).jaccard, between.jaccard.T)
    assert bool(two.jaccard().jaccard[1, 1].isnan())
    with pytest.raises(AxisError, match="if they have the same layers"):
        one.jaccard(make_selection([[1, 0]]))


@pytest.mark.parametrize(("sizes", "of"), [((20, 20), 100), ((46, 46), 2304), ((10, 40), 200)])
def test_expected_overlap_is_that_of_random_sets(make_selection, sizes, of):
    rng = random.Random(1)
    chosen = torch.zeros(2, of, dtype=torch.bool)
    for row, size in enumerate(sizes):
        chosen[row, rng.sample(range(of), size)] = True
    expected = float(make_selection(chosen).jaccard().expected[0, 1])
    if sizes[0] == sizes[1]:
        assert expected == pytest.approx(sizes[0] / (2 * of - sizes[0]))
    shared = union = 0
    for _ in range(4000):
        one, two = (set(rng.sample(range(of), size)) for size in sizes)
        shared, union = shared + len(one & two), union + len(one | two)
    assert expected == pytest.approx(shared / union, rel=0.04)


def test_selectors_shares_and_ways_that_do_not_exist_are_refused(profile):
    for share in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(DataError, match="a share lies above 0 and is at most 1"):
            select_neurons(profile, share=share)
    with pytest.raises(AxisError, match="^selector cannot be 'best'; it is one of lape, lap, mad"):
        select_neurons(profile, "best")
    with pytest.raises(AxisError, match="^per cannot be 'layer'; it is one of model, label$"):
        unwrap(select_neurons)(profile, per="layer")
    with pytest.raises(DataError, match="give a quantile, or per='model'"):
        select_neurons(profile, per="label", admission=Admission(None))
    for quantile in (0.0, 1.0, -0.2, 95.0):
        with pytest.raises(DataError, match="a quantile lies between 0 and 1"):
            Admission(quantile)

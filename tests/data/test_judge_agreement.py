import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from circuits.errors import DataError
from circuits.judges import Verdict, agreement
from circuits.names import EMOTIONS, NEUTRAL

LABELS = (*EMOTIONS, NEUTRAL)
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=2)


def heard(labels):
    return [Verdict(label == "anger", label, "") for label in labels]


def by_hand(a, b):
    """Cohen's formula, word for word."""
    n = len(a)
    agreed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    chance = sum(a.count(label) * b.count(label) for label in LABELS) / n**2
    return (agreed - chance) / (1 - chance)


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_kappa_is_cohens_and_the_order_of_the_judges_does_not_matter(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    found = agreement(heard(a), heard(b), draws=10)
    swapped = agreement(heard(b), heard(a), draws=10)
    assert found.n == len(a)
    if len({*a, *b}) == 1:
        assert found.value is swapped.value is found.interval is None
        assert found.agreed == 1
    else:
        assert found.value == pytest.approx(by_hand(a, b))
        assert swapped.value == pytest.approx(found.value)
        assert swapped.interval == pytest.approx(found.interval)


def test_judges_that_guess_agree_as_chance_has_it():
    draw = random.Random(0)
    kappas, held = [], 0
    for _ in range(100):
        a, b = (heard(draw.choices(LABELS, k=100)) for _ in range(2))
        found = agreement(a, b, draws=200)
        assert found.value is not None
        assert found.interval is not None
        kappas.append(found.value)
        held += found.interval[0] <= 0 <= found.interval[1]
    assert abs(np.mean(kappas)) < 0.015
    assert held >= 88  # of 95 expected


def test_the_interval_is_that_of_the_plain_bootstrap():
    draw = np.random.default_rng(3)
    a = draw.choice(LABELS[:3], 200)
    b = np.where(draw.random(200) < 0.7, a, draw.choice(LABELS[:3], 200))
    assert by_hand(a.tolist(), b.tolist()) == pytest.approx(cohen_kappa_score(a, b))
    plain = []
    for _ in range(2000):
        some = draw.integers(0, 200, 200)
        plain.append(by_hand(a[some].tolist(), b[some].tolist()))
    found = agreement(heard(map(str, a)), heard(map(str, b)), draws=2000)
    assert found.interval == pytest.approx(tuple(np.quantile(plain, (0.025, 0.975))), abs=0.02)


def test_texts_of_one_context_are_drawn_together():
    a, b = heard(["anger", "fear", "fear"] * 20), heard(["anger", "fear", "anger"] * 20)
    # Every context holds the same three answers, so drawing contexts changes nothing.
    found = agreement(a, b, groups=[f"context {i // 3}" for i in range(60)])
    assert found.value is not None
    assert found.interval == pytest.approx((found.value, found.value))
    apart = agreement(a, b)
    assert apart.interval is not None
    assert apart.interval[1] - apart.interval[0] > 0.2
    assert apart == agreement(a, b)
    assert apart != agreement(a, b, seed=1)


def test_the_answers_are_compared_where_a_judge_names_no_label():
    yes_no = [Verdict(match, None, "") for match in (True, False, True, False)]
    found = agreement(yes_no, heard(["anger", "fear", "anger", "disgust"]))
    assert found.value == 1.0


def test_verdicts_that_do_not_belong_together_are_refused():
    verdicts = heard(LABELS)
    with pytest.raises(DataError, match="found 7 and 6 verdicts, 7 groups and 1000 draws"):
        agreement(verdicts, verdicts[:-1])
    with pytest.raises(DataError, match="found 0 and 0 verdicts"):
        agreement([], [])
    with pytest.raises(DataError, match="7 and 7 verdicts, 1 groups"):
        agreement(verdicts, verdicts, groups=["one"])
    with pytest.raises(DataError, match="and 0 draws"):
        agreement(verdicts, verdicts, draws=0)

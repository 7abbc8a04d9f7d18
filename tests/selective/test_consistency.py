import random
from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest

from circuits.errors import DataError
from circuits.neurons.profile import profile_texts, read_spans
from circuits.neurons.select import SELECTORS, Admission, entropy_null, select_neurons, split_half
from circuits.prompts.prompt import EMOTION_REQUEST
from circuits.running import execution

LOW = Admission(0.8)


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_halves_are_compared_as_two_selections_are(profile, attribution, name):
    found = split_half(profile, name, share=0.1, attribution=attribution, admission=LOW)
    halves = []
    for half in (0, 1):
        own, of = profile.sel(split=half), attribution.sel(split=half)
        with execution(seed=half):
            chosen = select_neurons(own, name, share=0.1, admission=LOW, attribution=of).chosen
        halves.append(chosen.flatten(1))
    for label in range(3):
        one, two = (half[label] for half in halves)
        either = int((one | two).sum())
        jaccard = int((one & two).sum()) / either if either else float("nan")
        assert float(found.jaccard[label, label]) == pytest.approx(jaccard, nan_ok=True)
        assert int(found.shared[label, label]) == int((one & two).sum())
        k = int(one.sum())
        if k == int(two.sum()) > 0:
            assert float(found.expected[label, label]) == pytest.approx(k / (2 * 144 - k))


def test_one_half_alone_cannot_be_compared(profile):
    with pytest.raises(DataError, match="the profile has 1; give the whole profile"):
        split_half(profile.sel(split=0))


def test_the_null_is_made_by_the_rule_that_made_the_selection(profile):
    found = entropy_null(profile, share=0.05, admission=LOW)
    chosen = select_neurons(profile, share=0.05, admission=LOW)
    assert found.observed == pytest.approx(-float(chosen.score[chosen.chosen].min()))
    assert found.rank == int(chosen.chosen.sum()) == 8
    for draw in profile.draw:
        permuted = replace(
            profile,
            active=torch.stack([profile.shuffled_active[draw], profile.active[0] * 0]),
            tokens=torch.stack([profile.shuffled_tokens[draw], profile.tokens[0] * 0]),
        )
        again = select_neurons(permuted, share=0.05, admission=LOW)
        worst = -float(again.score[again.chosen].min())
        assert float(found.null[draw]) == pytest.approx(worst)


def test_p_is_never_zero_and_one_if_nothing_may_be_chosen(profile):
    found = entropy_null(profile, share=0.05, admission=LOW)
    lowest = replace(found, observed=-1.0)
    assert lowest.p == 1 / 4
    nothing = entropy_null(profile, admission=Admission(None, 10**9))
    assert (nothing.p, nothing.rank, nothing.observed) == (1.0, 1, float("inf"))


def test_a_null_needs_permutations(llama, texts):
    bare = profile_texts(llama, texts, EMOTION_REQUEST, n_shuffles=0)
    with pytest.raises(DataError, match="make it with n_shuffles above 0"):
        entropy_null(bare)


def test_labels_that_say_nothing_give_p_values_that_are_uniform(llama, make_texts, monkeypatch):
    rng, found = random.Random(5), []
    texts = make_texts((6, 6, 6), seed=4)
    names = [row.label for row in texts.rows]
    # The prompts do not depend on the labels.
    spans = read_spans(llama, texts, EMOTION_REQUEST, "content")
    monkeypatch.setattr("circuits.neurons.profile.read_spans", lambda *_: spans)
    for seed in range(40):
        rng.shuffle(names)
        rows = [replace(row, label=name) for row, name in zip(texts.rows, names, strict=True)]
        with execution(seed=seed):
            own = replace(texts, rows=tuple(rows))
            profile = profile_texts(llama, own, EMOTION_REQUEST, n_shuffles=19)
        null = entropy_null(profile, share=0.05, admission=LOW)
        # Ties are broken by chance: only then is the p-value of a discrete statistic uniform.
        below = int((null.null < null.observed - 1e-9).sum())
        found.append((below + rng.random() * (round(null.p * 20) - below)) / 20)
    assert kstest(found, "uniform").pvalue > 0.01

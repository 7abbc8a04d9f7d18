import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import AxisError, DataError
from circuits.neurons.select import SELECTORS, Admission, entropy, lape_scores, select_neurons
from circuits.running import execution

TOKENS = torch.tensor([1000, 1000, 1000])
ANY = Admission(quantile=None, least_active=1)


def rates(*neurons):
    """``[label, 1, neuron]`` from the counts of each neuron."""
    return torch.tensor(neurons).T[:, None]


def score(name, profile, **options):
    return select_neurons(profile, name, **options).score


COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=7)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=7).filter(lambda rate: sum(rate) > 1e-3))
def test_entropy_is_that_of_its_definition_and_within_its_bounds(rate):
    whole = sum(rate)
    plain = -sum(r / whole * math.log(r / whole) for r in rate if r / whole > 0)
    found = float(entropy(torch.tensor(rate, dtype=torch.float64)[:, None, None]))
    assert found == pytest.approx(plain, abs=1e-12)
    assert -1e-12 <= found <= math.log(len(rate)) + 1e-12


@settings(deadline=None)
@given(COUNTS.filter(any), st.integers(2, 50))
def test_entropy_does_not_depend_on_how_many_tokens_are_counted(counts, factor):
    active = torch.tensor(counts)[:, None, None]
    tokens = torch.full((len(counts),), 1000)
    one = lape_scores(active, tokens, ANY)
    more = lape_scores(active, tokens * factor, ANY)
    assert torch.allclose(one, more, atol=1e-12)


def test_dead_and_single_count_neurons_come_first_by_the_naive_rule_and_never_by_this(plainly):
    active = rates([0, 0, 0], [0, 1, 0], [300, 20, 10], [200, 210, 190])
    naive = [
        plainly.naive_entropy([count / 1000 for count in counts])
        for counts in active[:, 0].T.tolist()
    ]
    assert naive[0] == naive[1] == 0 < min(naive[2:])
    for admission in (Admission(), Admission(quantile=None), Admission(0.5)):
        found = lape_scores(active, TOKENS, admission)
        assert bool((found[:, 0, :2] == -torch.inf).all()), admission
        assert bool(found[:, 0, 2].max() > -torch.inf)
    # A neuron that is never active has no entropy at all, however low the bar.
    assert bool(entropy(active / 1000)[0, 0].isnan())
    assert bool((lape_scores(active, TOKENS, ANY)[:, 0, 0] == -torch.inf).all())
    assert bool((lape_scores(active, TOKENS, Admission(None, 0))[:, 0, 0] == -torch.inf).all())


def test_without_normalising_never_and_always_active_neurons_look_selective():
    active = rates([1, 1, 1], [999, 999, 999], [368, 0, 0])
    whole, part = (
        -lape_scores(active, TOKENS, Admission(None, 1, normalised=normalised)).amax(0)[0]
        for normalised in (True, False)
    )
    assert whole.argmin() == 2
    assert part.argmax() == 2
    assert part[:2].max() < 0.05


def test_permuting_classes_permutes_scores(profile):
    order = torch.tensor([2, 0, 1])
    turned = replace(
        profile,
        **{
            name: getattr(profile, name).index_select(axes.index("label"), order)
            for name, axes in profile.axes.items()
            if "label" in axes
        },
        label=tuple(profile.label[i] for i in order),
    )
    for name in set(SELECTORS) - {"attribution", "random"}:
        assert torch.allclose(score(name, turned), score(name, profile)[order]), name


def test_activity_scores_are_those_of_plain_loops(profile):
    mean, rate = profile.mean.tolist(), profile.rate.tolist()
    tokens = profile.tokens.sum(0).tolist()
    admission = Admission(least_active=1)
    found = {
        name: score(name, profile, admission=admission)
        for name in SELECTORS
        if name in ("lap", "mad", "cas", "z")
    }
    compared = 0
    for label in range(3):
        for layer in range(3):
            for neuron in range(0, 48, 5):
                if int(profile.active[..., layer, neuron].sum()) == 0:
                    continue
                own = [mean[other][layer][neuron] for other in range(3)]
                rest = [value for other, value in enumerate(own) if other != label]
                pooled = sum(
                    float(profile.variance[other, layer, neuron]) * tokens[other]
                    for other in range(3)
                ) / sum(tokens)
                mad = own[label] - sum(rest) / 2
                plain = {
                    "lap": rate[label][layer][neuron],
                    "mad": mad,
                    "cas": own[label] - max(rest),
                    "z": mad / (math.sqrt(pooled) + 1e-6),
                }
                for name, value in plain.items():
                    assert float(found[name][label, layer, neuron]) == pytest.approx(value, 1e-9)
                compared += 1
    assert compared > 20


def test_selectors_of_activity_leave_out_neurons_that_are_seldom_active(profile):
    count = profile.active.sum((0, 1))
    least = int(count.median()) + 1
    for name in ("lap", "lape", "mad", "cas", "z"):
        found = score(name, profile, admission=Admission(None, least))
        assert bool((found[:, count < least] == -torch.inf).all()), name
        assert bool((found[:, count >= least] > -torch.inf).all()), name


def test_random_scores_depend_on_the_seed_only(profile):
    found = []
    for seed in (0, 0, 1):
        with execution(seed=seed):
            found.append(score("random", profile))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_attribution_must_be_given_and_be_of_the_same_classes(profile, attribution):
    with pytest.raises(DataError, match="needs attribution; give what label_attribution returns"):
        score("attribution", profile)
    expected = attribution.own - attribution.others
    assert torch.equal(score("attribution", profile, attribution=attribution), expected)
    with pytest.raises(AxisError, match="the attribution is of anger, fear"):
        score("attribution", profile, attribution=attribution.sel(label=("anger", "fear")))

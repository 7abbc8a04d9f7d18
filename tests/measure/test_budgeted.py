"""Budgeted scores are exact where they say so, attributed elsewhere, and bound the rest."""

import pytest
import torch

from circuits.errors import DataError
from circuits.models.memory import counted
from circuits.names import component, head_name, neuron_name
from circuits.patching.attribution import VerifiedScores, attribute, budgeted, halves
from circuits.patching.pairs import Projection, make_pairs
from circuits.patching.patch import patch_components
from circuits.running import execution


@pytest.fixture(scope="module")
def setting(llama, contexts):
    vector = torch.randn(llama.cfg.d_model, generator=torch.Generator().manual_seed(3))
    return make_pairs(llama, contexts[:3], "anger", "fear"), Projection(vector / vector.norm())


@pytest.fixture(scope="module")
def found(setting):
    with execution(seed=2):
        return budgeted(*setting, exact=9, sample=4)


def test_the_largest_scores_are_replaced_by_exact_effects(setting, found):
    pairs, readout = setting
    with execution(seed=2):
        scores = attribute(pairs, readout, sample=4)
    sizes = {head_name(i, h): abs(float(scores.heads[0, i, h])) for i in range(3) for h in range(4)}
    sizes |= {
        neuron_name(i, n): abs(float(scores.neurons[0, i, n])) for i in range(3) for n in range(48)
    }
    ranked = sorted(sizes, key=lambda name: -sizes[name])
    assert list(found.component) == ranked[:9]
    exact = patch_components(pairs, readout, found.component)
    torch.testing.assert_close(found.effect, exact.mean(0))
    torch.testing.assert_close(found.stderr, exact.std(0) / 3**0.5)
    for name, effect in zip(found.component, found.effect, strict=True):
        part = component(name)
        kind = "heads" if part.kind == "head" else "neurons"
        assert getattr(found, kind)[part.layer, part.index] == effect
        assert bool(getattr(found, f"{kind}_exact")[part.layer, part.index])
    assert int(found.heads_exact.sum() + found.neurons_exact.sum()) == 9
    for kind in ("heads", "neurons"):
        left = ~getattr(found, f"{kind}_exact")
        assert torch.equal(getattr(found, kind)[left], getattr(scores, kind)[0][left])


def test_the_bound_comes_from_halves_of_what_is_not_confirmed(setting, found):
    pairs, readout = setting
    names = [head_name(i, h) for i in range(3) for h in range(4)]
    names += [neuron_name(i, n) for i in range(3) for n in range(48)]
    scores = {**{n: float(found.heads[component(n).layer, component(n).index]) for n in names[:12]},
              **{n: float(found.neurons[component(n).layer, component(n).index])
                 for n in names[12:]}}  # fmt: skip
    rest = [name for name in names if name not in found.component]
    rest.sort(key=lambda name: -abs(scores[name]))
    with execution(seed=2):
        joint = patch_components(pairs, readout, halves(rest, 20)).mean(0)
    torch.testing.assert_close(found.first_half, joint[0::2])
    torch.testing.assert_close(found.second_half, joint[1::2])
    apart = (found.first_half - found.second_half).abs().sort(descending=True).values
    assert found.bound == pytest.approx(float(apart[5]))  # P(Binomial(20, 1/2) < 6) = 0.021


def test_a_saved_record_is_read_as_it_was(found, tmp_path):
    found.save(tmp_path)
    again = VerifiedScores.load(tmp_path)
    assert torch.equal(again.heads_exact, found.heads_exact)
    assert again.bound == found.bound
    assert again.agreement == found.agreement


@pytest.mark.parametrize("exact", [0, 155])
def test_a_budget_that_confirms_nothing_or_leaves_nothing_is_refused(setting, exact):
    with pytest.raises(DataError, match=f"can confirm 1 to 154 of the model's 156.*found {exact}"):
        budgeted(*setting, exact=exact)


def test_too_few_halves_are_refused_before_any_pass(setting):
    with counted() as receipt, pytest.raises(DataError, match="3 random halves are too few"):
        budgeted(*setting, exact=5, draws=3)
    assert receipt.passes == 0

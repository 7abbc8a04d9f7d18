"""Sets of components by rank, and the random ones beside them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits.circuit.ablate import ORDERS, ranked_sets, sizes_to
from circuits.errors import DataError

SIZES = (1, 2, 4, 7, 12)
DRAWS = 40


@pytest.fixture(scope="module", params=["head", "neuron"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def effects(llama, kind):
    shape = (llama.cfg.n_layers, llama.cfg.n_heads if kind == "head" else llama.cfg.d_mlp)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def sets(llama, kind, effects):
    """Members by order or draw, size, layer and index."""
    count = effects.numel()
    random = torch.Generator().manual_seed(0)
    found = ranked_sets(llama, effects, kind, (*SIZES, count), DRAWS, random)
    own, other = (found.heads, found.neurons)[:: 1 if kind == "head" else -1]
    assert not other.any()
    return own.unflatten(0, (len(ORDERS) + DRAWS, -1))


@given(st.integers(1, 100_000), st.integers(2, 20))
def test_sizes_reach_from_one_to_all_and_grow(count, steps):
    sizes = sizes_to(count, steps)
    assert (sizes[0], sizes[-1]) == (1, count)
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= steps + 1


def test_the_first_the_last_and_the_single_ones_are_those_of_the_ranking(sets, effects):
    order = effects.flatten().argsort(descending=True).tolist()
    top, bottom, single = (sets[ORDERS.index(name)].flatten(1) for name in ORDERS)
    for row, size in enumerate((*SIZES, len(order))):
        assert set(top[row].nonzero()[:, 0].tolist()) == set(order[:size])
        assert set(bottom[row].nonzero()[:, 0].tolist()) == set(order[len(order) - size :])
        assert single[row].nonzero()[:, 0].tolist() == [order[size - 1]]


def test_random_sets_have_as_many_in_every_layer_and_none_of_the_first_where_there_are_others(sets):
    top, drawn = sets[0], sets[len(ORDERS) :]
    assert torch.equal(drawn.sum(-1), top.sum(-1).expand(DRAWS, -1, -1))
    enough = top.sum(-1) * 2 <= top.shape[-1]
    assert enough.any()
    shared = (drawn & top).any(-1)
    assert not shared[:, enough].any()
    # Where a layer has too few others, no more of its own are taken than are needed.
    forced = (2 * top.sum(-1) - top.shape[-1]).clamp_min(0)
    assert torch.equal((drawn & top).sum(-1), forced.expand(DRAWS, -1, -1))


def test_random_sets_differ_and_sets_of_all_are_the_same(sets):
    drawn = sets[len(ORDERS) :, 1].flatten(1)
    assert len(torch.unique(drawn, dim=0)) > 1
    every = [*range(2), *range(len(ORDERS), len(sets))]
    assert sets[every, -1].all()


@pytest.mark.parametrize("sizes", [(), (0, 3), (1, 10_000)])
def test_sizes_that_make_no_set_are_refused(llama, kind, effects, sizes):
    with pytest.raises(DataError, match=f"give 1 to {effects.numel()}"):
        ranked_sets(llama, effects, kind, sizes, 1, torch.Generator())

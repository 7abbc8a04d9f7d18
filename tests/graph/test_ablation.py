"""Runs of circuits beside one plain run per circuit."""

import pytest
import torch
from parts import circuit_of, means_of, plain_values, plainly

from circuits.circuit.ablate import Masks, random_masks, run_circuits, shuffled, stand
from circuits.errors import CircuitError, DataError
from circuits.models.memory import counted
from circuits.patching.pairs import LogitDifference, Projection, make_pairs


@pytest.fixture(scope="module")
def pairs(llama, contexts):
    return make_pairs(llama, contexts[:3], "fear")


@pytest.fixture(scope="module")
def masks(llama):
    random, cfg = torch.Generator().manual_seed(1), llama.cfg
    heads = torch.rand(5, cfg.n_layers, cfg.n_heads, generator=random) < 0.4
    neurons = torch.rand(5, cfg.n_layers, cfg.d_mlp, generator=random) < 0.3
    return Masks(heads, neurons)


@pytest.fixture(scope="module")
def readout(llama):
    return Projection(torch.nn.functional.normalize(torch.arange(32.0) - 15, dim=0))


@pytest.fixture(scope="module")
def means(llama):
    random, cfg = torch.Generator().manual_seed(2), llama.cfg
    z = torch.randn(cfg.n_layers, cfg.n_heads, cfg.d_head, generator=random)
    return means_of(z, torch.randn(cfg.n_layers, cfg.d_mlp, generator=random))


def under(model, pair, mask, readout, ablation, positions, means=None):
    """One pass of one prompt under one circuit, component by component."""
    corrupt = plain_values(model, pair.corrupt.ids)

    def ablate(site, layer, part, place, value):
        if (mask.heads if site == "z" else mask.neurons)[0, layer, part]:
            return value
        if ablation == "zero":
            return torch.zeros_like(value)
        if ablation == "mean":
            return getattr(means, site)[layer, part]
        return corrupt[site, layer][place, part]

    back = pair.matched if positions == "matched" else 1
    return float(plainly(model, pair.clean.ids, [readout], ablate, back))


@pytest.mark.parametrize("positions", ["last", "matched"])
@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_many_circuits_at_once_are_what_one_plain_run_each_gives(
    llama, pairs, masks, readout, means, ablation, positions
):
    on = stand(llama, pairs, ablation=ablation, positions=positions, means=means)
    found = run_circuits(on, masks, [readout])[..., 0]
    for c in range(len(masks)):
        for p, pair in enumerate(pairs):
            own = under(llama, pair, masks[[c]], readout, ablation, positions, means)
            assert float(found[c, p]) == pytest.approx(own, rel=1e-4, abs=1e-4)


def test_the_logit_difference_is_read_in_whole_runs_and_refused_in_copies(llama, pairs, masks):
    readout = LogitDifference(torch.tensor([5]), torch.tensor([9, 11]))
    on = stand(llama, pairs, positions="matched")
    found = run_circuits(on, masks[[0]], [readout])
    own = under(llama, pairs[1], masks[[0]], readout, "resample", "matched")
    assert float(found[0, 1, 0]) == pytest.approx(own, rel=1e-4, abs=1e-4)
    with pytest.raises(DataError, match="choose positions 'matched'"):
        run_circuits(stand(llama, pairs), masks, [readout])


@pytest.mark.parametrize("positions", ["last", "matched"])
def test_the_full_circuit_is_the_clean_run_and_the_empty_one_the_corrupt_run(
    llama, pairs, masks, readout, positions
):
    on = stand(llama, pairs, positions=positions)
    both = masks.like(torch.tensor([[True], [False]]).expand(2, masks.flat.shape[1]))
    found = run_circuits(on, both, [readout])[..., 0]
    for p, pair in enumerate(pairs):
        clean = under(llama, pair, both[[0]], readout, "resample", positions)
        swapped = make_pairs(llama, [pair.context], "fear")[0]
        corrupt = type(pair)(pair.context, "fear", None, swapped.corrupt, swapped.corrupt, 1)
        plain = under(llama, corrupt, both[[0]], readout, "resample", positions)
        assert float(found[0, p]) == pytest.approx(clean, rel=1e-4, abs=1e-4)
        # All that the last token's own embedding adds is the same in both prompts.
        assert float(found[1, p]) == pytest.approx(plain, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("positions", ["last", "matched"])
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_every_circuit_costs_one_step_per_context(
    llama, pairs, masks, readout, ablation, positions
):
    llama_warm = stand(llama, pairs, positions=positions)
    run_circuits(llama_warm, masks, [readout])  # trying whether layers can be skipped counts too
    with counted() as receipt:
        on = stand(llama, pairs, ablation=ablation, positions=positions)
        run_circuits(on, masks, [readout])
    assert receipt.passes == (2 if ablation == "resample" else 1) * len(pairs)
    assert receipt.steps == len(masks) * len(pairs)


def test_random_circuits_have_as_many_of_everything_in_every_layer_and_nothing_in_common(masks):
    own = masks[[0]]
    for site in ("heads", "neurons"):
        # More than half of a layer cannot be drawn from the others alone.
        assert (getattr(own, site).sum(-1) * 2 <= getattr(own, site).shape[-1]).all()
    drawn = random_masks(own, 50, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.heads.sum(-1), own.heads.sum(-1).expand(50, -1))
    assert torch.equal(drawn.neurons.sum(-1), own.neurons.sum(-1).expand(50, -1))
    assert not (drawn.flat & own.flat).any()
    assert len(torch.unique(drawn.flat, dim=0)) == 50
    # Where a layer has too few others, some of its own are taken: the sizes stay.
    full = masks.like(torch.ones_like(own.flat))
    assert random_masks(full, 3, torch.Generator().manual_seed(0)).flat.all()


def test_shuffled_rankings_are_nested_and_keep_the_sizes_of_every_layer(masks):
    growing = masks.like(torch.stack([masks.flat[0] & masks.flat[1], masks.flat[0]]))
    drawn = shuffled(growing, 4, torch.Generator().manual_seed(0))
    small, large = drawn[:, 0], drawn[:, 1]
    assert (small <= large).all()
    for draw in drawn:
        own = growing.like(draw)
        assert torch.equal(own.heads.sum(-1), growing.heads.sum(-1))
        assert torch.equal(own.neurons.sum(-1), growing.neurons.sum(-1))


def test_another_models_circuit_is_refused(llama):
    with pytest.raises(CircuitError, match="head 11 of layer 2; .* another model's circuit"):
        Masks.of(llama, [circuit_of("fear", [(2, 11)])])


def test_no_pair_and_no_means_are_refused(llama, pairs):
    with pytest.raises(DataError, match="give one or more"):
        stand(llama, pairs[:0])
    with pytest.raises(DataError, match="needs the means"):
        stand(llama, pairs, ablation="mean")

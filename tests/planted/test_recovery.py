"""On twenty plants exact methods find all nodes and edges, and nothing where nothing is."""

import pytest
import torch

from circuits.models.edits import Replace, edited
from circuits.patching.patch import patch_components

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_patching_finds_all_planted_nodes_and_no_others(methods, seed):
    of = methods.case(seed, n_contexts=1)
    found = methods.beyond_floor(methods.node_scores(of, "patching"), 0.0)
    assert found == of.plant.true_nodes(emotion=of.emotion)


@pytest.mark.parametrize("seed", SEEDS)
def test_path_patching_finds_all_planted_edges_and_no_others(methods, seed):
    of = methods.case(seed, n_contexts=1)
    found = methods.beyond_floor(
        methods.edge_scores(of, "path patching", methods.candidates(of)), 0.0
    )
    assert found == of.true_edges


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_the_writer_is_removed_no_method_finds_anything(methods, seed):
    whole, empty = (
        methods.case(seed, n_contexts=1),
        methods.case(seed, n_contexts=1, remove="writer"),
    )
    # The floor is that of the whole plant: without a circuit the largest score is noise itself.
    for method in methods.NODE_METHODS:
        least = max(map(abs, methods.node_scores(whole, method).values()))
        assert methods.beyond_floor(methods.node_scores(empty, method), least) == set(), method
    for method in ("path patching", "eap", "eap-ig"):
        least = max(
            map(abs, methods.edge_scores(whole, method, methods.candidates(whole)).values())
        )
        found = methods.edge_scores(empty, method, methods.candidates(empty))
        assert methods.beyond_floor(found, least) == set(), method


@pytest.mark.parametrize("seed", [0, 3])
def test_the_backup_is_found_once_the_writer_is_silent(methods, seed):
    of = methods.case(seed, n_contexts=1)
    model, names = of.plant.model, {node.role: node for node in of.plant.nodes}
    writer, backup = names["writer"], names["backup"]
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[writer.index] = True
    silent = Replace("z", writer.layer, torch.zeros_like(chosen).float(), chosen, positions="all")
    awake = patch_components(of.pairs, of.readout, [backup.name], mode="noising")
    with edited(model, [silent]):
        asleep = patch_components(of.pairs, of.readout, [backup.name], mode="noising")
    largest = max(map(abs, methods.node_scores(of, "patching").values()))
    assert abs(float(awake)) < methods.FLOOR * largest
    assert float(asleep) > 5 * methods.FLOOR * largest

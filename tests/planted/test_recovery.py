"""On ten plants exact methods find all nodes and edges, and nothing where nothing is."""

import pytest
import torch
from planted.plant_recovery import (
    EDGE_METHODS,
    FLOOR,
    NODE_METHODS,
    beyond_floor,
    candidates,
    case,
    edge_scores,
    node_scores,
)

from circuits.models.edits import Replace, edited
from circuits.patching.patch import patch_components


@pytest.mark.parametrize("seed", range(1, 20, 2))
def test_exact_methods_find_all_planted_nodes_and_edges_and_no_others(seed):
    of = case(seed, n_contexts=1)
    found = beyond_floor(node_scores(of, "patching"), 0.0)
    assert found == of.plant.true_nodes(emotion=of.emotion)
    edges = edge_scores(of, "path patching", candidates(of))
    assert beyond_floor(edges, 0.0) == of.true_edges


def test_where_the_writer_is_removed_no_method_finds_anything():
    whole, empty = case(1, n_contexts=1), case(1, n_contexts=1, remove="writer")

    # The floor is that of the whole plant: without a circuit the largest score is noise itself.
    def found(scores, method):
        least = max(map(abs, scores(whole, method).values()))
        return beyond_floor(scores(empty, method), least)

    def edges(of, method):
        return edge_scores(of, method, candidates(of))

    for method in NODE_METHODS:
        assert found(node_scores, method) == set(), method
    for method in EDGE_METHODS:
        assert found(edges, method) == set(), method


@pytest.mark.parametrize("seed", [0])
def test_the_backup_is_found_once_the_writer_is_silent(seed):
    of = case(seed, n_contexts=1)
    model, names = of.plant.model, {node.role: node for node in of.plant.nodes}
    writer, backup = names["writer"], names["backup"]
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[writer.index] = True
    silent = Replace("z", writer.layer, torch.zeros_like(chosen).float(), chosen, positions="all")
    awake = patch_components(of.pairs, of.readout, [backup.name], mode="noising")
    with edited(model, [silent]):
        asleep = patch_components(of.pairs, of.readout, [backup.name], mode="noising")
    largest = max(map(abs, node_scores(of, "patching").values()))
    assert abs(float(awake)) < FLOOR * largest
    assert float(asleep) > 5 * FLOOR * largest

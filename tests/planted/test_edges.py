"""Every planted edge, and no other among planted parts, carries what it is said to carry."""

import pytest
from planted import by_hand
from planted.plant import plant

THREE = ("anger", "fear", "happiness")
SEEDS = (0, 6)
LEAST = 0.2
"""No planted edge is weaker than this."""


def found_edges(effects, place):
    """Edges above a twentieth of the weakest planted one; none may lie near that bound."""
    sizes = {edge: abs(float(effect[place])) for edge, effect in effects.items()}
    found = {edge for edge, size in sizes.items() if size > LEAST / 20}
    assert min(sizes[edge] for edge in found) > LEAST
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_freezing_all_other_paths_shows_the_planted_edges_and_no_others(contexts, seed):
    planted = plant(seed, emotions=THREE)
    clean = by_hand.asking_rows(planted, contexts[seed])
    effects = by_hand.edge_effects(planted, clean, clean.roll(1, dims=0))
    assert len(effects) > 60
    for place, emotion in enumerate(THREE):
        assert found_edges(effects, place) == planted.true_edges(emotion=emotion)
        for edge in planted.edges:
            if edge.when == "asked" and edge.emotion in (None, emotion):
                effect = effects[edge.source, edge.target, edge.kind][place]
                assert effect * edge.sign > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_against_no_emotion_the_mark_and_the_switch_of_the_backup_show_too(contexts, seed):
    planted = plant(seed, emotions=THREE)
    clean = by_hand.asking_rows(planted, contexts[seed])
    effects = by_hand.edge_effects(planted, clean, by_hand.without_emotion(planted, clean))
    for place, emotion in enumerate(THREE):
        expected = planted.true_edges(emotion=emotion) | planted.true_edges(when="plain")
        assert found_edges(effects, place) == expected
        for edge in planted.edges:
            if edge.when == "plain":
                effect = effects[edge.source, edge.target, edge.kind][place]
                assert effect * edge.sign > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_edges_of_the_backup_show_once_the_writer_is_ablated(contexts, seed):
    planted = plant(seed, emotions=THREE)
    writer = next(node.name for node in planted.nodes if node.role == "writer")
    clean = by_hand.asking_rows(planted, contexts[seed])
    edits = [by_hand.putting(writer, 0.0)]
    effects = by_hand.edge_effects(planted, clean, clean.roll(1, dims=0), edits)
    # The writer is off; its own inputs are nobody's business.
    effects = {edge: effect for edge, effect in effects.items() if writer not in edge}
    for place, emotion in enumerate(THREE):
        backed = planted.true_edges(emotion=emotion, when="ablated")
        woken = {target for _, target, kind in backed if kind in ("mlp", "v")}
        onward = {
            edge for edge in planted.true_edges("readout", emotion=emotion) if edge[0] in woken
        }
        assert found_edges(effects, place) == backed | onward

"""The backup wakes when the writer is ablated, and nothing is left when both are gone."""

import pytest
import torch
from planted import by_hand
from planted.plant import plant

SEEDS = (0, 6)


def part(planted, role):
    return next(node for node in planted.nodes if node.role == role)


def spread(readout):
    """The largest difference that the target emotion makes to a readout."""
    return float((readout.amax(dim=0) - readout.amin(dim=0)).max())


def looks_at(found, node, ids):
    """The token that a head's last position attends to most, and how much: ``[prompt]``."""
    pattern = found[f"blocks.{node.layer}.attn.hook_pattern"][:, node.index, -1]
    share, place = pattern.max(dim=-1)
    return ids.gather(1, place[:, None])[:, 0], share


@pytest.mark.parametrize("seed", SEEDS)
def test_the_writer_looks_at_the_emotion_word_and_the_backup_at_the_begin_token(contexts, seed):
    planted = plant(seed)
    ids = by_hand.asking_rows(planted, contexts[seed])
    vocabulary = planted.model.tokenizer.get_vocab()
    words = torch.tensor([vocabulary[emotion] for emotion in planted.emotions])
    found = by_hand.run(planted, ids)
    seen, share = looks_at(found, part(planted, "writer"), ids)
    assert torch.equal(seen, words)
    assert float(share.min()) > 0.999
    seen, share = looks_at(found, part(planted, "backup"), ids)
    assert seen.tolist() == [vocabulary["<s>"]] * len(words)
    assert float(share.min()) > 0.99
    ordinary = by_hand.without_emotion(planted, ids)
    seen, share = looks_at(by_hand.run(planted, ordinary), part(planted, "writer"), ordinary)
    assert seen.tolist() == [vocabulary["<s>"]] * len(words)
    assert float(share.min()) > 0.99


@pytest.mark.parametrize("seed", SEEDS)
def test_ablating_the_writer_wakes_the_backup(contexts, seed):
    planted = plant(seed)
    ids = by_hand.asking_rows(planted, contexts[seed])
    writer, backup = part(planted, "writer"), part(planted, "backup")
    off = by_hand.putting(writer.name, 0.0)
    found = by_hand.run(planted, ids, [off])
    vocabulary = planted.model.tokenizer.get_vocab()
    seen, share = looks_at(found, backup, ids)
    assert seen.tolist() == [vocabulary[emotion] for emotion in planted.emotions]
    assert float(share.min()) > 0.999
    # Beside the writer the backup does nothing; without the writer it holds the emotion up.
    corrupt, name = ids.roll(1, dims=0), backup.name
    asleep = by_hand.noising(planted, ids, corrupt, [name])[name]
    awake = by_hand.noising(planted, ids, corrupt, [name], [off])[name]
    assert float(asleep.abs().max()) < 0.01
    assert float(awake.min()) > 0.1
    both = by_hand.run(planted, ids, [off, by_hand.putting(backup.name, 0.0)])
    assert spread(both["readout"]) < 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_backup_the_writer_is_all_there_is(contexts, seed):
    planted = plant(seed, backup=False)
    assert not [node for node in planted.nodes if node.role == "backup"]
    assert planted.true_nodes(when="ablated") == frozenset()
    assert planted.true_edges(when="ablated") == frozenset()
    assert planted.true_nodes() == plant(seed).true_nodes()
    ids = by_hand.asking_rows(planted, contexts[seed])
    off = by_hand.putting(part(planted, "writer").name, 0.0)
    assert spread(by_hand.run(planted, ids, [off])["readout"]) < 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_found_where_the_writer_was_removed(contexts, seed):
    planted = plant(seed, remove="writer")
    assert planted.true_nodes() == frozenset()
    assert planted.true_edges() == frozenset()
    clean = by_hand.asking_rows(planted, contexts[seed])
    assert spread(by_hand.run(planted, clean)["readout"]) < 0.02
    names = [node.name for node in plant(seed).nodes]
    effects = by_hand.noising(planted, clean, clean.roll(1, dims=0), names)
    assert max(float(effect.abs().max()) for effect in effects.values()) < 0.02

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.errors import DataError
from circuits.neurons.mask import Classified, Mask
from circuits.neurons.study import paired_effects, paired_of, paired_texts
from circuits.prompts.prompt import LabelledText, Texts

LABELS = ("simile", "irony", "literal")


def some_texts() -> Texts:
    """Four similes and three ironies; one of each has no paraphrase."""
    rows = []
    for device, count in (("simile", 4), ("irony", 3)):
        for i in range(count):
            rows.append(LabelledText(f"{device} {i}", device, f"{device}{i}"))
            if i > 0:
                rows.append(LabelledText(f"plain {device} {i}", "literal", f"{device}{i}"))
    return Texts("test", LABELS, tuple(rows))


def test_the_first_pairs_of_every_device_are_asked_about():
    found = [row.text for row in paired_texts(some_texts(), LABELS[:2], "literal", 2).rows]
    assert found == [
        "simile 1", "plain simile 1", "simile 2", "plain simile 2",
        "irony 1", "plain irony 1", "irony 2", "plain irony 2",
    ]  # fmt: skip


def test_a_device_without_paraphrases_is_named():
    lonely = some_texts().of("simile", "irony")
    with pytest.raises(DataError, match="^no test text of class 'simile' has a paraphrase"):
        paired_texts(lonely, LABELS[:2], "literal", 2)


def right(pairs, device: int, table: Tensor) -> float:
    """Percent of the texts of the pairs for which the right one of two labels is likelier."""
    found = []
    for one, other in pairs:
        found.append(float(table[one, device]) >= float(table[one, 2]))
        found.append(float(table[other, 2]) > float(table[other, device]))
    return 100 * sum(found) / len(found)


def test_a_pair_counts_half_for_each_of_its_texts_that_is_told_rightly_from_the_other():
    texts = paired_texts(some_texts(), LABELS[:2], "literal", 9)
    random = torch.Generator().manual_seed(0)

    def logs(*shape: int):
        return torch.randn(*shape, len(texts), 3, generator=random)

    answers = Classified(texts, LABELS[:2], logs(), logs(2), logs(5, 2), torch.tensor([1, 1]))
    found = paired_of(answers, "literal")
    for d, device in enumerate(LABELS[:2]):
        pairs = [
            (i, j)
            for i, one in enumerate(texts.rows)
            for j, other in enumerate(texts.rows)
            if one.label == device and other.label == "literal" and one.pair == other.pair
        ]

        assert int(found.n_pairs[d]) == len(pairs)
        assert float(found.base[d]) == pytest.approx(right(pairs, d, answers.base))
        for e in range(2):
            change = right(pairs, d, answers.masked[e]) - right(pairs, d, answers.base)
            assert float(found.change[e, d]) == pytest.approx(change)
            assert float(found.low[e, d]) <= change <= float(found.high[e, d])
        others = [
            right(pairs, d, answers.random[draw, d]) - right(pairs, d, answers.base)
            for draw in range(5)
        ]
        assert found.random_change[:, d].tolist() == pytest.approx(others)
        as_low = sum(other <= float(found.change[d, d]) + 1e-6 for other in others)
        assert float(found.random_p[d]) == pytest.approx((1 + as_low) / 6)


def test_masking_the_planted_neurons_of_a_device_turns_it_literal(parts):
    # The third class plays the literal texts; the n-th texts of all classes are one pair.
    model, planted_set, selection, profile = parts
    label = planted_set.label
    seen = dict.fromkeys(label, 0)
    rows = []
    for row in planted_set.test.rows:
        seen[row.label] += 1
        rows.append(replace(row, pair=str(seen[row.label])))
    texts = replace(planted_set, test=Texts("test", label, tuple(rows)))
    paired = model, texts, selection, profile
    found = paired_effects(*paired, mask=Mask("zero"), literal=label[2], per_label=4, draws=4)
    assert found.label == found.other_label == label[:2]
    assert found.base.tolist() == [100.0, 100.0]
    assert found.n_pairs.tolist() == [4, 4]
    # A device that is not seen leaves its paraphrase to be told by chance or rightly.
    assert found.change.diagonal().tolist() == [-50.0, -50.0]
    assert found.change[0, 1] == found.change[1, 0] == 0
    assert found.random_change.abs().max() == 0
    assert found.random_p.tolist() == pytest.approx([1 / 5] * 2)

import pytest
import torch
from planted.plant import plant_selective, recovery

from circuits.models.run import run
from circuits.models.tokens import encode, encode_text, pad_left
from circuits.neurons.profile import label_attribution, profile_texts
from circuits.neurons.select import entropy, entropy_null, select_neurons, split_half
from circuits.prompts.prompt import EMOTION_REQUEST, question

NEURONS = 3 * 48
SEEDS = (0, 3)


@pytest.fixture(scope="module", params=SEEDS)
def planted(request):
    return plant_selective(request.param)


@pytest.fixture(scope="module")
def profile(planted):
    return profile_texts(planted.model, planted.texts(12), EMOTION_REQUEST)


@pytest.fixture(scope="module")
def attribution(planted):
    return label_attribution(planted.model, planted.texts(12), EMOTION_REQUEST)


def place(name):
    layer, neuron = name[1:].split("N")
    return int(layer), int(neuron)


@pytest.mark.parametrize(
    ("selector", "count"), [("lape", 12), ("mad", 2), ("cas", 2), ("z", 2), ("attribution", 2)]
)
def test_all_selective_neurons_and_no_others_are_found(
    planted, profile, attribution, selector, count
):
    found = select_neurons(profile, selector, share=count / NEURONS, attribution=attribution)
    for label, truth in zip(planted.label, planted.selective, strict=True):
        score = recovery(found.neurons_of(label), truth)
        assert (score.precision, score.recall) == (1.0, 1.0)


def test_random_neurons_are_not_the_selective_ones(planted, profile):
    found = select_neurons(profile, "random", share=2 / NEURONS)
    hits = [
        recovery(found.neurons_of(e), t).recall
        for e, t in zip(planted.label, planted.selective, strict=True)
    ]
    assert sum(hits) / len(hits) < 0.5


def test_entropy_is_none_for_selective_neurons_and_the_most_for_uniform_ones(planted, profile):
    found = entropy(profile.rate)
    for names in planted.selective:
        assert [float(found[place(name)]) for name in names] == [0.0, 0.0]
    for name in planted.uniform:
        assert float(found[place(name)]) == pytest.approx(torch.log(torch.tensor(6.0)).item())
    for name in planted.dead:
        assert bool(found[place(name)].isnan())


def test_the_same_neurons_are_found_on_either_half(profile):
    found = split_half(profile, share=12 / NEURONS)
    assert found.jaccard.diagonal().tolist() == [1.0] * 6
    assert float(found.expected.max()) < 0.02


def test_no_permutation_of_the_labels_gives_entropies_as_low(planted, profile):
    assert entropy_null(profile, share=12 / NEURONS).p == 1 / 21
    blank = planted.texts(12, blank=True)
    bare = profile_texts(planted.model, blank, EMOTION_REQUEST)
    assert entropy_null(bare, share=12 / NEURONS).p > 1 / 21


def test_the_model_names_the_class_of_its_texts(planted):
    texts = planted.texts(4, split="test")
    first = [encode_text(planted.model, label)[0] for label in texts.label]
    ids = [encode(planted.model, question(row.text, EMOTION_REQUEST)) for row in texts.rows]
    logits = run(planted.model, pad_left(ids, torch.device("cpu")))[:, -1, first]
    assert tuple(logits.argmax(1).tolist()) == texts.truth


def test_equal_seeds_give_equal_plants_and_others_other_ones():
    one, same, other = (plant_selective(seed) for seed in (5, 5, 6))
    assert one.selective == same.selective != other.selective
    assert one.texts(3) == same.texts(3)
    assert one.texts(3) != one.texts(3, split="test")

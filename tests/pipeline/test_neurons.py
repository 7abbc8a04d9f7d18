"""Class-selective neurons, from texts to neurons.json and a page."""

import json
from dataclasses import replace
from shutil import copytree

import pytest

import circuits.plots as plot
from circuits.errors import DataError, RunError
from circuits.models.load import load_model
from circuits.models.memory import counted
from circuits.names import DEVICES, EMOTIONS
from circuits.running import Reporter
from circuits.runs.neurons import NeuronPlan, SetStudy, neuron_run, open_set

SMALL = NeuronPlan(
    text="said",
    label="tone",
    request="Which one?",
    train_texts=4,
    dev_texts=2,
    test_texts=3,
    few_texts=2,
    draws=2,
    few_draws=2,
    neutral=2,
    shares=(0.02,),
    doses=(0.0, 2.0),
    loop_steps=1,
)
POINTS = {"own_change", "low", "high", "largest_other_change", "accuracy"}
KEYS = POINTS | {"n_neurons", "random_p", "corrected_p", "supported"}


@pytest.fixture(scope="module")
def own_texts(tmp_path_factory):
    """Two sets in folders: of emotions, and of how they are said."""
    home = tmp_path_factory.mktemp("texts")
    sets = {"emotion": {"anger": "How dare they", "fear": "I am so afraid"}}
    sets["rhetoric"] = {"polite": "could you please wait", "rude": "get out now"}
    for name, said in sets.items():
        (home / name).mkdir()
        for split in ("train", "dev", "test"):
            rows = [f"{text} {split} {n},{label}" for n in range(4) for label, text in said.items()]
            (home / name / f"{split}.csv").write_text("said,tone\n" + "\n".join(rows) + "\n")
    return home


@pytest.fixture(scope="module")
def plan(own_texts):
    return replace(SMALL, texts=(str(own_texts / "emotion"), str(own_texts / "rhetoric")))


@pytest.fixture(scope="module")
def measured(brief_study, plan, tmp_path_factory):
    folder = copytree(brief_study.folder, tmp_path_factory.mktemp("neurons") / "run")
    page = neuron_run(folder, plan)
    assert page == folder / "neurons.html"
    return folder


def test_every_class_has_its_numbers_and_the_page_says_which_is_not_supported(measured):
    found = json.loads((measured / "neurons.json").read_text())
    assert tuple(found) == ("anger", "fear", "polite", "rude")
    page = (measured / "neurons.html").read_text().partition("<script>")[0]
    for label, row in found.items():
        assert set(row) == KEYS
        assert row["low"] <= row["own_change"] <= row["high"]
        assert 0 < row["random_p"] <= row["corrected_p"] <= 1
        assert row["n_neurons"] in (46, 47)  # two percent of 6 layers of 384
        assert (f"{label}: not supported" in page) is not row["supported"]
    words = page.lower().replace("forcausallm", "")  # the class of the model is named so
    assert "causal" not in words
    own = json.loads((measured / "neurons" / "sev-mini" / "neurons.json").read_text())
    assert own == found


def test_what_was_measured_is_read_again_by_the_same_plan_and_has_figures(measured, plan):
    before = (measured / "neurons.json").read_bytes()
    with counted() as receipt:
        neuron_run(measured, plan)
        place = measured / "neurons" / "sev-mini" / "rhetoric"
        texts = open_set(plan.texts[1], plan)
        own = SetStudy(load_model("sev-mini"), texts, plan, place, Reporter())
        found = own.results()
    assert receipt.steps == 0
    assert (measured / "neurons.json").read_bytes() == before
    records = (found.effects, found.sweep, found.adaptive, found.induction, found.depth)
    for record in (*records, found.halves):
        assert plot.draw(record).data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selector": "gini"}, "selector: found 'gini'; give lape"),
        ({"mask": "noise"}, "mask: found 'noise'; give zero"),
        ({"share": 0.0}, "share: found 0.0; it should be greater than 0"),
        ({"texts": ()}, "texts: found .*at least 1 item"),
        ({"draws": 1}, "draws: found 1; it should be greater than or equal to 2"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(change, message):
    with pytest.raises(RunError, match=message):
        NeuronPlan(**change)


def test_a_folder_without_a_run_needs_models_of_different_names(tmp_path):
    with pytest.raises(RunError, match="give --models"):
        neuron_run(tmp_path / "new", NeuronPlan())
    both = tuple(str(tmp_path / place / "model") for place in ("one", "two"))
    for place in ("one", "two"):
        (tmp_path / place / "model").mkdir(parents=True)
    with pytest.raises(RunError, match="are both called 'model'"):
        neuron_run(tmp_path / "new", NeuronPlan(), models=both)


def test_sets_with_a_class_in_common_are_refused(tmp_path):
    with pytest.raises(DataError, match="'anger' is in the sets 'emotion' and 'emotion'"):
        neuron_run(tmp_path / "new", NeuronPlan(texts=("emotion", "emotion")), models=("sev-nano",))


def test_texts_of_ones_own_need_a_request_and_every_split(own_texts, tmp_path):
    place = copytree(own_texts / "rhetoric", tmp_path / "rhetoric")
    with pytest.raises(RunError, match="give --request"):
        open_set(str(place), replace(SMALL, request=None))
    (place / "dev.csv").unlink()
    with pytest.raises(RunError, match="one file for the dev split"):
        open_set(str(place), SMALL)


@pytest.mark.slow
def test_on_held_out_texts_masks_hit_their_own_class_beyond_random_sets(tmp_path):
    model = load_model("sev-mini")
    plan = NeuronPlan(train_texts=40, neutral=2, test_texts=15, draws=20)
    supported = {}
    for name in plan.texts:
        own = SetStudy(model, open_set(name, plan), plan, tmp_path / name, Reporter())
        supported |= dict(zip(own.effects.label, own.effects.supported.tolist(), strict=True))
    assert sum(supported[emotion] for emotion in EMOTIONS) >= 5
    assert sum(supported[device] for device in DEVICES) >= 3

"""Class-selective neurons, from texts to neurons.json and a page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import circuits.plots as plot
from circuits.errors import DataError, RunError
from circuits.models.memory import counted
from circuits.names import DEVICES, EMOTIONS
from circuits.runs.neurons import NeuronPlan, SetStudy, neuron_run, open_set
from circuits.runs.work import Silent

SMALL = NeuronPlan(
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
KEYS = {
    "n_neurons", "own_change", "low", "high", "largest_other_change", "random_p", "corrected_p",
    "accuracy", "supported",
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neurons") / "run"
    page = neuron_run(folder, SMALL, models=("sev-nano",))
    assert page == folder / "neurons.html"
    return folder


def test_every_emotion_and_device_has_its_numbers(measured):
    found = json.loads((measured / "neurons.json").read_text())
    assert tuple(found) == (*EMOTIONS, *DEVICES)
    for row in found.values():
        assert set(row) == KEYS
        assert row["low"] <= row["own_change"] <= row["high"]
        assert 0 < row["random_p"] <= row["corrected_p"] <= 1
        # Two percent of 4 layers of 256 neurons.
        assert row["n_neurons"] == 21


def test_the_page_says_which_classes_are_not_supported_and_calls_nothing_causal(measured):
    page = (measured / "neurons.html").read_text().partition("<script>")[0]
    found = json.loads((measured / "neurons.json").read_text())
    for label, row in found.items():
        assert (f"{label}: not supported" in page) is not row["supported"]
    words = page.lower().replace("forcausallm", "")  # the class of the model is named so
    assert "causal" not in words


def test_what_was_measured_is_read_again_by_the_same_plan(measured):
    before = (measured / "neurons.json").read_bytes()
    with counted() as receipt:
        neuron_run(measured, SMALL, models=("sev-nano",))
    assert receipt.passes == receipt.steps == 0
    assert (measured / "neurons.json").read_bytes() == before


def test_every_result_has_a_figure(measured):
    from circuits.models.load import load_model

    place = measured / "neurons" / "sev-nano" / "rhetoric"
    texts = open_set("rhetoric", SMALL)
    own = SetStudy(load_model("sev-nano"), texts, SMALL, place, Silent())
    found = own.results()
    records = (found.effects, found.sweep, found.adaptive, found.induction, found.depth)
    for record in (*records, found.halves):
        assert plot.draw(record).data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selector": "gini"}, "selector: found 'gini'; give lape"),
        ({"mask": "noise"}, "mask: found 'noise'; give zero"),
        ({"share": 0.0}, "share: found 0.0; give more than 0"),
        ({"texts": ()}, "texts: found .*; give 1 or more"),
        ({"draws": 1}, "draws: found 1; give 2 or more"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(change, message):
    with pytest.raises(RunError, match=message):
        NeuronPlan(**change)


def test_a_folder_without_a_run_needs_models(tmp_path):
    with pytest.raises(RunError, match="give --models"):
        neuron_run(tmp_path / "new", SMALL)


def test_two_models_of_one_name_are_refused(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "model").mkdir(parents=True)
    both = tuple(str(tmp_path / place / "model") for place in ("one", "two"))
    with pytest.raises(RunError, match="are both called 'model'"):
        neuron_run(tmp_path / "new", SMALL, models=both)


def test_sets_with_a_class_in_common_are_refused(tmp_path):
    with pytest.raises(DataError, match="'anger' is in the sets 'emotion' and 'emotion'"):
        neuron_run(tmp_path / "new", NeuronPlan(texts=("emotion", "emotion")), models=("sev-nano",))


@pytest.fixture
def own_texts(tmp_path) -> Path:
    folder = tmp_path / "polite"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        rows = [
            f"{text} {split} {n},{label}"
            for n in range(6)
            for text, label in (("could you please wait", "polite"), ("get out now", "rude"))
        ]
        (folder / f"{split}.csv").write_text("said,tone\n" + "\n".join(rows) + "\n")
    return folder


def test_classes_of_ones_own_are_measured_from_a_folder_of_files(tmp_path, own_texts):
    own = {"texts": (str(own_texts),), "text": "said", "label": "tone"}
    plan = replace(SMALL, **own, request="Is the text polite or rude?")
    neuron_run(tmp_path / "out", plan, models=("sev-nano",))
    assert list(json.loads((tmp_path / "out" / "neurons.json").read_text())) == ["polite", "rude"]


def test_texts_of_ones_own_need_a_request_and_every_split(own_texts):
    plan = NeuronPlan(texts=(str(own_texts),), text="said", label="tone", pair=None)
    with pytest.raises(RunError, match="give --request"):
        open_set(str(own_texts), plan)
    (own_texts / "dev.csv").unlink()
    asked = NeuronPlan(texts=(str(own_texts),), request="Which?", text="said", label="tone")
    with pytest.raises(RunError, match="one file for the dev split"):
        open_set(str(own_texts), asked)


@pytest.mark.slow
def test_on_held_out_texts_masks_hit_their_own_class_beyond_random_sets(tmp_path):
    from circuits.models.load import load_model

    model = load_model("sev-mini")
    plan = NeuronPlan(train_texts=40, neutral=2, test_texts=15, draws=20)
    supported = {}
    for name in plan.texts:
        own = SetStudy(model, open_set(name, plan), plan, tmp_path / name, Silent())
        supported |= dict(zip(own.effects.label, own.effects.supported.tolist(), strict=True))
    assert sum(supported[emotion] for emotion in EMOTIONS) >= 5
    assert sum(supported[device] for device in DEVICES) >= 3

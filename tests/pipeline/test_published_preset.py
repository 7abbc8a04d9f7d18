"""Under the preset ``published`` the numbers are those of the published scripts.

The reference is a small Llama and what the authors' own scripts computed on it.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from plans import plan_in

from circuits.files import read_json
from circuits.names import EMOTIONS
from circuits.runs import PRESETS, run

KINDS = {"attention": "attn", "mlp": "mlp"}


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "data" / "golden"


@pytest.fixture(scope="module")
def study(golden, tmp_path_factory):
    plan = plan_in(
        tmp_path_factory.mktemp("golden") / "run",
        model=str(golden / "model"),
        accepted=golden / "accepted.jsonl",
        stable_layers=(2, 3),
    )
    return run(
        replace(plan, **PRESETS["published"]), stages=["directions", "effects", "importance"]
    )


def columns(golden, kind, name, emotion):
    folder = golden / "outputs" / "04_local_components_identification" / kind
    return pd.read_csv(folder / f"{name}_{emotion}.csv")


def test_directions_agree(golden, study):
    allowed = [np.zeros(1).__reduce__()[0], np.ndarray, np.dtype, np.dtypes.Float32DType]
    for kind, sublayer in KINDS.items():
        path = golden / "outputs" / "02_emotion_directions" / f"emo_directions_{kind}.pt"
        with torch.serialization.safe_globals(allowed):
            stored = torch.load(path, weights_only=True)["dirs"]
        ours = study.directions.sel(sublayer=sublayer).vectors[:, 0]
        theirs = torch.stack([torch.from_numpy(stored[emotion]) for emotion in EMOTIONS])
        assert (ours * theirs).sum(-1).min() >= 0.99999


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_head_importances_and_neuron_contributions_agree(golden, study, emotion):
    theirs = columns(golden, "attention_heads", "head_importance", emotion)
    ours = study.heads.sel(emotion=emotion).to_frame().merge(theirs, on=["layer", "head"])
    largest = theirs.mean_importance.abs().max()
    assert (ours["mean"] - ours.mean_importance).abs().max() <= 1e-4 * largest
    theirs = columns(golden, "mlp_neurons", "contrib_mean", emotion)
    ours = study.neurons.sel(emotion=emotion).to_frame().merge(theirs, on=["layer", "neuron"])
    names = {"mean": "C_mean", "positive": "C_pos", "weight": "beta", "activation": "H_mean"}
    for own, published in names.items():
        largest = theirs[published].abs().max()
        apart = (ours[own] - ours[published]).abs()
        assert apart[ours.layer > 0].max() <= 1e-4 * largest
        # Directions of the first layer are small differences of values rounded to float16, some
        # of which another order of summing rounds the other way.
        first = torch.finfo(torch.float16).eps if own == "weight" else 1e-4
        assert apart[ours.layer == 0].max() <= first * largest
    # Negative parts are small here, and directions of the first layer rest on rounded dumps.
    assert (ours.negative - ours.C_neg).abs().max() <= 1e-4 * theirs.C_pos.abs().max()


def test_rms_agrees(golden, study):
    theirs = read_json(golden / "outputs" / "06_emotion_circuit_integration" / "sigma_summary.json")
    for name, sigma in theirs.items():
        kind, layer = name.rsplit("_", 1)
        ours = study.directions.at("rms", sublayer=KINDS[kind], layer=int(layer))
        assert ours == pytest.approx(sigma, rel=1e-4)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_sublayer_importances_agree_at_every_dose(golden, study, emotion):
    folder = golden / "outputs" / "06_emotion_circuit_integration" / "sublayer_importance"
    for dose in study.importance.dose:
        theirs = pd.read_csv(folder / f"importance_{emotion}_alpha{dose}.csv")
        large = theirs[theirs.I_final.abs() > 0.05]
        for kind, layer, expected in zip(large.kind, large.layer, large.I_final, strict=True):
            ours = study.importance.at(
                "response", emotion=emotion, dose=dose, sublayer=KINDS[kind], layer=layer
            )
            assert ours == pytest.approx(expected, rel=1e-3)


def test_incomplete_contexts_count_for_effects_but_not_for_directions(study):
    assert (study.directions.n_contexts, study.directions.n_left_out) == (34, 2)
    assert sum(study.heads.n_contexts) == len(study.accepted)

"""A run of ours in the published layout."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from circuits.circuit.find import Measurements, assemble
from circuits.effects.activations import component_means, differences
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.effects.neurons import direct_effects, neuron_effects
from circuits.names import EMOTIONS
from circuits.patching.totals import total_estimates
from circuits.published.assembling import assemble_published
from circuits.published.derived import Measured, derive
from circuits.published.folder import read_folder, short_model, write_folder
from circuits.published.tables import UnitDirections


@pytest.fixture(scope="module")
def measured(llama, grid, contexts, swept, directions):
    heads = head_effects(llama, swept, directions, draws=2)
    neurons = neuron_effects(llama, swept, directions, draws=2)
    importance, _ = sublayer_importance(
        llama, grid, directions, stable=(1, 2), doses=(0.1, 0.5), n_random=1
    )
    means = component_means(swept)
    between = differences(means)
    direct = direct_effects(llama, between, directions, importance.reference)
    totals = total_estimates(llama, contexts, importance, (2, 7))
    parts = Measurements(importance, heads, neurons, direct, totals)
    circuits = {e: assemble(parts, e) for e in EMOTIONS}
    return Measured("org/Random-Llama.1", directions, heads, neurons, importance, between, circuits)


@pytest.fixture(scope="module")
def written(measured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    write_folder(derive(measured)[0], folder)
    return folder


def test_what_we_write_is_what_we_read(measured, written):
    contents, expected = read_folder(written), derive(measured)[0]
    assert contents.prefix == expected.prefix == "outputs/randomllama1"
    assert set(contents.entries) == set(expected.entries)
    for name, own in expected.entries.items():
        for field in getattr(own, "axes", {}):
            found, wanted = getattr(contents.entries[name], field), getattr(own, field)
            assert torch.equal(found.nan_to_num(9e9), wanted.nan_to_num(9e9)), (name, field)
    own = contents.entries["02_emotion_directions/emo_directions_mlp.pt"]
    assert isinstance(own, UnitDirections)
    assert torch.equal(own.vectors, measured.directions.vectors[:, 1])


def test_the_spread_of_heads_divides_by_n(measured, llama, swept):
    found = derive(measured)[0].heads("anger")
    assert found is not None
    W_O = llama.W_O.detach().float()
    v = measured.directions.vectors[0, 0, 1]
    effects = (swept.z[:, 0, 1, 2] @ W_O[1, 2] @ v)[swept.present[:, 0]].double()
    spread = found.at("std", emotion="anger", layer=1, head=2)
    assert abs(spread - float(effects.std(correction=0))) < 1e-5
    assert found.at("samples", emotion="anger", layer=1, head=2) == len(effects)
    stderr = torch.full_like(measured.heads.stderr, torch.nan)
    alone = replace(measured.heads, stderr=stderr, n_contexts=(1,) * len(EMOTIONS))
    found = derive(replace(measured, heads=alone))[0].heads("fear")
    assert found is not None
    assert (found.std == 0).all()  # one sample has no spread


def test_importance_columns_satisfy_their_definitions(written):
    home = written / "outputs/randomllama1/06_emotion_circuit_integration"
    table = pd.read_csv(home / "sublayer_importance/importance_fear_alpha0.5.csv")
    assert (table.dose - 0.5 * table.sigma).abs().max() < 1e-12
    assert (table.s_final - table.s_base_final - table.ds_final).abs().max() < 1e-12
    assert (table.ds_final / table.dose - table.I_final).abs().max() < 1e-12
    assert table[["s_base_anchor", "I_anchor"]].isna().to_numpy().all()
    means = pd.read_csv(home / "importance_all_alpha_mean_emotion_all_probability.csv")
    assert means.groupby("emotion").I_final_normalized.sum().sub(1).abs().max() < 1e-9
    assert list(means.emotion.unique()) == sorted(EMOTIONS)


def test_a_circuit_of_ours_keeps_its_members_and_claims_no_published_constant(measured, written):
    home = written / "outputs/randomllama1/06_emotion_circuit_integration/global_circuit"
    found, circuit = json.loads((home / "anger.json").read_text()), measured.circuits["anger"]
    heads = [(e["layer"], h) for e in found["layers"] for h in e["attention"]["heads"]]
    neurons = [(e["layer"], n) for e in found["layers"] for n in e["mlp"]["neurons"]]
    assert (tuple(heads), tuple(neurons)) == (circuit.heads, circuit.neurons)
    assert found["ratio_mode"] is found["cap_ratio"] is None
    assert any("ratio_mode" in loss for loss in derive(measured)[1])


def test_our_tables_can_be_assembled_by_the_published_rule(measured):
    own = assemble_published(derive(measured)[0], "disgust")
    assert len(own.neuron_ids or ()) == len(own.head_ids) == 3


def test_what_has_not_run_and_what_differs_is_said(measured, directions):
    losses = derive(Measured("m", directions=directions))[1]
    assert sum("not written, the stage has not run" in loss for loss in losses) == 6
    assert any("not of the final norm" in loss for loss in losses)
    losses = derive(measured)[1]
    assert any("read at resid_mid" in loss for loss in losses)
    assert any("read at resid_post" in loss for loss in losses)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("meta-llama/Llama-3.2-3B-Instruct", "llama32_3b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen257binstruct"),
        ("./sev-mini/", "sevmini"),
        ("..", "model"),
    ],
)
def test_a_model_folder_is_named_as_the_scripts_name_it(name, short):
    assert short_model(name) == short

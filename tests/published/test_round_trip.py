"""What is imported is exported as it was, and assembled from its tables alone."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from circuits.errors import RunError
from circuits.files import read_json
from circuits.names import EMOTIONS
from circuits.published.folder import read_folder, write_folder
from circuits.published.importing import assemble_run, import_folder, load_contents
from circuits.published.tables import UnitDirections, load_dictionary
from circuits.runs import Study

FOUR = "04_local_components_identification"


def files(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def same(first, second):
    if first.suffix != ".pt":
        # Better than asked for: numbers are written as they were, digit by digit.
        return first.read_bytes() == second.read_bytes()
    one, other = load_dictionary(first), load_dictionary(second)
    a, b = one.pop("dirs"), other.pop("dirs")
    arrays = all(np.array_equal(v, b[e]) and v.dtype == b[e].dtype for e, v in a.items())
    return one == other and list(one) == list(other) and list(a) == list(b) and arrays


def round_trip(source, tmp_path):
    import_folder(source, tmp_path / "run")
    write_folder(load_contents(tmp_path / "run"), tmp_path / "out")
    return files(tmp_path / "out")


def test_import_and_export_give_the_same_files(authors, tmp_path):
    path = authors / FOUR / "attention_heads/head_importance_fear.csv"
    table = pd.read_csv(path, dtype=str).sample(frac=1, random_state=1)
    table.to_csv(path, index=False)  # rows keep the order they have
    above = tmp_path / "repo" / "outputs" / "tiny"  # the folder above a model is found too
    shutil.copytree(authors, above)
    before, after = files(tmp_path / "repo"), round_trip(tmp_path / "repo", tmp_path)
    assert set(after) == set(before)
    assert [name for name in before if not same(before[name], after[name])] == []
    found = load_contents(tmp_path / "run").heads("fear")
    assert found is not None
    plain = table.sort_index().mean_importance.map(float).to_numpy().reshape(3, 4)
    assert np.array_equal(found.mean[0].numpy(), plain)


def test_any_single_file_is_enough(authors, tmp_path):
    names = [name for name in files(authors) if "emo_diff" not in name]
    assert len(names) == 13
    for i, name in enumerate(names):
        part, folder = tmp_path / f"part{i}", tmp_path / f"made{i}"
        (part / name).parent.mkdir(parents=True)
        shutil.copy(authors / name, part / name)
        after = round_trip(part, folder)
        assert list(after) == [name]
        assert same(authors / name, after[name])


def test_an_imported_run_opens_and_says_that_it_was_imported(authors, tmp_path):
    contents = import_folder(authors, tmp_path / "run")
    study = Study(tmp_path / "run")
    assert study.log["plan"]["imported"] == str(authors)
    assert study.emotions == contents.emotions == ("anger", "fear")
    assert study.log["stages"] == {}
    with pytest.raises(RunError, match="'directions' has not run"):
        _ = study.directions
    directions = contents.entries["02_emotion_directions/emo_directions_mlp.pt"]
    assert isinstance(directions, UnitDirections)
    assert directions.emotion == EMOTIONS


def test_files_of_unknown_kind_are_named_and_not_read(authors):
    names = ("02_emotion_directions/residual_dump.bin", "notes.txt")
    for name in names:
        (authors / name).write_text("?")
    assert sorted(read_folder(authors).left_out) == list(names)


def test_circuits_are_assembled_from_the_tables_alone(authors, tmp_path):
    import_folder(authors, tmp_path / "run")
    found, contents = assemble_run(tmp_path / "run"), load_contents(tmp_path / "run")
    assert list(found) == ["anger", "fear"]
    for emotion, own in found.items():
        table = pd.read_csv(authors / FOUR / f"mlp_neurons/contrib_mean_{emotion}.csv")
        ids = own.neuron_ids or ()
        assert [list(some) for some in ids] == [
            np.argsort(-row)[: len(some)].tolist()
            for row, some in zip(table.C_mean.to_numpy().reshape(3, 20), ids, strict=True)
        ]
        saved = read_json(tmp_path / "run" / "assembled" / f"{emotion}.json")
        assert saved == own.to_json()
        assert sum(map(len, ids)) == saved["summary"]["mlp"]["used"]
        # More heads were asked for than the 12 there are: all are taken and the lack is told.
        summary = saved["summary"]["attention"]
        assert summary["used"] == 12 == summary["planned"] - summary["final_deficit"]
        # Every other command reads the circuits.
        circuit, heads = Study(tmp_path / "run").circuits[emotion], contents.heads(emotion)
        assert circuit.heads == tuple((i, h) for i, some in enumerate(own.head_ids) for h in some)
        assert circuit.neurons == tuple((i, n) for i, some in enumerate(ids) for n in some)
        assert heads is not None
        effect = heads.at("mean", emotion=emotion, layer=0, head=own.head_ids[0][0])
        assert circuit.of_kind("head")[0].effect == effect


def test_without_contributions_counts_are_known_and_ids_are_not(authors, tmp_path):
    shutil.rmtree(authors / FOUR / "mlp_neurons")
    import_folder(authors, tmp_path / "run")
    own = assemble_run(tmp_path / "run")["fear"]
    assert own.neuron_ids is None
    sides = [entry["mlp"] for entry in own.to_json()["layers"]]
    assert [side["neurons"] for side in sides] == [None] * 3
    assert [side["k"] for side in sides] == list(own.neurons.assigned)
    # The difference vectors still say how many neurons there are.
    assert own.neurons.available == (20, 20, 20)


def test_importance_is_the_mean_over_doses(authors):
    folder = authors / "06_emotion_circuit_integration" / "sublayer_importance"
    rows = pd.concat(pd.read_csv(path) for path in folder.glob("*.csv"))
    means = rows.groupby(["emotion", "kind", "layer"]).I_final.mean()
    expected = torch.tensor(means["anger"].to_numpy()).reshape(2, 3)
    assert (read_folder(authors).weights("anger") - expected).abs().max() <= 1e-15

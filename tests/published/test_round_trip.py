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


def files(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def same(first, second):
    if first.suffix == ".pt":
        one, other = load_dictionary(first), load_dictionary(second)
        assert list(one) == list(other)
        assert {k: v for k, v in one.items() if k != "dirs"} == {
            k: v for k, v in other.items() if k != "dirs"
        }
        assert list(one["dirs"]) == list(other["dirs"])
        return all(
            np.array_equal(v, other["dirs"][e]) and v.dtype == other["dirs"][e].dtype
            for e, v in one["dirs"].items()
        )
    # Better than asked for: numbers are written as they were, digit by digit.
    return first.read_bytes() == second.read_bytes()


def round_trip(source, tmp_path):
    import_folder(source, tmp_path / "run")
    write_folder(load_contents(tmp_path / "run"), tmp_path / "out")
    return files(tmp_path / "out")


def test_import_and_export_give_the_same_files(authors, tmp_path):
    before, after = files(authors), round_trip(authors, tmp_path)
    assert set(after) == set(before)
    assert [name for name in before if not same(before[name], after[name])] == []


def test_any_single_file_is_enough(authors, tmp_path):
    names = [name for name in files(authors) if "emo_diff" not in name]
    assert len(names) == 13
    for i, name in enumerate(names):
        part = tmp_path / f"part{i}"
        (part / name).parent.mkdir(parents=True)
        shutil.copy(authors / name, part / name)
        folder = tmp_path / f"made{i}"
        folder.mkdir()
        after = round_trip(part, folder)
        assert list(after) == [name]
        assert same(authors / name, after[name])


def test_the_folder_above_a_model_is_found_and_written_alike(authors, tmp_path):
    above = tmp_path / "repo" / "outputs" / "tiny"
    shutil.copytree(authors, above)
    after = round_trip(tmp_path / "repo", tmp_path)
    assert set(after) == {f"outputs/tiny/{name}" for name in files(authors)}


def test_rows_keep_the_order_they_had(authors, tmp_path):
    path = authors / "04_local_components_identification/attention_heads/head_importance_fear.csv"
    table = pd.read_csv(path, dtype=str)
    shuffled = table.sample(frac=1, random_state=1)
    shuffled.to_csv(path, index=False)
    assert same(path, round_trip(authors, tmp_path)[path.relative_to(authors).as_posix()])
    found = load_contents(tmp_path / "run").heads("fear")
    assert found is not None
    plain = table.mean_importance.map(float).to_numpy().reshape(3, 4)
    assert np.array_equal(found.mean[0].numpy(), plain)


def test_an_imported_run_opens_and_says_that_it_was_imported(authors, tmp_path):
    contents = import_folder(authors, tmp_path / "run")
    study = Study(tmp_path / "run")
    assert study.log["plan"]["imported"] == str(authors)
    assert study.emotions == contents.emotions == ("anger", "fear")
    assert study.log["stages"] == {}
    with pytest.raises(RunError, match="'directions' has not run"):
        _ = study.directions


def test_files_of_unknown_kind_are_named_and_not_read(authors, tmp_path):
    for name in ("notes.txt", "02_emotion_directions/residual_dump.bin"):
        (authors / name).write_text("?")
    assert set(read_folder(authors).left_out) == {
        "02_emotion_directions/residual_dump.bin",
        "notes.txt",
    }


def test_circuits_are_assembled_from_the_tables_alone(authors, tmp_path):
    import_folder(authors, tmp_path / "run")
    found = assemble_run(tmp_path / "run")
    assert list(found) == ["anger", "fear"]
    for emotion, own in found.items():
        four = authors / "04_local_components_identification"
        table = pd.read_csv(four / f"mlp_neurons/contrib_mean_{emotion}.csv")
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


def test_an_assembled_run_has_circuits_that_every_other_command_reads(authors, tmp_path):
    import_folder(authors, tmp_path / "run")
    own = assemble_run(tmp_path / "run")["anger"]
    circuit = Study(tmp_path / "run").circuits["anger"]
    assert circuit.heads == tuple((i, h) for i, ids in enumerate(own.head_ids) for h in ids)
    assert circuit.neurons == tuple(
        (i, n) for i, ids in enumerate(own.neuron_ids or ()) for n in ids
    )
    table = load_contents(tmp_path / "run").heads("anger")
    assert table is not None
    node = circuit.of_kind("head")[0]
    assert node.effect == table.at("mean", emotion="anger", layer=0, head=own.head_ids[0][0])


def test_without_contributions_counts_are_known_and_ids_are_not(authors, tmp_path):
    shutil.rmtree(authors / "04_local_components_identification" / "mlp_neurons")
    import_folder(authors, tmp_path / "run")
    own = assemble_run(tmp_path / "run")["fear"]
    assert own.neuron_ids is None
    sides = [entry["mlp"] for entry in own.to_json()["layers"]]
    assert [side["neurons"] for side in sides] == [None] * 3
    assert [side["k"] for side in sides] == list(own.neurons.planned)
    # The difference vectors still say how many neurons there are.
    assert own.neurons.available == (20, 20, 20)


def test_a_mean_over_doses_comes_before_single_doses_and_agrees_with_them(authors, tmp_path):
    contents = read_folder(authors)
    sixth = authors / "06_emotion_circuit_integration"
    rows = pd.concat(pd.read_csv(p) for p in (sixth / "sublayer_importance").glob("*.csv"))
    means = rows.groupby(["emotion", "kind", "layer"]).I_final.mean()
    expected = torch.tensor(means["anger"].to_numpy()).reshape(2, 3)
    assert (contents.weights("anger") - expected).abs().max() <= 1e-15


def test_all_six_emotions_are_known(authors):
    found = read_folder(authors).entries["02_emotion_directions/emo_directions_mlp.pt"]
    assert isinstance(found, UnitDirections)
    assert found.emotion == EMOTIONS

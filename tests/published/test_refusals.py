import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from circuits.errors import DataError, RunError
from circuits.published.folder import check_circuit, check_labels, read_folder, written_whole
from circuits.published.importing import assemble_run, import_folder, load_contents

HEADS = "04_local_components_identification/attention_heads/head_importance_anger.csv"
DOSE = "06_emotion_circuit_integration/sublayer_importance/importance_anger_alpha0.1.csv"
SIGMA = "06_emotion_circuit_integration/sigma_summary.json"
MLP = "02_emotion_directions/emo_directions_mlp.pt"
DIFF = "05_emotion_diff_vector_computation/attention_emotion_diff/emo_diff/anger"


def refused(folder, message):
    with pytest.raises(DataError, match=message):
        read_folder(folder)


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def line(path, number, text):
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (
            1,
            "layer,head,mean,std_importance,samples,baseline_mean",
            "line 1.*lacks mean_importance",
        ),
        (3, "0,1,nan,1,12,0", "line 3, column 'mean_importance': found 'nan'"),
        (3, "0,1,inf,1,12,0", "line 3, column 'mean_importance'"),
        (3, "0,1,much,1,12,0", "line 3, column 'mean_importance': found 'much'"),
        (3, "0,1,,1,12,0", "line 3, column 'mean_importance'"),
        (3, "0,1,1,1,12.5,0", "line 3, column 'samples'"),
        (3, "0,-1,1,1,12,0", "line 3, column 'head'"),
        (3, "0,1.5,1,1,12,0", "line 3, column 'head'"),
        (3, "0,0,1,1,12,0", "layer 0, head 0 is on lines 2 and 3"),
        (3, "0,9,1,1,12,0", "the row of emotion anger, layer 0, head 1 lacks"),
        (3, "9999999,1,1,1,12,0", "12 rows are too few"),
        (3, "0,1,1,1,12,0,7,8", "not a CSV table"),
        (3, "0,1,1,1", "line 3, column 'samples'"),
    ],
)
def test_a_wrong_cell_is_named_by_file_line_and_column(authors, number, text, message):
    line(authors / HEADS, number, text)
    refused(authors, f"head_importance_anger.csv.*{message}")


def test_a_row_that_lacks_is_named(authors):
    path = authors / HEADS
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:5] + lines[6:]) + "\n")
    refused(authors, "the row of emotion anger, layer 1, head 0 lacks")


def test_a_table_without_rows_or_cells_is_refused(authors):
    (authors / HEADS).write_text((authors / HEADS).read_text().splitlines()[0] + "\n")
    refused(authors, "has no rows")
    (authors / HEADS).write_text("")
    refused(authors, "not a CSV table")


def test_every_line_longer_than_the_header_is_refused(authors):
    path = authors / HEADS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{own},1" for own in lines[1:])]) + "\n")
    refused(authors, "line 2: more cells")


def test_an_unknown_emotion_is_refused_in_a_name_and_in_a_cell(authors):
    shutil.copy(authors / HEADS, authors / HEADS.replace("anger", "boredom"))
    refused(authors, "'boredom' is no known emotion")
    (authors / HEADS.replace("anger", "boredom")).unlink()
    changed(authors / DOSE, "anger,attention,1", "boredom,attention,1")
    refused(authors, "line 3, column 'emotion': found 'boredom', expected 'anger'")


def test_an_emotion_other_than_the_file_name_says_is_refused(authors):
    text = (authors / DOSE).read_text()
    (authors / DOSE).write_text(text.replace("anger", "fear"))
    refused(authors, "line 2, column 'emotion': found 'fear', expected 'anger'")


def test_an_unknown_kind_of_sublayer_is_refused(authors):
    changed(authors / DOSE, "anger,mlp", "anger,norm")
    refused(authors, "column 'kind': found 'norm', expected attention or mlp")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "expected an object"),
        ({"attention_0": 1.0}, "does not fit"),
        ({"attention_0": 1.0, "mlp_1": 1.0}, "mlp_0, mlp_1 does not fit"),
        ({"attention_0": 1.0, "mlp_0": -1.0}, "field 'mlp_0': expected a positive"),
        ({"attention_0": 1.0, "mlp_0": float("nan")}, "field 'mlp_0'"),
        ({"attention_0": 1.0, "mlp_0": "x"}, "field 'mlp_0'"),
    ],
)
def test_a_wrong_sigma_is_refused(authors, values, message):
    (authors / SIGMA).write_text(json.dumps(values))
    refused(authors, message)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones((2, 2), dtype="f4"), "expected one vector"),
        (np.ones(5, dtype="f4"), "expected shape"),
        (np.ones(8, dtype="i4"), "floating point"),
        (np.ones(8, dtype=">f4"), "floating point"),
        (np.full(8, np.nan, dtype="f4"), "NaN"),
    ],
)
def test_a_wrong_vector_is_refused(authors, vector, message):
    np.save(authors / DIFF / "L1.npy", vector)
    refused(authors, f"L1.npy: .*{message}")


def test_a_layer_that_lacks_or_two_ways_of_naming_are_refused(authors):
    (authors / DIFF / "L1.npy").rename(authors / DIFF / "layer1.npy")
    refused(authors, "expected one file for each layer")
    (authors / DIFF / "layer1.npy").unlink()
    refused(authors, "expected one file for each layer")


def test_an_array_of_objects_is_never_unpickled(authors, tmp_path):
    np.save(authors / DIFF / "L1.npy", np.array([Trap(tmp_path / "ran")] * 8), allow_pickle=True)
    refused(authors, "not a plain numpy array")
    assert not (tmp_path / "ran").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_names_anything_but_arrays_is_refused_and_not_run(authors, tmp_path):
    torch.save({"dirs": Trap(tmp_path / "ran")}, authors / MLP)  # noqa: TID251
    refused(authors, "names (posix|nt).mkdir")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_and_not_run(authors, tmp_path):
    (authors / MLP).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    refused(authors, "emo_directions_mlp.pt")
    assert not (tmp_path / "ran").exists()


def test_an_array_of_objects_in_a_pickle_is_refused(authors, tmp_path):
    values = {"dirs": {"anger": np.array([Trap(tmp_path / "ran")])}}
    torch.save(values, authors / MLP)  # noqa: TID251
    refused(authors, "emo_directions_mlp.pt")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_pickle_is_refused(authors):
    (authors / MLP).write_bytes((authors / MLP).read_bytes()[:300])
    refused(authors, "not a file of torch.save")


GOOD = {"dirs": {"anger": np.ones((3, 8), "f4")}, "layers": 3, "hidden": 8, "emotions": ["anger"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "expected a dictionary"),
        ({}, "lacks dirs, layers"),
        ({"dirs": {}}, "directions in the field dirs"),
        ({"type": "attention"}, "fields 'type' and 'emotions'"),
        ({"emotions": ["fear"]}, "fields 'type' and 'emotions'"),
        ({"layers": 4}, "direction of anger: expected shape"),
        ({"dirs": {"joy": np.ones((3, 8), "f4")}}, "'joy' is no known emotion"),
        ({"dirs": {"anger": [1.0]}}, "found list"),
        ({"dirs": {"anger": np.full((3, 8), np.inf, "f4")}}, "NaN or infinity"),
    ],
)
def test_wrong_directions_are_refused(authors, values, message):
    whole = {**GOOD, "type": "mlp", **values} if values and isinstance(values, dict) else values
    torch.save(whole, authors / MLP)  # noqa: TID251
    refused(authors, message)


def test_a_link_that_leads_out_of_the_folder_is_refused(authors, tmp_path):
    outside = tmp_path / "secret.csv"
    (authors / HEADS).rename(outside)
    (authors / HEADS).symlink_to(outside)
    refused(authors, "leads out of")


def test_a_linked_folder_that_leads_out_is_refused(authors, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (authors / "07_more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    refused(authors, "leads out of")


def test_a_folder_without_stages_or_with_several_models_is_refused(authors, tmp_path):
    refused(tmp_path / "nothing", "there is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "02_emotion_directions")
    for name in ("one", "two"):
        shutil.copytree(authors, tmp_path / "repo" / "outputs" / name)
    refused(tmp_path / "repo", "several models")


def test_nothing_is_left_of_an_import_that_fails(authors, tmp_path):
    line(authors / HEADS, 2, "0,0,nan,1,12,0")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(DataError):
        import_folder(authors, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_run_folder_that_holds_something_is_left_alone(authors, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    import_folder(authors, run)
    with pytest.raises(RunError, match="not empty"):
        import_folder(authors, run)
    load_contents(run)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="not empty"), written_whole(tmp_path / "file"):
        pass


def test_two_tables_that_disagree_are_refused(authors, tmp_path):
    again = DOSE.replace("anger_alpha0.1", "all_alphas")
    shutil.copy(authors / DOSE, authors / again)
    read_folder(authors).weights("anger")
    rows = (authors / again).read_text().splitlines()
    cells = rows[1].split(",")
    rows[1] = ",".join([*cells[:9], "7.5", *cells[10:]])
    (authors / again).write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match="two importance tables disagree on anger, alpha 0.1"):
        import_folder(authors, tmp_path / "run")


def test_tables_that_lack_are_asked_for(authors, tmp_path):
    shutil.rmtree(authors / "06_emotion_circuit_integration" / "sublayer_importance")
    import_folder(authors, tmp_path / "run")
    with pytest.raises(DataError, match="no emotion has both"):
        assemble_run(tmp_path / "run")
    with pytest.raises(RunError, match="was not imported"):
        load_contents(tmp_path)


def test_a_manifest_cannot_lead_out_of_its_run(authors, tmp_path):
    import_folder(authors, tmp_path / "run")
    manifest = tmp_path / "run" / "published" / "manifest.json"
    changed(manifest, f'"{SIGMA}"', '"../../secret.json"')
    with pytest.raises(DataError, match="leads out"):
        load_contents(tmp_path / "run")
    manifest.write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        load_contents(tmp_path / "run")


LAYER = {"layer": 0, "mlp": {"k": 1, "neurons": [3]}, "attention": {"k": 1, "heads": [2]}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no published circuit"),
        ({"emotion": "joy", "layers": []}, "'joy' is no known emotion"),
        ({"emotion": "fear", "layers": []}, "field 'emotion' says 'fear'"),
        ({"emotion": "anger", "layers": [{**LAYER, "layer": 1}]}, r"layers\[0\] is not"),
        ({"emotion": "anger", "layers": [{**LAYER, "mlp": {"k": 1}}]}, "'k' and 'neurons'"),
        (
            {"emotion": "anger", "layers": [{**LAYER, "mlp": {"k": 2, "neurons": [3]}}]},
            "k is 2, but there are 1",
        ),
        (
            {"emotion": "anger", "layers": [{**LAYER, "mlp": {"k": 2, "neurons": [3, 3]}}]},
            "different whole numbers",
        ),
        ({"emotion": "anger", "layers": [LAYER], "cap_ratio": float("nan")}, "nan"),
    ],
)
def test_a_wrong_circuit_is_refused(tmp_path, values, message):
    path = tmp_path / "anger.json"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=f"anger.json.*{message}"):
        check_circuit(path)


def test_a_circuit_with_a_head_that_no_table_has_is_refused(authors, tmp_path):
    path = authors / "06_emotion_circuit_integration/global_circuit/anger.json"
    path.parent.mkdir()
    wrong = {**LAYER, "attention": {"k": 1, "heads": [99]}}
    path.write_text(json.dumps({"emotion": "anger", "layers": [wrong]}))
    with pytest.raises(
        DataError, match=re.escape("global_circuit/anger.json: a circuit names L0H99")
    ):
        import_folder(authors, tmp_path / "run")


def row(**more):
    texts = dict.fromkeys(("skeleton_id", "theme", "scenario", "event", "gen_text"), "x")
    judged = {"match": 1, "reason": "it is"}
    return {"key": "a", **texts, "valence": "neutral", "emotion": "anger", "judge": judged, **more}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emotion": "boredom"}, "'boredom' is no known emotion"),
        ({"judge": {"match": 0}}, "0 in the file of accepted"),
        ({"judge": {}}, "field 'judge'"),
        ({"valence": "odd"}, "field 'valence'"),
    ],
)
def test_a_wrong_label_is_named_by_its_line(tmp_path, changes, message):
    path, other = tmp_path / "accepted.jsonl", {"skeleton_id": "y", **changes}
    path.write_text(json.dumps(row()) + "\n" + json.dumps(row(key="b", **other)) + "\n")
    with pytest.raises(DataError, match=f"line 2.*{message}"):
        check_labels(path)

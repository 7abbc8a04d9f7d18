"""What is wrong in the authors' files is named by file and place, and nothing of it is kept."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from circuits.errors import CircuitsError, DataError, RunError
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


def edit(path, number, *lines):
    """Put ``lines`` in the place of a file's line."""
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[: number - 1], *lines, *text[number:]]) + "\n")


@pytest.mark.parametrize(
    ("number", "lines", "message"),
    [
        (1, ["layer,head,mean,std_importance,samples,baseline_mean"], "line 1.*lacks mean_import"),
        (3, ["0,1,nan,1,12,0"], "line 3, column 'mean_importance': found 'nan'"),
        (3, ["0,1,much,1,12,0"], "line 3, column 'mean_importance': found 'much'"),
        (3, ["0,1,1,1,12.5,0"], "line 3, column 'samples'"),
        (3, ["0,1.5,1,1,12,0"], "line 3, column 'head'"),
        (3, ["0,0,1,1,12,0"], "layer 0, head 0 is on lines 2 and 3"),
        (3, ["0,9,1,1,12,0"], "the row of emotion anger, layer 0, head 1 lacks"),
        (3, ["9999999,1,1,1,12,0"], "12 rows are too few"),
        (3, ["1e300,1,1,1,12,0"], "line 3, column 'layer'"),
        (3, ["0,1,1,1,12,0,7,8"], "not a CSV table"),
        (6, [], "the row of emotion anger, layer 1, head 0 lacks"),
    ],
)
def test_a_wrong_cell_is_named_by_file_line_and_column(authors, number, lines, message):
    edit(authors / HEADS, number, *lines)
    refused(authors, f"head_importance_anger.csv.*{message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.splitlines()[0] + "\n", "has no rows"),
        (lambda text: "", "not a CSV table"),
        (lambda text: text.replace("\n", ",1\n").replace("mean,1", "mean"), "line 2: more cells"),
    ],
)
def test_a_table_that_is_none_is_refused(authors, change, message):
    (authors / HEADS).write_text(change((authors / HEADS).read_text()))
    refused(authors, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("anger,attention,1", "boredom,attention,1", "line 3, column 'emotion': found 'boredom'"),
        ("anger", "fear", "line 2, column 'emotion': found 'fear', expected 'anger'"),
        ("anger,mlp", "anger,norm", "column 'kind': found 'norm', expected attention or mlp"),
    ],
)
def test_a_label_that_is_not_known_is_refused(authors, old, new, message):
    (authors / DOSE).write_text((authors / DOSE).read_text().replace(old, new))
    refused(authors, message)


def test_an_unknown_emotion_in_a_files_name_is_refused(authors):
    shutil.copy(authors / HEADS, authors / HEADS.replace("anger", "boredom"))
    refused(authors, "'boredom' is no known emotion")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "expected an object"),
        ({"attention_0": 1.0}, "does not fit"),
        ({"attention_0": 1.0, "mlp_1": 1.0}, "mlp_0, mlp_1 does not fit"),
        ({"attention_0": 1.0, "mlp_0": -1.0}, "field 'mlp_0': expected a positive"),
        ({"attention_0": 1.0, "mlp_0": float("nan")}, "field 'mlp_0'"),
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
        (np.ones(8, dtype=">f4"), "floating point"),
        (np.full(8, np.nan, dtype="f4"), "NaN"),
        (np.array([{}] * 8), "not a plain numpy array"),
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


GOOD = {"dirs": {"anger": np.ones((3, 8), "f4")}, "layers": 3, "hidden": 8, "emotions": ["anger"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "expected a dictionary"),
        ({}, "lacks dirs, layers"),
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
    (tmp_path / "elsewhere").mkdir()
    (authors / "07_more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    refused(authors, "leads out of")
    (authors / "07_more").unlink()
    (authors / HEADS).rename(tmp_path / "secret.csv")
    (authors / HEADS).symlink_to(tmp_path / "secret.csv")
    refused(authors, "leads out of")


def test_a_folder_without_stages_or_with_several_models_is_refused(authors, tmp_path):
    refused(tmp_path / "nothing", "there is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "02_emotion_directions")
    for name in ("one", "two"):
        shutil.copytree(authors, tmp_path / "repo" / "outputs" / name)
    refused(tmp_path / "repo", "several models")


def disagree(authors):
    again = authors / DOSE.replace("anger_alpha0.1", "all_alphas")
    shutil.copy(authors / DOSE, again)
    read_folder(authors).weights("anger")
    cells = again.read_text().splitlines()[1].split(",")
    edit(again, 2, ",".join([*cells[:9], "7.5", *cells[10:]]))


def name_an_unknown_head(authors):
    path = authors / "06_emotion_circuit_integration/global_circuit/anger.json"
    path.parent.mkdir()
    wrong = {**LAYER, "attention": {"k": 1, "heads": [99]}}
    path.write_text(json.dumps({"emotion": "anger", "layers": [wrong]}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda authors: edit(authors / HEADS, 2, "0,0,nan,1,12,0"), "found 'nan'"),
        (disagree, "two importance tables disagree on anger, alpha 0.1"),
        (name_an_unknown_head, r"global_circuit/anger\.json: a circuit names L0H99"),
    ],
)
def test_nothing_is_left_of_an_import_that_fails(authors, tmp_path, break_it, message):
    break_it(authors)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(DataError, match=message):
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
    manifest.write_text(manifest.read_text().replace(f'"{SIGMA}"', '"../../secret.json"'))
    with pytest.raises(DataError, match="leads out"):
        load_contents(tmp_path / "run")
    manifest.write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        load_contents(tmp_path / "run")


LAYER = {"layer": 0, "mlp": {"k": 1, "neurons": [3]}, "attention": {"k": 1, "heads": [2]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "no published circuit"),
        ({"emotion": "joy"}, "'joy' is no known emotion"),
        ({"emotion": "fear"}, "field 'emotion' says 'fear'"),
        ({"layers": [{**LAYER, "layer": 1}]}, r"layers\[0\] is not"),
        ({"layers": [{**LAYER, "mlp": {"k": 1}}]}, "'k' and 'neurons'"),
        ({"layers": [{**LAYER, "mlp": {"k": 2, "neurons": [3]}}]}, "k is 2, but there are 1"),
        ({"layers": [{**LAYER, "mlp": {"k": 2, "neurons": [3, 3]}}]}, "different whole numbers"),
        ({"cap_ratio": float("nan")}, "nan"),
    ],
)
def test_a_wrong_circuit_is_refused(tmp_path, change, message):
    path = tmp_path / "anger.json"
    path.write_text(json.dumps({"emotion": "anger", "layers": [LAYER], **change}))
    with pytest.raises(DataError, match=f"anger.json.*{message}"):
        check_circuit(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emotion": "boredom"}, "'boredom' is no known emotion"),
        ({"judge": {"match": 0}}, "0 in the file of accepted"),
        ({"judge": {}}, "field 'judge.match'"),
        ({"valence": "odd"}, "field 'valence'"),
    ],
)
def test_a_wrong_label_is_named_by_its_line(tmp_path, changes, message):
    texts = dict.fromkeys(("skeleton_id", "theme", "scenario", "event", "gen_text"), "x")
    row: dict[str, Any] = {**texts, "key": "a", "valence": "neutral", "emotion": "anger"}
    row["judge"] = {"match": 1, "reason": "it is"}
    rows = [row, {**row, "key": "b", "skeleton_id": "y", **changes}]
    path = tmp_path / "accepted.jsonl"
    path.write_text("".join(json.dumps(own) + "\n" for own in rows))
    with pytest.raises(CircuitsError, match=f"line 2.*{message}"):
        check_labels(path)

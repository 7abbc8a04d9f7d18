"""Files that were cut, or of which bits were turned: an error with the path, no wrong value."""

import contextlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from faults.mutation import damaged, quick
from hypothesis import given
from published.conftest import write_published

from circuits.effects.directions import Directions
from circuits.errors import CircuitsError, DataError, ModelError
from circuits.files import shipped
from circuits.models.edits import Add
from circuits.models.load import load_model
from circuits.provenance import Provenance
from circuits.published.folder import read_folder
from circuits.published.importing import import_folder
from circuits.steering.hook_files import read_hooks, write_hooks

CUTS, BITS = 30, 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def record(folder) -> Path:
    """A saved record."""
    torch.manual_seed(0)
    Directions(
        provenance=Provenance({"name": "m"}, options={"a": 1.5}),
        vectors=torch.randn(2, 1, 3, 4),
        norm=torch.ones(2, 1, 3),
        rms=torch.ones(1, 3),
        emotion=("anger", "fear"),
        sublayer=("mlp",),
        layer=(0, 1, 2),
        n_contexts=4,
        n_left_out=0,
        read="prompt",
    ).save(folder / "whole")
    return folder / "whole"


def bit_turned(rng: random.Random, content: bytes) -> bytes:
    hurt, place = bytearray(content), rng.randrange(len(content))
    hurt[place] ^= 1 << rng.randrange(8)
    return bytes(hurt)


@pytest.mark.trial("files", "a record's {name} cut off anywhere, or a bit of it turned")
@pytest.mark.parametrize("name", ["record.json", "record.safetensors"])
def test_a_damaged_record_is_refused(record, tmp_path, trial, name):
    shutil.copytree(record, tmp_path / "hurt")
    content, rng = (record / name).read_bytes(), random.Random(1)
    for number in range(CUTS + BITS):
        hurt = bit_turned(rng, content)
        if number < CUTS:
            hurt = content[: rng.randrange(len(content) - 1)]
        (tmp_path / "hurt" / name).write_bytes(hurt)
        with contextlib.suppress(ValueError):
            # A space may become one of another kind between two words.
            if name.endswith("json") and json.loads(hurt) == json.loads(content):
                continue
        with pytest.raises(DataError, match="hurt"):
            Directions.load(tmp_path / "hurt")
    trial(times=CUTS + BITS, outcome="DataError with the path")


@pytest.mark.trial("files", "a foreign safetensors or JSON file in a record's place")
def test_a_foreign_file_in_a_record_is_refused(record, tmp_path, trial):
    foreign = [
        ("record.safetensors", shipped("sev-nano/model.safetensors").read_bytes()),
        ("record.safetensors", b"PK\x03\x04" + bytes(40)),
        ("record.safetensors", b""),
        ("record.json", shipped("sev-nano/config.json").read_bytes()),
        ("record.json", shipped("circuit.schema.json").read_bytes()),
        ("record.json", b"[]"),
    ]
    for number, (name, content) in enumerate(foreign):
        shutil.copytree(record, tmp_path / f"foreign{number}")
        (tmp_path / f"foreign{number}" / name).write_bytes(content)
        with pytest.raises(DataError, match=f"foreign{number}"):
            Directions.load(tmp_path / f"foreign{number}")
    trial(times=len(foreign), outcome="DataError with the path")


@pytest.fixture(scope="module")
def hooks(llama, folder) -> Path:
    path = folder / "anger.hooks.safetensors"
    edits = [Add("mlp_out", 1, torch.randn(llama.cfg.d_model)), Add("post", 0, torch.ones(48))]
    write_hooks(llama, edits, "anger", path)
    return path


@pytest.mark.trial("files", "a file of hooks damaged")
def test_a_damaged_file_of_hooks_is_refused(llama, hooks, folder, trial):
    content, path = hooks.read_bytes(), folder / "hurt.safetensors"
    tried = 0

    @quick
    @given(damaged(content))
    def fuzz(hurt):
        nonlocal tried
        tried += 1
        path.write_bytes(hurt)
        with pytest.raises(CircuitsError, match=r"hurt\.safetensors"):
            read_hooks(path, llama)

    fuzz()
    trial(times=tried, outcome="DataError with the path")


@pytest.fixture(scope="module")
def home(folder) -> Path:
    """A model's folder."""
    shutil.copytree(shipped("sev-nano"), folder / "model")
    return folder / "model"


@pytest.mark.trial("files", "a model's {name} cut off, or bits of its head turned")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_model_that_is_damaged_is_refused(home, trial, name):
    content, rng = (home / name).read_bytes(), random.Random(5)
    size = int.from_bytes(content[:8], "little") + 8 if name.endswith("tensors") else 0
    for number in range(4):
        hurt = content[: rng.randrange(len(content) - 1)]
        if number % 2 and size:
            hurt = bit_turned(rng, content[:size]) + content[size:]
        (home / name).write_bytes(hurt)
        with pytest.raises(ModelError, match="model"):
            load_model(home)
    (home / name).write_bytes(content)
    trial(times=4, outcome="ModelError with the path; no weight is made up")


@pytest.mark.trial("files", "a model's weights in which one has another name")
def test_a_weight_that_is_not_there_is_not_made_up(home, trial):
    path = home / "model.safetensors"
    content = path.read_bytes()
    for old, new in ((b"mlp.down_proj", b"mlp.dowm_proj"), (b"norm.weight", b"norm.weighT")):
        path.write_bytes(content.replace(old, new, 1))
        with pytest.raises(ModelError, match="are not in its files"):
            load_model(home)
    path.write_bytes(content)
    trial(times=2, outcome="ModelError that names the weight")


FILES = {
    "pickle": "02_emotion_directions/emo_directions_mlp.pt",
    "table of heads": "04_local_components_identification/attention_heads/"
    "head_importance_anger.csv",
    "summary": "06_emotion_circuit_integration/sigma_summary.json",
}


@pytest.mark.trial("files", "a published {kind} damaged before it is imported")
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_published_file_is_refused_or_read_and_leaves_no_half_run(
    tmp_path_factory, trial, kind
):
    home = write_published(tmp_path_factory.mktemp("authors") / "authors")
    path, out = home / FILES[kind], home.parent / "run"
    content, rng, refused = path.read_bytes(), random.Random(6), 0
    read = 0
    for number in range(12):
        hurt = bit_turned(rng, content) if number % 2 else content[: rng.randrange(len(content))]
        path.write_bytes(hurt)
        try:
            import_folder(home, out)
            read_folder(home)
            shutil.rmtree(out)
        except CircuitsError as error:
            refused += path.name in str(error) and not out.exists()
            continue
        read += 1
    assert refused + read == 12
    assert refused > 2
    trial(times=12, outcome="DataError with the path and no run folder, or read as it is")


def test_the_undamaged_files_are_read(record, hooks, home, llama):
    assert Directions.load(record).emotion == ("anger", "fear")
    assert read_hooks(hooks, llama)[0] == "anger"
    assert load_model(home).cfg.n_layers > 0

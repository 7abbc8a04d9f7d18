"""Nothing that is read can run: pickles are opened with an allow-list, or not at all."""

import ast
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.effects.directions import Directions
from circuits.errors import CircuitsError, DataError
from circuits.export.node_link import read_circuit
from circuits.files import digest
from circuits.judges.replies import read_judged
from circuits.prompts import sev
from circuits.prompts.texts import read_texts
from circuits.published.folder import read_folder
from circuits.published.tables import (
    ALLOWED,
    HeadImportance,
    ReferenceDirection,
    Sigma,
    load_dictionary,
)
from circuits.runs.folder import Study
from circuits.steering.control_vectors import read_gguf
from circuits.steering.hook_files import hooks_provenance

PACKAGE = Path(__file__).parents[2] / "circuits"


class Marking:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


READERS = {
    "directions.pt": load_dictionary,
    "vector.npy": lambda path: ReferenceDirection.read(path, "anger"),
    "sigma.json": Sigma.read,
    "table.csv": lambda path: HeadImportance.read(path, "anger"),
    "hooks.safetensors": hooks_provenance,
    "vector.gguf": read_gguf,
    "circuit.json": read_circuit,
    "scenarios.jsonl": sev.read,
    "judged.jsonl": read_judged,
    "texts.tsv": lambda path: read_texts(path, split="train"),
    "run.json": lambda path: Study(path.parent).log,
}


def malicious(path, form, mark):
    if form == "pickle":
        path.write_bytes(pickle.dumps({"dirs": Marking(mark)}, protocol=2))
    elif form == "torch file":
        torch.save({"dirs": Marking(mark)}, path)  # noqa: TID251
    else:
        objects = np.array([Marking(mark)], dtype=object)
        with path.open("wb") as file:
            np.save(file, objects, allow_pickle=True)


@pytest.mark.trial("security", "a {form} with code in it in place of {name}")
@pytest.mark.parametrize("form", ["pickle", "torch file", "numpy file"])
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_code_is_refused_by_name_and_not_run(tmp_path, name, form, trial):
    path, mark = tmp_path / "own" / name, tmp_path / "mark"
    path.parent.mkdir()
    malicious(path, form, mark)
    with pytest.raises(CircuitsError, match="own"):
        READERS[name](path)
    assert not mark.exists()
    trial(outcome="refused by name, not run")


@pytest.mark.trial("security", "a {form} with code in it in place of the tensors of a record")
@pytest.mark.parametrize("form", ["pickle", "torch file", "numpy file"])
def test_tensors_that_are_code_are_refused_and_not_run(tmp_path, directions, form, trial):
    home, mark = tmp_path / "own", tmp_path / "mark"
    directions.save(home)
    malicious(home / "record.safetensors", form, mark)
    described = json.loads((home / "record.json").read_text())
    described["tensors"] = digest(home / "record.safetensors")
    del described["digest"]
    signed = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    (home / "record.json").write_text(json.dumps({**described, "digest": f"sha256:{signed}"}))
    with pytest.raises(DataError, match="own: damaged record"):
        Directions.load(home)
    assert not mark.exists()
    trial(outcome="refused by name, not run")


@pytest.mark.parametrize("form", ["pickle", "torch file", "numpy file"])
def test_the_mark_is_left_where_the_same_file_is_opened_unsafely(tmp_path, form):
    path, mark = tmp_path / "file", tmp_path / "mark"
    malicious(path, form, mark)
    if form == "pickle":
        pickle.loads(path.read_bytes())
    elif form == "torch file":
        torch.load(path, weights_only=False)
    else:
        np.load(path, allow_pickle=True)
    assert mark.exists()


@pytest.mark.trial("security", "an imported folder holds a pickle under a name that nothing reads")
def test_a_file_of_unknown_kind_is_left_closed(tmp_path, trial):
    mark, home = tmp_path / "mark", tmp_path / "outputs" / "model"
    place = home / "06_emotion_circuit_integration"
    place.mkdir(parents=True)
    (place / "sigma_summary.json").write_text('{"attention_0": 0.1, "mlp_0": 0.2}')
    malicious(place / "cache.pkl", "pickle", mark)
    contents = read_folder(home)
    assert contents.left_out == ("06_emotion_circuit_integration/cache.pkl",)
    assert not mark.exists()
    trial(outcome="named as not read, not opened")


def test_the_allow_list_holds_nothing_but_arrays():
    names = {(own[0] if isinstance(own, tuple) else own).__name__ for own in ALLOWED}
    floats = {"Float16DType", "Float32DType", "Float64DType"}
    assert names == {"_reconstruct", "ndarray", "dtype"} | floats


# What can run code that a file holds, and the word that makes it safe, if there is one.
_UNSAFE = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
    **dict.fromkeys(("eval", "exec", "compile", "os.system", "os.popen", "extractall")),
    **dict.fromkeys(("pd.read_pickle", "pd.read_hdf", "yaml.load")),
    **dict.fromkeys(("torch.jit.load", "torch.hub.load")),
}
_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "yaml"}
_ERRORS_ONLY = {("pickle", "UnpicklingError")}


def unsafe_forms(text):
    """What of a module's source opens a file such that it could run."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [own.name for own in node.names if own.name.split(".")[0] in _MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _MODULES:
            named = {(node.module, own.name) for own in node.names}
            found += [f"{module}.{name}" for module, name in sorted(named - _ERRORS_ONLY)]
        if isinstance(node, ast.Call):
            found += _unsafe_call(node)
    return found


def _unsafe_call(call):
    name = ast.unparse(call.func)
    if name.endswith(".extractall"):
        name = "extractall"
    words = {word.arg: word.value for word in call.keywords}
    if name.endswith(".from_pretrained"):
        return [] if "trust_remote_code" in words else [f"{name} without trust_remote_code"]
    if name not in _UNSAFE:
        return []
    wanted = _UNSAFE[name]
    given = words.get(wanted[0]) if wanted else None
    safe = isinstance(given, ast.Constant) and wanted is not None and given.value is wanted[1]
    return [] if safe else [name]


@pytest.mark.trial("security", "the source of every module is searched for unsafe ways of opening")
def test_no_module_opens_a_file_such_that_it_could_run(trial):
    paths = sorted(PACKAGE.rglob("*.py"))
    found = {path.name: unsafe_forms(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: forms for name, forms in found.items() if forms} == {}
    trial(times=len(paths), outcome="none found")


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "import pickle",
        "from pickle import loads, UnpicklingError",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "AutoModel.from_pretrained(name)",
        "eval(text)",
    ],
)
def test_every_unsafe_form_would_be_found(source):
    assert unsafe_forms(source)

"""Control vectors as files: written, read by the package gguf and by us, and refused."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError, ModelError, RunError
from circuits.provenance import Provenance
from circuits.steering.control_vectors import ControlVector, read_gguf, write_gguf

gguf = pytest.importorskip("gguf")

PROVENANCE = Provenance({"name": "tiny", "n_layers": 3}, "sha256:00", {"when": "prompt"})


def vector(values=None, layers=(1, 2), emotion="fear"):
    rows = torch.randn(len(layers), 32) if values is None else values
    return ControlVector(rows, layers, emotion, "llama", provenance=PROVENANCE)


def foreign(path, kind="controlvector", **tensors):
    """A file as repeng writes it, or nearly so."""
    file = gguf.GGUFWriter(path, kind)
    file.add_string(f"{kind}.model_hint", "mistral")
    file.add_uint32(f"{kind}.layer_count", len(tensors))
    for name, values in tensors.items():
        file.add_tensor(name.replace("_", "."), values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def ones(size: Any = 32, kind: Any = np.float32) -> Any:
    return np.ones(size, dtype=kind)


def test_the_package_gguf_reads_the_layout_of_repeng_and_llama_cpp(tmp_path):
    written = vector()
    write_gguf(written, tmp_path / "fear.gguf")
    reader = gguf.GGUFReader(tmp_path / "fear.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 2
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2"]
    for tensor, row in zip(reader.tensors, written.vectors, strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.data.shape == (32,)
        assert np.array_equal(tensor.data, row.numpy())


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False), min_size=5, max_size=5),
        min_size=1, max_size=4,
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
)  # fmt: skip
def test_what_is_written_is_read_to_the_last_bit(tmp_path_factory, rows, emotion):
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    values = torch.tensor(rows, dtype=torch.float32)
    written = vector(values, tuple(range(1, len(rows) + 1)), emotion)
    write_gguf(written, path)
    read = read_gguf(path)
    assert torch.equal(read.vectors, values)
    assert (read.layer, read.emotion, read.model_hint) == (written.layer, emotion, "llama")
    assert read.provenance == PROVENANCE


def test_another_programs_vector_is_read_in_the_order_of_its_layers(tmp_path):
    path = foreign(tmp_path / "x.gguf", direction_12=2 * ones(), direction_3=ones())
    read = read_gguf(path)
    assert read.layer == (3, 12)
    assert read.vectors[:, 0].tolist() == [1.0, 2.0]
    assert (read.emotion, read.model_hint, read.provenance) == ("", "mistral", Provenance())


@pytest.mark.parametrize(
    ("kind", "tensors", "message"),
    [
        ("llama", {"direction_1": ones()}, "its architecture is 'llama', not 'controlvector'"),
        ("controlvector", {"direction_0": ones()}, "tensor 'direction.0' is no direction after"),
        ("controlvector", {"direction_-1": ones()}, "tensor 'direction.-1' is no direction"),
        ("controlvector", {"blk_1": ones()}, "tensor 'blk.1' is no direction after layer 1"),
        ("controlvector", {"direction_1": ones(kind=np.float16)}, "direction.1 is not one float32"),
        ("controlvector", {"direction_1": ones((2, 32))}, "direction.1 is not one float32 vector"),
        ("controlvector", {"direction_1": ones(), "direction_2": ones(8)}, "of different width"),
        ("controlvector", {}, "holds no direction"),
    ],
)
def test_what_is_no_control_vector_is_refused(tmp_path, kind, tensors, message):
    path = foreign(tmp_path / "x.gguf", kind, **tensors)
    with pytest.raises(DataError, match=message):
        read_gguf(path)


def test_a_file_that_ends_early_anywhere_or_is_no_gguf_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    write_gguf(vector(), path)
    whole = path.read_bytes()
    for length in (*range(0, len(whole) - 1, 41), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"no GGUF file, or it is damaged"):
            read_gguf(path)
    path.write_bytes(b"{}" * 100)
    with pytest.raises(DataError, match="no GGUF file, or it is damaged"):
        read_gguf(path)
    with pytest.raises(DataError, match=r"cannot read .*nothing.gguf.*check the path"):
        read_gguf(tmp_path / "nothing.gguf")


def test_a_vector_of_another_models_size_is_refused(tmp_path, llama, mini):
    path = tmp_path / "x.gguf"
    write_gguf(vector(), path)
    assert read_gguf(path, llama).layer == (1, 2)
    with pytest.raises(ModelError, match="width 32 and goes up to layer 2; the model has width"):
        read_gguf(path, mini)
    write_gguf(vector(layers=(1, 3)), path)
    with pytest.raises(ModelError, match="up to layer 3; the model has width 32 and layers 0 to 2"):
        read_gguf(path, llama)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for act in (lambda: write_gguf(vector(), tmp_path / "x"), lambda: read_gguf(tmp_path / "x")):
        with pytest.raises(RunError, match=r"pip install 'gguf>=0\.17,<1'"):
            act()
    assert not list(tmp_path.iterdir())

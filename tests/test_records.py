import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.provenance import Provenance
from circuits.records import Record


@dataclass(frozen=True, eq=False)
class Scores(Record):
    mean: Float[Tensor, "emotion layer head"]
    other: Float[Tensor, "emotion layer head"]
    write: Float[Tensor, "layer d_model"]
    norm: Float[Tensor, " d_model"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    readout: str = "resid_mid"


@dataclass(frozen=True, eq=False)
class Others(Record):
    mean: Float[Tensor, " layer"]

    layer: tuple[int, ...]


EMOTIONS = ("anger", "joy")
LAYERS = (4, 7, 9)
HEADS = (0, 1)


def scores(**changes: object) -> Scores:
    values: dict[str, object] = {
        "provenance": Provenance({"name": "tiny"}, "sha256:0", {"seed": 1}),
        "mean": torch.arange(12.0).reshape(2, 3, 2),
        "other": -torch.arange(12.0).reshape(2, 3, 2),
        "write": torch.arange(15.0).reshape(3, 5),
        "norm": torch.ones(5),
        "emotion": EMOTIONS,
        "layer": LAYERS,
        "head": HEADS,
    }
    return Scores(**{**values, **changes})  # type: ignore[arg-type]


labels = st.fixed_dictionaries(
    {},
    optional={
        "emotion": st.lists(st.sampled_from(EMOTIONS), min_size=1, unique=True).map(tuple),
        "layer": st.lists(st.sampled_from(LAYERS), min_size=1, unique=True).map(tuple),
        "head": st.lists(st.sampled_from(HEADS), min_size=1, unique=True).map(tuple),
    },
)
quick = settings(deadline=None, max_examples=50)


def test_axes_are_read_from_the_annotations():
    assert Scores.axes == {
        "mean": ("emotion", "layer", "head"),
        "other": ("emotion", "layer", "head"),
        "write": ("layer", "d_model"),
        "norm": ("d_model",),
    }
    assert Record.axes == {}


def test_a_record_that_adds_a_tensor_keeps_the_axes_of_its_base():
    @dataclass(frozen=True, eq=False)
    class More(Others):
        more: Float[Tensor, "layer d_model"]

    assert list(More.axes) == ["mean", "more"]
    assert list(Others.axes) == ["mean"]


def test_annotations_that_are_strings_are_refused():
    with pytest.raises(TypeError, match=r"^Hidden\.mean: annotations are strings; remove "):
        type("Hidden", (Record,), {"__annotations__": {"mean": "Float[Tensor, 'layer']"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": (4, 7)}, r"^Scores\.mean: axis 'layer' has size 3, expected 2$"),
        ({"head": (0,)}, r"^Scores\.mean: axis 'head' has size 2, expected 1$"),
        ({"other": torch.zeros(2, 3, 4)}, r"^Scores\.other: axis 'head' has size 4, expected 2$"),
        ({"norm": torch.zeros(6)}, r"^Scores\.norm: axis 'd_model' has size 6, expected 5$"),
        (
            {"mean": torch.zeros(2, 3)},
            r"^Scores\.mean: axes 'emotion layer head' expected, found a tensor of shape \(2, 3\)$",
        ),
    ],
)
def test_a_tensor_that_disagrees_with_its_labels_is_refused(changes, message):
    with pytest.raises(AxisError, match=message):
        scores(**changes)


@pytest.mark.parametrize("axis", ["d_model", "dose", "readout", "provenance", "mean"])
def test_an_axis_without_labels_is_refused_and_the_labelled_ones_are_listed(axis):
    message = f"^Scores has no labelled axis {axis!r}; it has emotion, head, layer$"
    with pytest.raises(AxisError, match=message):
        scores().labels(axis)


def test_an_absent_label_is_refused_and_those_that_exist_are_listed():
    with pytest.raises(AxisError, match=r"^Scores: axis 'layer' has no label 5; it has 4, 7, 9$"):
        scores().sel(layer=5)
    many = Others(mean=torch.zeros(20), layer=tuple(range(20)))
    with pytest.raises(AxisError, match=r"it has 0, 1, .*, 11, \.\.\.$"):
        many.at("mean", layer=99)


def test_sel_keeps_every_axis_and_cuts_every_tensor_on_it():
    found = scores().sel(emotion="joy", layer=(9, 4))
    assert (found.emotion, found.layer, found.head) == (("joy",), (9, 4), HEADS)
    assert found.mean.tolist() == [[[10.0, 11.0], [6.0, 7.0]]]
    assert found.write[:, 0].tolist() == [10.0, 0.0]
    assert found.norm.shape == (5,)
    assert found.readout == "resid_mid"


@quick
@given(labels)
def test_what_is_selected_has_the_same_numbers_at_the_same_labels(wanted):
    record = scores()
    chosen = record.sel(**wanted)
    for emotion in chosen.emotion:
        for layer in chosen.layer:
            for head in chosen.head:
                place = {"emotion": emotion, "layer": layer, "head": head}
                for name in ("mean", "other"):
                    assert chosen.at(name, **place) == record.at(name, **place)


def test_at_wants_a_tensor_and_a_label_for_every_axis():
    assert scores().at("mean", emotion="joy", layer=7, head=1) == 9.0
    with pytest.raises(AxisError, match=r"^Scores has no tensor 'median'; it has mean, other, "):
        scores().at("median", layer=7)
    with pytest.raises(AxisError, match=r"^Scores\.mean: give a label for emotion, head$"):
        scores().at("mean", layer=7)


def test_a_frame_has_a_row_per_number_and_a_column_per_axis_and_tensor():
    record = scores()
    frame = record.to_frame()
    assert list(frame.columns) == ["emotion", "layer", "head", "mean", "other"]
    assert len(frame) == 12
    for row in frame.to_dict("records"):
        place = {axis: row[axis] for axis in ("emotion", "layer", "head")}
        assert row["mean"] == record.at("mean", **place)
        assert row["other"] == record.at("other", **place)


def saved(folder: Path) -> Path:
    scores().save(folder / "scores")
    return folder / "scores"


def signed(described: dict) -> dict:
    """With the digest of what it says now, as if it had been saved so."""
    said = {name: value for name, value in described.items() if name != "digest"}
    text = json.dumps(said, sort_keys=True)
    return {**said, "digest": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"}


def rewritten(folder: Path, **changes: object) -> Path:
    described = json.loads((saved(folder) / "record.json").read_text())
    (folder / "scores" / "record.json").write_text(json.dumps(signed({**described, **changes})))
    return folder / "scores"


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    found = Scores.load(saved(tmp_path))
    for name in Scores.axes:
        torch.testing.assert_close(getattr(found, name), getattr(scores(), name))
    for name in ("emotion", "layer", "head", "readout", "provenance"):
        assert getattr(found, name) == getattr(scores(), name)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "record.json",
        "record.safetensors",
    ]


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    mean = torch.tensor([float("nan"), float("inf"), -0.0])
    Others(mean=mean, layer=LAYERS).save(tmp_path)
    torch.testing.assert_close(Others.load(tmp_path).mean, mean, equal_nan=True)


def test_tensors_that_share_memory_or_are_turned_can_be_saved(tmp_path):
    base = torch.arange(12.0).reshape(2, 3, 2)
    turned = torch.arange(15.0).reshape(5, 3).T
    scores(mean=base, other=base, write=turned, norm=turned[0]).save(tmp_path)
    found = Scores.load(tmp_path)
    torch.testing.assert_close(found.mean, found.other)
    torch.testing.assert_close(found.write, turned)
    torch.testing.assert_close(found.norm, turned[0])


def test_another_kind_of_record_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"expected a Others \(format 1\), found 'Scores'"):
        Others.load(saved(tmp_path))


def test_another_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected a Scores \(format 1\), .*\(format 99\)$"):
        Scores.load(rewritten(tmp_path, format=99))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"Scores"'])
def test_a_description_that_is_no_description_is_refused(tmp_path, text):
    (saved(tmp_path) / "record.json").write_text(text)
    with pytest.raises(DataError, match="not JSON|expected a Scores"):
        Scores.load(tmp_path / "scores")


@pytest.mark.parametrize("name", ["record.json", "record.safetensors"])
def test_a_record_with_a_file_missing_is_refused(tmp_path, name):
    (saved(tmp_path) / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        Scores.load(tmp_path / "scores")


@pytest.mark.parametrize(
    "changes",
    [
        *({"labels": own} for own in (None, ["anger"], {})),
        *(
            {"labels": {"emotion": ["anger", "joy"], "layer": own, "head": [0, 1]}}
            for own in (3, [4, 7])
        ),
        {"labels": {"emotion": ["a", "b"], "layer": [1, 2, 3], "head": [0, 1], "unknown": 1}},
        {"provenance": None},
        {"provenance": {"model": {}}},
        {"tensors": None},
    ],
)
def test_a_damaged_description_is_refused(tmp_path, changes):
    with pytest.raises(DataError, match="damaged record|not a provenance|is not the file"):
        Scores.load(rewritten(tmp_path, **changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("records"))


def test_new_tensors_beside_an_old_description_are_refused(tmp_path):
    saved(tmp_path)
    scores(norm=torch.zeros(5)).save(tmp_path / "newer")
    (tmp_path / "newer" / "record.safetensors").replace(tmp_path / "scores" / "record.safetensors")
    with pytest.raises(DataError, match=r"is not the file that record\.json was saved with"):
        Scores.load(tmp_path / "scores")


@pytest.mark.parametrize("name", ["record.json", "record.safetensors"])
@quick
@given(data=st.data())
def test_a_file_with_any_bit_turned_or_cut_off_anywhere_is_refused(
    whole, tmp_path_factory, name, data
):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    files = {path.name: bytearray(path.read_bytes()) for path in whole.iterdir()}
    content, before = files[name], json.loads(files["record.json"])
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    for own, bytes_of in files.items():
        (folder / own).write_bytes(bytes_of)
    if name == "record.json":
        with contextlib.suppress(ValueError, RecursionError):
            assume(json.loads(content) != before)  # white space may differ
    with pytest.raises(
        DataError, match="changed|is not the file that|not JSON|not UTF-8|expected a"
    ):
        Scores.load(folder)

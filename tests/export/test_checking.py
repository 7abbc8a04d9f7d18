"""Files of every format: whole ones pass, broken ones are named with the place."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit
from circuits.errors import CircuitError, DataError
from circuits.export import ANY_CIRCUIT, FORMATS, check_file, export_circuit, format_of
from circuits.files import Loss, add_losses

DRAWN = ("dot", "mermaid")  # Graphviz and Mermaid say themselves what they cannot read


@pytest.fixture
def files(pathed, tmp_path):
    model = {**pathed.provenance.model, "d_model": 4}
    sized = dataclasses.replace(
        pathed, provenance=dataclasses.replace(pathed.provenance, model=model)
    )
    found = export_circuit(sized, tmp_path, FORMATS)
    return {path.name.removeprefix("anger"): path for path in found}


def test_every_format_is_known_by_its_file_and_passes(files, tmp_path):
    assert {format_of(path) for path in files.values()} == set(FORMATS)
    for path in files.values():
        assert format_of(path) in DRAWN or check_file(path) == format_of(path)
    losses = json.loads((tmp_path / "anger.losses.json").read_text(encoding="utf-8"))
    assert list(losses) == [path.name for path in files.values()]
    whole = [name for name, own in losses.items() if not own]
    assert whole == ["anger.json", "anger.graphml", "anger.gexf"]
    stderr = next(own for own in losses["anger.dot"] if own["what"] == "nodes.stderr")
    assert (stderr["size"], stderr["unit"]) == (3, "count")


@settings(max_examples=20, deadline=None)
@given(circuit=st.from_type(Circuit))
def test_every_circuit_passes_in_every_format_that_holds_it(tmp_path_factory, circuit):
    model = {**circuit.provenance.model, "d_model": 4}
    provenance = dataclasses.replace(circuit.provenance, model=model)
    circuit = dataclasses.replace(circuit, provenance=provenance)
    for name in FORMATS:
        try:
            paths = export_circuit(circuit, tmp_path_factory.mktemp("all"), [name])
        except CircuitError:
            assert name not in ANY_CIRCUIT
            continue
        assert name in DRAWN or {check_file(path) for path in paths} == {name}


@pytest.mark.parametrize(
    ("suffix", "old", "new", "said"),
    [
        (".json", '"kind": "head"', '"kind": "tail"', r"nodes\[\d\]\.kind"),
        (".graphml", 'source="L0H1"', 'source="L9H9"', r"edge\[\d\]/@source is 'L9H9', which no"),
        (".graphml", '<node id="embed"', '<node id="L0H1"', r"2 elements have the id 'L0H1'"),
        (".graphml", 'attr.type="double"', 'attr.type="list"', r"not graphml \(.*list"),
        (".graphml", ">0.5<", ">high<", r"not graphml \(.*'high'"),
        (".graphml", '<data key="d', '<data key="x', r"not graphml \(.*no key x"),
        (".graphml", "<graphml", "<!DOCTYPE x><graphml", r"document type, which is not read"),
        (".graphml", "</graph>", "", r"not XML"),
        (".gexf", 'source="L0H1"', 'source="L9H9"', r"/@source is 'L9H9', which no"),
        (".gexf", ' type="double"', ' type="number"', r"not gexf \(.*number"),
        (".gexf", 'attvalue for="', 'attvalue for="x', r"not gexf \(.*x\d"),
        (".gexf", 'value="0.5"', 'value="nan"', r"is nan, not a finite number"),
        (".gexf", "<gexf", "<graph", r"not XML|not gexf"),
        (".nodes.csv", "head", "tail", r"nodes\[\d\]\.kind .*'tail' is not one of"),
        (".nodes.csv", "0.25", "inf", r"nodes\[\d\]\.\w+ .* is inf, not a finite number"),
        (".edges.csv", "emotion,source", "emotion,start", r"line 1 is not the header"),
        (".edges.csv", ",residual,", ",residual,,", r"line 2 has 12 cells; the header has 11"),
    ],
)
def test_what_is_wrong_is_named_with_the_file_and_the_place(files, suffix, old, new, said):
    path = files[suffix]
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=rf"anger{suffix}.*({said})"):
        check_file(path)


def test_a_file_of_no_known_format_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json: .*this is no saved circuit"):
        check_file(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"no format that is checked has files that end in '.pdf'"):
        check_file(tmp_path / "a.pdf")


def test_losses_of_other_files_stay_while_the_files_do(tmp_path):
    loss = Loss("a", 0.5, "half", "share")
    (tmp_path / "x.dot").write_text("", encoding="utf-8")
    add_losses(tmp_path, "x", {"x.dot": [loss], "gone.dot": []})
    path = add_losses(tmp_path, "x", {"x.gexf": [Loss("b", float("nan"), "unknown")]})
    found = json.loads(path.read_text(encoding="utf-8"))
    assert set(found) == {"x.dot", "x.gexf"}
    assert (found["x.dot"][0]["size"], found["x.gexf"][0]["size"]) == (0.5, None)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="is no list of losses"):
        add_losses(tmp_path, "x", {})

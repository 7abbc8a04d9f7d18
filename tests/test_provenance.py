import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.provenance import Provenance, versions

names = st.text("abc", min_size=1, max_size=3)
options = st.dictionaries(names, st.none() | st.booleans() | st.integers() | names, max_size=3)
fields = st.fixed_dictionaries(
    {
        "model": options,
        "data": st.text("abc", max_size=4),
        "options": options,
        "versions": st.dictionaries(names, names, max_size=2),
        "parents": st.lists(names, max_size=3).map(tuple),
    }
)
quick = settings(deadline=None, max_examples=50)
WHOLE = Provenance({"name": "m"}, "sha256:0", {"k": 1}, {"torch": "2"}, ("a", "b")).to_json()


@quick
@given(fields)
def test_a_provenance_comes_back_from_json(values):
    provenance = Provenance(**values)
    again = Provenance.from_json(json.loads(json.dumps(provenance.to_json())))
    assert again == provenance
    assert again.fingerprint() == provenance.fingerprint()


@quick
@given(fields, fields)
def test_fingerprints_are_equal_where_everything_is(values, others):
    one, other = Provenance(**values), Provenance(**others)
    same = json.dumps(one.to_json(), sort_keys=True) == json.dumps(other.to_json(), sort_keys=True)
    assert (one.fingerprint() == other.fingerprint()) == same


def test_the_order_of_options_does_not_change_the_fingerprint():
    one, other = Provenance(options={"a": 1, "b": 2}), Provenance(options={"b": 2, "a": 1})
    assert one.fingerprint() == other.fingerprint()


def test_a_child_names_its_parent_and_its_own_options():
    parent = Provenance({"name": "m"}, "sha256:0", {"a": 1}, {"torch": "2"}, ("older",))
    child = parent.child(step="heads", seed=3)
    assert child.parents == (parent.fingerprint(),)
    assert child.options == {"step": "heads", "seed": 3}
    assert (child.model, child.data, child.versions) == (parent.model, "sha256:0", {"torch": "2"})
    assert child.fingerprint() != parent.child(step="heads", seed=4).fingerprint()


LACKING = [{key: own for key, own in WHOLE.items() if key != name} for name in WHOLE]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *((own, "expected an object with model, data") for own in (*LACKING, {**WHOLE, "who": 1})),
        *(({**WHOLE, name: ["a"]}, "are objects") for name in ("model", "options", "versions")),
        *(({**WHOLE, "parents": own}, "parents is a list") for own in (None, "abc", {"a": 1})),
    ],
)
def test_what_is_no_provenance_is_refused(values, message):
    with pytest.raises(DataError, match=f"^not a provenance: .*{message}"):
        Provenance.from_json(values)


def test_versions_name_what_does_the_arithmetic():
    assert {"python", "torch", "transformer-lens", "transformers"} <= set(versions())

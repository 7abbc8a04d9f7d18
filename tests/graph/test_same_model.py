"""Which circuits are refused on which models."""

import pytest

from circuits.circuit.circuit import SHAPE, check_same_model
from circuits.errors import CircuitError

HERE = {"name": "org/seven", "revision": "a1", **dict.fromkeys(SHAPE, 4)}


@pytest.mark.parametrize(
    "origin",
    [
        HERE,
        {},
        {**HERE, "name": "a-copy"},
        {**HERE, "revision": "unknown", "name": "seven"},
        {"name": "seven", "n_layers": 4},
    ],
    ids=["itself", "unsaid", "copy under another name", "no revision", "part"],
)
def test_the_same_model_is_taken_as_far_as_it_is_known(origin):
    check_same_model("c.json", origin, HERE)


@pytest.mark.parametrize("size", SHAPE)
def test_another_size_is_refused_with_or_without_any_revision(size):
    for any_revision in (False, True):
        with pytest.raises(CircuitError, match=rf"c\.json .*\({size} 5\).* has {size} 4"):
            check_same_model("c.json", {**HERE, size: 5}, HERE, any_revision=any_revision)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"revision": "b2"}, r"\(revision b2\); org/seven has revision a1; give it"),
        ({"revision": "unknown", "name": "eight"}, r"\(name eight\); org/seven has name org/seven"),
    ],
)
def test_other_weights_are_refused_unless_asked_for(other, said):
    origin = {**HERE, **other}
    with pytest.raises(CircuitError, match=said):
        check_same_model("c.json", origin, HERE, otherwise="give it")
    check_same_model("c.json", origin, HERE, any_revision=True)

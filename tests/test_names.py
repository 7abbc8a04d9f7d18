import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import AxisError
from circuits.names import (
    EMOTIONS,
    NEUTRAL,
    READ_AFTER,
    SITES,
    SUBLAYERS,
    VALENCES,
    component,
    head_name,
    hook,
    neuron_name,
    sublayer_name,
)

numbers = st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=40)


def test_emotions_stand_in_the_order_of_the_published_files():
    assert EMOTIONS == ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
    assert NEUTRAL not in EMOTIONS
    assert VALENCES == ("positive", "neutral", "negative")


def test_a_site_bears_its_hook_name_and_another_is_refused():
    assert hook("z", 3) == "blocks.3.attn.hook_z"
    with pytest.raises(AxisError, match=r"^no site is called 'resid'; sites are resid_pre, "):
        hook("resid")


def test_every_sublayer_is_read_at_a_site_that_exists():
    assert set(READ_AFTER) == set(SUBLAYERS)
    assert set(READ_AFTER.values()) <= set(SITES)


@quick
@given(numbers, numbers)
def test_names_of_heads_and_neurons_are_read_back(layer, index):
    head, neuron = component(head_name(layer, index)), component(neuron_name(layer, index))
    assert (head.kind, head.layer, head.index, head.sublayer) == ("head", layer, index, "attn")
    assert (neuron.kind, neuron.layer, neuron.index) == ("neuron", layer, index)
    assert neuron.sublayer == "mlp"


@quick
@given(numbers, st.sampled_from(SUBLAYERS))
def test_names_of_sublayers_are_read_back(layer, sublayer):
    found = component(sublayer_name(layer, sublayer))
    assert (found.kind, found.layer, found.index) == ("sublayer", layer, None)
    assert found.sublayer == sublayer


@pytest.mark.parametrize("name", ["embed", "readout"])
def test_the_ends_of_a_circuit_have_no_layer(name):
    found = component(name)
    assert (found.name, found.kind, found.layer, found.index) == (name, name, None, None)


@pytest.mark.parametrize(
    "name", ["", "L3", "L3H", "H5", "l3h5", "L-1H2", "L3.ff", "L3H5 ", "L3H5\n", "L3H5N2"]
)
def test_other_names_are_refused(name):
    with pytest.raises(AxisError, match="names no component; write L3H5 for a head"):
        component(name)

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


@pytest.mark.parametrize(
    ("site", "name"),
    [
        ("resid_pre", "blocks.3.hook_resid_pre"),
        ("resid_mid", "blocks.3.hook_resid_mid"),
        ("resid_post", "blocks.3.hook_resid_post"),
        ("attn_out", "blocks.3.hook_attn_out"),
        ("mlp_out", "blocks.3.hook_mlp_out"),
        ("z", "blocks.3.attn.hook_z"),
        ("post", "blocks.3.mlp.hook_post"),
        ("final", "ln_final.hook_out"),
    ],
)
def test_a_site_bears_its_hook_name(site, name):
    assert hook(site, 3) == name


def test_an_unknown_site_is_refused_and_the_known_ones_are_listed():
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

"""Names of emotions, valences, sites and components: one word for one thing.

Sites are places in the model and bear TransformerLens's names; ``hook("z", 3)`` is the hook
name ``blocks.3.attn.hook_z``. Components are parts of the model: ``L3H5`` (head), ``L3N512``
(MLP neuron), ``L3.attn`` and ``L3.mlp`` (sublayers).
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from circuits.errors import AxisError

__all__ = [
    "Component",
    "DEVICES",
    "EMOTIONS",
    "LITERAL",
    "NEUTRAL",
    "READ_AFTER",
    "Receiver",
    "SITES",
    "SUBLAYERS",
    "VALENCES",
    "component",
    "head_name",
    "hook",
    "neuron_name",
    "receiver",
    "sublayer_name",
]

EMOTIONS: Final = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
"""The six emotions, in the order of the published files (Wang et al. 2025)."""

NEUTRAL: Final = "neutral"
"""What a judge answers for a text without emotion."""

DEVICES: Final = ("metaphor", "sarcasm", "hyperbole", "simile")
"""The four rhetorical devices that the project's texts use."""

LITERAL: Final = "literal"
"""The label of a text that uses no device."""

VALENCES: Final = ("positive", "neutral", "negative")
"""The three valences an event can have."""

SUBLAYERS: Final = ("attn", "mlp")
"""The two sublayers of a block, in the order in which they write."""

READ_AFTER: Final = {"attn": "resid_mid", "mlp": "resid_post"}
"""The site that holds the residual stream after a sublayer has written."""

SITES: Final = {
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "ln1_out": "blocks.{layer}.ln1.hook_out",
    "q": "blocks.{layer}.attn.hook_q",
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "scores": "blocks.{layer}.attn.hook_attn_scores",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "z": "blocks.{layer}.attn.hook_z",
    "ln2_out": "blocks.{layer}.ln2.hook_out",
    "pre": "blocks.{layer}.mlp.hook_pre",
    "pre_linear": "blocks.{layer}.mlp.hook_pre_linear",
    "post": "blocks.{layer}.mlp.hook_post",
    "final": "ln_final.hook_out",
}
"""Our word for a place -> the TransformerLens hook name.

A bridge's ``resid_mid`` is what the MLP's norm reads: a hook that changes it changes the MLP's
input only; in a HookedTransformer it is the residual stream itself. To change the stream in
either, change ``attn_out``.
"""


def hook(site: str, layer: int = 0) -> str:
    """Return the TransformerLens hook name of ``site`` in ``layer``.

    Raises:
        AxisError: ``site`` is not one of :data:`SITES`.

    >>> hook("z", 3)
    'blocks.3.attn.hook_z'
    """
    if site not in SITES:
        raise AxisError(f"no site is called {site!r}; sites are {', '.join(SITES)}")
    return SITES[site].format(layer=layer)


ComponentKind = Literal["embed", "head", "neuron", "sublayer", "readout"]

# One component, one name: no leading zeros, no digits of other scripts.
_NUMBER: Final = r"(0|[1-9][0-9]*)"
_COMPONENT: Final = re.compile(rf"L{_NUMBER}(?:H{_NUMBER}|N{_NUMBER}|\.(attn|mlp))")
_RECEIVER: Final = re.compile(rf"L{_NUMBER}(?:H{_NUMBER}\.(q)|G{_NUMBER}\.([kv])|N{_NUMBER}|\.mlp)")


@dataclass(frozen=True)
class Component:
    """A part of the model, parsed from its name."""

    name: str
    kind: ComponentKind
    layer: int | None = None
    index: int | None = None
    sublayer: str | None = None
    """``attn`` for heads and attention sublayers, ``mlp`` for neurons and MLP sublayers."""


def component(name: str) -> Component:
    """Parse a component's name.

    Raises:
        AxisError: the name is none of ``embed``, ``readout``, ``L3H5``, ``L3N512``, ``L3.attn``.

    >>> component("L3H5").layer
    3
    """
    if name in ("embed", "readout"):
        return Component(name, name)
    found = _COMPONENT.fullmatch(name)
    if found is None:
        raise AxisError(
            f"{name!r} names no component; write L3H5 for a head, L3N512 for a neuron, "
            "L3.attn or L3.mlp for a sublayer, embed or readout"
        )
    layer, head, neuron, sublayer = found.groups()
    if head:
        return Component(name, "head", int(layer), int(head), "attn")
    if neuron:
        return Component(name, "neuron", int(layer), int(neuron), "mlp")
    return Component(name, "sublayer", int(layer), None, sublayer)


@dataclass(frozen=True)
class Receiver:
    """An input that a path can end in, parsed from its name."""

    name: str
    via: str
    """``q`` of a head, ``k`` or ``v`` of a key-value group, ``mlp`` (the input of an MLP, or of one
    of its neurons), or ``readout``."""
    layer: int | None = None
    index: int | None = None
    """Head, key-value group or neuron; ``None`` for a whole MLP and the readout."""


def receiver(name: str) -> Receiver:
    """Parse the name of an input.

    Raises:
        AxisError: the name is none of ``L3H5.q``, ``L3G1.k``, ``L3G1.v``, ``L3.mlp``, ``L3N512``,
            ``readout``.

    >>> receiver("L3G1.k").via
    'k'
    """
    if name == "readout":
        return Receiver(name, "readout")
    found = _RECEIVER.fullmatch(name)
    if found is None:
        raise AxisError(
            f"{name!r} names no input; write L3H5.q for the query of a head, L3G1.k or L3G1.v for "
            "the keys or values of a key-value group, L3.mlp for an MLP, L3N512 for a neuron, or "
            "readout"
        )
    layer, head, query, group, key_or_value, neuron = found.groups()
    index = head or group or neuron
    via = query or key_or_value or "mlp"
    return Receiver(name, via, int(layer), int(index) if index else None)


def head_name(layer: int, head: int) -> str:
    """``L3H5``: head 5 of layer 3."""
    return f"L{layer}H{head}"


def neuron_name(layer: int, neuron: int) -> str:
    """``L3N512``: MLP neuron 512 of layer 3."""
    return f"L{layer}N{neuron}"


def sublayer_name(layer: int, sublayer: str) -> str:
    """``L3.attn`` or ``L3.mlp``."""
    return f"L{layer}.{sublayer}"

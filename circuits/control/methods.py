"""The methods by which an emotion is brought about, and the controls of one of them."""

from typing import Literal, get_args

__all__ = ["CONTROLS", "FEW", "METHODS", "STEERED", "Method"]

Method = Literal[
    "none", "prompt", "steer", "steer_layers", "steer_plain", "probe", "neurons", "circuit"
]
METHODS: tuple[Method, ...] = get_args(Method)
"""In the order in which they are shown."""

FEW: tuple[Method, ...] = ("none", "prompt", "steer", "circuit")
"""Those that the published comparison has."""

STEERED: tuple[Method, ...] = ("steer", "steer_layers", "steer_plain", "probe")
"""Those that add a direction to the residual stream."""

CONTROLS = {"random_circuit": True, "random_anywhere": False}
"""Name -> are random components drawn from the circuit's own layers?"""

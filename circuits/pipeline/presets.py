"""Presets: our own defaults, and the published method with every switch that changes a number.

Each switch has a name, what it does as published, and why we do otherwise by default (Wang et
al. 2025, arXiv 2510.11328, and the scripts released with it).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuits.graph.budget import Budget

__all__ = ["PRESETS", "PUBLISHED", "Switch"]


@dataclass(frozen=True)
class Switch:
    """One option of a plan in which the published method differs from our default."""

    option: str
    published: Any
    reason: str
    """Why the default differs."""


PUBLISHED = (
    Switch("begin", "tokenizer", "a rendered Llama 3.2 prompt gets a second begin token"),
    Switch("last", "final", "the last layer's direction would lie in another space"),
    Switch("half", True, "float16 dumps lose three digits"),
    Switch("head_readout", "post_norm", "directions are made before the norm, not after it"),
    Switch("read_at", "final", "the final norm bends what is linear before it"),
    Switch("budget", Budget(0.10, 0.02), "fewer components do not make up for all the others"),
    Switch("rank_by", "mean", "a component active in every emotion would rank high"),
    Switch("relative_to", "emotions", "what all emotions share would be left out"),
    Switch("dev_scenarios", 0, "strengths are fixed, not chosen"),
)
"""The switches of the published method."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "published": {switch.option: switch.published for switch in PUBLISHED},
}
"""Name -> options of a plan."""

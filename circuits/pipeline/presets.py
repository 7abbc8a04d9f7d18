"""Presets: our own defaults, the published method, and the scripts as they were released.

``published`` gives what the published files hold; ``as-released`` what a run of the scripts would
have given (Wang et al. 2025, arXiv 2510.11328). They differ from our defaults only in the switches
of :mod:`circuits.pipeline.quirks`.
"""

from collections.abc import Mapping
from typing import Any

from circuits.pipeline.quirks import METHOD, QUIRKS

__all__ = ["PRESETS"]

_SWITCHES = [switch for quirk in (*QUIRKS, *METHOD) for switch in quirk.switches]
_PUBLISHED = {switch.option: switch.published for switch in _SWITCHES}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "published": _PUBLISHED,
    "as-released": _PUBLISHED
    | {s.option: s.as_released for s in _SWITCHES if s.as_released is not None},
}
"""Name -> options of a plan."""

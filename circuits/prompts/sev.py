"""Contexts: everyday scenarios, each with a positive, a neutral and a negative event.

The form is that of SEV, "scenario, event, valence" (Wang et al. 2025, arXiv 2510.11328): one
JSON object per line with ``theme``, ``scenario``, ``event`` and ``skeleton_id``. A context is a
scenario with one of its events. It is the unit within which emotions are contrasted and over
which uncertainty is counted.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from circuits.errors import DataError
from circuits.files import Words, read_rows, resolved, shipped
from circuits.names import VALENCES

__all__ = ["Context", "Scenario", "contexts", "read", "sev", "spread"]

SPLITS = ("train", "test", "hard")
"""The parts of SEV that ship with the package."""


@dataclass(frozen=True)
class Scenario:
    """A neutral situation and what happened in it, once per valence."""

    id: str
    """``skeleton_id`` of the file, such as ``work_00``."""
    theme: str
    text: str
    events: Mapping[str, str]
    """Valence -> event."""


@dataclass(frozen=True)
class Context:
    """A scenario with one event."""

    scenario: str
    """Id of the scenario."""
    theme: str
    valence: str
    situation: str
    """The scenario's text."""
    event: str

    def __post_init__(self) -> None:
        # A scenario's events in place of one of them would be written into the prompt as they are.
        if not isinstance(self.event, str):
            raise DataError(
                f"context {self.id!r}: expected one event as a text, found "
                f"{type(self.event).__name__}; give the event of one valence"
            )

    @property
    def id(self) -> str:
        """``work_00/positive``."""
        return f"{self.scenario}/{self.valence}"


class _Events(BaseModel):
    model_config = ConfigDict(extra="forbid")

    positive: Words
    neutral: Words
    negative: Words


class _Row(BaseModel):
    theme: Words
    scenario: Words
    event: _Events
    skeleton_id: Words


def read(path: Path | str) -> tuple[Scenario, ...]:
    """Read a file of scenarios.

    Raises:
        DataError: the file cannot be read, is not UTF-8 or not JSON, a field is missing, empty
            or of the wrong kind, a valence is missing, or an id occurs twice. The message names
            the file, the line and the field.
    """
    path = resolved(path)
    found: dict[str, Scenario] = {}
    for where, row in read_rows(path, _Row):
        own = row.skeleton_id
        if re.search(r"[\s/\\]", own):
            raise DataError(
                f"{where}: field 'skeleton_id': {own!r} may not contain spaces or slashes"
            )
        if own in found:
            raise DataError(f"{where}: field 'skeleton_id': {own!r} is there already; use it once")
        found[own] = Scenario(own, row.theme, row.scenario, row.event.model_dump())
    if not found:
        raise DataError(f"{path}: no scenario found; expected one JSON object per line")
    return tuple(found.values())


def contexts(scenarios: Sequence[Scenario]) -> tuple[Context, ...]:
    """Every scenario with every event, in the order of the file and of the valences."""
    return tuple(
        Context(s.id, s.theme, valence, s.text, s.events[valence])
        for s in scenarios
        for valence in VALENCES
    )


def spread(scenarios: Sequence[Scenario], count: int) -> tuple[Scenario, ...]:
    """``count`` scenarios taken evenly over the themes, each theme from its beginning.

    Raises:
        DataError: there are fewer than ``count`` scenarios, or ``count`` is not positive.
    """
    if not 0 < count <= len(scenarios):
        raise DataError(f"asked for {count} scenarios, found {len(scenarios)}")
    themes = list(dict.fromkeys(s.theme for s in scenarios))
    seen, turns = Counter[str](), []
    for place, scenario in enumerate(scenarios):
        turns.append((seen[scenario.theme], themes.index(scenario.theme), place))
        seen[scenario.theme] += 1
    return tuple(scenarios[place] for place in sorted(turn[2] for turn in sorted(turns)[:count]))


def sev(split: str = "train", count: int | None = None) -> tuple[Context, ...]:
    """Contexts that ship with the package, the valences in turn, spread over the themes.

    >>> len(sev("train", 24)), len(sev("test", 7))
    (24, 7)

    Args:
        split: ``train``, from which circuits are made; ``test``, on which they are scored; or
            ``hard``.
        count: How many; all by default.

    Raises:
        DataError: there is no such split, or it has fewer contexts.
    """
    if split not in SPLITS:
        raise DataError(f"SEV has no split {split!r}; it has {', '.join(SPLITS)}")
    scenarios = read(shipped(f"sev/{split}.jsonl"))
    most = len(scenarios) * len(VALENCES)
    count = most if count is None else count
    if not 0 < count <= most:
        raise DataError(
            f"asked for {count} contexts of {split!r}, which has {most}; give 1 or more"
        )
    return contexts(spread(scenarios, -(-count // len(VALENCES))))[:count]

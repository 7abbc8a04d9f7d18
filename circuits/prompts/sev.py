"""Contexts: everyday scenarios, each with a positive, a neutral and a negative event.

The form is that of SEV, "scenario, event, valence" (Wang et al. 2025, arXiv 2510.11328): one
JSON object per line with ``theme``, ``scenario``, ``event`` and ``skeleton_id``. A context is a
scenario with one of its events. It is the unit within which emotions are contrasted and over
which uncertainty is counted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.errors import DataError
from circuits.files import checked_text, kind_of, read_json_lines, resolved, shipped
from circuits.names import VALENCES

__all__ = ["Context", "Scenario", "contexts", "read", "sev", "spread"]

SPLITS = ("train", "test", "hard")
"""The parts of SEV that ship with the package."""

_FIELDS = ("theme", "scenario", "skeleton_id")


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
                f"context {self.id!r}: expected one event as a text, found {kind_of(self.event)}; "
                "give the event of one valence"
            )

    @property
    def id(self) -> str:
        """``work_00/positive``."""
        return f"{self.scenario}/{self.valence}"


def read(path: Path | str) -> tuple[Scenario, ...]:
    """Read a file of scenarios.

    Raises:
        DataError: the file cannot be read, is not UTF-8 or not JSON, a field is missing, empty
            or of the wrong kind, a valence is missing, or an id occurs twice. The message names
            the file, the line and the field.
    """
    path = resolved(path)
    first_line: dict[str, int] = {}
    scenarios: list[Scenario] = []
    for number, row in read_json_lines(path):
        where = f"{path}, line {number}"
        scenario = _scenario(row, where)
        if scenario.id in first_line:
            raise DataError(
                f"{where}: field 'skeleton_id': {scenario.id!r} is already the id of line "
                f"{first_line[scenario.id]}; ids must be unique"
            )
        first_line[scenario.id] = number
        scenarios.append(scenario)
    if not scenarios:
        raise DataError(f"{path}: no scenario found; expected one JSON object per line")
    return tuple(scenarios)


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
    by_theme: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        by_theme.setdefault(scenario.theme, []).append(scenario)
    longest = max(map(len, by_theme.values()))
    turns = [own[turn] for turn in range(longest) for own in by_theme.values() if turn < len(own)]
    chosen = {scenario.id for scenario in turns[:count]}
    return tuple(scenario for scenario in scenarios if scenario.id in chosen)


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
    chosen = spread(scenarios, -(-count // len(VALENCES)))
    return contexts(chosen)[:count]


def _scenario(row: Mapping[str, Any], where: str) -> Scenario:
    theme, text, name = (_text(row, field, where) for field in _FIELDS)
    if not re.fullmatch(r"[^\s/\\]+", name):
        raise DataError(f"{where}: field 'skeleton_id': {name!r} may not contain spaces or slashes")
    events = row.get("event")
    if not isinstance(events, dict):
        raise DataError(
            f"{where}: field 'event': expected an object with {', '.join(VALENCES)}, "
            f"found {kind_of(events)}"
        )
    for valence in VALENCES:
        _text(events, valence, where, within="event.")
    unknown = sorted(set(events) - set(VALENCES))
    if unknown:
        raise DataError(
            f"{where}: field 'event': unknown valence {unknown[0]!r}; "
            f"valences are {', '.join(VALENCES)}"
        )
    return Scenario(name, theme, text, {valence: events[valence].strip() for valence in VALENCES})


def _text(row: Mapping[str, Any], field: str, where: str, within: str = "") -> str:
    value = checked_text(row.get(field), f"{where}: field '{within}{field}'").strip()
    if not value:
        raise DataError(f"{where}: field '{within}{field}': the text is empty")
    return value

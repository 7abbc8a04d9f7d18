"""Where a patch is put: one position, all positions of a role, or all matched positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.measure.pairs import Pair
from circuits.model.roles import ROLES

__all__ = ["By", "Places", "Span", "find_places", "spans"]

By = Literal["position", "role", "all", "last"]
"""``position``: every matched position by itself, counted from the end. ``role``: all matched
positions of a role at once. ``all``: all matched positions at once. ``last``: the last one."""


@dataclass(frozen=True, eq=False)
class Places:
    """Places that every pair has."""

    names: tuple[str, ...]
    masks: Bool[Tensor, "pair place pos"]
    """The positions of each place, among the last ``pos`` of a prompt."""


def find_places(pairs: Sequence[Pair], by: str) -> Places:
    """The places of some pairs, by one of :data:`By`.

    Raises:
        DataError: there are no pairs, or they are of different emotions.
        AxisError: ``by`` is unknown.
    """
    if not pairs:
        raise DataError("there is no pair to patch; give one context or more")
    if len({(pair.emotion, pair.other) for pair in pairs}) > 1:
        raise DataError("pairs of different emotions cannot be averaged; patch them one by one")
    width = max(pair.matched for pair in pairs)
    if by == "position":
        least = min(pair.matched for pair in pairs)
        names, eye = _position_names(pairs, least), torch.eye(width, dtype=torch.bool)
        return Places(names, eye[width - least :].expand(len(pairs), -1, -1).clone())
    if by == "role":
        shared = set.intersection(*(set(pair.roles) for pair in pairs))
        names = tuple(role for role in ROLES if role in shared)
    elif by in ("all", "last"):
        names = (by,)
    else:
        raise AxisError(f"patches go by position, role, all or last; found {by!r}")
    masks = torch.zeros(len(pairs), len(names), width, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        for column, name in enumerate(names):
            own = range(-pair.matched, 0) if name == "all" else pair.places(name)
            masks[row, column, [width + place for place in own]] = True
    return Places(names, masks)


@dataclass(frozen=True)
class Span:
    """Places that are patched side by side, in runs that begin at one position."""

    start: int
    places: tuple[int, ...]


def spans(masks: Bool[Tensor, "pair place pos"], per_place: int, tokens: int) -> Iterator[Span]:
    """Group places whose runs begin close to each other; those of no position are left out.

    Args:
        masks: Places within the positions that are run.
        per_place: Runs of each place.
        tokens: How many tokens to run at once.
    """
    anywhere = masks.any(0)
    firsts = anywhere.to(torch.uint8).argmax(-1).tolist()
    width = masks.shape[-1]
    some = anywhere.any(-1).nonzero()[:, 0].tolist()
    order = sorted(some, key=lambda place: firsts[place])
    group: list[int] = []
    for place in order:
        if group:
            start, rows = firsts[group[0]], (len(group) + 1) * per_place
            # Positions between the group's start and the place are run for nothing.
            wasted = (firsts[place] - start) / (width - start)
            if rows * (width - start) > tokens or wasted > 0.1:
                yield Span(start, tuple(group))
                group = []
        group.append(place)
    if group:
        yield Span(firsts[group[0]], tuple(group))


def _position_names(pairs: Sequence[Pair], count: int) -> tuple[str, ...]:
    if len(pairs) > 1:
        return tuple(str(place) for place in range(-count, 0))
    # Axis labels must differ, and words repeat; so each has its place beside it.
    return tuple(
        f"{place} {token!r}"
        for place, token in zip(range(-count, 0), pairs[0].tokens[-count:], strict=True)
    )

"""Valid files made invalid, or nearly so, in the ways in which files go wrong; what came of it."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from circuits.errors import CircuitsError

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)
many = settings(quick, max_examples=500)
"""Of which a good part is still valid."""
LONGEST = 2000
"""Characters of an error that a person still reads."""


class Outcomes:
    """Counts what is refused by an error of ours and what is read; any other error goes through."""

    def __init__(self) -> None:
        self.refused = self.read = 0

    def of(
        self,
        read: Callable[[], Any],
        names: Callable[[str], bool],
        kept: Callable[[Any], object] = bool,
    ) -> None:
        """Read once; an error must name what is wrong, and what was read is checked."""
        try:
            found = read()
        except CircuitsError as error:
            said = str(error)
            assert names(said), said
            assert len(said) < LONGEST
            self.refused += 1
        else:
            self.read += 1
            kept(found)

    def note(self, trial: Callable[..., None], how: str, *, at_least: int = 200) -> None:
        """The row of the table: how many were malformed. Too few would show nothing."""
        assert self.refused >= at_least, (self.refused, self.read)
        kept = f"; {self.read} others stayed valid, and were read and kept" if self.read else ""
        trial(times=self.refused, outcome=f"refused by {how}{kept}")


ODD = [None, True, 0, -1, 2**80, 10**400, 0.5, "", " ", "x", "a\nb", "\x00", "\ud800", "../up"]
ODD += ["anger", [], [1], [[]], {}, {"": 0}, "é" * 300]
_TEXTS = ["NaN", "Infinity", "1e999", "[" * 2000, '{"a":' * 2000, "'x'", "1" * 5000, "\\", ""]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a JSON value."""
    if not isinstance(value, dict | list):
        return []
    found: list[tuple[Any, ...]] = []
    for key, own in value.items() if isinstance(value, dict) else enumerate(value):
        found += [(*at, key), *places(own, (*at, key))]
    return found


def _parent(value: Any, at: tuple[Any, ...]) -> Any:
    for key in at[:-1]:
        value = value[key]
    return value


def _changed(draw: Any, value: Any) -> Any:
    value, at = copy.deepcopy(value), draw(st.sampled_from(places(value)))
    parent, key = _parent(value, at), at[-1]
    how = draw(st.sampled_from(["drop", "rename", "retype", "more", "twice"]))
    if how == "drop":
        del parent[key]
    elif how == "rename" and isinstance(parent, dict):
        parent[draw(st.sampled_from(["", "x", f"{key} ", str(key).upper()]))] = parent.pop(key)
    elif how == "more" and isinstance(parent, dict):
        parent["more"] = copy.deepcopy(draw(st.sampled_from(ODD)))
    elif how == "twice" and isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return value


def _hurt(draw: Any, content: bytes) -> bytes:
    how = draw(
        st.sampled_from(["as it is"] * 5 + ["cut", "bit", "bytes", "text", "windows", "twice"])
    )
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "cut":
        return content[:place]
    if how == "bit" and content:
        bit = 1 << draw(st.integers(0, 7))
        return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
    if how == "bytes":
        return content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
    if how == "text":
        end = content.find(b":", place) + 1 or place
        return content[:end] + draw(st.sampled_from(_TEXTS)).encode() + content[end + 1 :]
    if how == "windows":
        return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
    if how == "twice":
        # The same field again, with what may be another value.
        return content.replace(b"{", b'{"theme": 3, "id": 3, "emotion": 1, "label": 1, ', 1)
    return content


@st.composite
def json_files(draw: Any, valid: Any, *, lines: bool = False) -> bytes:
    """A JSON document that was valid, or JSON lines."""
    for _ in range(draw(st.integers(0, 2))):
        valid = _changed(draw, valid) if places(valid) else valid
    rows = valid if lines else [valid]
    text = "\n".join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows)
    return _hurt(draw, text.encode("utf-8", "surrogatepass"))


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Any file, certainly with other bytes."""
    place = draw(st.integers(0, len(content) - 1))
    end = min(len(content), place + 40)
    hurt = draw(
        st.sampled_from(
            [
                content[:place],
                content + draw(st.binary(min_size=1, max_size=9)),
                content[:place] + bytes(end - place) + content[end:],
                content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :],
            ]
        )
    )
    return hurt if hurt != content else content[:place]

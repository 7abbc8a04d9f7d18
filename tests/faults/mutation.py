"""Valid files made invalid, or nearly so, in the ways in which files go wrong."""

import copy
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)
many = settings(quick, max_examples=800)
"""Of which a good part is still valid."""

ODD = [
    None,
    True,
    0,
    -1,
    7,
    2**80,
    10**400,
    0.5,
    -1e308,
    "",
    " ",
    "x",
    "a\nb",
    "\x00",
    "\ud800",
    "=1+1",
    "../up",
    "anger",
    [],
    [1],
    [[]],
    {},
    {"": 0},
    "é" * 300,
]
_TEXTS = [
    "NaN",
    "Infinity",
    "1e999",
    "[" * 2000,
    '{"a":' * 2000,
    "0x1",
    "'x'",
    "1" * 5000,
    "\\",
    "",
]


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
def json_files(draw: Any, valid: Any) -> bytes:
    """A JSON document that was valid."""
    for _ in range(draw(st.integers(0, 2))):
        valid = _changed(draw, valid) if places(valid) else valid
    text = json.dumps(valid, ensure_ascii=draw(st.booleans()))
    return _hurt(draw, text.encode("utf-8", "surrogatepass"))


@st.composite
def json_lines(draw: Any, valid: list[Any]) -> bytes:
    """JSON lines that were valid."""
    for _ in range(draw(st.integers(0, 2))):
        valid = _changed(draw, valid) if places(valid) else valid
    text = "\n".join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in valid)
    return _hurt(draw, text.encode("utf-8", "surrogatepass"))


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Any file, certainly with other bytes."""
    place = draw(st.integers(0, len(content) - 1))
    how = draw(st.sampled_from(["bit", "cut", "more", "zeros"]))
    if how == "cut":
        return content[:place]
    if how == "more":
        return content + draw(st.binary(min_size=1, max_size=9))
    if how == "zeros":
        end = min(len(content), place + 40)
        hurt = content[:place] + bytes(end - place) + content[end:]
        return hurt if hurt != content else content[:place]
    bit = 1 << draw(st.integers(0, 7))
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]

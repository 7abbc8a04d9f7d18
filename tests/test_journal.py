"""A journal gives back what was kept, and nothing that was torn, changed or kept for other work."""

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import RunError, Stopped
from circuits.journal import Call, begin_call, forget, journal

PARTS = [(0, "first", ["a", 1.5]), (1, "second", {"ä": None}), (2, "third", "x\u2028\ny")]


def next_call() -> Call:
    call = begin_call()
    assert call is not None
    return call


def keep(path, parts=PARTS, key="key"):
    with journal(path, key):
        call = next_call()
        for place, asked, gave in parts:
            call.keep(place, asked, gave)


def found(path, key="key"):
    with journal(path, key):
        call = next_call()
        return [call.find(place, asked) for place, asked, _ in PARTS]


def test_what_is_kept_is_on_the_disk_before_the_next_is_made_and_found_again(tmp_path, monkeypatch):
    synced, path = [], tmp_path / "j.jsonl"
    with monkeypatch.context() as patch, journal(path, "key"):
        patch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
        call = next_call()
        for place, asked, gave in PARTS:
            call.keep(place, asked, gave)
            assert synced[-1] == path.stat().st_size
    assert found(path) == [gave for _, _, gave in PARTS]
    # Other programs can read it.
    head, *lines = path.read_text(encoding="ascii").splitlines()
    assert json.loads(head.split(" ", 1)[1]) == {"journal": 1, "key": "key"}
    gave = [json.loads(line.split(" ", 1)[1])["gave"] for line in lines]
    assert gave == [gave for _, _, gave in PARTS]


def test_calls_are_told_apart_and_so_is_what_was_asked(tmp_path):
    with journal(tmp_path / "j.jsonl", "key"):
        for gave in ("one", "two"):
            next_call().keep(0, "asked", gave)
    with journal(tmp_path / "j.jsonl", "key"):
        first, second = next_call(), next_call()
        assert (first.find(0, "asked"), second.find(0, "asked")) == ("one", "two")
        assert first.find(0, "asked otherwise") is None
        assert first.find(1, "asked") is None


def test_an_inner_piece_of_work_has_a_journal_of_its_own(tmp_path):
    with journal(tmp_path / "outer.jsonl", "key"):
        next_call().keep(0, "asked", "outer")
        with journal(tmp_path / "inner.jsonl", "key"):
            assert next_call().find(0, "asked") is None
    assert begin_call() is None


def test_a_journal_is_forgotten_with_its_folder_once_that_is_empty(tmp_path):
    one, other = (tmp_path / ".resume" / name for name in ("one.jsonl", "other.jsonl"))
    with journal(one, "key"):
        next_call()
    assert list(tmp_path.iterdir()) == []  # nothing was kept
    keep(one)
    keep(other)
    forget(one)
    assert other.exists()
    forget(other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.trial("files", "a journal is cut off at any byte")
def test_what_stands_before_a_torn_line_is_kept(tmp_path, trial):
    path = tmp_path / "j.jsonl"
    keep(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        lines = max(0, sum(end <= size for end in ends) - 1)
        assert found(path) == [gave for _, _, gave in PARTS[:lines]] + [None] * (3 - lines)
        if size % 8 == 0:
            keep(path, PARTS[lines:])
            assert path.read_bytes() == whole
    trial(times=len(whole), outcome="whole entries are kept, the rest is made again")


@pytest.mark.trial("files", "a bit of a journal is flipped")
def test_no_changed_line_is_ever_read(tmp_path, trial):
    path = tmp_path / "j.jsonl"
    keep(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        expected = [gave for _, _, gave in PARTS[: max(0, whole[:place].count(b"\n") - 1)]]
        assert found(path) == expected + [None] * (3 - len(expected))
    trial(times=len(whole), outcome="the entry and what follows it are made again")


@given(st.binary(max_size=200))
def test_any_file_in_its_place_is_no_journal(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "j.jsonl"
    path.write_bytes(content)
    assert found(path) == [None] * 3
    keep(path)
    assert found(path) == [gave for _, _, gave in PARTS]


@pytest.mark.trial("files", "a journal was kept for another plan")
def test_the_journal_of_other_work_is_discarded_and_said_to_be(tmp_path, trial):
    path = tmp_path / "j.jsonl"
    keep(path, key="another")
    with journal(path, "key") as opened:
        assert opened.discarded
        assert next_call().find(0, "first") is None
    keep(path)
    assert found(path) == [gave for _, _, gave in PARTS]
    with journal(path, "key") as opened:
        assert not opened.discarded
    trial(outcome="discarded, and the log says so")


@pytest.mark.parametrize("half", [False, True])
def test_a_full_disk_is_named_with_what_is_kept(tmp_path, monkeypatch, half):
    path, real = tmp_path / "j.jsonl", os.write

    def full(file, line):
        if half and len(line) > 20:
            return real(file, line[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with journal(path, "key"):
        call = next_call()
        call.keep(*PARTS[0])
        size = path.stat().st_size
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(
            RunError, match=r"No space left.* free some space.*\(1 finished part is"
        ):
            call.keep(*PARTS[1])
    monkeypatch.undo()
    assert path.stat().st_size == size
    assert found(path)[:2] == [PARTS[0][2], None]


def test_work_that_is_stopped_says_how_much_is_kept(tmp_path):
    keep(tmp_path / "j.jsonl")
    refused = pytest.raises(Stopped, match="^as asked; 3 finished parts are kept$")
    with refused, journal(tmp_path / "j.jsonl", "key"):
        raise Stopped("as asked")

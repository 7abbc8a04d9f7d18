"""A disk without room: a named error, the old file whole, and nothing half written beside it."""

import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import CircuitsError, DataError, RunError
from circuits.files import read_json, write_atomically, write_json, write_json_lines
from circuits.journal import Call, begin_call, journal
from circuits.records import Record

ROOM = 64 * 1024
LARGE = 40_000
"""Numbers: more bytes than there is room."""


@dataclass(frozen=True, eq=False)
class Numbers(Record):
    value: Float[Tensor, "prompt"]


@pytest.fixture
def disk(tmp_path):
    """A small disk (tmpfs)."""
    place = tmp_path / "disk"
    place.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("only the administrator may mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def limit(tmp_path):
    """Files may not grow beyond the same size (``ulimit -f``)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_record(folder: Path, size: int) -> None:
    Numbers(torch.arange(size).float()).save(folder / "record")


def write_array(folder: Path, size: int) -> None:
    write_atomically(folder / "array.npy", lambda path: np.arange(size).tofile(path))


def write_rows(folder: Path, size: int) -> None:
    write_json_lines(folder / "rows.jsonl", ({"row": row} for row in range(size)))


def write_value(folder: Path, size: int) -> None:
    write_json(folder / "value.json", list(range(size)))


WRITERS = {
    "record": write_record, "JSON file": write_value, "file of JSON lines": write_rows,
    "array of numbers": write_array,
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refuse(folder: Path, what: str, why: str) -> None:
    write = WRITERS[what]
    write(folder, 10)
    before = contents(folder)
    with pytest.raises(DataError, match=f"^cannot write .*{why}"):
        write(folder, LARGE)
    assert contents(folder) == before
    write(folder, 20)


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.trial("faults", "the disk is full (tmpfs) while a {what} is written")
def test_what_finds_no_room_leaves_the_old_file(disk, what, trial):
    refuse(disk, what, "; free some space")
    trial(outcome="named; the old file is whole, no other is there, and a smaller one is written")


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.trial("faults", "a file may not grow (ulimit) while a {what} is written")
def test_what_may_not_grow_leaves_the_old_file(limit, what, trial):
    refuse(limit, what, "")
    trial(outcome="named; the old file is whole, no other is there, and a smaller one is written")


def next_call() -> Call:
    call = begin_call()
    assert call is not None
    return call


def keep_until_full(path: Path, kept: list[int]) -> None:
    with journal(path, "key"):
        call = next_call()
        while True:
            call.keep(len(kept), "asked", "x" * 1000)
            kept.append(len(kept))


def fill(path: Path) -> int:
    """Keep parts until there is no room; how many there were."""
    kept: list[int] = []
    with pytest.raises(RunError, match="finished parts are kept") as refused:
        keep_until_full(path, kept)
    assert f"({len(kept)} finished" in str(refused.value)
    return len(kept)


def count(path: Path) -> int:
    with journal(path, "key"):
        call = next_call()
        return sum(call.find(part, "asked") == "x" * 1000 for part in range(100))


@pytest.mark.trial("faults", "the disk is full (tmpfs) while a journal is appended to")
def test_a_journal_that_finds_no_room_keeps_what_it_has(disk, trial):
    kept = fill(disk / "journal.jsonl")
    assert kept > 40
    assert count(disk / "journal.jsonl") == kept
    subprocess.run(["mount", "-o", f"remount,size={2 * ROOM}", str(disk)], check=True)
    with journal(disk / "journal.jsonl", "key"):
        next_call().keep(kept, "asked", "x" * 1000)
    assert count(disk / "journal.jsonl") == kept + 1
    trial(outcome="named with what is kept; whole, and appended to once there is room")


def test_a_journal_that_may_not_grow_keeps_what_it_has(limit):
    kept = fill(limit / "journal.jsonl")
    assert kept > 40
    assert count(limit / "journal.jsonl") == kept


def test_a_full_disk_without_a_byte_of_room_is_named(disk):
    (disk / "ballast").write_bytes(bytes(ROOM))
    with pytest.raises(CircuitsError, match="No space left on device; free some space"):
        write_json(disk / "value.json", [1])
    assert not (disk / "value.json").exists()
    assert [path.name for path in disk.iterdir()] == ["ballast"]
    (disk / "ballast").unlink()
    write_json(disk / "value.json", [1])
    assert read_json(disk / "value.json") == [1]

"""Ctrl-C: once to end after the batch, twice to end at once, and then no more."""

import signal

import pytest

from circuits.cli.console import finishing_batches
from circuits.errors import Stopped
from circuits.journal import stop_if_asked, stopping


@pytest.fixture(autouse=True)
def as_before():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def press(times=1):
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def batches(pressed_in):
    """Three batches, in which Ctrl-C is pressed so often; tells which were finished."""
    with finishing_batches():
        for batch, times in enumerate(pressed_in):
            press(times)
            yield batch
            stop_if_asked()


def test_the_first_ends_the_work_after_the_batch(capfd):
    done = []
    with pytest.raises(Stopped, match="after a finished batch"):
        done.extend(batches([0, 1, 0]))
    assert done == [0, 1]
    assert not stopping()
    assert "Ctrl-C again stops at once" in capfd.readouterr().err


def test_the_second_ends_it_at_once():
    done = []
    with pytest.raises(Stopped, match="stopped at once"):
        done.extend(batches([0, 2, 0]))
    assert done == [0]


def test_a_third_does_not_cut_off_what_the_command_says_at_the_end():
    with pytest.raises(Stopped):
        list(batches([1]))
    press()


def test_work_that_ends_by_itself_leaves_the_keys_as_they_were():
    assert list(batches([0, 0])) == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        press()

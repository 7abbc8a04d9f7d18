"""Ctrl-C during a long command: once to end after the batch, twice to end at once."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from circuits.errors import Stopped
from circuits.stopping import ask_to_stop, go_on, stopping

__all__ = ["command_again", "finishing_batches"]

_SAID = b"\nfinishing the batch; Ctrl-C again stops at once\n"


@contextmanager
def finishing_batches() -> Iterator[None]:
    """Have the first Ctrl-C inside the block end the work after the batch that is being done.

    A process in which the work was stopped hears no Ctrl-C from then on.

    Raises:
        Stopped: somebody pressed it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return

    def heard(number: int, frame: object) -> None:
        if stopping():
            raise KeyboardInterrupt
        ask_to_stop()
        # A handler may come in the middle of another print, which it must not enter.
        with suppress(OSError):
            os.write(2, _SAID)

    after = signal.signal(signal.SIGINT, heard)
    try:
        yield
    except (Stopped, KeyboardInterrupt) as error:
        # The command ends now and says how to go on; one more Ctrl-C must not cut that short.
        after = signal.SIG_IGN
        signal.signal(signal.SIGINT, after)
        if isinstance(error, Stopped):
            raise
        raise Stopped("stopped at once; batches that were finished before are kept") from None
    finally:
        signal.signal(signal.SIGINT, after)
        go_on()


def command_again() -> str:
    """The command as it was given."""
    return shlex.join(["emotion-circuits", *sys.argv[1:]])

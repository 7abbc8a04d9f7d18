"""What came of files and values that the fuzzer made: how many were refused, how many read."""

from collections.abc import Callable
from typing import Any

from circuits.errors import CircuitsError

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
        kept: Callable[[Any], None] | None = None,
    ) -> None:
        """Read once.

        Args:
            read: Reads what the fuzzer made.
            names: Does an error's text name what is wrong?
            kept: Checks what was read.
        """
        try:
            found = read()
        except CircuitsError as error:
            said = str(error)
        else:
            self.read += 1
            if kept is not None:
                kept(found)
            return
        assert names(said), said
        assert len(said) < LONGEST
        self.refused += 1

    def note(self, trial: Callable[..., None], *, at_least: int, how: str) -> None:
        """The row of the table: how many were malformed. Too few would show nothing."""
        assert self.refused >= at_least, (self.refused, self.read)
        kept = f"; {self.read} others stayed valid, and were read and kept" if self.read else ""
        trial(times=self.refused, outcome=f"refused by {how}{kept}")

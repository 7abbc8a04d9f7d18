"""What the command line shows: progress bars, tables, one-line errors."""

import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from circuits.errors import Stopped
from circuits.journal import ask_to_stop, go_on, stop_if_asked, stopping
from circuits.running import Progress as Finished
from circuits.running import Reporter

__all__ = [
    "ERRORS",
    "OUT",
    "Bars",
    "accuracy_table",
    "circuit_table",
    "command_again",
    "finishing_batches",
    "number",
    "table_of",
    "visible",
]

# Control characters but for line feed and tab, and those that turn the direction of writing.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""The text with its control characters spelled out.

    >>> print(visible("a\x1b[31mb"))
    a\x1b[31mb
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


class _Plain(Console):
    """Shows texts as they are: no markup in them, nothing that a terminal would obey."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """What a text looks like."""
        return super().render_str(visible(text), **options)


_WIDTH = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None
OUT = _Plain(width=_WIDTH, soft_wrap=False)
ERRORS = _Plain(stderr=True, width=_WIDTH, soft_wrap=True)


class Bars(Reporter):
    """A progress bar per piece of work, one below the other; work that is to stop ends there."""

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Finished]:
        """Show a bar while the work goes on; ``total`` 0 means that it is not known."""
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<30}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=ERRORS) as bars:
            task = bars.add_task(visible(what), total=total or None)

            def finished(count: int) -> None:
                bars.advance(task, count)
                stop_if_asked()

            yield finished
            done = bars.tasks[0].completed
            bars.update(task, total=done, completed=done)


def table_of(title: str, words: Sequence[str], numbers: Sequence[str], *more: str) -> Table:
    """A table of short words, numbers and, with ``more``, columns of longer texts."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in more:
        table.add_column(name)
    return table


def number(value: float | None, digits: int = 1) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def accuracy_table(accuracy: Mapping[str, Any]) -> Table:
    """Judged accuracy and side effects of every method."""
    rows = {**accuracy["methods"], **accuracy.get("baselines", {})}
    emotions = next(iter(rows.values()))["by_emotion"]
    # Six emotions and the side effects stand side by side in eighty columns.
    title = "Replies that express the target emotion, in percent (test contexts)"
    numbers = ("all", *(emotion[:5] for emotion in emotions), "ppl", "rep.")
    table = table_of(title, ["method"], numbers)
    for method, found in rows.items():
        rates = (found["overall"], *(found["by_emotion"][emotion] for emotion in emotions))
        percent = ("100" if rate == 100 else f"{rate:.1f}" for rate in rates)
        effects = number(found["perplexity_ratio"], 2), number(found["repetition"], 3)
        table.add_row(method.replace("_", " "), *percent, *effects)
    return table


def circuit_table(circuits: Mapping[str, Any]) -> Table:
    """Size of every circuit and its strongest components."""
    numbers, strongest = ("heads", "neurons", "share of\nthe readout"), ("head", "neuron")
    more = (f"strongest {kind}s" for kind in strongest)
    table = table_of("Circuits", ["emotion"], numbers, *more)
    for emotion, circuit in circuits.items():
        share = circuit.scores.get("direct_share")
        # An imported circuit names its components without effects.
        known = [node for node in circuit.nodes if node.effect is not None]
        known.sort(key=lambda node: -node.effect)
        first = ([node.id for node in known if node.kind == kind][:4] for kind in strongest)
        sizes = (str(len(own)) for own in (circuit.heads, circuit.neurons))
        shown = "-" if share is None else f"{share:.0%}"
        table.add_row(emotion, *sizes, shown, *(", ".join(ids) or "-" for ids in first))
    return table


_SAID = b"\nfinishing the batch; Ctrl-C again stops at once\n"


@contextmanager
def finishing_batches() -> Iterator[None]:
    """Have the first Ctrl-C inside the block end the work after the batch that is being done.

    A process in which the work was stopped ignores Ctrl-C from then on.

    Raises:
        Stopped: somebody pressed it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def interrupted(number: int, frame: object) -> None:
        if stopping():
            raise KeyboardInterrupt
        ask_to_stop()
        # A handler may come in the middle of another print, which it must not enter.
        with suppress(OSError):
            os.write(2, _SAID)

    after = signal.signal(signal.SIGINT, interrupted)
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

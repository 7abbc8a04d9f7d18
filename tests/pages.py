"""The fenced blocks of a page, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

MARKS = {
    "build": "builds the wheel; run by `make test-newest`",
    "clone": "installs from a clone; run by `make test-newest`",
    "long": "takes minutes: the whole job, an installation",
    "needs_data": "works on files of the reader's",
    "needs_gpu": "works on a GPU",
    "needs_hub": "downloads a model",
    "wheel": "installs from the wheel, or tries it; run by `make test-newest`",
}
"""What may stand beside a block's language -> why the block is read but not run."""

# ```sh, ```sh long, or as the site needs it ```{.sh .long}
_FENCE = re.compile(r'^```(?:\{\.)?(\w+)[ .]*(?:title="[^"]*"|(\w*))\}?\n(.*?)^```$', re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    language: str
    mark: str
    text: str

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of every line that is a command."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                words[0] = words[0].removeprefix(".venv/bin/")
                yield words


def blocks(page):
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, *(part.strip("\n") for part in found)) for found in _FENCE.findall(text)]


def name_of(page):
    """Short, for the name of a test."""
    return page.relative_to(ROOT).as_posix()


def follow(page, folder):
    """Do what a page says, from top to bottom, in a folder; what went wrong, if anything did."""
    names = {"__name__": "__main__"}
    with chdir(folder):
        for block in blocks(page):
            if block.mark:
                continue
            if block.language == "python":
                code = compile(block.text, name_of(page), "exec", dont_inherit=True)
                exec(code, names)  # noqa: S102
            if block.language == "sh":
                for command in block.commands:
                    told = typed(command, folder)
                    if told:
                        return told
    return None


def typed(command, folder):
    """Run a command in a folder; what it said, if it failed."""
    from typer.testing import CliRunner

    from circuits.cli.app import app

    # A redirection is the shell's work.
    words, into = (command[:-2], command[-1]) if command[-2:-1] == [">"] else (command, None)
    with chdir(folder):
        done = CliRunner().invoke(app, words[1:])
    if done.exit_code:
        return f"{' '.join(words)}\n{done.output[-2000:]}\n{done.exception!r}"
    if into:
        (folder / into).write_text(done.stdout)
    return None

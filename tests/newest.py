"""``make test-newest``: installs as a user does, with the newest versions, and tries the result.

A wheel is built and installed into a new environment by the very commands of the documentation
(blocks marked ``build``, ``wheel`` and ``clone``; see :mod:`pages`), outside the checkout and
without a constraints file. Then a brief run must reach its rates, and tests of the models layer
must pass. ``constraints-newest.txt`` lists the versions with which all of it has passed. A failure
with those versions is a failure here; one that goes away with them is a library that has moved: it
is told, and is no failure. ``make newest`` writes the list. All of it needs the network.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from textwrap import shorten

from packaging.utils import canonicalize_name
from packaging.version import Version
from pages import PAGES, ROOT, Block, blocks, name_of

LISTED = ROOT / "constraints-newest.txt"
HEAD = (
    "# What pip installs beside the wheel without a constraints file, and the tests pass with.\n"
    "# Written by `make newest`.\n"
)
OURS = "emotion-circuits"
TOOLS = ("hypothesis", "pytest")
"""What the tests need beside the wheel, in the versions of constraints.txt."""

TESTS = ("tests/model/test_generation.py", "tests/model/test_windows.py")
"""Cached decoding against full passes, continued prefixes, padding on the left, windows."""

RATES = {"prompt": 100.0, "circuit": 100.0}
"""Method -> share of the replies of the brief run that express the target emotion."""

_TAIL = 30  # lines of a failing command's output

Versions = Mapping[str, str]


class FailedError(Exception):
    """Something does not work in the environment; says what, and the end of the output."""


class NotInstalledError(FailedError):
    """The wheel could not be built, or the environment not be made; says why in one line."""

    def __init__(self, cause: FailedError) -> None:
        lines = str(cause).splitlines()
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        super().__init__(f"nothing could be installed: {errors[0].removeprefix('ERROR: ')}")


@dataclass(frozen=True)
class Attempt:
    """What was installed, and what failed with it if anything did."""

    installed: Versions
    failure: FailedError | None


def versions(text: str) -> dict[str, str]:
    """Package -> version, of lines as ``pip freeze`` writes them; without builds such as +cpu."""
    found = {}
    for line in text.splitlines():
        name, equals, version = line.partition("==")
        if equals and not line.startswith("#"):
            found[canonicalize_name(name.strip())] = version.strip().partition("+")[0]
    return found


def moved(listed: Versions, installed: Versions) -> list[str]:
    """What is newer than listed.

    What is older, or not listed, is not counted: no library has moved there, but our own bounds or
    the version of Python.
    """
    return [
        f"{name} {listed[name]} -> {version}"
        for name, version in sorted(installed.items())
        if name in listed and Version(version) > Version(listed[name])
    ]


def verdict(
    listed: Versions, newest: Attempt, with_listed: Callable[[], Attempt]
) -> tuple[int, str]:
    """Exit status, and what to say; ``with_listed`` tries again with the listed versions."""
    others = moved(listed, newest.installed)
    library = f"a library moved: {', '.join(others)}"
    if newest.failure is None:
        if others:
            return 0, f"{library}\nall passes with it; `make newest` lists it as tried"
        return 0, f"all passes, with nothing newer than {LISTED.name} lists"
    if isinstance(newest.failure, NotInstalledError):
        library = "the newest versions cannot be installed"
    elif not others:
        return 1, f"{newest.failure}\nfailed, with nothing newer than {LISTED.name} lists"
    again = with_listed()
    if again.failure is None:
        return 0, f"{newest.failure}\n{library}\nall passes with the versions of {LISTED.name}"
    return 1, f"{library}\n{again.failure}\nfailed with the versions of {LISTED.name} too"


def told(folder: Path, words: list[str], env: Mapping[str, str]) -> str:
    """What a command says in a folder."""
    done = subprocess.run(
        words, cwd=folder, env=env, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        end = "\n".join(done.stdout.rstrip().splitlines()[-_TAIL:])
        raise FailedError(f"{' '.join(words)}\n{end}")
    return done.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    start = time.monotonic()
    try:
        yield
    finally:
        say(f"{time.monotonic() - start:6.1f} s  {what}")


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def environment(home: Path, constraints: Path | None = None) -> dict[str, str]:
    """Variables with which a user who has activated the environment types; nothing of ours."""
    ours = ("PYTHON", "VIRTUAL_ENV", "PIP_CONSTRAINT", "PYTEST", "PWD", "OLDPWD")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **kept,
        "PATH": f"{home / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_COMPILE": "1",  # most of what is installed is never imported here
        "PIP_NO_INPUT": "1",
        "PIP_QUIET": "2",
        "PIP_RETRIES": "2",
        **({"PIP_CONSTRAINT": str(constraints)} if constraints else {}),
    }


def marked(mark: str) -> list[Block]:
    """Blocks with a mark, once: those of the page on installing first, as others build on it."""
    pages = sorted(PAGES, key=lambda page: page.name != "install.md")
    found = [block for page in pages for block in blocks(page) if block.mark == mark]
    return [own for i, own in enumerate(found) if own.text not in {b.text for b in found[:i]}]


def type_in(block: Block, folder: Path, env: Mapping[str, str]) -> None:
    """Do what a block says, as one goes."""
    commands = block.text.replace("\\\n", "").replace("\n", "; ")
    with timed(f"{name_of(block.page)}: {shorten(commands, 110)}"):
        told(folder, ["bash", "-e", "-c", block.text], env)


def copy_of_the_clone(into: Path) -> Path:
    """The checkout without what was made in it."""
    anywhere = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis")
    at_top = shutil.ignore_patterns(".git", ".venv*", "runs", "dist", "site")  # circuits/runs stays

    def made(folder: str, names: list[str]) -> set[str]:
        return anywhere(folder, names) | (at_top(folder, names) if Path(folder) == ROOT else set())

    return shutil.copytree(ROOT, into / "clone", ignore=made)


def build(clone: Path) -> Path:
    """The wheel, built as the documentation says."""
    home = clone.parent / "build"
    env = environment(home)
    try:
        told(clone, [sys.executable, "-m", "venv", str(home)], env)
        for block in marked("build"):
            type_in(block, clone, env)
    except FailedError as error:
        raise NotInstalledError(error) from error
    (wheel,) = (clone / "dist").glob("*.whl")
    return wheel


def attempt(clone: Path, wheel: Path, constraints: Path | None = None) -> Attempt:
    """Install the wheel in a new folder that holds nothing else, and try all that can be tried."""
    say(f"with {constraints.name if constraints else 'the newest versions'}:")
    installation, *further = marked("wheel")
    with TemporaryDirectory(prefix="newest-") as name:
        there = Path(name).resolve()
        shutil.copy(wheel, there)
        env = environment(there / ".venv", constraints)
        try:
            type_in(installation, there, env)
            installed = versions(told(there, ["pip", "freeze", "--exclude", OURS], env))
        except FailedError as error:
            return Attempt({}, NotInstalledError(error))
        try:
            try_out(clone, there, env, further)
        except FailedError as error:
            return Attempt(installed, error)
    return Attempt(installed, None)


def try_out(clone: Path, there: Path, env: Mapping[str, str], further: list[Block]) -> None:
    """Import, the commands of the pages, the rates of their brief run, and the tests."""
    with timed("import circuits"):
        own = told(there, ["python", "-c", "import circuits; print(circuits.__file__)"], env)
        if not own.startswith(str(there / ".venv")):
            raise FailedError(f"import circuits: found in {own.strip()}, not in the environment")
    for block in further:
        type_in(block, there, env)
    check_rates(there / "runs" / "brief" / "steering.json")
    tested = versions((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    with timed("tests of the models layer"):
        told(there, ["pip", "install", *(f"{name}=={tested[name]}" for name in TOOLS)], env)
        options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        tests = [str(ROOT / path) for path in TESTS]
        say(told(there, ["python", "-m", "pytest", *options, *tests], env).strip())
    for block in marked("clone"):
        type_in(block, clone, env)


def check_rates(path: Path) -> None:
    """The brief run reaches what it reaches in the environment of the tests."""
    found = {
        name: row["overall"]
        for name, row in json.loads(path.read_text(encoding="utf-8"))["methods"].items()
    }
    rates = ", ".join(f"{name} {found.get(name)}%" for name in ("none", *RATES))
    say(f"          the brief run: {rates}")
    if any(found.get(name) != rate for name, rate in RATES.items()):
        raise FailedError(f"the brief run: {rates}, instead of {RATES}")


def write_list(installed: Versions, path: Path = LISTED) -> None:
    """List versions as tried: the whole file or nothing."""
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()))
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(HEAD + lines)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def main() -> int:
    """Try the newest versions; with ``--write`` list them, if all passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {LISTED.name} if all passes")
    write = parser.parse_args().write
    listed = versions(LISTED.read_text(encoding="utf-8"))
    with TemporaryDirectory(prefix="clone-") as name:
        with timed("a copy of the clone"):
            clone = copy_of_the_clone(Path(name).resolve())
        try:
            wheel = build(clone)
        except NotInstalledError as error:
            say(str(error))
            return 1
        newest = attempt(clone, wheel)
        if not write:
            status, text = verdict(listed, newest, lambda: attempt(clone, wheel, LISTED))
            say(text)
            return status
    if newest.failure:
        say(f"{newest.failure}\n{LISTED.name} is left as it was")
        return 1
    write_list(newest.installed)
    say(f"all passes; {LISTED.name}: {', '.join(moved(listed, newest.installed)) or 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

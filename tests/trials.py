"""A pytest plugin: tests marked ``trial`` are rows of a table of what was tried, and how it ended.

``pytest -m trial --trials=docs/trials.json`` runs them and writes down, per row, what was tried,
how often, and the outcome; rows of tests that were not run stay, and a test that was skipped here
(for want of another library, say) does not replace what it said where it ran.
``python tests/trials_table.py`` makes the page of it.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PARTS = ("faults", "files", "security", "workers", "models", "numbers", "packaging")
_PROPERTY = "trial"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trials", type=Path, help="write the rows of marked tests to this file")


def pytest_configure(config: pytest.Config) -> None:
    path: Path | None = config.getoption("--trials")
    if path is not None:
        config.pluginmanager.register(Rows(path), "trial-rows")


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Say how often something was tried, and what came of it."""

    def note(*, times: int = 1, outcome: str = "held") -> None:
        request.node.user_properties.append((f"{_PROPERTY} result", [times, outcome]))

    return note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    place = row_of(item)
    if place is not None:
        item.user_properties.append((_PROPERTY, place))
    return (yield)


def row_of(item: pytest.Item) -> list[str] | None:
    """Part, what was tried, and the test; parameters that are words fill the places left open."""
    mark = item.get_closest_marker("trial")
    if mark is None:
        return None
    part, what = mark.args
    if part not in PARTS:
        raise pytest.UsageError(f"{item.nodeid}: trial {part!r} is none of {', '.join(PARTS)}")
    params = getattr(getattr(item, "callspec", None), "params", {})
    words = {name: value for name, value in params.items() if isinstance(value, str | int)}
    return [part, what.format_map(words), item.nodeid.split("[")[0]]


class Rows:
    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, dict[tuple[str, str], dict[str, Any]]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        own: dict[str, Any] = dict(report.user_properties)
        over = report.when == "call" or report.outcome != "passed"
        if _PROPERTY not in own or not over:
            return
        part, what, test = own[_PROPERTY]
        times, outcome = own.get(f"{_PROPERTY} result", [1, "held"])
        if report.outcome != "passed":
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
            times, outcome = 0, f"not run: {reason}" if report.outcome == "skipped" else "FAILED"
        row = self.rows.setdefault((part, what), {"times": 0, "outcomes": [], "test": test})
        row["times"] += times
        row["outcomes"] = sorted({*row["outcomes"], outcome})

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return  # the controller hears every worker's reports
        before = json.loads(self.path.read_text()) if self.path.exists() else []
        found = {(row["part"], row["what"]): row for row in before}
        for (part, what), row in self.rows.items():
            if row["times"] or "FAILED" in row["outcomes"] or (part, what) not in found:
                found[part, what] = {"part": part, "what": what, **row}
        rows = sorted(found.values(), key=lambda row: (PARTS.index(row["part"]), row["what"]))
        self.path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")

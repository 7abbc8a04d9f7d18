"""The table of trials tells of every marked test, of no other, and of no failure."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from families.support import support_page
from trials import Rows, row_of
from trials_table import page

_DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_made_from_the_rows() -> None:
    assert (_DOCS / "trials.md").read_text() == page(_rows())


def test_the_table_of_support_is_made_from_the_rows() -> None:
    assert (_DOCS / "support.md").read_text() == support_page(_rows())


def test_every_marked_test_that_is_collected_here_has_its_row(
    request: pytest.FixtureRequest,
) -> None:
    told = {(row["part"], row["what"]) for row in _rows()}
    marked = [row_of(item) for item in request.session.items]
    missing = {(row[0], row[1]) for row in marked if row is not None} - told
    assert not missing, "run `make trials`"


def test_every_row_is_of_a_test_that_is_there_and_did_not_fail() -> None:
    for row in _rows():
        place, *_, name = row["test"].split("::")
        source = (Path(__file__).parents[1] / place).read_text()
        assert f"def {name}(" in source, row
        assert "FAILED" not in row["outcomes"], row


def test_a_skipped_test_does_not_replace_what_it_said_where_it_ran(tmp_path: Path) -> None:
    path, session = tmp_path / "trials.json", SimpleNamespace(config=object())
    ran, skipped = {"times": 3, "outcomes": ["held"]}, {"times": 0, "outcomes": ["not run: no"]}
    failed = {"times": 0, "outcomes": ["FAILED"]}
    for told, kept in ((skipped, skipped), (ran, ran), (skipped, ran), (failed, failed)):
        rows = Rows(path)
        rows.rows["models", "this"] = {**told, "test": "tests/some.py::test"}
        rows.pytest_sessionfinish(cast(Any, session))
        (row,) = json.loads(path.read_text())
        assert {name: row[name] for name in kept} == kept


def _rows() -> list[dict]:
    return json.loads((_DOCS / "trials.json").read_text())

"""A pytest plugin: which tests one worker of pytest-xdist takes together (``--dist loadgroup``).

A run of the whole job is made once in the suite, since all tests that look at it are one group; the
tests of a file are another, so that its fixtures are made once; a slow test is one of its own. The
longest groups come first, so that no worker is left with one when the others have ended.
"""

import pytest

DEMO, BRIEF, MEASURED = "the run of the demo", "the brief run", "the run up to its circuits"
RUNS = {"study": DEMO, "demo": DEMO, "brief_study": BRIEF, "measured_run": MEASURED}
"""Fixtures of tests/pipeline -> the group of the tests that ask for them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=_rank)


def group_of(item: pytest.Item) -> str:
    """What a test is taken together with."""
    folder = item.path.parent.name
    asked = getattr(item, "fixturenames", ()) if folder == "pipeline" else ()
    for fixture, group in RUNS.items():
        if fixture in asked:
            return group
    return item.name if item.get_closest_marker("slow") else f"{folder}/{item.path.stem}"


def _rank(item: pytest.Item) -> int:
    if group_of(item) == DEMO:
        return 0
    return 1 if item.get_closest_marker("slow") else 2

"""A pytest plugin for several workers: what is long is made once, and begun first.

A worker of pytest-xdist takes whole files (``--dist loadfile``), so that their fixtures are made
once; files with slow tests come first, so that no worker is left with one when the others have
ended. What tests of several files look at stands in a folder that the workers share.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

Once = Callable[[str], AbstractContextManager[Path]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Name -> a folder that no other worker works in; it exists if a worker has filled it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @contextmanager
    def held(name: str) -> Iterator[Path]:
        with FileLock(shared / f"{name}.lock"):
            yield shared / name

    return held

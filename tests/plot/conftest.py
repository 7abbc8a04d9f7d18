import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def samples() -> ModuleType:
    """The builders in ``samples.py``; test folders are not packages, so it is loaded by path."""
    path = Path(__file__).parent / "samples.py"
    spec = importlib.util.spec_from_file_location("plot_samples", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

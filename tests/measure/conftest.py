import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def plainly() -> ModuleType:
    """``plain_attribution.py``; test folders are not packages, so it is loaded by path."""
    path = Path(__file__).parent / "plain_attribution.py"
    spec = importlib.util.spec_from_file_location("plain_attribution", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

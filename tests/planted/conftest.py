import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def by_hand() -> ModuleType:
    """The interventions in ``by_hand.py``, loaded by path as test folders are not packages."""
    path = Path(__file__).parent / "by_hand.py"
    spec = importlib.util.spec_from_file_location("planted_by_hand", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

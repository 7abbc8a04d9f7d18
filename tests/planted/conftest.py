import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def by_hand() -> ModuleType:
    """The interventions in ``by_hand.py``."""
    return _beside("by_hand")


@pytest.fixture(scope="session")
def methods() -> ModuleType:
    """The methods in ``plant_recovery.py``."""
    return _beside("plant_recovery")


def _beside(name: str) -> ModuleType:
    # By path, as test folders are not packages.
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"planted_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

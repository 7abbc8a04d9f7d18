from types import ModuleType

import pytest
from planted import by_hand as interventions
from planted import plant_recovery


@pytest.fixture(scope="session")
def by_hand() -> ModuleType:
    """Interventions as plain, slow procedures."""
    return interventions


@pytest.fixture(scope="session")
def methods() -> ModuleType:
    """What each method finds."""
    return plant_recovery

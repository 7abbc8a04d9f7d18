from types import ModuleType

import pytest
from measure import plain_attribution


@pytest.fixture(scope="session")
def plainly() -> ModuleType:
    """Attribution as a plain, slow procedure."""
    return plain_attribution

"""One Ray cluster for all tests of workers; its eight cores are counts, not real ones."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """Ray on this machine; engines that are opened meanwhile join it."""
    pytest.importorskip("ray")
    from circuits.models import engines as ray_engine

    kept = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    # One thread each, whatever the number of workers: sums in another order end otherwise.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    ray = ray_engine._ray()
    ray_engine._start(ray, 8, None)
    yield
    ray.shutdown()
    for name, value in kept.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="module", autouse=True)
def one_thread(cluster: None) -> Iterator[None]:
    """This process computes with as many threads as a worker, since that orders its sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

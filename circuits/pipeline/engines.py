"""Who does the work of a run: this process, or workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from circuits.errors import RunError

__all__ = ["EngineName", "at_work"]

EngineName = Literal["here", "ray"]


@contextmanager
def at_work(
    engine: EngineName = "here", workers: int | None = None, ray_address: str | None = None
) -> Iterator[None]:
    """Have the work inside the block done by an engine.

    Args:
        engine: ``here``: as it is outside the block, in this process unless said otherwise.
            ``ray``: by Ray workers, which are gone after the block.
        workers: How many; one per GPU, or without GPUs one per core, by default.
        ray_address: A Ray cluster to join; one on this machine by default.

    Raises:
        RunError: the options do not go together, or Ray is not there.
    """
    if engine == "here":
        if workers is not None or ray_address is not None:
            option = "--workers" if workers is not None else "--ray-address"
            raise RunError(f"{option}: one process does the work; add --engine ray")
        yield
        return
    from circuits.model.ray_engine import on_ray  # loads the model's libraries

    with on_ray(workers, ray_address):
        yield

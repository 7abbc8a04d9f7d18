"""Who does the work on a model: this process, or Ray workers on several machines.

Every worker is a Ray actor that loads the model by the arguments that :func:`load_model` was
given here. Ray starts a worker again that dies, and gives it its parts again. What travels: the
work with its constants once per worker, each part to one worker, its result back. A worker
carries the work out as :func:`~circuits.running.execution` says here, but tells no progress: that
is told here, as results come in.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from circuits.errors import CircuitsError, ModelError, RunError
from circuits.models.load import load_model, loaded_as
from circuits.models.memory import Receipt, charge_receipt, counted, setting
from circuits.models.protocol import Model, hooks_of
from circuits.running import execution, in_force

__all__ = ["SHARDS", "Here", "OnRay", "engine", "in_order", "on_ray", "shards", "working_on"]

SHARDS = 32
"""Parts that a sum over contexts is made of, at most. Neither it nor what is in a part depends on
the number of workers, so that the sums are the same to the last bit for any number, where every
process has the same kind of processor, as many threads and the same versions of the libraries."""

P = TypeVar("P")
R = TypeVar("R")


class Here:
    """This process, one part after the other."""

    def results(
        self, model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
    ) -> Iterator[tuple[int, R]]:
        """``(place, work(model, part))`` of every part, each made when it is asked for."""
        return ((place, work(model, part)) for place, part in enumerate(parts))


_ENGINE: ContextVar[Any] = ContextVar("engine", default=Here())  # noqa: B039 (it has no state)


def engine() -> Any:
    """What does the work: this process, unless :func:`working_on` says otherwise.

    Its ``results`` are in the order in which they are ready. What a part cost is charged to the
    receipts open here while its result is being waited for, and nothing else is.
    """
    return _ENGINE.get()


@contextmanager
def working_on(chosen: Any) -> Iterator[None]:
    """Have the work inside the block done by another engine."""
    with setting(_ENGINE, chosen):
        yield


def in_order(results: Iterable[tuple[int, R]]) -> Iterator[R]:
    """Results in the order of their places; those that come early are held until it is their turn.

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    early: dict[int, R] = {}
    due = 0
    for place, result in results:
        early[place] = result
        while due in early:
            yield early.pop(due)
            due += 1


def shards(items: Sequence[P]) -> list[tuple[P, ...]]:
    """Items in :data:`SHARDS` parts of neighbours, or in as many parts as there are items.

    >>> [len(part) for part in shards(range(70))][:8]
    [2, 2, 2, 2, 2, 3, 2, 2]
    """
    count = min(SHARDS, len(items))
    edges = [place * len(items) // count for place in range(count + 1)] if count else [0]
    return [tuple(items[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


RETRIES = 3
"""How often a part is given out again whose worker died."""

_START = 300
"""Seconds in which workers must be there."""

_IN_FLIGHT = 2
"""Parts handed to a worker at once: the next one waits there while one is done."""


@contextmanager
def on_ray(workers: int | None = None, address: str | None = None) -> Iterator["OnRay"]:
    """Workers on this machine, or in the Ray cluster at ``address``; gone after the block.

    Args:
        workers: How many; by default one per GPU, or without GPUs one per core.
        address: As of ``ray.init``: ``auto``, or ``ray://host:10001``; a new cluster on this
            machine by default.

    Raises:
        RunError: Ray is not installed or does not start, or the cluster is too small.
    """
    if workers is not None and workers < 1:
        raise RunError(f"--workers: {workers} is too few; give 1 or more")
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _start(ray, workers, address)
    try:
        chosen = OnRay(ray, workers)
        try:
            with working_on(chosen):
                yield chosen
        finally:
            chosen.close()
    finally:
        if started:
            ray.shutdown()


class OnRay:
    """Ray actors that do parts of a piece of work; made by :func:`on_ray`."""

    def __init__(self, ray: Any, workers: int | None) -> None:
        self._ray, there = ray, ray.cluster_resources()
        cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
        count = workers or gpus or cpus
        if not 0 < count <= cpus or (gpus and count > gpus):
            raise RunError(
                f"--workers: {count} asked for, and the Ray cluster has {cpus} cores and {gpus} "
                "GPUs; give no more workers than there are cores, nor than GPUs where there are any"
            )
        threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, cpus // count))
        threads = min(threads, cpus // count)
        # Ray restarts what dies, as often as it dies; a part may not kill for ever.
        kind = ray.remote(_Worker).options(
            num_cpus=threads, num_gpus=gpus // count, max_restarts=-1, max_task_retries=RETRIES
        )
        self.workers = [kind.remote(threads) for _ in range(count)]
        asked = [worker.process.remote() for worker in self.workers]
        ready, late = ray.wait(asked, num_returns=count, timeout=_START)
        if late:
            self.close()
            raise RunError(
                f"--workers: only {len(ready)} of {count} workers started within {_START} "
                "seconds; the cluster's cores or GPUs are taken. Give fewer workers"
            )

    def results(
        self, model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
    ) -> Iterator[tuple[int, R]]:
        """The results as they are ready; see :func:`engine`.

        ``work`` is a function that a worker can import, or a ``functools.partial`` of one. While
        the model is edited here the work is done here, since workers would not see the edits.

        Raises:
            ModelError: the model was not loaded by name.
            RunError: a part's workers died again and again.
            CircuitsError: what ``work`` raises.
        """
        if any(point.fwd_hooks for point in hooks_of(model).values()):
            yield from Here().results(model, work, parts)
            return
        loaded = loaded_as(model)
        if loaded is None:
            name = getattr(model.cfg, "source", "the model")
            raise ModelError(
                f"{name} was given in memory, and workers load a model by its name; save it to a "
                "folder that they can read and load it from there, or use --engine here"
            )
        shared = self._ray.put((work, replace(in_force(), progress=None)))
        waiting: dict[Any, tuple[int, Any]] = {}
        places = enumerate(parts)

        def hand_out(worker: Any) -> None:
            for place, part in islice(places, 1):
                # In a list, a reference is handed on as it is: the worker keeps what it got.
                done = worker.do.remote(loaded, [shared], part)
                waiting[done] = place, worker

        try:
            for worker in self.workers * _IN_FLIGHT:
                hand_out(worker)
            while waiting:
                (ready, *_), _ = self._ray.wait(list(waiting), num_returns=1)
                place, worker = waiting.pop(ready)
                result, receipt = self._got(ready, place)
                hand_out(worker)
                charge_receipt(receipt)
                yield place, result
        finally:
            for reference in waiting:
                self._ray.cancel(reference)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            self._ray.kill(worker)

    def _got(self, ready: Any, place: int) -> tuple[Any, Receipt]:
        try:
            found = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise RunError(
                f"part {place} was lost: its worker died {RETRIES + 1} times, or cannot be "
                f"reached; give fewer workers or more memory each. Ray says: {_brief(error)}"
            ) from error
        if isinstance(found, CircuitsError):
            raise found
        return found


class _Worker:
    """One process with a model of its own; Ray makes it an actor."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._models: dict[str, Model] = {}
        self._work: tuple[Any, Any] = (None, None)

    def do(self, loaded: dict[str, Any], work: list[Any], part: Any) -> Any:
        """The result with its receipt, or the error that the work raised on purpose."""
        try:
            if repr(loaded) not in self._models:
                self._models[repr(loaded)] = load_model(**loaded)
            if self._work[0] != work[0]:
                self._work = work[0], _ray().get(work[0])
            shared, how = self._work[1]
            with execution(**vars(how)), counted() as receipt:
                return shared(self._models[repr(loaded)], part), receipt
        except CircuitsError as error:
            return error

    def process(self) -> int:
        """The number of the worker's process."""
        return os.getpid()


def _ray() -> Any:
    # Nothing of a run is told to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise RunError("--engine ray: Ray is not installed; pip install 'ray>=2.40,<3'") from error
    return ray


def _start(ray: Any, workers: int | None, address: str | None) -> None:
    where: dict[str, Any] = {"address": address}
    if address is None:
        # Cores are counts to Ray: more workers than cores take turns.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        count = max(workers or 1, cores or os.cpu_count() or 1)
        where = {"num_cpus": count, "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        at = address or "this machine"
        raise RunError(f"--engine ray: Ray does not start at {at}: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

"""Parts of a piece of work on a model that are not done again when the work is."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from circuits.journal import Call, begin_call
from circuits.model.engine import engine
from circuits.model.protocol import Model
from circuits.model.receipts import Receipt, charge_receipt, counted
from circuits.stopping import stop_if_asked

__all__ = ["resumed"]

P = TypeVar("P")
R = TypeVar("R")


def resumed(
    model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
) -> Iterator[tuple[int, R]]:
    """``(place, work(model, part))`` of every part, by the engine or from the journal.

    What a part from the journal cost when it was made is charged again, so that receipts do not
    tell whether the work was interrupted. Without a journal this is the engine's own loop.

    Args:
        model: What the work is done on; the journal's key stands for it.
        work: Gives a plain JSON value.
        parts: Dataclasses of plain values and tensors.

    Raises:
        RunError: a result cannot be kept.
        Stopped: the work was asked to stop; the last result is kept.
    """
    call = begin_call()
    if call is None:
        for found in engine().results(model, work, parts):
            yield found
            stop_if_asked()
    else:
        yield from _kept(call, model, work, parts)


def _kept(
    call: Call, model: Model, work: Callable[[Model, P], R], parts: Iterable[P]
) -> Iterator[tuple[int, R]]:
    known: list[tuple[int, Any]] = []
    asked: list[tuple[int, str]] = []

    def missing() -> Iterator[P]:
        for place, part in enumerate(parts):
            digest = _digest(part)
            found = call.find(place, digest)
            if found is None:
                asked.append((place, digest))
                yield part
            else:
                known.append((place, found))

    results = iter(engine().results(model, work, missing()))
    while True:
        with counted() as receipt:
            made = next(results, None)
        while known:
            place, found = known.pop(0)
            charge_receipt(Receipt(**found["receipt"]))
            yield place, found["result"]
        if made is None:
            return
        place, digest = asked[made[0]]
        call.keep(place, digest, {"result": made[1], "receipt": receipt.to_json()})
        yield place, made[1]
        stop_if_asked()


def _digest(part: object) -> str:
    total = hashlib.sha256()
    for piece in _pieces(part):
        total.update(piece)
    return total.hexdigest()[:32]


def _pieces(value: object) -> Iterator[bytes]:
    """The value as bytes, from which no other value of its kind could come."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"{plain.dtype}{tuple(plain.shape)}".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, tuple):
        yield f"({len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    elif is_dataclass(value):
        yield type(value).__name__.encode()
        for own in fields(value):
            yield from _pieces(getattr(value, own.name))
    else:
        yield f"{value!r};".encode()

"""Receipts: how many passes and token-layers a piece of work cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass

__all__ = [
    "Cost",
    "Receipt",
    "charge",
    "charge_backward",
    "charge_receipt",
    "counted",
    "provisional",
    "uncounted",
]


@dataclass
class Receipt:
    """Running totals; filled by every forward pass made inside :func:`counted`."""

    passes: int = 0
    """Sequences put through the model from their first token (a batch of 8 counts 8)."""
    steps: int = 0
    """Sequences continued by cached keys and values (decoding, or a changed last token)."""
    token_layers: int = 0
    """Tokens times layers of both, padding included."""
    backward_passes: int = 0
    """Sequences whose gradients were computed."""
    backward_token_layers: int = 0
    """Tokens times layers of those."""

    def to_json(self) -> dict[str, int]:
        """The totals as plain JSON values."""
        return asdict(self)


_OPEN: ContextVar[tuple[Receipt, ...]] = ContextVar("open receipts", default=())


@contextmanager
def counted() -> Iterator[Receipt]:
    """Count what is run inside the block; blocks may nest."""
    receipt = Receipt()
    token = _OPEN.set((*_OPEN.get(), receipt))
    try:
        yield receipt
    finally:
        _OPEN.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """Passes that find out what a model can do, once, and belong to no piece of work."""
    token = _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.reset(token)


def charge(rows: int, positions: int, layers: int, *, cached: bool, extra: int = 0) -> None:
    """Add one batched forward call to every open receipt; ``extra`` counts single token-layers."""
    for receipt in _OPEN.get():
        receipt.token_layers += rows * positions * layers + extra
        if cached:
            receipt.steps += rows
        else:
            receipt.passes += rows


def charge_backward(rows: int, positions: int, layers: int) -> None:
    """Add one batched backward call to every open receipt."""
    for receipt in _OPEN.get():
        receipt.backward_passes += rows
        receipt.backward_token_layers += rows * positions * layers


def charge_receipt(receipt: Receipt) -> None:
    """Add what was counted elsewhere, such as by a worker, to every open receipt."""
    for own in _OPEN.get():
        for name in _COUNTS:
            setattr(own, name, getattr(own, name) + getattr(receipt, name))


@contextmanager
def provisional() -> Iterator[None]:
    """Passes that count if the block ends, and not at all if it is left by an error."""
    receipt = Receipt()
    token = _OPEN.set((receipt,))
    try:
        yield
    finally:
        _OPEN.reset(token)
    charge_receipt(receipt)


@dataclass(frozen=True)
class Cost:
    """What a piece of work will need, told before it starts; counts are those of :class:`Receipt`.

    Costs add up; memory does not, since one piece of work ends before the next begins.
    """

    passes: int = 0
    steps: int = 0
    token_layers: int = 0
    backward_passes: int = 0
    backward_token_layers: int = 0
    memory: int = 0
    """Bytes held at once beside the weights, estimated from the sizes of what is kept."""

    def __add__(self, other: "Cost") -> "Cost":
        """Both pieces of work, one after the other."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return Cost(**counts, memory=max(self.memory, other.memory))

    def agrees(self, receipt: Receipt) -> bool:
        """Was exactly this run?"""
        return all(getattr(self, name) == getattr(receipt, name) for name in _COUNTS)

    def to_json(self) -> dict[str, int]:
        """The numbers as plain JSON values."""
        return asdict(self)


_COUNTS = ("passes", "steps", "token_layers", "backward_passes", "backward_token_layers")

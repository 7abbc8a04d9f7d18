"""Attribution without gradients: slopes of whole runs of one pair, by differences, in float64."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from circuits.models.protocol import Hook, Model
from circuits.names import hook as name_of
from circuits.patching.pairs import Pair, Projection

STEP = 1e-3
Place = tuple[str, int]


@contextmanager
def in_float64() -> Iterator[None]:
    """Everything in float64; libraries that ask for float32 (norms, softmax) get it too."""
    tensor: Any = torch.Tensor
    library: Any = torch
    usual, single = tensor.float, torch.float32
    tensor.float = tensor.double
    torch.set_default_dtype(torch.float64)
    library.float32 = library.float = torch.float64
    try:
        yield
    finally:
        library.float32 = library.float = single
        torch.set_default_dtype(single)
        tensor.float = usual


class PlainPair:
    """The base and the other run of one pair, as prompts without padding."""

    def __init__(self, model: Model, pair: Pair, readout: Projection, mode: str) -> None:
        self.model, self.readout, self.matched = model, readout, pair.matched
        ids = (pair.clean.ids, pair.corrupt.ids)
        self.other, self.base = ids if mode == "denoising" else ids[::-1]
        self.sign = 1.0 if mode == "denoising" else -1.0

    def run(
        self, ids: Sequence[int], hooks: Sequence[Hook] = (), seen: Sequence[Place] = ()
    ) -> tuple[float, dict[Place, Tensor]]:
        """Readout, and activations of some places as the run's hooks leave them."""
        found: dict[Any, Tensor] = {}

        def see(place: Any) -> Callable[..., Tensor]:
            def keep(activation: Tensor, hook: object) -> Tensor:
                found[place] = activation.clone()
                return activation

            return keep

        last = (self.readout.site, self.model.cfg.n_layers - 1)
        hooks = [*hooks, *((name_of(*place), see(place)) for place in (*seen, last))]
        tokens = torch.tensor([list(ids)])
        with torch.no_grad(), self.model.hooks(fwd_hooks=list(hooks)):
            self.model(tokens, attention_mask=torch.ones_like(tokens))
        return float(self.readout.score(found[last][:, -1])), found

    def change(self, place: Place) -> Tensor:
        """Other minus base activation, zero before the matched positions of the base run."""
        base, other = (self.run(ids, seen=[place])[1][place] for ids in (self.base, self.other))
        found = torch.zeros_like(base)
        found[:, -self.matched :] = other[:, -self.matched :] - base[:, -self.matched :]
        return found

    def slope(self, place: Place, along: Tensor, hooks: Sequence[Hook] = ()) -> float:
        """How fast the base run's readout rises as the activation moves along a direction.

        Five-point difference: exact up to the fourth power of a small step.
        """

        def at(size: float) -> float:
            add: Hook = (name_of(*place), lambda activation, hook: activation + size * along)
            return self.run(self.base, [*hooks, add])[0]

        far, near = at(2 * STEP) - at(-2 * STEP), at(STEP) - at(-STEP)
        return self.sign * (8 * near - far) / (12 * STEP)

    def put(self, place: Place, value: Tensor) -> Hook:
        """A hook that sets an activation."""
        return name_of(*place), lambda activation, hook: value


def unit(change: Tensor, index: int) -> Tensor:
    """The part of a change that is one head's, group's or neuron's."""
    found = torch.zeros_like(change)
    found[:, :, index] = change[:, :, index]
    return found

"""The surface of TransformerLens that this package uses, as a protocol.

``TransformerBridge`` (TransformerLens 3.9 and 4) satisfies it, and a ``HookedTransformer``
(TransformerLens 3.9) that :func:`~circuits.model.loading.wrap_model` has taken. Hook names are
HookedTransformer's; see :func:`circuits.names.hook`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = [
    "Hook",
    "Model",
    "blocks_of",
    "device_of",
    "dtype_of",
    "has_hooks",
    "hooks_of",
    "shape_of",
    "writes_at_once",
]

Hook = tuple[str, Callable[..., Tensor | None]]
"""A hook name and a function ``(activation, hook) -> new activation, or None to leave it``."""


@runtime_checkable
class Model(Protocol):
    """A transformer with hook points."""

    @property
    def cfg(self) -> Any:
        """Sizes and settings: ``n_layers``, ``n_heads``, ``d_model``, ``d_head``, ``d_mlp``, ..."""
        ...

    @property
    def tokenizer(self) -> Any:
        """A Hugging Face tokenizer, or ``None``."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """The weights, one by one."""
        ...

    def hooks(self, fwd_hooks: list[Any] = ...) -> AbstractContextManager[Any]:
        """Hooks that are there inside the ``with`` block and gone after it."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on tokens."""
        ...


def device_of(model: Model) -> torch.device:
    """The device that holds the model's first weights."""
    # Not that of W_O: asking for it stacks the weights of all layers.
    return next(iter(model.parameters())).device


def dtype_of(model: Model) -> torch.dtype:
    """The number type of the model's first weights."""
    return next(iter(model.parameters())).dtype


def blocks_of(model: Model) -> Any:
    """The layers in turn, each with parts ``attn`` and ``mlp`` and norms."""
    # A bridge has them only once it has been wrapped around a model.
    wrapped: Any = model
    return wrapped.blocks


def has_hooks(model: Model) -> bool:
    """Is something read or changed at a hook point just now?"""
    return any(point.fwd_hooks for point in hooks_of(model).values())


def hooks_of(model: Model) -> dict[str, Any]:
    """The hook points, by name."""
    wrapped: Any = model
    return getattr(wrapped, "hook_dict", {})


def writes_at_once(model: Any) -> bool:
    """Do attention and MLP of a layer read one stream and write to it together?"""
    places = hooks_of(model)
    return bool(places) and "blocks.0.hook_resid_mid" not in places


def shape_of(model: Model) -> dict[str, int]:
    """Layers, heads, neurons and widths of the model."""
    names = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp")
    return {name: int(getattr(model.cfg, name)) for name in names}

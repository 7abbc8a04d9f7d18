"""The surface of TransformerLens that this package uses, as a protocol.

``TransformerBridge`` (TransformerLens 3.9 and 4) satisfies it, and a ``HookedTransformer``
(TransformerLens 3.9) that :func:`~circuits.models.load.wrap_model` has taken. Hook names are
HookedTransformer's; see :func:`circuits.names.hook`.

A ``HookedTransformer`` of TransformerLens 3, spoken to as a ``TransformerBridge`` is.

Its names of places are those of :data:`circuits.names.SITES` where it has them; the inputs and
outputs of whole modules (``blocks.0.ln1.hook_out``), for which it has no hook points, are read
with PyTorch's own hooks. It reads on from Hugging Face's cache object, and counts positions from
the attention mask, which gives what ``position_ids`` would.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import ModelError

__all__ = [
    "Hook",
    "Hooked",
    "Model",
    "blocks_of",
    "device_of",
    "dtype_of",
    "has_hooks",
    "hooked",
    "hooks_of",
    "is_bridge",
    "is_hooked_transformer",
    "refuse_unwrapped",
    "shape_of",
    "writes_at_once",
]

_Function = Callable[..., Tensor | None]

Hook = tuple[str, _Function]
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


def blocks_of(model: Any) -> Any:
    """The layers in turn, each with parts ``attn`` and ``mlp`` and norms."""
    # A bridge has them only once it has been wrapped around a model.
    return model.blocks


def has_hooks(model: Model) -> bool:
    """Is something read or changed at a hook point just now?"""
    return any(point.fwd_hooks for point in hooks_of(model).values())


def hooks_of(model: Any) -> dict[str, Any]:
    """The hook points, by name."""
    return getattr(model, "hook_dict", {})


def writes_at_once(model: Any) -> bool:
    """Do attention and MLP of a layer read one stream and write to it together?"""
    places = hooks_of(model)
    return bool(places) and "blocks.0.hook_resid_mid" not in places


def shape_of(model: Model) -> dict[str, int]:
    """Layers, heads, neurons and widths of the model."""
    names = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp")
    return {name: int(getattr(model.cfg, name)) for name in names}


_SIDES = (".hook_in", ".hook_out")
_MEAN = 1e-4
"""A mean of weights, relative to their size, below which they have been centred."""


class Hooked:
    """A HookedTransformer with a bridge's surface; its weights and places are the model's own."""

    def __init__(self, model: Any) -> None:
        self.original_model, self.tokenizer = model, model.tokenizer
        # A copy, since notes about the model (source, begin, date) are written into it.
        self.cfg = copy.copy(model.cfg)
        if model.cfg.ungroup_grouped_query_attention:
            self.cfg.n_key_value_heads = None
        # Kept, since blocks are left out and numbered anew while a run begins inside the model.
        self._blocks, self._modules = list(model.blocks), dict(model.named_modules())
        self._copies = 0

    def __getattr__(self, name: str) -> Any:
        if name == "original_model":  # not there yet, while the adapter is copied
            raise AttributeError(name)
        return getattr(self.original_model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; see :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        ids: Int[Tensor, "row pos"],
        *,
        attention_mask: Int[Tensor, "row all"] | None = None,
        position_ids: Int[Tensor, "row pos"] | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        return_type: str = "logits",
        logits_to_keep: int = 0,
    ) -> Any:
        """Logits, or with ``return_type="logits_and_cache"`` logits and cache.

        Args:
            ids: Tokens that follow those of the cache.
            attention_mask: False where padded; of the cached tokens and the new ones.
            position_ids: Not used: positions are counted from the mask.
            past_key_values: Hugging Face's cache with keys and values of earlier tokens; the new
                ones are added to it.
            use_cache: Not used: ``return_type`` says whether a cache is wanted.
            return_type: ``logits`` or ``logits_and_cache``.
            logits_to_keep: Logits of so many last positions; 0 for all.
        """
        # Loaded here: it takes long, and most of what this module is imported for needs no cache.
        from transformers import DynamicCache

        mask = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
        cached = return_type == "logits_and_cache"
        cache = DynamicCache() if cached and past_key_values is None else past_key_values
        held = _Cache(cache, self.original_model, mask, ids) if cached else None
        with ExitStack() as stack:
            if logits_to_keep:
                last = self.original_model.unembed.register_forward_pre_hook(
                    lambda module, args: (args[0][:, -logits_to_keep:], *args[1:])
                )
                stack.callback(last.remove)
            logits = self.original_model(
                ids,
                attention_mask=mask[:, -ids.shape[1] :],
                past_kv_cache=held,
                return_type="logits",
            )
        return (logits, cache) if cached else logits

    def parameters(self) -> Iterator[Tensor]:
        """The weights, one by one."""
        return self.original_model.parameters()

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Attention output weights."""
        return torch.stack([block.attn.W_O for block in self._blocks])

    @property
    def W_out(self) -> Float[Tensor, "layer neuron d_model"]:
        """MLP output weights."""
        return torch.stack([block.mlp.W_out for block in self._blocks])

    @property
    def counts_positions_by_mask(self) -> bool:
        """Is what stands in the way of padding nothing but the mask?"""
        return self.cfg.positional_embedding_type in ("standard", "rotary")

    @contextmanager
    def hooks(self, fwd_hooks: Sequence[Hook] = ()) -> Iterator["Hooked"]:
        """Hooks that are there inside the ``with`` block and gone after it.

        Raises:
            ModelError: the model has no such place.
        """
        model = self.original_model
        seeing = [(name, self._seeing_copies(name, hook)) for name, hook in fwd_hooks]
        with ExitStack() as stack:
            own = [(name, hook) for name, hook in seeing if name in model.hook_dict]
            stack.enter_context(model.hooks(fwd_hooks=own))
            for name, hook in seeing:
                if name not in model.hook_dict:
                    stack.callback(self._beside(name, hook).remove)
            yield self

    @contextmanager
    def side_by_side(self, copies: int) -> Iterator[None]:
        """Hooks see so many neighbouring rows, of one position each, as positions of one row."""
        self._copies = copies
        try:
            yield
        finally:
            self._copies = 0

    def _seeing_copies(self, name: str, hook: _Function) -> _Function:
        if name.endswith(("hook_pattern", "hook_attn_scores")):
            return hook

        def see(activation: Tensor, hook: Any, see: _Function = hook) -> Tensor | None:
            if not self._copies:
                return see(activation, hook=hook)
            shown = activation.reshape(-1, self._copies, *activation.shape[2:])
            changed = see(shown, hook=hook)
            return None if changed is None else changed.reshape(activation.shape)

        return see

    def _beside(self, name: str, hook: _Function) -> Any:
        side = next((side for side in _SIDES if name.endswith(side)), None)
        path = name.removesuffix(side or "")
        if side is None or path not in self._modules:
            raise ModelError(f"this HookedTransformer has no place called {name}")
        module = self._modules[path]
        if side == ".hook_out":
            return module.register_forward_hook(lambda module, args, out: hook(out, None))

        def before(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            changed = hook(args[0], None)
            return None if changed is None else (changed, *args[1:])

        return module.register_forward_pre_hook(before)


class _Cache:
    """Hugging Face's cache, as a HookedTransformer asks its own."""

    def __init__(self, cache: Any, model: Any, mask: Tensor, ids: Tensor) -> None:
        cfg = model.cfg
        self.cache, self.mask = cache, mask
        # Blocks that are left out are not counted by the model, but have places in the cache.
        self.skipped = cfg.n_layers - len(model.blocks)
        groups = cfg.n_key_value_heads or cfg.n_heads
        self.shape = (len(ids), mask.shape[1] - ids.shape[1], groups, cfg.d_head)

    def append_attention_mask(self, mask: Tensor) -> Tensor:
        return self.mask

    def __getitem__(self, place: int) -> "_Layer":
        return _Layer(self.cache, place + self.skipped, self.shape)


class _Layer:
    """Keys and values of one layer; positions come before heads here, after them in the cache."""

    def __init__(self, cache: Any, layer: int, shape: tuple[int, ...]) -> None:
        self.cache, self.layer = cache, layer
        # Asked for its size alone.
        self.past_keys = torch.empty(shape, device="meta")

    def append(
        self, keys: Float[Tensor, "row pos group d_head"], values: Float[Tensor, "..."]
    ) -> tuple[Tensor, Tensor]:
        found = self.cache.update(keys.transpose(1, 2), values.transpose(1, 2), self.layer)
        return found[0].transpose(1, 2), found[1].transpose(1, 2)


def is_hooked_transformer(model: Any) -> bool:
    """Is it a HookedTransformer itself, of a class that TransformerLens 4 no longer has?"""
    return any(kind.__name__ == "HookedTransformer" for kind in type(model).__mro__)


def hooked(model: Any) -> Hooked:
    """Take a HookedTransformer that was loaded raw; see :func:`circuits.models.load.wrap_model`.

    Raises:
        ModelError: its weights were centred, its value biases folded, or a setting makes its
            places other than a bridge's; says what that means and what to do.
    """
    cfg = model.cfg
    for setting in ("use_attn_in", "use_split_qkv_input"):
        if getattr(cfg, setting, False):
            raise ModelError(
                f"the HookedTransformer runs with {setting}, which gives every head an input of "
                f"its own and its norms one axis more; call model.set_{setting}(False)"
            )
    if getattr(cfg, "attn_only", False):
        raise ModelError(
            "the HookedTransformer has no MLPs (attn_only); effects need one per layer"
        )
    again = "load it with HookedTransformer.from_pretrained_no_processing"
    if _is_centred(model):
        raise ModelError(
            "the HookedTransformer's writing weights are centred (center_writing_weights), so its "
            "residual stream lacks its mean: directions and effects along them are not those of "
            f"the model as it was trained; {again}"
        )
    if _has_folded_values(model):
        raise ModelError(
            "the HookedTransformer's value biases are folded into b_O (fold_value_biases), so a "
            f"head writes without its bias: effects of heads are not the trained model's; {again}"
        )
    return Hooked(model.eval())


def is_bridge(model: Any) -> bool:
    """Is it a ``TransformerBridge``?"""
    return any(kind.__name__ == "TransformerBridge" for kind in type(model).__mro__)


def refuse_unwrapped(model: Any) -> None:
    """Refuse a HookedTransformer as it is.

    Raises:
        ModelError: says how it is taken.
    """
    if getattr(model, "_weights_processed", False):
        raise ModelError(
            "the bridge's weights were folded and centred (enable_compatibility_mode), so its "
            "residual stream is another one; give a bridge without it, or call it with "
            "no_processing=True"
        )
    if is_hooked_transformer(model):
        raise ModelError(
            "a HookedTransformer is given as it is; give circuits.wrap_model(model), which checks "
            "that it was loaded raw"
        )


def _is_centred(model: Any) -> bool:
    # RMS norms do not centre, so TransformerLens centres weights of models with LayerNorm only.
    if not str(model.cfg.normalization_type).startswith("LN"):
        return False
    weights = [weight for block in model.blocks for weight in (block.attn.W_O, block.mlp.W_out)]
    with torch.no_grad():
        means = [float(w.float().mean(-1).abs().max() / _size(w)) for w in weights if _size(w)]
    return bool(means) and max(means) < _MEAN


def _has_folded_values(model: Any) -> bool:
    parts = [block.attn for block in model.blocks]
    return not any(_size(part.b_V) for part in parts) and any(_size(part.b_O) for part in parts)


def _size(weight: Tensor) -> float:
    return float(weight.detach().float().abs().max())

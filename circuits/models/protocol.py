"""The surface of TransformerLens that this package uses, as a protocol.

``TransformerBridge`` (TransformerLens 3.9 and 4) satisfies it, and a ``HookedTransformer``
(TransformerLens 3.9) that :func:`~circuits.models.load.wrap_model` has taken: :class:`Hooked` gives
it the bridge's call form. Hook names are HookedTransformer's; see :func:`circuits.names.hook`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

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
    "hooked",
    "hooks_of",
    "is_a",
    "once_per_model",
    "refuse_unwrapped",
    "shape_of",
    "weight_of",
    "writes_at_once",
]

_Function = Callable[..., Tensor | None]

Hook = tuple[str, _Function]
"""A hook name and a function ``(activation, hook) -> new activation, or None to leave it``."""


@runtime_checkable
class Model(Protocol):
    """A transformer with hook points: ``cfg`` has its sizes, ``hooks`` are gone after the block."""

    cfg: Any
    tokenizer: Any

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
    return model.blocks


def weight_of(model: Any, layer: int, part: str, name: str) -> Tensor | None:
    """A weight of a layer's ``attn`` or ``mlp``; ``None`` where the architecture has none."""
    try:
        found = getattr(getattr(model.blocks[layer], part), name)
    except (AttributeError, ValueError, NotImplementedError):
        return None
    return found.detach() if isinstance(found, Tensor) else None


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


R = TypeVar("R")


def once_per_model(measure: Callable[..., R]) -> Callable[..., R]:
    """Remember what a function of a model (and of plain values) found, while the model lives."""
    known: WeakKeyDictionary[Any, dict[Any, R]] = WeakKeyDictionary()

    @wraps(measure)
    def remembered(model: Any, *args: Any) -> R:
        own = known.setdefault(model, {})
        if args not in own:
            own[args] = measure(model, *args)
        return own[args]

    return remembered


class Hooked:
    """A HookedTransformer with a bridge's surface; its weights and places are the model's own.

    The inputs and outputs of whole modules (``blocks.0.ln1.hook_out``), for which it has no hook
    points, are read with PyTorch's own hooks. It reads on from Hugging Face's cache object, and
    counts positions from the attention mask, which gives what ``position_ids`` would.
    """

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
        """Logits, or with ``return_type="logits_and_cache"`` logits and Hugging Face's cache.

        ``position_ids`` and ``use_cache`` are not needed; ``logits_to_keep=0`` gives all logits.
        """
        # Loaded here: it takes long, and most of what this module is imported for needs no cache.
        from transformers import DynamicCache

        mask = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
        cached = return_type == "logits_and_cache"
        cache = DynamicCache() if cached and past_key_values is None else past_key_values
        held = _Cache(cache, self.original_model, mask, ids) if cached else None
        # All of them is from position 0, which -0 says too.
        last = self.original_model.unembed.register_forward_pre_hook(
            lambda module, args: (args[0][:, -logits_to_keep:], *args[1:])
        )
        try:
            logits = self.original_model(
                ids,
                attention_mask=mask[:, -ids.shape[1] :],
                past_kv_cache=held,
                return_type="logits",
            )
        finally:
            last.remove()
        return (logits, cache) if cached else logits

    __call__ = forward

    def parameters(self) -> Iterator[Tensor]:
        """The weights, one by one."""
        return self.original_model.parameters()

    @contextmanager
    def hooks(self, fwd_hooks: Sequence[Hook] = ()) -> Iterator["Hooked"]:
        """Hooks that are there inside the ``with`` block; a place that is not is refused."""
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
        path, _, side = name.rpartition(".hook_")
        if side not in ("in", "out") or path not in self._modules:
            raise ModelError(f"this HookedTransformer has no place called {name}")
        if side == "out":
            return self._modules[path].register_forward_hook(lambda m, args, out: hook(out, None))

        def before(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            changed = hook(args[0], None)
            return None if changed is None else (changed, *args[1:])

        return self._modules[path].register_forward_pre_hook(before)


class _Cache:
    """Hugging Face's cache, as a HookedTransformer asks its own."""

    def __init__(self, cache: Any, model: Any, mask: Tensor, ids: Tensor) -> None:
        self.cache, self.mask = cache, mask
        # Blocks that are left out are not counted by the model, but have places in the cache.
        self.skipped = model.cfg.n_layers - len(model.blocks)
        groups = model.cfg.n_key_value_heads or model.cfg.n_heads
        self.shape = (len(ids), mask.shape[1] - ids.shape[1], groups, model.cfg.d_head)

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


def is_a(model: Any, name: str) -> bool:
    """Is it of this class, or below it? By name: TransformerLens 4 has no HookedTransformer."""
    return any(kind.__name__ == name for kind in type(model).__mro__)


def hooked(model: Any) -> Hooked:
    """Take a HookedTransformer that was loaded raw; see :func:`circuits.models.load.wrap_model`.

    Raises:
        ModelError: its weights were centred, its value biases folded, or a setting makes its
            places other than a bridge's; says what that means and what to do.
    """
    for setting in ("use_attn_in", "use_split_qkv_input"):
        if getattr(model.cfg, setting, False):
            raise ModelError(
                f"the HookedTransformer runs with {setting}, which gives every head an input of "
                f"its own and its norms one axis more; call model.set_{setting}(False)"
            )
    if getattr(model.cfg, "attn_only", False):
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
    parts = [block.attn for block in model.blocks]
    if any(bool(part.b_O.any()) for part in parts) and not any(
        bool(part.b_V.any()) for part in parts
    ):
        raise ModelError(
            "the HookedTransformer's value biases are folded into b_O (fold_value_biases), so a "
            f"head writes without its bias: effects of heads are not the trained model's; {again}"
        )
    return Hooked(model.eval())


def _is_centred(model: Any) -> bool:
    """Do weights have means of less than 1e-4 of their size?"""
    # RMS norms do not centre, so TransformerLens centres weights of models with LayerNorm only.
    if not str(model.cfg.normalization_type).startswith("LN"):
        return False
    weights = [w for b in model.blocks for w in (b.attn.W_O.detach(), b.mlp.W_out.detach())]
    means = [float(w.float().mean(-1).abs().max() / w.abs().max()) for w in weights if w.any()]
    return bool(means) and max(means) < 1e-4


def refuse_unwrapped(model: Any) -> None:
    """Refuse a HookedTransformer as it is, and a bridge that was folded.

    Raises:
        ModelError: says how it is taken.
    """
    if getattr(model, "_weights_processed", False):
        raise ModelError(
            "the bridge's weights were folded and centred (enable_compatibility_mode), so its "
            "residual stream is another one; give a bridge without it, or call it with "
            "no_processing=True"
        )
    if is_a(model, "HookedTransformer"):
        raise ModelError(
            "a HookedTransformer is given as it is; give circuits.wrap_model(model), which checks "
            "that it was loaded raw"
        )

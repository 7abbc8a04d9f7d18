"""What is looked at, and set right, in a model that TransformerLens has wrapped."""

from typing import Any

from torch import Tensor

from circuits.errors import ModelError
from circuits.model.protocol import Model, blocks_of

__all__ = ["count_neurons", "is_from_disk", "set_right"]


def set_right(model: Model) -> None:
    """Refuse a model that TransformerLens wraps but cannot run; mend what can be mended.

    Raises:
        ModelError: the architecture has no final norm.
    """
    _check_final_norm(model)
    _name_cache(model)
    count_neurons(model)


def count_neurons(model: Model) -> None:
    """Set the neurons per layer, the rows of W_out: 0 where a layer has none, as of experts."""
    # TransformerLens guesses the number where it does not know a configuration's word for it, and
    # gives one for experts too, none of which has neurons that stand for the whole MLP.
    model.cfg.d_mlp = _neurons(model)


def is_from_disk(tokenizer: Any) -> bool:
    """Was it loaded by name? TransformerLens loads it once more, and fails for one in memory."""
    return "name_or_path" in getattr(tokenizer, "init_kwargs", {})


def _neurons(model: Model) -> int:
    try:
        weights = [block.mlp.W_out for block in blocks_of(model)]
    except (AttributeError, ValueError, NotImplementedError):
        return 0
    whole = all(isinstance(weight, Tensor) and weight.ndim == 2 for weight in weights)
    return len(weights[0]) if weights and whole else 0


def _check_final_norm(model: Any) -> None:
    norm = getattr(model, "ln_final", None)
    if norm is None or norm.original_component is None:
        wrapped = type(model.original_model).__name__
        raise ModelError(
            f"{wrapped} has no norm after its last layer (ln_final), which TransformerLens needs "
            "to run it, as variants with norms after their sublayers do; use one with norms before"
        )


def _name_cache(model: Any) -> None:
    """Let attention find its cache under the name that TransformerLens looks for."""
    # From transformers 5.24 on a layer hands it on as `cache`; the bridges of TransformerLens 4.3
    # that compute attention themselves look for `past_key_values`, find none, and keep no keys.
    # Those that leave it to the wrapped module hand on what they are given. To be removed with
    # the first TransformerLens that takes both.
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    def both(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if kwargs.get("cache") is None or kwargs.get("past_key_values") is not None:
            return None
        return args, {**kwargs, "past_key_values": kwargs["cache"]}

    for part in model.modules():
        computes = type(part).forward is not AttentionBridge.forward
        if isinstance(part, AttentionBridge) and computes:
            part.register_forward_pre_hook(both, with_kwargs=True)

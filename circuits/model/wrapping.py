"""What is looked at, and set right, in a model that TransformerLens has wrapped."""

from typing import Any

from torch import Tensor

from circuits.errors import ModelError
from circuits.model.protocol import Model, blocks_of

__all__ = ["count_neurons", "is_from_disk", "set_right"]


def set_right(model: Model) -> None:
    """Refuse a model that TransformerLens wraps but cannot run; set its number of neurons.

    Raises:
        ModelError: the architecture has no final norm.
    """
    _check_final_norm(model)
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

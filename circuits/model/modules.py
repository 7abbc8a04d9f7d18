"""Where Hugging Face has a place of the model: which module, and which side of it."""

from typing import Final, Literal

from circuits.errors import AxisError, ModelError
from circuits.model.protocol import Model

__all__ = ["Side", "module_of"]

Side = Literal["input", "output"]

_PLACES: Final[dict[str, tuple[str, Side]]] = {
    "z": ("blocks.{layer}.attn.o", "input"),
    "attn_out": ("blocks.{layer}.attn.o", "output"),
    "post": ("blocks.{layer}.mlp.out", "input"),
    "mlp_out": ("blocks.{layer}.mlp.out", "output"),
    "resid_post": ("blocks.{layer}", "output"),
}


def module_of(model: Model, site: str, layer: int) -> tuple[str, Side]:
    """Name of the module in the Hugging Face model, and the side on which the site lies.

    Heads lie one after the other in the input of their output projection, neurons in that of the
    MLP's. For Llama ``z`` of layer 3 is the input of ``model.layers.3.self_attn.o_proj``.

    Raises:
        AxisError: the site is not an input or output of a module.
        ModelError: the model is no Hugging Face model under a bridge.
    """
    if site not in _PLACES:
        raise AxisError(
            f"{site!r} is no input or output of a Hugging Face module; {', '.join(_PLACES)} are"
        )
    adapter = getattr(model, "adapter", None)
    if adapter is None:
        raise ModelError(
            "the model does not say what its Hugging Face modules are called (a HookedTransformer "
            "has none); load it with circuits.load_model"
        )
    path, side = _PLACES[site]
    return str(adapter.translate_transformer_lens_path(path.format(layer=layer))), side

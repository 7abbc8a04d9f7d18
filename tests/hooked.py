"""HookedTransformers of TransformerLens 3 made from Hugging Face models, without network."""

import warnings
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import torch

__all__ = ["NotConvertedError", "hooked_transformer"]


class NotConvertedError(Exception):
    """TransformerLens 3 does not make the same model of it."""


def hooked_transformer(hf_model: Any, tokenizer: Any = None, **processing: bool) -> Any:
    """The same model as a HookedTransformer: raw, but for the named ways of processing.

    Raises:
        NotConvertedError: TransformerLens does not know the family, or gives other logits.
    """
    # By name, since TransformerLens 4 has neither.
    loading: Any = import_module("transformer_lens.loading_from_pretrained")
    kind: Any = import_module("transformer_lens.HookedTransformer").HookedTransformer
    try:
        cfg = _config(loading, hf_model, processing.get("fold_ln", False))
        # The name is looked up and then not used: the architecture decides.
        state = loading.get_pretrained_state_dict("gpt2", cfg, hf_model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model: Any = kind(cfg, tokenizer)
        off = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
        model.load_and_process_state_dict(state, **{**dict.fromkeys(off, False), **processing})
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        raise NotConvertedError(f"{type(hf_model).__name__}: {error}") from error
    _check_same(model, hf_model)
    return model


def _config(loading: Any, hf_model: Any, fold_ln: bool) -> Any:
    own = hf_model.config
    own.architectures = [type(hf_model).__name__]
    if own.model_type == "gpt2":
        own.n_ctx = own.n_positions  # transformers 5 no longer has the older name
    with TemporaryDirectory(prefix="model") as folder:
        own.save_pretrained(folder)
        cfg = loading.get_pretrained_model_config(folder, fold_ln=fold_ln, device="cpu")
    # Sizes that the older library takes from others.
    cfg.d_head = getattr(own, "head_dim", None) or cfg.d_head
    cfg.d_mlp = getattr(own, "n_inner", None) or cfg.d_mlp
    cfg.attn_scale = cfg.d_head**0.5
    if cfg.positional_embedding_type == "rotary" and getattr(own, "head_dim", None):
        cfg.rotary_dim = cfg.d_head
    cfg.tokenizer_name, cfg.dtype = None, hf_model.dtype
    return cfg


def _check_same(model: Any, hf_model: Any) -> None:
    ids = torch.arange(1, 13)[None]
    with torch.no_grad():
        wanted = hf_model.eval()(ids).logits.float().log_softmax(-1)
        gap = (model(ids).float().log_softmax(-1) - wanted).abs().max()
    if not gap < (0.5 if hf_model.dtype.itemsize == 2 else 1e-3):
        raise NotConvertedError(f"{type(hf_model).__name__}: logits differ by {float(gap):.2g}")

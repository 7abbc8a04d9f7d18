"""What the output layer makes of a write: the logits that it gives by itself.

The logit lens (nostalgebraist 2020) put to the write of one part in place of a residual stream:
the final norm, then the unembedding. What both add whatever they read, their biases, is no
output of the part and is left out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.protocol import Model, device_of, dtype_of

__all__ = ["output_logits", "token_texts"]


@torch.no_grad()
def output_logits(model: Model, writes: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Logits of writes that are each given the size of a normed stream: direction alone counts.

    A write of zero gives zeros.
    """
    size = writes.float().square().mean(-1, keepdim=True).sqrt()
    unit = writes.float() / size.clamp_min(1e-30)
    # A model reads [prompt pos d_model]; the row beside them says what is added to all.
    read = torch.cat([unit, torch.zeros_like(unit[:1])])[None]
    wrapped: Any = model
    stream = read.to(device=device_of(model), dtype=dtype_of(model))
    logits = wrapped.unembed(wrapped.ln_final(stream))[0].float().cpu()
    return logits[:-1] - logits[-1]


def token_texts(model: Model, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of every token; a piece of a character is shown as a replacement sign.

    Raises:
        ModelError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ModelError("the model has no tokenizer; load it with one")
    return tuple(str(model.tokenizer.decode([i])) for i in ids)

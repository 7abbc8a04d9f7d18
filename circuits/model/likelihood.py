"""How likely a model finds given replies."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.data.prompts import Prompt
from circuits.model.chat import encode_prompt, encode_text, pad_left
from circuits.model.forward import run
from circuits.model.generation import Progress, batches
from circuits.model.protocol import Model, device_of

__all__ = ["reply_losses"]


@torch.no_grad()
def reply_losses(
    model: Model,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    *,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> Float[Tensor, " prompt"]:
    """Mean negative log-likelihood per token (nats) of each text as the reply to its prompt.

    An empty text has no tokens; its loss is NaN.
    """
    heads = [encode_prompt(model, prompt) for prompt in prompts]
    tails = [encode_text(model, text) for text in texts]
    losses = torch.full((len(prompts),), float("nan"))
    rows = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
    for chosen in batches(rows, batch_size):
        tokens = pad_left([rows[i] for i in chosen], device_of(model))
        logs = run(model, tokens)[:, :-1].float().log_softmax(-1)
        of_next = logs.gather(-1, tokens.ids[:, 1:, None])[..., 0]
        for row, place in enumerate(chosen):
            if tails[place]:
                losses[place] = -of_next[row, -len(tails[place]) :].mean()
        if progress:
            progress(len(chosen))
    return losses

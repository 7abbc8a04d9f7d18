"""How likely a model finds given replies."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.data.prompts import Prompt
from circuits.model.chat import encode_prompt, encode_text
from circuits.model.engine import engine
from circuits.model.finite import check_values
from circuits.model.forward import extend, prefill_shared
from circuits.model.generation import Progress, batches
from circuits.model.halving import halving
from circuits.model.protocol import Model

__all__ = ["reply_losses"]


def reply_losses(
    model: Model,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    *,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> Float[Tensor, " prompt"]:
    """Mean negative log-likelihood per token (nats) of each text as the reply to its prompt.

    Replies to the same prompt are best given together: the prompt is then read once. An empty
    text has no tokens; its loss is NaN.
    """
    heads = [encode_prompt(model, prompt) for prompt in prompts]
    tails = [encode_text(model, text) for text in texts]
    losses = torch.full((len(prompts),), float("nan"))
    together = list(batches(heads, batch_size))
    parts = [[(prompts[i].key, heads[i], tails[i]) for i in chosen] for chosen in together]
    for place, found in engine().results(model, _losses, parts):
        losses[together[place]] = found
        if progress:
            progress(len(found))
    return losses


def _losses(
    model: Model, asked: Sequence[tuple[str, list[int], list[int]]]
) -> Float[Tensor, " prompt"]:
    """Of prompts with their replies: the prompt's name and tokens, the reply's tokens."""

    def read_replies(some: Sequence[tuple[str, list[int], list[int]]]) -> Tensor:
        return _of_replies(model, [head for _, head, _ in some], [tail for _, _, tail in some])

    return torch.cat(halving(read_replies, asked, lambda one: one[0]))


@torch.no_grad()
def _of_replies(
    model: Model, heads: Sequence[list[int]], replies: Sequence[list[int]]
) -> Float[Tensor, " prompt"]:
    last, prefix = prefill_shared(model, heads)
    # What stands after a reply's end is never looked at from before it.
    padded = torch.zeros(len(heads), max(map(len, replies)), dtype=torch.long)
    for row, reply in enumerate(replies):
        padded[row, : len(reply)] = torch.tensor(reply, dtype=torch.long)
    padded = padded.to(last.device)
    logits, _ = extend(model, torch.cat([last, padded], dim=1), prefix)
    check_values(model, logits.amax(-1), "the logits of a reply", heads)
    logs = logits[:, :-1].float().log_softmax(-1).gather(-1, padded[..., None])[..., 0]
    losses = torch.full((len(heads),), float("nan"))
    for row, reply in enumerate(replies):
        if reply:
            losses[row] = -logs[row, : len(reply)].mean()
    return losses

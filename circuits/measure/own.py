"""A model's own differences from a few contexts, for a circuit that comes without its run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuits.data.prompts import asked_prompts, plain_prompts
from circuits.data.sev import Context
from circuits.errors import DataError
from circuits.measure.means import Differences
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.generation import Progress, batches
from circuits.model.halving import halving_tables
from circuits.model.protocol import Model, device_of
from circuits.model.runs import capture
from circuits.provenance import Provenance

__all__ = ["own_differences"]


@torch.no_grad()
def own_differences(
    model: Model,
    contexts: Sequence[Context],
    emotions: Sequence[str],
    provenance: Provenance,
    *,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> Differences:
    """What every head and neuron does differently when an emotion is asked for, minus plain.

    One pass per context and emotion and one per plain prompt, at the last prompt position; no
    reply is made or judged, so contexts count in which asking would not have helped.

    Raises:
        DataError: there is no context.
    """
    if not contexts:
        raise DataError("differences need one context or more, found none")
    prompts = asked_prompts(contexts, emotions) + plain_prompts(contexts)
    rows = [encode_prompt(model, prompt) for prompt in prompts]
    cfg, n = model.cfg, len(emotions)
    z = torch.zeros(n + 1, cfg.n_layers, cfg.n_heads, cfg.d_head)
    post = torch.zeros(n + 1, cfg.n_layers, cfg.d_mlp)

    def read(chosen: Sequence[int]) -> dict[str, Tensor]:
        tokens = pad_left([rows[i] for i in chosen], device_of(model))
        return capture(model, tokens, {"z": _last, "post": _last})

    for chosen in batches(rows, batch_size):
        found = halving_tables(read, chosen, lambda place: prompts[place].key)
        places = torch.tensor([i % n if i < n * len(contexts) else n for i in chosen])
        z.index_add_(0, places, found["z"].cpu() / len(contexts))
        post.index_add_(0, places, found["post"].cpu() / len(contexts))
        if progress:
            progress(len(chosen))
    return Differences(
        provenance=provenance,
        z=z[:-1] - z[-1],
        post=post[:-1] - post[-1],
        emotion=tuple(emotions),
        layer=tuple(range(cfg.n_layers)),
        head=tuple(range(cfg.n_heads)),
        neuron=tuple(range(cfg.d_mlp)),
        relative_to="plain",
    )


def _last(activation: Tensor) -> Tensor:
    return activation[:, -1]

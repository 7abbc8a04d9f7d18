"""Activations of other prompts, to put in the place of a prompt's own."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.data.prompts import Prompt, Question
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.edits import Edit, Replace
from circuits.model.finite import check_values
from circuits.model.forward import read
from circuits.model.generation import EditsOf, Progress, batches
from circuits.model.halving import halving
from circuits.model.protocol import Hook, Model, device_of
from circuits.model.rows import name_of_row
from circuits.names import hook as hook_name

__all__ = ["donor_values", "draw_donors", "resampling"]


@torch.no_grad()
def donor_values(
    model: Model,
    prompts: Sequence[Prompt | Question],
    chosen: Bool[Tensor, "layer neuron"],
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> list[Float[Tensor, "_ chosen"]]:
    """Activations of the chosen neurons (layer by layer) at every position of each prompt."""
    rows = [encode_prompt(model, prompt) for prompt in prompts]
    layers = chosen.any(1).nonzero()[:, 0].tolist()
    found: dict[int, Tensor] = {}
    kept: dict[int, Tensor] = {}

    def keeper(layer: int) -> Hook:
        places = chosen[layer].nonzero()[:, 0]

        def keep(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
            kept[layer] = activation[..., places.to(activation.device)].float().cpu()

        return hook_name("post", layer), keep

    def give(places: Sequence[int]) -> None:
        read(model, pad_left([rows[i] for i in places], device_of(model)))
        values = torch.cat([kept[layer] for layer in layers], dim=-1)
        check_values(model, values, "post of a chosen neuron", [rows[i] for i in places])
        for place, value in zip(places, values, strict=True):
            found[place] = value[-len(rows[place]) :].clone()

    with model.hooks(fwd_hooks=[keeper(layer) for layer in layers]):
        for places in batches(rows, batch_size) if layers else ():
            halving(give, places, lambda place: name_of_row(model, rows[place]))
            if progress:
                progress(len(places))
    nothing = torch.zeros(0, 0)
    return [found.get(place, nothing) for place in range(len(rows))]


def draw_donors(n_prompts: int, seed: int = 0) -> list[int]:
    """A random donor for every prompt: another one, and each is a donor once.

    One prompt alone is its own donor.
    """
    order = torch.randperm(n_prompts, generator=torch.Generator().manual_seed(seed)).tolist()
    donors = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [donors[place] for place in range(n_prompts)]


def resampling(
    values: Sequence[Float[Tensor, "_ chosen"]],
    donors: Sequence[int],
    chosen: Bool[Tensor, "layer neuron"],
) -> EditsOf:
    """The mask "resample": prompt ``i`` gets the chosen activations of donor ``donors[i]``.

    Prompt and donor are aligned at the right end; what a shorter donor does not reach is kept.
    A batch's edits hold ``[row pos neuron]`` tables of every layer with a chosen neuron. They
    are due while the prompt is read: a label's tokens have no counterpart in a donor's prompt.

    Args:
        values: What :func:`donor_values` returns.
        donors: Place in ``values`` of each prompt's donor, such as :func:`draw_donors` gives.
        chosen: The neurons, the same as in :func:`donor_values`.
    """
    counts = chosen.sum(1).tolist()

    def edits(places: Sequence[int]) -> list[Edit]:
        own = [values[donors[place]] for place in places]
        width = max(map(len, own))
        table = torch.zeros(len(own), width, int(chosen.sum()))
        there = torch.zeros(len(own), width, 1, dtype=torch.bool)
        for row, value in enumerate(own):
            table[row, width - len(value) :] = value
            there[row, width - len(value) :] = True
        made: list[Edit] = []
        for layer, part in enumerate(table.split(counts, dim=-1)):
            if counts[layer]:
                value = torch.zeros(*part.shape[:2], chosen.shape[1])
                value[..., chosen[layer]] = part
                made.append(
                    Replace("post", layer, value, there & chosen[layer], "all", when="prompt")
                )
        return made

    return edits

"""Checks of notebook 2: what a head adds, in closed form and by a real re-run."""

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from circuits.models.edits import Replace, edited
from circuits.models.protocol import Model
from circuits.names import head_name, hook
from circuits.workshop.answers import Exercise, Mistake, asked_ids, names_of, the_plant, writer_of

__all__ = [
    "check_head_effects",
    "check_top_heads",
    "check_without_head",
    "without_head",
]

EFFECTS = Exercise(
    "2.1",
    "head_effects",
    "per head the mean over contexts of z @ W_O @ v: the projection as it is, minus without the "
    "head; [head]",
)
WITHOUT = Exercise(
    "2.2",
    "without_head",
    "resid_mid of the layer at the last position, [row d_model], with z of this one head at zero",
)
TOP = Exercise(
    "2.3",
    "top_heads",
    "the names (L2H3) of the heads with the largest effect of either sign, largest first",
)


def check_head_effects(answer: Any) -> str:
    """Check ``head_effects(z, W_O, v) -> [head]``.

    ``z`` is ``[context head d_head]``, ``W_O`` ``[head d_head d_model]``, ``v`` ``[d_model]``.

    Raises:
        ExerciseError: the effects are not the right ones; each typical mistake has its message.
    """
    random = torch.Generator().manual_seed(0)
    contexts, heads, d_head, width = 7, 4, 5, 12
    z = torch.randn(contexts, heads, d_head, generator=random) + 0.5
    W_O = torch.randn(heads, d_head, width, generator=random)
    v = torch.randn(width, generator=random)
    v = v / v.norm()
    write = einsum(z, W_O, "context head d_head, head d_head d_model -> context head d_model")
    each = write @ v
    right = each.mean(0)
    cosine = (each / write.norm(dim=-1)).mean(0)
    mistakes = [
        Mistake(
            -right,
            "the wrong sign: this is without minus with",
            "effect = readout as it is minus readout without the head",
        ),
        Mistake(
            right.abs(),
            "the sign is lost: heads that push away look like heads that push towards",
            "leave the absolute value out",
        ),
        Mistake(
            each.abs().mean(0),
            "the sign is lost in every context before the mean",
            "leave the absolute value out",
        ),
        Mistake(each.sum(0), "a sum over contexts", "take the mean over contexts"),
        Mistake(
            cosine,
            "a cosine: the head's write was normalised, so that heads that write "
            "little count as much as others",
            "do not divide by the length of the write",
        ),
        Mistake(
            right - right.mean(),
            "the mean over the heads was taken off",
            "what a head adds does not depend on the other heads; take nothing off",
        ),
        Mistake(
            (contexts, heads),
            "an effect for every context: no mean over contexts",
            "average over contexts: `.mean(dim=0)`",
        ),
        Mistake(
            (contexts,),
            "shape [context]: the mean or sum was taken over the wrong axis (over heads)",
            "keep heads, average over contexts: `.mean(dim=0)`",
        ),
        Mistake(
            (heads, width),
            "vectors [head d_model]: not projected on v",
            "multiply what each head writes by v and sum over d_model: `@ v`",
        ),
        Mistake((), "one number: summed over heads", "keep the axis of heads"),
    ]
    EFFECTS.compare(EFFECTS.ask(answer, z, W_O, v), right, "[head]", mistakes)
    return EFFECTS.passed("One matrix product gives all heads; no pass was run.")


def without_head(
    model: Model, ids: Int[Tensor, "row pos"], layer: int, head: int
) -> Float[Tensor, "row d_model"]:
    """The right answer of exercise 2.2."""
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[head] = True
    return _stream(model, ids, layer, chosen)


def check_without_head(answer: Any) -> str:
    """Check ``without_head(model, ids, layer, head) -> [row d_model]`` on a planted model.

    Raises:
        ExerciseError: the stream is not the right one; each typical mistake has its message.
    """
    planted = the_plant()
    layer, head = writer_of(planted)
    model, ids = planted.model, asked_ids(planted.model, planted.emotions)
    right = without_head(model, ids, layer, head)
    found = WITHOUT.ask(answer, model, ids, layer, head)
    whole, mistakes = _wrong_streams(model, ids, layer, head, right)
    WITHOUT.compare(found, right, "[row d_model]", mistakes)
    moved = ((whole - right) * planted.readout).sum(-1).mean()
    name = head_name(layer, head)
    return WITHOUT.passed(
        f"{name} is the planted model's writer; it puts {float(moved):.2f} on the asked emotion."
    )


def _wrong_streams(
    model: Model, ids: Tensor, layer: int, head: int, right: Tensor
) -> tuple[Tensor, list[Mistake]]:
    """The stream of the model as it is, and what is typically given in place of the right one."""
    whole = _stream(model, ids, layer, None)
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    every, slot, others = chosen | True, chosen.clone(), chosen | True
    slot[:, head], others[head] = True, False
    neighbour = without_head(model, ids, layer, (head - 1) % model.cfg.n_heads)
    keep = "in `chosen` [head d_head] only row `head` is true: `chosen[head] = True`"
    return whole, [
        Mistake(
            whole,
            "the stream of the model as it is: nothing was ablated",
            "run the model inside `with ec.edited(model, [...]):`, and check `chosen`",
        ),
        Mistake(
            right - whole,
            "a difference of streams, with the sign of without minus with",
            "return the stream without the head; the difference is taken later",
        ),
        Mistake(
            whole - right,
            "a difference of streams",
            "return the stream without the head; the difference is taken later",
        ),
        Mistake(_stream(model, ids, layer, every), "all heads of the layer were ablated", keep),
        Mistake(_stream(model, ids, layer, others), "all heads but this one were ablated", keep),
        Mistake(
            _stream(model, ids, layer, slot),
            "the wrong axis: one dimension of every head "
            "was ablated, not every dimension of one head",
            keep,
        ),
        Mistake(neighbour, "another head was ablated", "heads are counted from 0"),
        Mistake(
            (*ids.shape, model.cfg.d_model),
            "the stream at every position",
            "take the last position: `[:, -1]`",
        ),
    ]


def check_top_heads(answer: Any) -> str:
    """Check ``top_heads(effect [layer head], count) -> names``.

    Raises:
        ExerciseError: the names are not the right ones; each typical mistake has its message.
    """
    effect = torch.tensor([[0.1, -0.2, 0.9, 0.3], [0.0, -0.4, 0.5, 2.5], [-3.0, 0.2, 0.6, -0.7]])
    names = [head_name(layer, head) for layer in range(3) for head in range(4)]
    values, count = effect.flatten(), 3

    def ranked(by: Tensor) -> tuple[str, ...]:
        return tuple(names[int(place)] for place in by.argsort(descending=True)[:count])

    found = names_of(TOP.ask(answer, effect, count))
    right = ranked(values.abs())
    if found is None:
        TOP.refuse("no list of names", "return texts such as 'L2H3': f'L{layer}H{head}'")
    swapped = tuple(f"L{name.split('H')[1]}H{name[1]}" for name in right)
    wrong = {
        ranked(values): (
            "heads that push away are missing: the largest signed values",
            "rank by the absolute value: `.abs()`",
        ),
        ranked(-values.abs()): ("the smallest effects", "sort from large to small"),
        ranked(-values): ("the most negative effects", "rank by the absolute value: `.abs()`"),
        swapped: ("layer and head are swapped", "effect is [layer head]: the row is the layer"),
        right[::-1]: ("the right heads in the wrong order", "the largest comes first"),
    }
    if found != right:
        otherwise = f"{', '.join(found)} instead of {', '.join(right)}", "check index and order"
        TOP.refuse(*wrong.get(found, otherwise))
    return TOP.passed(f"{right[0]} pushes away from the emotion, and leads the list.")


@torch.no_grad()
def _stream(model: Model, ids: Tensor, layer: int, chosen: Tensor | None) -> Tensor:
    """``resid_mid`` at the last position, with the chosen parts of ``z`` at zero."""
    kept: list[Tensor] = []
    edits = []
    if chosen is not None:
        edits = [Replace("z", layer, torch.zeros(chosen.shape), chosen, positions="all")]

    def keep(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
        kept.append(activation[:, -1].clone())

    with edited(model, edits), model.hooks(fwd_hooks=[(hook("resid_mid", layer), keep)]):
        model(ids)
    return kept[0]

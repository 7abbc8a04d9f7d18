"""Checks of notebook 5: steering, writing a circuit, and judging with a control."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circuits.models.edits import Add
from circuits.workshop.answers import Exercise, Mistake

__all__ = [
    "check_circuit_edits",
    "check_excess",
    "check_steer_edits",
]

STEER = Exercise(
    "5.1",
    "steer_edits",
    "one ec.Add at resid_post per layer, at the last position, once (when='prompt'): "
    "strength / number of layers * length * unit vector",
)
WRITE = Exercise(
    "5.2",
    "circuit_edits",
    "ec.Add at z, at the last position, once (when='prompt'): strength times the model's own "
    "difference at the circuit's heads, zero at all others",
)
EXCESS = Exercise(
    "5.3",
    "excess",
    "share of matches with the method minus share with the control, over the contexts that are "
    "not in `used`",
)


def check_steer_edits(answer: Any) -> str:
    """Check ``steer_edits(vectors, lengths, layers, strength) -> [ec.Add, ...]``.

    ``vectors`` is ``[layer d_model]``, of unit length, ``lengths`` ``[layer]``: all layers.

    Raises:
        ExerciseError: an edit is not the right one; each typical mistake has its message.
    """
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(6, 8, generator=random)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    lengths, layers, strength = torch.tensor([1.0, 2.0, 3.0, 4.5, 6.0, 8.0]), (2, 3, 5), 1.5
    found = STEER.ask(answer, vectors, lengths, layers, strength)
    edits = _edits(STEER, found, "resid_post")
    if len(edits) != len(layers) or {edit.layer for edit in edits} != set(layers):
        STEER.refuse(
            f"edits of layers {', '.join(str(edit.layer) for edit in edits) or 'none'} instead "
            "of 2, 3, 5",
            "make one edit for every layer of `layers`, and none for others",
        )
    values = torch.stack([e.value for e in sorted(edits, key=lambda e: e.layer)])
    at = list(layers)
    right = strength / len(layers) * lengths[at, None] * vectors[at]
    mistakes = _wrong_steering(vectors, lengths, layers, strength)
    STEER.compare(values, right, "[layer d_model]", mistakes)
    return STEER.passed("Strength 1 is the length of the model's own difference.")


def _wrong_steering(
    vectors: Tensor, lengths: Tensor, layers: Sequence[int], strength: float
) -> list[Mistake]:
    at = list(layers)
    right = strength / len(layers) * lengths[at, None] * vectors[at]
    return [
        Mistake(
            right * len(layers),
            "the strength is not shared by the layers: three layers "
            "write three times as much as one",
            "divide the strength by `len(layers)`",
        ),
        Mistake(
            -right, "the wrong sign: this steers away from the emotion", "add, do not subtract"
        ),
        Mistake(
            strength / len(layers) * vectors[at],
            "vectors of unit length: strength 1 is not the model's own difference",
            "multiply each vector by its layer's length",
        ),
        Mistake(
            strength * vectors[at],
            "vectors of unit length, and the strength is not shared by the layers",
            "multiply by length, divide by `len(layers)`",
        ),
        Mistake(right / strength, "strength 1 whatever was asked for", "multiply by `strength`"),
        Mistake(
            strength / len(layers) * lengths[:3, None] * vectors[:3],
            "the vectors of layers 0, 1, 2 at layers 2, 3, 5",
            "index with the layer: `vectors[layer]`",
        ),
        Mistake(
            strength / len(layers) * lengths[:3, None] * vectors[at],
            "the lengths of layers 0, 1, 2 at layers 2, 3, 5",
            "index with the layer: `lengths[layer]`",
        ),
    ]


def check_circuit_edits(answer: Any) -> str:
    """Check ``circuit_edits(heads, difference, strength) -> [ec.Add, ...]``.

    ``heads`` are pairs (layer, head), ``difference`` is ``[layer head d_head]``.

    Raises:
        ExerciseError: an edit is not the right one; each typical mistake has its message.
    """
    random = torch.Generator().manual_seed(0)
    difference = torch.randn(4, 3, 5, generator=random)
    heads, strength = [(1, 2), (3, 0), (3, 1)], 0.5
    edits = _edits(WRITE, WRITE.ask(answer, heads, difference, strength), "z")
    own, total = torch.zeros_like(difference), torch.zeros_like(difference)
    for layer, head in heads:
        own[layer, head] = difference[layer, head]
    for edit in edits:
        if tuple(edit.value.shape) != tuple(difference.shape[1:]):
            WRITE.refuse(
                f"a value of shape {tuple(edit.value.shape)}",
                "at z a value is [head d_head], with zeros for the heads that are left alone",
            )
        if not 0 <= edit.layer < len(total):
            WRITE.refuse(f"an edit of layer {edit.layer}", "layers are 0 to 3")
        total[edit.layer] += edit.value.detach()
    mistakes = _wrong_writing(heads, difference, own, strength)
    WRITE.compare(total, strength * own, "[layer head d_head]", mistakes)
    return WRITE.passed("Everything outside the circuit stays the model's own.")


def _wrong_writing(
    heads: Sequence[tuple[int, int]], difference: Tensor, own: Tensor, strength: float
) -> list[Mistake]:
    return [
        Mistake(
            strength * difference,
            "all heads are written, not the circuit's",
            "begin with zeros and fill in the circuit's heads",
        ),
        Mistake(-strength * own, "the wrong sign: this writes the opposite", "add the difference"),
        Mistake(own, "strength 1 whatever was asked for", "multiply by `strength`"),
        Mistake(
            strength * (difference - own),
            "all heads but the circuit's",
            "fill in the circuit's heads",
        ),
        Mistake(torch.zeros_like(own), "nothing is written", "fill in the circuit's heads"),
        Mistake(
            strength * _swapped(heads, difference),
            "layer and head are swapped",
            "a head is (layer, head); difference is [layer head d_head]",
        ),
    ]


def _swapped(heads: Sequence[tuple[int, int]], difference: Tensor) -> Tensor:
    value = torch.zeros_like(difference)
    for layer, head in heads:
        if head < len(value) and layer < value.shape[1]:
            value[head, layer] = difference[head, layer]
    return value


def _edits(exercise: Exercise, answer: Any, site: str) -> list[Add]:
    if not isinstance(answer, list | tuple) or not answer:
        exercise.refuse(f"{answer!r}", "return a list of edits: `ec.Add(site, layer, value, ...)`")
    for edit in answer:
        if not isinstance(edit, Add):
            exercise.refuse(
                f"a {type(edit).__name__}",
                "use ec.Add: it adds to what the model does; ec.Replace would put out all else",
            )
        if edit.site != site:
            exercise.refuse(f"an edit at {edit.site!r}", f"write at {site!r}")
        if edit.positions != "last":
            exercise.refuse(
                f"positions={edit.positions!r}: every token is written to",
                "write where the reply begins: positions='last'",
            )
        if edit.when != "prompt":
            exercise.refuse(
                "when='every' (the default): written again at every token of the reply",
                "write once: when='prompt'",
            )
    return list(answer)


def check_excess(answer: Any) -> str:
    """Check ``excess(method, control, used) -> float``.

    ``method`` and ``control`` say for each context's id whether the judge heard the emotion.

    Raises:
        ExerciseError: the number is not the right one; each typical mistake has its message.
    """
    ids = [f"home_{number:02d}/neutral" for number in range(10)]
    method = dict(zip(ids, [True] * 4 + [True, False, True, True, False, True], strict=True))
    control = dict(zip(ids, [False] * 5 + [True] + [False] * 4, strict=True))
    used = set(ids[:4])
    new = [name for name in ids if name not in used]

    def share(said: dict[str, bool], names: Sequence[str]) -> float:
        return sum(said[name] for name in names) / len(names)

    right = share(method, new) - share(control, new)

    def wrong(value: float, found: str, do: str) -> Mistake:
        return Mistake(torch.tensor(value), found, do)

    mixed = "train and test mixed: "
    mistakes = [
        wrong(
            share(method, ids) - share(control, ids),
            mixed + "contexts in `used` are counted",
            "leave out the contexts that the method was made from",
        ),
        wrong(
            share(method, ids[:4]) - share(control, ids[:4]),
            mixed + "only contexts in `used` are counted",
            "count those that are not in `used`",
        ),
        wrong(-right, "the wrong sign: control minus method", "method minus control"),
        wrong(
            share(method, new),
            "the method's share alone: what the control reaches by itself is not taken off",
            "subtract the control's share",
        ),
        wrong(
            share(method, ids),
            mixed + "contexts in `used` are counted, and the control is not taken off",
            "leave `used` out, subtract the control's share",
        ),
        wrong(len(new) * right, "a number of contexts", "divide by the number of contexts"),
        wrong(
            len(new) * right / len(ids),
            "divided by all contexts, with `used`",
            "divide by the number of contexts that you counted",
        ),
        wrong(100 * right, "a percentage", "return a share"),
        wrong(share(method, new) / share(control, new), "a ratio", "take the difference"),
    ]
    EXCESS.compare(
        EXCESS.ask(answer, method, control, used), torch.tensor(right), "one number", mistakes
    )
    return EXCESS.passed(f"{right:+.0%} over the control, on {len(new)} new contexts.")

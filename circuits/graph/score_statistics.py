"""From readouts of many circuits to the scores of one: arithmetic without a pass."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import CircuitError
from circuits.graph.areas import SIZES, area, log_area, size_at
from circuits.graph.circuit import Circuit
from circuits.graph.masks import Masks
from circuits.graph.score_rows import Rows
from circuits.graph.scores import LOWER_IS_BETTER, CircuitScores, Score
from circuits.measure.resampling import bootstrap_counts

if TYPE_CHECKING:
    from circuits.graph.scoring import Scoring

__all__ = ["bootstrap_means", "judge", "relative", "relative_gaps", "scores_of"]

_ROUNDING = 1e-5
_UNITS = 32
"""Units of float32's precision that a readout may be off by, at the size of the largest one."""


def judge(
    name: str,
    value: float,
    resampled: Float[Tensor, " other_draw"],
    controls: Float[Tensor, " draw"],
    rounding: float = _ROUNDING,
) -> Score:
    """A score with its interval and its controls, in the direction in which it is better.

    Controls that differ from the score by no more than ``rounding`` are as good as it is.
    """
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    lower = name in LOWER_IS_BETTER
    # Equal circuits may differ by rounding, since they stand in other batches.
    as_good = (controls <= value + rounding) if lower else (controls >= value - rounding)
    return Score(
        value,
        low,
        high,
        float(controls.quantile(0.01 if lower else 0.99)),
        (1 + int(as_good.sum())) / (1 + len(controls)),
    )


def scores_of(
    circuit: Circuit, own: Masks, rows: Rows, m: Tensor, greedy: Tensor, how: "Scoring"
) -> CircuitScores:
    """The scores of a circuit, given the readouts of :func:`rows_of` and :func:`greedy_rows`.

    Raises:
        CircuitError: asking does not move the readout beyond rounding.
    """
    at, mean = rows.at, m.mean(1)
    gap = float((mean[at["model"]] - mean[at["empty"]]).abs())
    off = _UNITS * torch.finfo(torch.float32).eps * float(m.abs().max())
    if gap <= off:
        raise CircuitError(
            f"asking for {circuit.emotion!r} does not move its readout on these contexts, so "
            "nothing can be faithful to that; use another readout or other contexts"
        )
    f = relative(mean, at)
    values = _statistics(f, at)
    spread = _statistics(relative(bootstrap_means(m[: at["controls"].start], how.seed), at), at)
    controls = _control_statistics(f, at)
    rounding = max(_ROUNDING, off / gap)
    scores = {
        name: judge(name, float(values[name]), spread[name], controls[name], rounding)
        for name in values
    }
    gaps = _greedy_gaps(greedy.mean(1), mean, at)
    worst = torch.cat([relative_gaps(f, at, "node"), relative_gaps(f, at, "subset"), gaps]).max()
    loses = _loses(circuit, own, f, at)
    return CircuitScores(
        emotion=circuit.emotion,
        scores=scores,
        heads_fraction=float(own.heads.double().mean()),
        neurons_fraction=float(own.neurons.double().mean()) if own.neurons.numel() else 0.0,
        size=float(own.flat.double().mean()),
        worst_gap=float(worst),
        **_curves(f, at),
        loses=loses,
        needed_share=sum(fall > 0 for fall in loses.values()) / len(loses),
        n_contexts=m.shape[1],
        n_controls=how.draws,
        ablation=how.ablation,
        positions=how.positions,
    )


def bootstrap_means(m: Float[Tensor, "row context"], seed: int) -> Float[Tensor, "draw row"]:
    """Means over contexts drawn with replacement."""
    random = torch.Generator().manual_seed(seed)
    return (bootstrap_counts(m.shape[1], random, m.dtype) / m.shape[1]) @ m.T


def relative(
    mean: Float[Tensor, "*rest row"], at: Mapping[str, slice]
) -> Float[Tensor, "*rest row"]:
    """Faithfulness of every row, given its mean readout."""
    empty = mean[..., at["empty"]]
    return (mean - empty) / (mean[..., at["model"]] - empty)


def _statistics(f: Tensor, at: Mapping[str, slice]) -> dict[str, Tensor]:
    own = f[..., at["own"].start]
    # With one emotion there is no other circuit, and specificity is faithfulness.
    others = f[..., at["others"]].mean(-1) if at["others"].start < at["others"].stop else 0.0
    return {
        "faithfulness": own,
        "completeness": relative_gaps(f, at, "subset").mean(-1),
        "minimality": (own[..., None] - f[..., at["without_subset"]]).mean(-1) / _half(at),
        "specificity": own - others,
        "cpr": area(_curve(f, at, "curve")),
        "cmd": area((1 - _curve(f, at, "absolute_curve")).abs()),
    }


def _control_statistics(f: Tensor, at: Mapping[str, slice]) -> dict[str, Tensor]:
    """The same of random circuits.

    Completeness and minimality are of one random half of each, so these controls spread more,
    and are harder to beat, than means over several halves.
    """
    own, curves = f[at["controls"]], _curve(f, at, "control_curves")
    others = f[at["others"]].mean() if at["others"].start < at["others"].stop else 0.0
    inside, outside = f[at["controls_without_subset"]], f[at["model_without_controls_subset"]]
    return {
        "faithfulness": own,
        "completeness": (inside - outside).abs(),
        "minimality": (own - inside) / _half(at),
        "specificity": own - others,
        "cpr": area(curves),
        "cmd": area((1 - curves).abs()),
    }


def _curves(f: Tensor, at: Mapping[str, slice]) -> dict[str, Any]:
    curve, controls = _curve(f, at, "curve"), _curve(f, at, "control_curves")
    low, high = controls.quantile(torch.tensor([0.025, 0.975], dtype=f.dtype), dim=0)
    return {
        "log_area": float(log_area(curve)),
        "size_at_80": float(size_at(curve)),
        "sizes": SIZES,
        "curve": tuple(curve.tolist()),
        "curve_low": tuple(low.tolist()),
        "curve_high": tuple(high.tolist()),
    }


def _half(at: Mapping[str, slice]) -> int:
    """Nodes of a random half: a random circuit has as many nodes as the circuit."""
    nodes = at["without_node"]
    return (nodes.stop - nodes.start + 1) // 2


def relative_gaps(f: Tensor, at: Mapping[str, slice], what: str) -> Tensor:
    """Gap in faithfulness of leaving things out of the circuit, and of the model."""
    return (f[..., at[f"without_{what}"]] - f[..., at[f"model_without_{what}"]]).abs()


def _greedy_gaps(greedy: Tensor, mean: Tensor, at: Mapping[str, slice]) -> Tensor:
    inside, outside = greedy.chunk(2)
    return ((inside - outside) / (mean[at["model"]] - mean[at["empty"]])).abs()


def _curve(f: Tensor, at: Mapping[str, slice], name: str) -> Tensor:
    """Faithfulness at every size; the whole model's is 1."""
    run = f[..., at[name]].unflatten(-1, (-1, len(SIZES) - 1))
    curve = torch.cat([run, torch.ones_like(run[..., :1])], dim=-1)
    return curve if name == "control_curves" else curve.squeeze(-2)


def _loses(circuit: Circuit, own: Masks, f: Tensor, at: Mapping[str, slice]) -> dict[str, float]:
    places: dict[str, int] = {}
    heads, (layers, width) = own.heads.shape[2], own.neurons.shape[1:]
    for node, (layer, index) in zip(circuit.of_kind("head"), circuit.heads, strict=True):
        places[node.id] = layer * heads + index
    for node, (layer, index) in zip(circuit.of_kind("neuron"), circuit.neurons, strict=True):
        places[node.id] = layers * heads + layer * width + index
    order = sorted(places, key=lambda name: places[name])
    fall = (f[at["own"].start] - f[at["without_node"]]).tolist()
    return dict(zip(order, fall, strict=True))

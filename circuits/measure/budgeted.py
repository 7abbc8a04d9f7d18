"""Exact effects where they matter: attribution chooses, exact patching confirms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DataError
from circuits.measure.agreement import Agreement
from circuits.measure.attribution import NodeScores, attribute, estimates
from circuits.measure.attribution_cost import attribution_cost
from circuits.measure.attribution_methods import Method
from circuits.measure.cases import Mode
from circuits.measure.missed import Groups, Missed, missed, order
from circuits.measure.moments import Moments, Summary
from circuits.measure.pairs import Pair
from circuits.measure.parts import patch_parts
from circuits.measure.parts_cost import parts_cost
from circuits.measure.readouts import Readout
from circuits.model.protocol import Model
from circuits.model.receipts import Cost
from circuits.names import component, head_name, neuron_name
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["VerifiedScores", "budgeted", "budgeted_cost"]


@dataclass(frozen=True, eq=False)
class VerifiedScores(Record):
    """Scores of heads and neurons, the largest of them exact.

    Sign and unit as in :class:`~circuits.measure.attribution.NodeScores`, at all matched
    positions.
    """

    heads: Float[Tensor, "layer head"]
    """Exact where :attr:`heads_exact` says so, attributed elsewhere."""
    heads_exact: Bool[Tensor, "layer head"]
    neurons: Float[Tensor, "layer neuron"]
    neurons_exact: Bool[Tensor, "layer neuron"]
    estimate: Float[Tensor, " component"]
    """What attribution said of the confirmed components."""
    effect: Float[Tensor, " component"]
    """Their exact effects."""
    stderr: Float[Tensor, " component"]
    """Standard error of the exact effects over contexts."""
    first_half: Float[Tensor, " draw"]
    """Joint effects of random halves of the unconfirmed components."""
    second_half: Float[Tensor, " draw"]

    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    component: tuple[str, ...]
    """Confirmed by exact patching, largest score first."""
    bound: float
    """With this confidence no unconfirmed component has a larger |effect|, if effects add; see
    :mod:`~circuits.measure.missed`."""
    confidence: float
    departure: float
    """How far effects are from adding; 0 where they do. Near 1 the bound means nothing."""
    agreement: Agreement
    emotion: str
    other: str
    method: str
    mode: str
    readout: str
    n_contexts: int


def budgeted(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    provenance: Provenance,
    method: Method = "atp",
    *,
    exact: int,
    mode: Mode = "denoising",
    steps: int = 10,
    sample: int = 24,
    draws: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> VerifiedScores:
    """Attribute, patch the ``exact`` heads and neurons with the largest scores, bound the rest.

    Args:
        model: The model.
        pairs: Clean and corrupt prompts of one contrast.
        readout: What the runs are judged by.
        provenance: Of the result.
        method: The attribution; its options are those of
            :func:`~circuits.measure.attribution.attribute`.
        exact: How many heads and neurons are confirmed.
        mode: Clean values into the corrupt run, or the other way round.
        steps: Of integrated gradients.
        sample: Heads, and neurons, sampled for the agreement.
        draws: Random halves for the bound.
        confidence: Of the bound.
        seed: Of sample and halves.

    Raises:
        DataError: fewer than one component is to be confirmed, or fewer than two are left over, or
            there are too few draws.
        AxisError, ModelError: as :func:`~circuits.measure.attribution.attribute`.
    """
    order(draws, confidence)
    _check(model, exact)
    scores = attribute(
        model, pairs, readout, provenance, method, mode=mode, steps=steps, sample=sample, seed=seed
    )
    names = _ranked(scores)
    chosen, rest = names[:exact], names[exact:]
    effects = _over_contexts(patch_parts(model, pairs, readout, chosen, mode=mode))

    def joint(groups: Groups) -> Float[Tensor, " group"]:
        return patch_parts(model, pairs, readout, groups, mode=mode).mean(0)

    bound = missed(joint, rest, draws=draws, confidence=confidence, seed=seed)
    return VerifiedScores(
        provenance=provenance,
        **_confirmed(scores, chosen, effects.mean[0]),
        estimate=estimates(scores.heads, scores.neurons, chosen),
        effect=effects.mean[0],
        stderr=effects.stderr[0],
        **_bounded(bound),
        component=chosen,
        confidence=confidence,
        **{name: getattr(scores, name) for name in _SHARED},
    )


_SHARED = (
    "layer", "head", "neuron", "agreement", "emotion", "other", "method", "mode", "readout",
    "n_contexts",
)  # fmt: skip


def budgeted_cost(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    method: Method = "atp",
    *,
    exact: int,
    mode: Mode = "denoising",
    steps: int = 10,
    sample: int = 24,
    draws: int = 20,
    seed: int = 0,
) -> Cost:
    """The most that :func:`budgeted` costs with the same arguments.

    Passes and steps are exact; token-layers are counted as if all chosen components were in
    layer 0, since which they are is not known before.

    Raises:
        As :func:`budgeted` does.
    """
    _check(model, exact)
    lowest = head_name(0, 0)
    cost = attribution_cost(
        model, pairs, readout, method, mode=mode, steps=steps, sample=sample, seed=seed
    )
    cost += parts_cost(model, pairs, readout, [lowest] * exact)
    return cost + parts_cost(model, pairs, readout, [lowest] * (2 * draws))


def _check(model: Model, exact: int) -> None:
    total = model.cfg.n_layers * (model.cfg.n_heads + model.cfg.d_mlp)
    if not 1 <= exact <= total - 2:
        raise DataError(
            f"exact patching can confirm 1 to {total - 2} of the model's {total} heads and "
            f"neurons, found {exact}"
        )


def _ranked(scores: NodeScores) -> tuple[str, ...]:
    """Names of all heads and neurons, largest score first."""
    names, sizes = [], []
    for table, name in ((scores.heads[0], head_name), (scores.neurons[0], neuron_name)):
        sizes.append(table.abs().flatten())
        names += [name(layer, unit) for layer in scores.layer for unit in range(table.shape[1])]
    return tuple(names[i] for i in torch.cat(sizes).argsort(descending=True).tolist())


def _bounded(found: Missed) -> dict[str, Any]:
    halves = {"first_half": found.first.float(), "second_half": found.second.float()}
    return {**halves, "bound": found.bound, "departure": found.departure}


def _over_contexts(effects: Float[Tensor, "pair part"]) -> Summary:
    moments = Moments((1, effects.shape[1]))
    moments.update(effects, torch.zeros(len(effects), dtype=torch.long))
    return moments.result()


def _confirmed(scores: NodeScores, chosen: Sequence[str], effects: Tensor) -> dict[str, Tensor]:
    """Scores with exact effects in their places, and which they are."""
    tables = {"heads": scores.heads[0].clone(), "neurons": scores.neurons[0].clone()}
    known = {kind: torch.zeros_like(table, dtype=torch.bool) for kind, table in tables.items()}
    for name, effect in zip(chosen, effects, strict=True):
        part = component(name)
        tables[f"{part.kind}s"][part.layer, part.index] = effect
        known[f"{part.kind}s"][part.layer, part.index] = True
    return tables | {f"{kind}_exact": own for kind, own in known.items()}

"""Edge attribution: how much of the readout goes along every path from a sender to an input.

EAP (Syed et al. 2023, arXiv 2310.10348) takes the gradient of the base run; EAP-IG (Hanna et al.
2024, arXiv 2403.17806) its mean over inputs between the two runs. EAP is the first-order term of
patching a path in the base run (:mod:`circuits.measure.exact_paths`); EAP-IG, whose gradients are
those of runs in between, is nearer to the mean of patching it in either run.

Nothing but ordinary activations is needed: what a head writes follows from ``z`` and W_O, the
gradient at its inputs from that at ``q``, ``k`` and ``v``, and one product with the norm's
Jacobian serves all receivers of a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DataError, ModelError
from circuits.measure.cases import Mode
from circuits.measure.pairs import Pair
from circuits.measure.path_ends import Ends, path_ends
from circuits.measure.path_runs import last_readout
from circuits.measure.path_sums import Sums, path_sums
from circuits.measure.readouts import Readout
from circuits.model.identities import Need, needs
from circuits.model.protocol import Model, dtype_of
from circuits.model.receipts import Cost, counted
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["PathEffects", "PathMethod", "path_cost", "path_effects"]

PathMethod = Literal["eap", "eap-ig"]


@dataclass(frozen=True, eq=False)
class PathEffects(Record):
    """Attribution of every path: (clean - corrupt) of the sender . gradient at the input.

    In units of the readout, summed over matched positions; positive pushes towards the emotion.
    """

    mean: Float[Tensor, "sender receiver"]
    """Mean over contexts; zero where no path can be."""
    stderr: Float[Tensor, "sender receiver"]
    """Standard error over contexts; NaN for one context."""
    control: Float[Tensor, "sender receiver"]
    """The 99% quantile of |attribution| of a sender whose difference has the same length at every
    position and one random direction everywhere (normal approximation over ``draws``)."""
    exists: Bool[Tensor, "sender receiver"]
    """Whether the sender comes before the input."""
    node: Float[Tensor, " sender"]
    """Attribution of the sender as a whole: its difference . gradient at its output."""
    by_role: Float[Tensor, "sender receiver role"]
    """Mean over contexts by the role of the position; no roles unless they were asked for."""

    sender: tuple[str, ...]
    receiver: tuple[str, ...]
    """``L3H5.q``, ``L3G1.k`` and ``L3G1.v`` (key-value groups), ``L3.mlp``, ``L3N512`` (part of
    its MLP), ``readout``."""
    role: tuple[str, ...]
    emotion: str
    other: str | None
    readout: str
    mode: str
    method: str
    steps: int
    n_contexts: int
    draws: int
    gap: float
    """Largest difference between a sender's paths together and the sender as a whole, over
    contexts and senders, relative to the largest sender of the context (or the largest control)."""
    receipt: Mapping[str, int]
    """What was run."""

    def interval(self, sender: str, receiver: str) -> tuple[float, float]:
        """95% interval over contexts (normal approximation); NaN for one context."""
        mean = self.at("mean", sender=sender, receiver=receiver)
        apart = 1.96 * self.at("stderr", sender=sender, receiver=receiver)
        return mean - apart, mean + apart


def path_effects(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    provenance: Provenance,
    *,
    method: PathMethod = "eap",
    steps: int = 5,
    mode: Mode = "noising",
    neurons: Sequence[tuple[int, int]] = (),
    positions: bool = False,
    batch_size: int = 16,
    seed: int = 0,
) -> PathEffects:
    """Attribution of all paths between embedding, heads, MLPs, chosen neurons and the readout.

    Args:
        model: Its sublayers must write straight into the residual stream.
        pairs: Clean and corrupt prompts, of one emotion against one other (or plain).
        readout: A projection or a logit difference.
        provenance: Of the result.
        method: ``eap``: gradient of the base run (clean in noising, corrupt in denoising).
            ``eap-ig``: mean gradient over ``steps`` inputs, from the base's towards the other's.
        steps: Of ``eap-ig``; input ``k`` of 0 to ``steps - 1`` has ``k / steps`` of the way.
        mode: Which run is the base.
        neurons: (layer, neuron) that are senders and receivers of their own.
        positions: Keep attributions by the role of the position too.
        batch_size: Pairs at once; does not change the result.
        seed: Of the random directions of the control.

    Raises:
        DataError: no pairs, several contrasts, a readout of replies, or ``eap-ig`` between prompts
            whose matched tokens have the same inputs.
        ModelError: the model lacks a part, or its paths do not add up to its senders.
    """
    inside: tuple[Need, ...] = ("neurons",) if neurons else ()
    needs(model, "paths", "attention", "mlp", "heads", "sequence", *inside)
    ends, count = path_ends(model, neurons), _count(method, steps)
    contrast = _contrast(pairs)
    with counted() as receipt:
        sums = path_sums(
            model, pairs, last_readout(readout), ends,
            mode=mode, steps=count, positions=positions, batch_size=batch_size, seed=seed,
        )  # fmt: skip
    gap = _gap(sums, ends)
    _check_gap(gap, model)
    stderr = (
        sums.scores.std(0) / len(pairs) ** 0.5 if len(pairs) > 1 else sums.scores[0] * torch.nan
    )
    return PathEffects(
        provenance=provenance,
        mean=sums.scores.mean(0), stderr=stderr, control=sums.control,
        exists=ends.exists(), node=sums.nodes.mean(0), by_role=sums.by_role,
        sender=ends.senders, receiver=ends.receivers, role=sums.roles,
        emotion=contrast[0], other=contrast[1], readout=readout.name, mode=mode, method=method,
        steps=count, n_contexts=len(pairs), draws=sums.draws, gap=gap, receipt=receipt.to_json(),
    )  # fmt: skip


def path_cost(
    model: Model,
    pairs: Sequence[Pair],
    *,
    method: PathMethod = "eap",
    steps: int = 5,
    mode: Mode = "noising",
    batch_size: int = 16,
) -> Cost:
    """What :func:`path_effects` will run: per pair one pass, and ``steps`` there and back."""
    cfg, count, cost = model.cfg, _count(method, steps), Cost()
    width = 4 * cfg.d_model + 4 * cfg.n_heads * cfg.d_head + cfg.d_mlp
    number = 8 if dtype_of(model) == torch.float64 else 4
    for start in range(0, len(pairs), batch_size):
        own = pairs[start : start + batch_size]
        lengths = [max(len(side.ids) for side in sides)
                   for sides in ([p.clean for p in own], [p.corrupt for p in own])]  # fmt: skip
        base, other = lengths if mode == "noising" else reversed(lengths)
        rows, tokens = len(own), len(own) * base * cfg.n_layers
        cost += Cost(
            passes=rows * (1 + count),
            token_layers=count * tokens + rows * other * cfg.n_layers,
            backward_passes=rows * count,
            backward_token_layers=count * tokens,
            memory=3 * tokens * width * number,
        )
    return cost


def _count(method: str, steps: int) -> int:
    if method not in ("eap", "eap-ig"):
        raise DataError(f"method is {method!r}; it is eap or eap-ig")
    if steps < 1:
        raise DataError(f"steps is {steps}; give 1 or more")
    return steps if method == "eap-ig" else 1


def _contrast(pairs: Sequence[Pair]) -> tuple[str, str | None]:
    found = list(dict.fromkeys((pair.emotion, pair.other) for pair in pairs))
    if len(found) != 1:
        raise DataError(
            f"paths are measured for one emotion against one other; these {len(pairs)} pairs have "
            f"{len(found)} such contrasts. Measure each by itself"
        )
    return found[0]


def _gap(sums: Sums, ends: Ends) -> float:
    together = sums.scores[..., ends.whole()].sum(-1)
    # Where no sender matters, what rounds is the product of differences and gradients at an angle.
    size = float(sums.control.max())
    largest = sums.nodes.abs().amax(1, keepdim=True).clamp_min(max(size, 1e-30))
    return float(((together - sums.nodes).abs() / largest).max())


def _check_gap(gap: float, model: Model) -> None:
    allowed = 5e-2 if dtype_of(model) in (torch.float16, torch.bfloat16) else 1e-3
    if not gap < allowed:
        raise ModelError(
            f"the paths of a sender differ from the sender as a whole by {gap:.1e} of the largest "
            "sender; something in this model reads the residual stream beside queries, keys, "
            "values, MLPs and the final norm, or the activations are not finite"
        )

"""Effects of queries and keys through the softmax as it is, not through its slope (AtP*).

A saturated softmax has next to no gradient, so attribution patching misses queries and keys. The
fix of Kramár et al. (2024, arXiv 2403.00745, section 3.1.1): recompute the attention pattern with
the patched query or key, and take only what follows linearly,

    sum over keys of (patched pattern - pattern) * d readout / d pattern.

A query at one position changes its own row of the pattern. A key at position s changes one score
per row; with p = pattern[t, s], c the change of that score and g the gradient at the pattern, row
t contributes  p (e^c - 1) (g[s] - sum_u g[u] pattern[t, u]) / (1 - p + p e^c).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.measure.sides import Activations, Sides
from circuits.model.gradients import observe
from circuits.model.protocol import Hook
from circuits.names import hook

__all__ = ["QueryKeyFix", "query_key_fix"]


@dataclass(frozen=True, eq=False)
class QueryKeyFix:
    """What patched queries and keys change in each layer's pattern, ready for any gradient."""

    side: Sides
    pattern: Mapping[int, Float[Tensor, "pair head query key"]]
    by_query: Mapping[int, Float[Tensor, "pair head query key"]]
    """Change of the pattern when the row's query is patched."""
    by_key: Mapping[int, Float[Tensor, "pair head query key"]]
    """Change of the pattern at a key when it is patched, over one minus its old weight."""
    groups: int

    def scores(
        self, gradient: Float[Tensor, "pair head query key"], layer: int
    ) -> tuple[Float[Tensor, "pair place head"], Float[Tensor, "pair place group"]]:
        """Of one layer's queries and keys, given the gradient at its pattern."""
        queries = (self.by_query[layer] * gradient).sum(-1)
        mean = (gradient * self.pattern[layer]).sum(-1, keepdim=True)
        keys = (self.by_key[layer] * (gradient - mean)).sum(2)  # of all rows that see the key
        keys = keys.unflatten(1, (self.groups, -1)).sum(2)
        return self._placed(queries), self._placed(keys)

    def _placed(self, found: Float[Tensor, "pair unit pos"]) -> Float[Tensor, "pair place unit"]:
        last = found[..., -self.side.width :].transpose(1, 2)
        return self.side.sign * self.side.placed(last)


def query_key_fix(side: Sides, base: Activations) -> QueryKeyFix:
    """The fix of some pairs; two forward passes.

    Args:
        side: The pairs' runs.
        base: Queries, keys, scores and patterns of the base run, all layers.

    Raises:
        ModelError: the pattern is not the softmax of the scores.
    """
    by_query, by_key, patterns = {}, {}, {}
    queries, keys = _patched_scores(side, base, "q"), _patched_scores(side, base, "k")
    for layer, pattern in base["pattern"].items():
        scores = _finite(base["scores"][layer])
        soft = scores.softmax(-1)
        _check(side, soft, pattern, layer)
        by_query[layer] = (_finite(queries[layer]).softmax(-1) - soft).to(pattern.dtype)
        # Scores apart by more than e^300 count as that.
        grown = soft * (_finite(keys[layer]) - scores).clamp(max=300.0).exp()
        by_key[layer] = ((grown - soft) / (1 - soft + grown).clamp_min(1e-300)).to(pattern.dtype)
        patterns[layer] = soft.to(pattern.dtype)
    return QueryKeyFix(side, patterns, by_query, by_key, base["k"][0].shape[2])


def _patched_scores(side: Sides, base: Activations, site: str) -> Mapping[int, Tensor]:
    """The model's own attention scores with all its queries, or all its keys, patched.

    Queries and keys of every layer are put in place, so rotary embeddings, norms, scales and
    masks are the model's, at the base run's positions.
    """
    layers, hooks = range(side.model.cfg.n_layers), []
    for own in ("q", "k"):
        for i in layers:
            value = base[own][i]
            hooks.append(_put(own, i, side.moved(own, i, value) if own == site else value))
    readout = side.readout
    seen, _ = observe(
        side.model, side.base, {"scores": layers}, readout.score, at=readout.site, hooks=hooks
    )
    return seen["scores"]


def _finite(scores: Tensor) -> Tensor:
    # Masked places may hold minus infinity, whose differences are no numbers.
    return scores.double().clamp_min(torch.finfo(torch.float32).min)


def _put(site: str, layer: int, value: Tensor) -> Hook:
    def put(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        return value

    return hook(site, layer), put


def _check(side: Sides, softmax: Tensor, pattern: Tensor, layer: int) -> None:
    gap = float(((softmax - pattern) * side.base.mask[:, None, :, None]).abs().max())
    if not gap <= 1e-2:  # NaN too
        raise ModelError(
            f"attention patterns of layer {layer} are not the softmax of their scores (they differ "
            f"by {gap:.2g}), so queries and keys cannot be patched through it; "
            "use method 'atp' or 'ig-activations'"
        )

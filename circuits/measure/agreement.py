"""How well estimates of effects agree with exact patching, on a random sample of components."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from circuits.model.protocol import Model
from circuits.names import component, head_name, neuron_name

__all__ = ["Agreement", "agreement", "sampled_parts"]

Agreement = Mapping[str, Mapping[str, float | int | None]]
"""``head`` and ``neuron`` -> ``spearman`` (rank correlation; ``None`` where it is undefined),
``sign`` (share of equal signs), ``top`` (share of the quarter with the largest exact effects that
is among the quarter with the largest estimates) and ``sampled`` (how many)."""


def sampled_parts(model: Model, per_kind: int, seed: int = 0) -> tuple[str, ...]:
    """Names of random heads and random neurons, of every layer as many, give or take one."""
    random = torch.Generator().manual_seed(seed)
    cfg, names = model.cfg, []
    for units, name in ((cfg.n_heads, head_name), (cfg.d_mlp, neuron_name)):
        layers = _shuffled(cfg.n_layers, random)
        orders = {layer: _shuffled(units, random) for layer in layers}
        # The first of every layer, then the second of every layer, and so on.
        turns = [(layer, orders[layer][turn]) for turn in range(units) for layer in layers]
        names += [name(layer, unit) for layer, unit in sorted(turns[:per_kind])]
    return tuple(names)


def agreement(
    names: Sequence[str],
    estimate: Float[Tensor, " component"],
    exact: Float[Tensor, " component"],
) -> Agreement:
    """Measures of agreement, of heads and of neurons by themselves."""
    kinds = [component(name).kind for name in names]
    found = {}
    for kind in dict.fromkeys(kinds):
        own = torch.tensor([other == kind for other in kinds])
        found[kind] = _measures(estimate[own].double(), exact[own].double())
    return found


def _measures(estimate: Tensor, exact: Tensor) -> dict[str, float | int | None]:
    n = len(exact)
    quarter = max(1, n // 4)
    tops = [set(values.abs().topk(quarter).indices.tolist()) for values in (estimate, exact)]
    a, b = _ranks(estimate), _ranks(exact)
    size = float(a.norm() * b.norm())
    return {
        "spearman": float(a @ b) / size if size > 0 else None,
        "sign": float((estimate.sign() == exact.sign()).double().mean()),
        "top": len(tops[0] & tops[1]) / quarter,
        "sampled": n,
    }


def _ranks(values: Tensor) -> Tensor:
    ranks = torch.tensor(rankdata(values.numpy()), dtype=torch.float64)
    return ranks - ranks.mean()


def _shuffled(count: int, random: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=random).tolist()

"""How well attribution of paths agrees with patching them, on a random sample."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import rankdata

from circuits.errors import DataError
from circuits.measure.exact_paths import ExactPaths, edge_name
from circuits.measure.paths import PathEffects

__all__ = ["path_agreement", "sample_paths"]


def sample_paths(effects: PathEffects, count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Paths drawn at random, all of them where there are fewer than ``count``."""
    places = effects.exists.nonzero()
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]
    return [(effects.sender[i], effects.receiver[j]) for i, j in places[drawn].tolist()]


def path_agreement(
    effects: PathEffects, exact: ExactPaths, edges: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """``spearman`` and ``sign`` (share of equal signs) over these paths, and their ``count``.

    Paths whose exact effect is zero have no sign and count as agreeing if attribution is zero too.

    Raises:
        DataError: fewer than three paths, or they have no two different effects.
    """
    if len(edges) < 3:
        raise DataError(f"agreement needs three paths or more, found {len(edges)}")
    places = [exact.index("edge", edge_name(*edge)) for edge in edges]
    measured = exact.mean[places].double()
    estimate = torch.tensor(
        [effects.at("mean", sender=s, receiver=r) for s, r in edges], dtype=torch.float64
    )
    if measured.unique().numel() < 2 or estimate.unique().numel() < 2:
        raise DataError("these paths all have the same effect, so nothing can be compared")
    return {
        "spearman": float(np.corrcoef(rankdata(estimate), rankdata(measured))[0, 1]),
        "sign": float((estimate.sign() == measured.sign()).double().mean()),
        "count": float(len(edges)),
    }

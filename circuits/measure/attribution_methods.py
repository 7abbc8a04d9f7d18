"""The attribution methods: how each gets from two runs to scores, and by how many passes.

Passes per pair, with L layers and S steps (forward, backward):

=================  =============  =========  ====================================================
``atp``            2              1          gradient times difference (Nanda 2023; Syed et al.
                                             2023, arXiv 2310.10348)
``atp*``           4              L + 1      queries and keys through the softmax, and GradDrop
                                             (Kramár et al. 2024, arXiv 2403.00745)
``relp``           2              1          relevance rules instead of the gradient (Rezaei Jafari
                                             et al. 2025, arXiv 2508.21258)
``ig-inputs``      2 + S          S          gradient averaged while the inputs change (Hanna et
                                             al. 2024, arXiv 2403.17806)
``ig-activations`` 2 + 2 L S      2 L S      gradient averaged while the activation itself changes
                                             (Marks et al. 2024, arXiv 2403.19647)
=================  =============  =========  ====================================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.measure.integrated import over_activations, over_inputs
from circuits.measure.query_key_fix import query_key_fix
from circuits.measure.sides import KINDS, Sides, Terms, per_layer, terms
from circuits.model.gradients import Trace, observe, trace, trace_layers_dropped
from circuits.model.relevance import relevance_rules

__all__ = ["METHODS", "SITES", "Method", "MethodPasses", "pair_terms"]

Method = Literal["atp", "atp*", "relp", "ig-inputs", "ig-activations"]

SITES: Final = tuple(KINDS.values())
"""Sites that are compared between the runs, in all layers."""


@dataclass(frozen=True)
class MethodPasses:
    """How many passes a method makes per pair, from the layers and the steps."""

    passes: Callable[[int, int], tuple[int, int]]
    """Forward (that of the other run included) and backward."""
    stepwise: bool = False


METHODS: Final[dict[str, MethodPasses]] = {
    "atp": MethodPasses(lambda layers, steps: (2, 1)),
    "atp*": MethodPasses(lambda layers, steps: (4, layers + 1)),
    "relp": MethodPasses(lambda layers, steps: (2, 1)),
    "ig-inputs": MethodPasses(lambda layers, steps: (2 + steps, steps), stepwise=True),
    "ig-activations": MethodPasses(
        lambda layers, steps: (2 + 2 * layers * steps, 2 * layers * steps), stepwise=True
    ),
}

_Found = tuple[Terms, Float[Tensor, " pair"]]


def pair_terms(side: Sides, method: Method, steps: int) -> _Found:
    """Scores of every pair, and the base run's readout."""
    if method == "atp":
        return _of(side, _trace(side))
    if method == "atp*":
        return _atp_star(side)
    if method == "relp":
        found, base = _of(side, _trace(side, relevance=True))
        # The pattern is a constant: queries and keys have no relevance at all.
        return {kind: own for kind, own in found.items() if kind not in ("queries", "keys")}, base
    readout = side.readout
    base, value = observe(side.model, side.base, _sites(side), readout.score, at=readout.site)
    integrate = over_inputs if method == "ig-inputs" else over_activations
    return terms(side, base, integrate(side, base, steps)), value


def _sites(side: Sides) -> dict[str, range | tuple[int, ...]]:
    layers = range(side.model.cfg.n_layers)
    return dict.fromkeys(SITES, layers) | {"resid_pre": (0,)}


def _trace(side: Sides, *, relevance: bool = False) -> Trace:
    return trace(
        side.model, side.base, _sites(side), side.readout.score, at=side.readout.site,
        hooks=relevance_rules(side.model) if relevance else (),
    )  # fmt: skip


def _of(side: Sides, found: Trace) -> _Found:
    return terms(side, found.values, found.gradients), found.readout


def _atp_star(side: Sides) -> _Found:
    """AtP with the fix of queries and keys, and GradDrop.

    GradDrop (section 3.1.2) guards against direct and indirect effects that cancel in the
    gradient: with the gradient through layer l dropped, a score is I_l, and the size of the score
    is  1 / (L - 1) * sum over layers l of |I_l|  (a component's own layer contributes nothing).
    The paper averages sizes over prompts; here every pair's size gets the sign of the score with
    no layer dropped, and the signed scores are averaged, so that effects of opposite sign in
    different contexts cancel as they do in exact patching. A component is the same part at all
    positions of a place, as in the patching that the score estimates.
    """
    layers = range(side.model.cfg.n_layers)
    sites = _sites(side) | {"pattern": layers, "scores": layers}
    readout = side.readout
    traces = trace_layers_dropped(side.model, side.base, sites, readout.score, at=readout.site)
    whole = next(traces)
    fix = query_key_fix(side, whole.values)

    def fixed(found: Trace) -> Terms:
        own = terms(side, found.values, found.gradients)
        slopes = found.gradients["pattern"]
        both = {i: fix.scores(slopes[i], i) for i in layers}
        own["queries"] = per_layer(slopes, lambda i: both[i][0])
        own["keys"] = per_layer(slopes, lambda i: both[i][1])
        return own

    signed = fixed(whole)
    size = {kind: torch.zeros_like(own) for kind, own in signed.items()}
    for dropped in traces:
        for kind, own in fixed(dropped).items():
            size[kind] += own.abs() / (len(layers) - 1)
    return {kind: own.sign() * size[kind] for kind, own in signed.items()}, whole.readout

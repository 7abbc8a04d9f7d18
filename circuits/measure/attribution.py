"""Attribution: effects of all components at once, estimated from gradients.

Every score estimates what exact patching of the component at all matched positions would measure:
the readout with the clean value minus the readout with the corrupt one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import AxisError, DataError, ModelError
from circuits.measure.agreement import Agreement, agreement, sampled_parts
from circuits.measure.attribution_methods import METHODS, SITES, Method, pair_terms
from circuits.measure.cases import Mode
from circuits.measure.integrated import refuse_equal_inputs
from circuits.measure.moments import Moments
from circuits.measure.pairs import Pair
from circuits.measure.parts import patch_parts
from circuits.measure.places import By, Places, find_places
from circuits.measure.readouts import LogitDifference, Projection, Readout
from circuits.measure.sides import PAIRS_AT_ONCE, Terms, picked, sides
from circuits.model.finite import check_values
from circuits.model.halving import halving_tables
from circuits.model.protocol import Model
from circuits.names import SUBLAYERS, component
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["NodeScores", "attribute", "check_request", "estimates"]


@dataclass(frozen=True, eq=False)
class NodeScores(Record):
    """Estimated effects of components, averaged over contexts, with standard errors.

    Effect: readout with the clean value minus readout with the corrupt one, at the positions of a
    place; positive pushes towards the emotion. Unit: that of the readout. The first place is
    ``all``, all matched positions. NaN: the method has no score of this kind (queries and keys by
    ``relp``; queries, keys, values and inputs by ``ig-activations``), or, for a standard error,
    there is one context only.
    """

    heads: Float[Tensor, "place layer head"]
    """Of what a head hands to the output matrix (``z``)."""
    heads_stderr: Float[Tensor, "place layer head"]
    neurons: Float[Tensor, "place layer neuron"]
    neurons_stderr: Float[Tensor, "place layer neuron"]
    sublayers: Float[Tensor, "place layer sublayer"]
    sublayers_stderr: Float[Tensor, "place layer sublayer"]
    queries: Float[Tensor, "place layer head"]
    queries_stderr: Float[Tensor, "place layer head"]
    keys: Float[Tensor, "place layer group"]
    keys_stderr: Float[Tensor, "place layer group"]
    values: Float[Tensor, "place layer group"]
    values_stderr: Float[Tensor, "place layer group"]
    inputs: Float[Tensor, " place"]
    """Of the residual stream before layer 0."""
    inputs_stderr: Float[Tensor, " place"]
    gap: Float[Tensor, " run"]
    """Readout of the clean and of the corrupt run, averaged over contexts."""
    sampled: Float[Tensor, " component"]
    """Scores of the sampled components."""
    exact: Float[Tensor, " component"]
    """Effects of the sampled components by exact patching."""

    place: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]
    group: tuple[int, ...]
    """Key-value groups."""
    sublayer: tuple[str, ...]
    run: tuple[str, ...]
    component: tuple[str, ...]
    """A random sample of heads and neurons."""
    agreement: Agreement
    """Of :attr:`sampled` and :attr:`exact`."""
    emotion: str
    other: str
    method: str
    mode: str
    readout: str
    steps: int
    """Of integrated gradients; 0 for other methods."""
    n_contexts: int
    forwards: int
    """Forward passes per pair, without those of exact patching."""
    backwards: int


def attribute(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    provenance: Provenance,
    method: Method = "atp",
    *,
    mode: Mode = "denoising",
    by: By = "all",
    steps: int = 10,
    sample: int = 24,
    seed: int = 0,
) -> NodeScores:
    """Score heads, neurons, sublayers, queries, keys and values.

    Args:
        model: The model.
        pairs: Clean and corrupt prompts of one contrast, one pair per context.
        readout: What the runs are judged by: a projection or a logit difference.
        provenance: Of the result.
        method: See :mod:`~circuits.measure.attribution_methods`.
        mode: Gradients of the corrupt run (denoising) or of the clean one (noising).
        by: Scores by place as well, beside those of all matched positions.
        steps: Steps of integrated gradients; other methods have none.
        sample: How many heads, and how many neurons, are patched exactly to see how far the
            scores can be trusted; all there are, if fewer.
        seed: Of the sample.

    Raises:
        AxisError: the method is unknown, or cannot use the readout.
        DataError: there are no pairs, they are of different contrasts, fewer than one step or
            two sampled components are asked for, or ``ig-inputs`` is given equal inputs.
        ModelError: the model has no such parts, or one layer only (``atp*``).
    """
    judged = check_request(model, pairs, readout, method, steps, sample)
    places = _places(pairs, by)
    found = _averaged(model, pairs, judged, places, method, mode, steps)
    names = sampled_parts(model, sample, seed)
    chosen = estimates(found["heads"], found["neurons"], names)
    exact = patch_parts(model, pairs, readout, names, mode=mode).mean(0)
    forwards, backwards = METHODS[method].passes(model.cfg.n_layers, steps)
    return NodeScores(
        provenance=provenance,
        **found,
        sampled=chosen,
        exact=exact,
        **_labels(found),
        place=places.names,
        component=names,
        agreement=agreement(names, chosen, exact),
        emotion=pairs[0].emotion,
        other=pairs[0].other or "plain",
        method=method,
        mode=mode,
        readout=readout.name,
        steps=steps if METHODS[method].stepwise else 0,
        n_contexts=len(pairs),
        forwards=forwards,
        backwards=backwards,
    )


def check_request(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    method: str,
    steps: int,
    sample: int,
) -> Projection | LogitDifference:
    """The readout, if the method can be used as asked; raises as :func:`attribute` does."""
    if method not in METHODS:
        raise AxisError(
            f"no attribution method is called {method!r}; methods are {', '.join(METHODS)}"
        )
    if not isinstance(readout, Projection | LogitDifference):
        raise AxisError(
            f"method {method!r} cannot use the readout {readout.name!r}, which reads replies; "
            "use a projection or a logit difference, or exact patching (patch_parts)"
        )
    if METHODS[method].stepwise and steps < 1:
        raise DataError(f"method {method!r} needs one step or more, found {steps}")
    if sample < 2:
        raise DataError(f"agreement needs two sampled components or more, found {sample}")
    if method == "atp*" and model.cfg.n_layers < 2:
        raise ModelError("method 'atp*' drops layers and needs two or more; use 'atp'")
    if method == "ig-inputs":
        refuse_equal_inputs(pairs)
    return readout


def estimates(heads: Tensor, neurons: Tensor, names: Sequence[str]) -> Float[Tensor, " component"]:
    """Scores of named heads and neurons at all matched positions."""
    found = []
    for name in names:
        part = component(name)
        table = heads if part.kind == "head" else neurons
        found.append(table[0, part.layer, part.index])
    return torch.stack(found)


def _labels(found: Mapping[str, Tensor]) -> dict[str, Any]:
    tables = {"head": "heads", "neuron": "neurons", "group": "keys"}
    labels = {axis: tuple(range(found[table].shape[-1])) for axis, table in tables.items()}
    layers = tuple(range(found["heads"].shape[1]))
    return {**labels, "layer": layers, "sublayer": SUBLAYERS, "run": ("clean", "corrupt")}


def _places(pairs: Sequence[Pair], by: By) -> Places:
    everything = find_places(pairs, "all")
    if by == "all":
        return everything
    more = find_places(pairs, by)
    return Places(
        (*everything.names, *more.names), torch.cat([everything.masks, more.masks], dim=1)
    )


def _averaged(
    model: Model,
    pairs: Sequence[Pair],
    readout: Projection | LogitDifference,
    places: Places,
    method: Method,
    mode: Mode,
    steps: int,
) -> dict[str, Any]:
    moments: dict[str, Moments] = {}
    gaps, layers = [], range(model.cfg.n_layers)
    sites = dict.fromkeys(SITES, layers) | {"resid_pre": (0,)}

    def score(some: Sequence[int]) -> dict[str, Tensor]:
        own = [pairs[place] for place in some]
        side = sides(model, own, picked(pairs, places, some), readout, mode, sites)
        found, base = pair_terms(side, method, steps)
        ends = (side.source_readout, base) if mode == "denoising" else (base, side.source_readout)
        gap = torch.stack(ends, dim=1).double().cpu()
        check_values(model, gap, f"the readout {readout.name}", [pair.clean.ids for pair in own])
        return {"gap": gap, **{name: x.cpu() for name, x in _complete(model, found).items()}}

    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = range(len(pairs))[first : first + PAIRS_AT_ONCE]
        found = halving_tables(score, some, lambda place: pairs[place].name)
        gaps.append(found.pop("gap"))
        for name, terms in found.items():
            one = moments.setdefault(name, Moments((1, *terms.shape[1:])))
            one.update(terms, torch.zeros(len(terms), dtype=torch.long))
    result: dict[str, Any] = {"gap": torch.cat(gaps).mean(0).float()}
    for name, one in moments.items():
        summary = one.result()
        result[name], result[f"{name}_stderr"] = summary.mean[0], summary.stderr[0]
    return result


def _complete(model: Model, found: Terms) -> Terms:
    """All kinds of scores, NaN where the method has none."""
    heads = found["heads"]
    groups = int(getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads)
    sizes = {"queries": heads.shape[3], "keys": groups, "values": groups}
    whole = {
        "heads": heads,
        "neurons": found["neurons"],
        "sublayers": torch.stack([found[sublayer] for sublayer in SUBLAYERS], dim=3),
    }
    for kind, units in sizes.items():
        nothing = heads.new_full((*heads.shape[:3], units), float("nan"))
        whole[kind] = found.get(kind, nothing)
    whole["inputs"] = found.get("inputs", heads.new_full(heads.shape[:2], float("nan")))
    return whole

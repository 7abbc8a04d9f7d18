"""Patching of named parts, alone or several at once, at all matched positions or the last.

Unlike a sweep over places, any set of heads, neurons and sublayers can be patched together: each
is set to its value in the other run, whatever the parts before it did.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import AxisError
from circuits.measure.cases import Case, Mode, cases
from circuits.measure.pairs import Pair
from circuits.measure.readouts import Readout
from circuits.model.finite import check_values
from circuits.model.halving import halving
from circuits.model.protocol import Hook, Model
from circuits.model.runs import hook_name
from circuits.names import component

__all__ = ["Parts", "patch_parts"]

Parts = Sequence[str | Sequence[str]]
"""Names (``L3H5``, ``L3N512``, ``L3.attn``, ``L3.mlp``), or groups of names patched at once."""

PAIRS_AT_ONCE = 8
_TOKENS_AT_ONCE = 4096
_SITES = {"head": "z", "neuron": "post", "attn": "attn_out", "mlp": "mlp_out"}


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What is patched, per site and layer: ``[part unit]``, or ``[part 1]`` for a sublayer."""

    masks: dict[tuple[str, int], Bool[Tensor, "part unit"]]
    first: tuple[int, ...]
    """Lowest layer of every part."""

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(site for site, _ in self.masks))


@torch.no_grad()
def patch_parts(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    parts: Parts,
    *,
    mode: Mode = "denoising",
    last_only: bool = False,
) -> Float[Tensor, "pair part"]:
    """Effect of patching each part, or each group of parts at once.

    Args:
        model: The model.
        pairs: Clean and corrupt prompts.
        readout: What the runs are judged by; gives the unit.
        parts: What is patched.
        mode: Clean values into the corrupt run, or the other way round.
        last_only: Patch the last position alone, instead of all matched ones.

    Returns:
        Readout with the clean values minus readout without them, per pair and part.

    Raises:
        AxisError: a name is no part of the model, or a group is empty.
    """
    chosen = _choose(model, parts)

    def patch(some: Sequence[Pair]) -> Tensor:
        values = torch.zeros(len(some), len(parts))
        for case in cases(model, some, readout, mode, (*chosen.sites, "resid_pre")):
            values[case.rows] += _effects(case, chosen, last_only)
        check_values(model, values, "the readout of a patched run", [p.clean.ids for p in some])
        return values

    found: list[Tensor] = []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[first : first + PAIRS_AT_ONCE]
        found += halving(patch, some, lambda pair: pair.name)
    return torch.cat(found)


def _effects(case: Case, chosen: _Chosen, last_only: bool) -> Float[Tensor, "pair part"]:
    found = torch.zeros(case.n_pairs, len(chosen.first))
    baseline = case.baseline.float().cpu()
    start = case.end if last_only else 0
    at = case.matched[:, start:].clone()
    if last_only:
        at[:, 1:] = False
    for layer, numbers in _together(case, chosen, case.width - start):

        def patch(numbers: Sequence[int], layer: int = layer) -> None:
            rows = [pair for pair in range(case.n_pairs) for _ in numbers]
            part = torch.tensor(numbers).repeat(case.n_pairs)
            hooks = [
                _put(place, case.source.sites[place[0]][place[1]][rows], mask[part], at[rows])
                for place, mask in chosen.masks.items()
                if bool(mask[part].any())
            ]
            resid = case.kept("resid_pre", layer)[:, start:]
            read = case.read(rows, start, layer, resid[rows], hooks, all_positions=True)
            found[:, numbers] = read.reshape(case.n_pairs, -1).float().cpu() - baseline[:, None]

        halving(patch, numbers, lambda number: f"patching of part {number}", rows=False)
    return found


def _together(case: Case, chosen: _Chosen, width: int) -> Iterator[tuple[int, list[int]]]:
    """Parts that begin in one layer, as many as fit into a pass."""
    by_layer: dict[int, list[int]] = defaultdict(list)
    for number, layer in enumerate(chosen.first):
        by_layer[layer].append(number)
    at_once = max(1, _TOKENS_AT_ONCE // (case.n_pairs * width))
    for layer, numbers in sorted(by_layer.items()):
        for begin in range(0, len(numbers), at_once):
            yield layer, numbers[begin : begin + at_once]


def _put(place: tuple[str, int], given: Tensor, mask: Tensor, at: Tensor) -> Hook:
    width = at.shape[1]
    where = mask[:, None] & at[..., None]  # [row pos unit]
    where = where[..., None] if place[0] == "z" else where

    def put(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        return given[:, -width:].to(activation.dtype).where(where, activation)

    return hook_name(*place), put


def _choose(model: Model, parts: Parts) -> _Chosen:
    sizes = {"z": model.cfg.n_heads, "post": model.cfg.d_mlp, "attn_out": 1, "mlp_out": 1}
    masks: dict[tuple[str, int], Tensor] = {}
    first = []
    for number, part in enumerate(parts):
        names = [part] if isinstance(part, str) else list(part)
        if not names:
            raise AxisError(f"group {number} of the parts to patch is empty; name one or more")
        layers = []
        for name in names:
            found = component(name)
            kind = found.kind if found.kind in _SITES else found.sublayer or ""
            if kind not in _SITES or found.layer is None:
                raise AxisError(f"{name} cannot be patched; give heads, neurons or sublayers")
            site, unit = _SITES[kind], found.index or 0
            _check(model, name, found.layer, unit, sizes[site])
            place = (site, found.layer)
            if place not in masks:
                masks[place] = torch.zeros(len(parts), sizes[site], dtype=torch.bool)
            masks[place][number, unit] = True
            layers.append(found.layer)
        first.append(min(layers))
    return _Chosen(masks, tuple(first))


def _check(model: Model, name: str, layer: int, unit: int, units: int) -> None:
    if layer >= model.cfg.n_layers or unit >= units:
        raise AxisError(
            f"{name} is no part of the model, which has {model.cfg.n_layers} layers of "
            f"{model.cfg.n_heads} heads and {model.cfg.d_mlp} neurons"
        )

"""Does a model that has just been loaded run as everything else here takes it to?

Results stand on things that the libraries below do without a word: that keys and values are kept
and read on from, that positions are counted from the mask, that hooks fire and what they return
is used, that attention looks back only. A release that changes one of them changes every number
and raises nothing. So each is tried on a few tokens when a model is loaded: seven short passes.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens, pad_left
from circuits.model.forward import can_share, check_window, extend, prefill, run
from circuits.model.partial import keep, resume
from circuits.model.protocol import Hook, Model, blocks_of, device_of, hooks_of
from circuits.model.receipts import Receipt, counted
from circuits.names import hook

__all__ = ["TESTED", "check_running", "rotary_switch"]

TESTED = "transformer-lens==4.3.0 with transformers==5.23.0 or 5.24.0, torch==2.13.0"
"""The versions with which every test passes."""

_LONG, _SHORT = 6, 4
"""Tokens of the two rows that are tried."""

_SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post", "pattern", "z", "post")
_WRITTEN = ("attn_out", "mlp_out", "z", "post")

_ALLOWED, _ALLOWED_16_BIT = 0.05, 0.3
"""Largest difference over largest logit (both from their mean) that rounding may make. Of the
families in the tests, right ones are below 1e-6 in float32; without a cache, or with positions
that count padding, differences are 0.5 and more."""


@torch.no_grad()
def check_running(model: Model) -> Receipt:
    """Try a model on a few tokens; what that cost is returned.

    Raises:
        ModelError: tokens read after kept keys and values, after a residual stream put in at a
            layer, or behind padding give other logits than the same tokens read at once; a hook
            does not fire or what it returns is not used; attention looks ahead or at padding.
            The message names the versions of the libraries, and the tested ones.
    """
    with counted() as receipt:
        rows = _rows(model)
        if rows is not None:
            _check(model, pad_left(rows, device_of(model)), rows)
    return receipt


def rotary_switch(config: Any) -> int | None:
    """Positions above which a rotary scaling changes the angles of all positions, if it does.

    Dynamic scalings (``dynamic``, ``longrope``) choose them by the length of what is read, so that
    tokens read after a cache cannot equal the same tokens read at once across that length.
    """
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(scaling, dict):
        return None
    kinds = [scaling, *(own for own in scaling.values() if isinstance(own, dict))]
    switches = [
        own.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or getattr(config, "max_position_embeddings", None)
        for own in kinds
        if own.get("rope_type", own.get("type")) in ("dynamic", "longrope")
    ]
    return min((int(switch) for switch in switches if switch), default=None)


def _rows(model: Model) -> list[list[int]] | None:
    """A longer and a shorter row, below a window and a rotary switch; none where neither fits."""
    switch = rotary_switch(getattr(getattr(model, "original_model", None), "config", None))
    longest = min(_LONG, switch or _LONG)
    while longest > 2:
        try:
            check_window(model, longest)
        except ModelError:
            longest -= 1
        else:
            break
    if longest <= 2:
        return None
    last = max(2, int(model.cfg.d_vocab) - 1)
    # Spread over the vocabulary: the first tokens may be special, and untrained.
    ids = [1 + place * (last - 1) // _LONG for place in range(1, longest + 1)]
    return [ids, ids[: min(_SHORT, longest - 1)]]


def _check(model: Model, tokens: Tokens, rows: list[list[int]]) -> None:
    last = hook("resid_post", model.cfg.n_layers - 1)
    places = {hook(site, 0): site for site in _SITES} | {last: "end"}
    hooked = [place for place in places if place in hooks_of(model)]
    seen: dict[str, Tensor] = {}
    with model.hooks(fwd_hooks=[_hold(place, seen) for place in hooked]):
        whole = run(model, tokens)[:, -1:]
    if not bool(torch.isfinite(whole).all()):
        return  # of which reading a prompt says more, the prompt's name among it
    for place in hooked:
        # Some attention has no pattern to show; what reads it says so.
        if place not in seen and place != _at_0("pattern"):
            raise _broken(f"the hook {place} does not fire")
    _check_pattern(seen.get(hook("pattern", 0)), tokens)
    _check_returned(model, rows[0], [place for place in hooked if place in map(_at_0, _WRITTEN)])

    _, prefix = prefill(model, Tokens(tokens.ids[:, :-1], tokens.mask[:, :-1]))
    step, _ = extend(model, tokens.ids[:, -1:], prefix)
    _same(step[:, -1:], whole, "tokens read after kept keys and values, instead of at once, change")
    alone = run(model, pad_left(rows[1:], device_of(model)))[:, -1:]
    _same(alone, whole[1:], "padding a prompt on the left changes")
    if last not in seen or not can_share(model, tokens.ids.shape[1]):
        return
    kept, middle = keep(model, tokens), model.cfg.n_layers // 2
    start = tokens.ids.shape[1] - 2
    resid = kept.sites["resid_pre"][middle][:, start:]
    ends: dict[str, Tensor] = {}
    # An error is no silent fault: it comes again, in full, where something asks for such a pass.
    with suppress(RuntimeError, TypeError):
        resume(model, kept, range(len(rows)), start, middle, resid, [_hold(last, ends)])
    if last not in ends:
        return
    inside = f"going on from the kept residual stream before layer {middle} changes"
    _same(ends[last][:, -1:], seen[last][:, -1:], inside, "residual stream")


def _hold(place: str, seen: dict[str, Tensor]) -> Hook:
    def hold(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
        seen[place] = activation.clone()

    return place, hold


def _at_0(site: str) -> str:
    return hook(site, 0)


def _check_pattern(pattern: Tensor | None, tokens: Tokens) -> None:
    """Attention looks neither ahead nor at padding."""
    if pattern is None:
        return
    width = tokens.ids.shape[1]
    ahead = torch.ones(width, width, dtype=torch.bool, device=pattern.device).triu(1)
    real = tokens.mask.to(pattern.device)
    hidden = (ahead | ~real[:, None, :]) & real[:, :, None]
    weight = float(pattern.masked_fill(~hidden[:, None], 0).abs().max())
    if pattern.shape[-2:] != (width, width) or weight > 0:
        raise _broken(f"attention looks ahead or at padding, with a weight of {weight:.3g}")


def _check_returned(model: Model, row: list[int], places: list[str]) -> None:
    """What a hook returns is used: every place is changed in a row of its own."""
    places = [place for place in places if _writes(model, place)]
    after = hook("resid_post", 0)
    if not places or after not in hooks_of(model):
        return

    def change(number: int) -> Callable[..., Tensor]:
        def changed(activation: Tensor, hook: object) -> Tensor:
            new, size = activation.clone(), activation.shape[-1]
            wave = torch.linspace(-1, 1, size, dtype=new.dtype, device=new.device)
            new[number] += wave * activation.abs().max().clamp_min(1)
            return new

        return changed

    hooks = [(place, change(number)) for number, place in enumerate(places)]
    seen: dict[str, Tensor] = {}
    # The last row is left as it is.
    tokens = pad_left([row] * (len(places) + 1), device_of(model))
    with model.hooks(fwd_hooks=[*hooks, _hold(after, seen)]):
        run(model, tokens)
    for number, place in enumerate(places):
        if torch.equal(seen[after][number], seen[after][-1]):
            raise _broken(f"what a function at the hook {place} returns is not used")


def _writes(model: Model, place: str) -> bool:
    """Has what stands there weights that write it into the residual stream?"""
    part, name = {_at_0("z"): ("attn", "W_O"), _at_0("post"): ("mlp", "W_out")}.get(place, ("", ""))
    if not part:
        return True
    try:
        weight = getattr(getattr(blocks_of(model)[0], part), name)
    except (AttributeError, ValueError, NotImplementedError):
        return False
    return isinstance(weight, Tensor) and bool(weight.any())


def _same(
    found: Float[Tensor, "row 1 width"],
    right: Float[Tensor, "row 1 width"],
    what: str,
    whose: str = "logits",
) -> None:
    allowed = _ALLOWED_16_BIT if found.dtype in (torch.float16, torch.bfloat16) else _ALLOWED
    found, right = found.float(), right.float().to(found.device)
    centred = right - right.mean(-1, keepdim=True)
    gap, size = float((found - right).abs().max()), float(centred.abs().max())
    # Also where one of them is not a number.
    if not gap <= allowed * size + torch.finfo(torch.float32).eps * float(right.abs().max()):
        raise _broken(f"{what} the {whose} by up to {gap:.3g}, where they are up to {size:.3g}")


def _broken(what: str) -> ModelError:
    return ModelError(
        f"the model does not run as it must: {what}. Results would be wrong without a word. "
        f"Installed are {', '.join(_versions())}; install versions that are tested "
        f"({TESTED}), or load another architecture"
    )


def _versions() -> list[str]:
    found = []
    for name in ("torch", "transformers", "transformer-lens"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found

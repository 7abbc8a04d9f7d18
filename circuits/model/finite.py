"""NaN and infinity are refused where they first appear, with the prompts that they are in."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.chat import Tokens, pad_left
from circuits.model.forward import during, read
from circuits.model.protocol import Hook, Model, device_of
from circuits.model.receipts import uncounted
from circuits.model.rows import not_finite, spoilt_rows
from circuits.names import hook as hook_name

__all__ = ["check_activation", "check_logits", "check_values", "token_rows"]


def check_activation(
    model: Model, tokens: Tokens, value: Tensor | None, site: str, layer: int
) -> None:
    """Refuse an activation ``[prompt ...]`` that is missing or not finite.

    Raises:
        ModelError: it is; names site, layer, hook and prompts.
    """
    if value is None:
        raise ModelError(
            f"hook {hook_name(site, layer)} did not fire; this architecture has no {site} there"
        )
    if not bool(torch.isfinite(value).all()):
        raise not_finite(model, _named(site, layer), spoilt_rows(value), token_rows(tokens))


def check_values(
    model: Model, values: Tensor, what: str, rows: Sequence[Sequence[int]] | None = None
) -> None:
    """Refuse numbers ``[prompt ...]`` that a pass gave for its rows, if one is not finite.

    Args:
        model: The model.
        values: The numbers.
        what: What they are, for the error.
        rows: Token ids of the rows. With them, the place in the model is looked for.

    Raises:
        ModelError: one is NaN or infinite.
    """
    if not bool(torch.isfinite(values).all()):
        where = (_first_place(model, rows) if rows else None) or what
        raise not_finite(model, where, spoilt_rows(values), rows)


def check_logits(
    model: Model,
    logits: Float[Tensor, "prompt vocab"],
    rows: Sequence[Sequence[int]],
    written: Int[Tensor, "prompt pos"] | None = None,
) -> None:
    """Refuse logits from which no token can be chosen; one that is minus infinity is never chosen.

    Args:
        model: The model.
        logits: Of the next token.
        rows: What was read.
        written: What was written after it.

    Raises:
        ModelError: a row's largest logit is NaN or infinite.
    """
    bad = ~torch.isfinite(logits.amax(-1))
    if bool(bad.any()):
        tails = written.tolist() if written is not None else [[]] * len(rows)
        whole = [[*row, *tail] for row, tail in zip(rows, tails, strict=True)]
        where = _first_place(model, whole) or "the logits of the next token"
        raise not_finite(model, where, bad, rows)


def token_rows(tokens: Tokens) -> list[list[int]]:
    """The rows of a batch without their padding."""
    pairs = zip(tokens.ids, tokens.mask, strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


@torch.no_grad()
def _first_place(model: Model, rows: Sequence[Sequence[int]]) -> str | None:
    """Where in a pass a number is first not finite; the pass is on no receipt."""
    found: list[str] = []

    def watcher(site: str, layer: int) -> Hook:
        def watch(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
            if not found and not bool(torch.isfinite(activation).all()):
                found.append(_named(site, layer))

        return hook_name(site, layer), watch

    sites = ("attn_out", "mlp_out", "resid_post")
    places = [("resid_pre", 0), *((s, i) for i in range(model.cfg.n_layers) for s in sites)]
    with uncounted(), during("prompt"), model.hooks(fwd_hooks=[watcher(*p) for p in places]):
        read(model, pad_left(rows, device_of(model)))
    return found[0] if found else None


def _named(site: str, layer: int) -> str:
    return f"{site} of layer {layer} ({hook_name(site, layer)})"

"""How much every sublayer can move the emotion readout: injected doses, read at the end.

At one sublayer and the last position of a neutral prompt, ``dose * rms`` along the sublayer's
emotion direction is added to what the sublayer writes; the response is the change of the readout
divided by the injected length (Wang et al. 2025, arXiv 2510.11328, stage 6.3). The model runs
on from there, so the response is a total effect.

Positions before the last never see the change. So the prompt is read once up to its last token,
and only that token is run again, all sublayers, emotions, doses and baselines side by side. This
is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from circuits.effects.activations import ContextGroups, NeutralMeans, mean_stderr_by_emotion
from circuits.effects.directions import Directions, reference_direction
from circuits.models.edits import Add, edited
from circuits.models.engines import engine, in_order, shards
from circuits.models.generate import batches
from circuits.models.memory import halving, halving_tables
from circuits.models.protocol import Model, device_of
from circuits.models.run import branch, check_values, prefill_prefix, reading, token_rows
from circuits.models.tokens import Tokens, encode, pad_left
from circuits.names import SUBLAYERS
from circuits.prompts.templates import Template, neutral_prompt
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = ["DOSES", "Importance", "ReadAt", "sublayer_importance"]


DOSES = (0.1, 0.3, 0.5, 0.7)
"""Injected lengths in units of the sublayer's rms (Wang et al. 2025)."""

ReadAt = Literal["resid_post", "final"]
"""The readout projects the last layer's resid_post, or what the final norm makes of it."""

_PROMPTS_AT_ONCE = 4
_VARIANTS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Importance(Record):
    """Response of the readout to injections, per unit of injected length.

    The readout is the projection on the emotion's reference direction. Positive: injecting the
    direction at the sublayer moves the readout towards the emotion.
    """

    slope: Float[Tensor, "emotion sublayer layer"]
    """Response averaged over doses and contexts."""
    stderr: Float[Tensor, "emotion sublayer layer"]
    """Standard error of ``slope`` over contexts."""
    response: Float[Tensor, "emotion dose sublayer layer"]
    """Response at each dose, averaged over contexts."""
    random_baseline: Float[Tensor, "emotion sublayer layer"]
    """Largest |response| to random directions of the same length, averaged over contexts."""
    baseline: Float[Tensor, " emotion"]
    """Readout of the neutral prompts as they are."""
    rms: Float[Tensor, "sublayer layer"]
    """Length of dose 1."""
    reference: Float[Tensor, "emotion d_model"]
    """The unit directions that the readout projects on."""

    emotion: tuple[str, ...]
    dose: tuple[float, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    read_at: str
    stable_layers: tuple[int, ...]
    n_contexts: tuple[int, ...]
    """Contexts per emotion: those in which a reply with the emotion was accepted."""
    n_random: int


def sublayer_importance(
    model: Model,
    groups: ContextGroups,
    directions: Directions,
    *,
    stable: tuple[int, ...],
    doses: Sequence[float] = DOSES,
    read_at: ReadAt = "resid_post",
    n_random: int = 8,
    template: str | Template = "published",
) -> tuple[Importance, NeutralMeans]:
    """Response of every emotion's readout to injections at every sublayer.

    Costs one pass per context, and one cached token per context, sublayer, layer and variant.
    The untouched prompts that the responses are relative to give, for nothing, the mean head
    outputs and neuron activations of neutral prompts.

    Raises:
        AxisError: a stable layer does not exist.
    """
    reference = reference_direction(directions, stable)
    vectors, lengths = _variants(directions, reference, doses, n_random)
    asked = [neutral_prompt(context, template) for context in groups.contexts]
    prompts = [encode(model, prompt) for prompt in asked]
    parts = shards(list(batches(prompts, _PROMPTS_AT_ONCE)))
    work = partial(_responses, vectors=vectors, reference=reference, read_at=read_at)
    given = [[[(asked[i].key, prompts[i]) for i in places] for places in part] for part in parts]
    rows: list[dict[str, Tensor]] = []
    for part, found in zip(parts, in_order(engine().results(model, work, given)), strict=True):
        rows.append(found)
        advance(sum(map(len, part)))
    every = {name: torch.cat([own[name] for own in rows]) for name in rows[0]}
    z, post = (every[site].sum(0) / len(prompts) for site in ("z", "post"))
    neutral = NeutralMeans(
        z=z.float(),
        post=post.float(),
        layer=tuple(range(len(z))),
        head=tuple(range(z.shape[1])),
        neuron=tuple(range(post.shape[1])),
        n_contexts=len(prompts),
    )
    scores, baseline = every["scores"], every["baseline"]
    change = (scores - baseline[:, None, None, None]) / lengths[..., None].clamp_min(1e-12)
    n, many = len(doses), len(reference)
    by_dose = torch.stack([change[..., n * e : n * (e + 1), e] for e in range(many)], dim=1)
    present = groups.present[[place for part in parts for places in part for place in places]]
    slope, stderr = mean_stderr_by_emotion(by_dose.mean(-1), present)
    drawn = rearrange(change[..., n * many :, :], "c s l variant e -> c e variant s l")
    largest = torch.zeros_like(slope)
    if n_random:
        largest = mean_stderr_by_emotion(drawn, present)[0].abs().amax(1)
    by_dose = rearrange(by_dose, "c e s l dose -> c e dose s l")
    importance = Importance(
        slope=slope,
        stderr=stderr,
        response=mean_stderr_by_emotion(by_dose, present)[0],
        random_baseline=largest,
        baseline=mean_stderr_by_emotion(baseline, present)[0],
        rms=directions.rms,
        reference=reference,
        emotion=directions.emotion,
        dose=tuple(doses),
        sublayer=directions.sublayer,
        layer=directions.layer,
        read_at=read_at,
        stable_layers=stable,
        n_contexts=tuple(present.sum(0).tolist()),
        n_random=n_random,
    )
    return importance, neutral


def _variants(
    directions: Directions,
    reference: Float[Tensor, "emotion d_model"],
    doses: Sequence[float],
    n_random: int,
) -> tuple[
    Float[Tensor, "sublayer layer variant d_model"], Float[Tensor, "sublayer layer variant"]
]:
    """What is added at each sublayer, and its length: emotion by emotion all doses, then random.

    Directions are turned towards the readout; random ones, drawn by the seed, have the middle dose.
    """
    agree = einsum(directions.vectors, reference, "e s l d_model, e d_model -> e s l")
    local = directions.vectors * agree.sign().where(agree != 0, 1.0)[..., None]
    random = torch.Generator().manual_seed(in_force().seed)
    drawn = torch.randn(n_random, *local.shape[1:], generator=random)
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    middle = sorted(doses)[len(doses) // 2]
    dose = torch.cat([torch.tensor(doses).repeat(len(local)), torch.full((n_random,), middle)])
    unit = torch.cat([local.repeat_interleave(len(doses), dim=0), drawn])
    lengths = directions.rms[..., None] * dose
    return rearrange(unit, "v s l d -> s l v d") * lengths[..., None], lengths


def _responses(
    model: Model,
    part: Sequence[Sequence[tuple[str, list[int]]]],
    *,
    vectors: Float[Tensor, "sublayer layer variant d_model"],
    reference: Float[Tensor, "emotion d_model"],
    read_at: ReadAt,
) -> dict[str, Tensor]:
    """Readouts of batches of prompts, given by name and tokens, and sums of heads and neurons."""

    def work(prompts: Sequence[tuple[str, list[int]]]) -> dict[str, Tensor]:
        rows = pad_left([ids for _, ids in prompts], device_of(model))
        return _readouts(model, rows, vectors, reference, read_at)

    found = [halving_tables(work, prompts, lambda prompt: prompt[0]) for prompts in part]
    rows = {name: torch.cat([own[name] for own in found]) for name in found[0]}
    return rows | {site: rows[site].double().sum(0, keepdim=True) for site in ("z", "post")}


@torch.no_grad()
def _readouts(
    model: Model,
    rows: Tokens,
    vectors: Float[Tensor, "sublayer layer variant d_model"],
    reference: Float[Tensor, "emotion d_model"],
    read_at: ReadAt,
) -> dict[str, Tensor]:
    """Readouts of the prompts with every variant, and as they are; heads and neurons of those."""
    last, prefix = prefill_prefix(model, rows)
    n_sublayers, n_layers, n_variants, d_model = vectors.shape
    places = [(s, i) for i in range(n_layers) for s in range(n_sublayers)]
    found = torch.zeros(len(rows.ids), n_sublayers, n_layers, n_variants, len(reference))

    def readout(times: int) -> Float[Tensor, "prompt variant emotion"]:
        """Of copies of the last token side by side."""
        with reading(model, {read_at: lambda x: x}, [n_layers - 1]) as table:
            branch(model, last, prefix, times)
        final = table[read_at][n_layers - 1].reshape(len(last), times, -1).float().cpu()
        check_values(model, final, f"{read_at} of the last layer", token_rows(rows))
        return final @ reference.T

    def inject(some: Sequence[tuple[int, int]]) -> None:
        edits = []
        for k, (s, layer) in enumerate(some):
            added = torch.zeros(len(some), n_variants, d_model, device=device_of(model))
            added[k] = vectors[s, layer]
            site = f"{SUBLAYERS[s]}_out"
            edits.append(Add(site, layer, added.flatten(0, 1), positions="variant"))
        with edited(model, edits):
            scores = readout(len(some) * n_variants).unflatten(1, (len(some), n_variants))
        for k, (s, layer) in enumerate(some):
            found[:, s, layer] = scores[:, k]

    with reading(model, {"z": _first_copy, "post": _first_copy}) as table:
        baseline = readout(1)[:, 0]
    together = max(1, _VARIANTS_AT_ONCE // n_variants)
    for start in range(0, len(places), together):
        some = places[start : start + together]
        halving(inject, some, lambda place: f"{n_variants} injections at one sublayer", rows=False)
    values = {
        site: torch.stack([own[i] for i in range(n_layers)], dim=1).float()
        for site, own in table.items()
    }
    return {"scores": found, "baseline": baseline, **values}


def _first_copy(activation: Tensor) -> Tensor:
    return activation[:, 0].cpu()

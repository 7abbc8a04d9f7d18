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
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.effects.activations import (
    ContextGroups,
    Moments,
    NeutralMeans,
    NeutralSums,
    first_copies,
)
from circuits.effects.directions import Directions, reference_direction
from circuits.models.edits import Add, edited
from circuits.models.engines import engine, in_order, shards
from circuits.models.generate import batches
from circuits.models.memory import halving, halving_tables
from circuits.models.protocol import Model, device_of
from circuits.models.run import Prefix, branch, check_values, prefill_prefix, reading, token_rows
from circuits.models.tokens import Tokens, encode, pad_left
from circuits.names import SUBLAYERS
from circuits.prompts.templates import Template, neutral_prompt
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = ["DOSES", "Importance", "ReadAt", "Responses", "Variants", "sublayer_importance"]


@dataclass(frozen=True, eq=False)
class Variants:
    """What is added at each sublayer: emotion by emotion all doses, then random directions."""

    vectors: Float[Tensor, "sublayer layer variant d_model"]
    lengths: Float[Tensor, "sublayer layer variant"]
    n_doses: int


class Responses:
    """Running sums of every emotion's responses to its own doses, and to random directions."""

    def __init__(self, variants: Variants, n_emotions: int) -> None:
        n_sublayers, n_layers, n_variants = variants.lengths.shape
        shape = (n_emotions, n_sublayers, n_layers)
        n_doses = variants.n_doses
        self._lengths, self._n_doses = variants.lengths, n_doses
        self.by_dose, self.slope = Moments((*shape, n_doses)), Moments(shape)
        self.random = Moments((*shape, n_variants - n_emotions * n_doses))
        self.baseline = Moments((n_emotions,))

    def update(
        self,
        scores: Float[Tensor, "prompt sublayer layer variant emotion"],
        baseline: Float[Tensor, "prompt emotion"],
        present: Bool[Tensor, "prompt emotion"],
    ) -> None:
        """Add the prompts of a batch to the emotions that were accepted in their contexts."""
        change = scores - baseline[:, None, None, None]
        response = change / self._lengths[..., None].clamp_min(1e-12)
        n_emotions = present.shape[1]
        for e in range(n_emotions):
            own = response[present[:, e]][..., e]
            mine = own[..., e * self._n_doses : (e + 1) * self._n_doses]
            group = torch.full((len(own),), e)
            self.by_dose.update(mine, group)
            self.slope.update(mine.mean(-1), group)
            self.random.update(own[..., n_emotions * self._n_doses :], group)
            self.baseline.update(baseline[present[:, e], e], group)

    def merge(self, other: "Responses") -> None:
        """Add the prompts that another one has seen."""
        for name in ("by_dose", "slope", "random", "baseline"):
            getattr(self, name).merge(getattr(other, name))

    def random_baseline(self) -> Float[Tensor, "emotion sublayer layer"]:
        """The largest mean response to a random direction; zero where none was tried."""
        mean = self.random.result().mean.abs()
        return mean.amax(-1) if mean.shape[-1] else mean.new_zeros(mean.shape[:-1])


DOSES = (0.1, 0.3, 0.5, 0.7)
"""Injected lengths in units of the sublayer's rms (Wang et al. 2025)."""

ReadAt = Literal["resid_post", "final"]
"""The readout projects the last layer's resid_post, or what the final norm makes of it."""

_WRITES = {"attn": "attn_out", "mlp": "mlp_out"}
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
    local = _towards(directions.vectors, reference)
    variants = _variants(local, directions.rms, doses, n_random)
    asked = [neutral_prompt(context, template) for context in groups.contexts]
    prompts = [encode(model, prompt) for prompt in asked]
    parts = shards(
        [
            ([(asked[i].key, prompts[i]) for i in chosen], groups.present[chosen])
            for chosen in batches(prompts, _PROMPTS_AT_ONCE)
        ]
    )
    work = partial(_responses, variants=variants, reference=reference, read_at=read_at)
    sums, rest = Responses(variants, len(reference)), NeutralSums(model)
    done = in_order(engine().results(model, work, parts))
    for part, (own, own_rest) in zip(parts, done, strict=True):
        sums.merge(own)
        rest.merge(own_rest)
        advance(sum(len(rows) for rows, _ in part))
    importance = _summarise(
        sums,
        directions,
        reference,
        doses=tuple(doses),
        stable=stable,
        read_at=read_at,
        n_random=n_random,
    )
    return importance, rest.result()


def _towards(
    vectors: Float[Tensor, "emotion sublayer layer d_model"],
    reference: Float[Tensor, "emotion d_model"],
) -> Float[Tensor, "emotion sublayer layer d_model"]:
    agree = torch.einsum("eslw,ew->esl", vectors, reference)
    return vectors * agree.sign().where(agree != 0, 1.0)[..., None]


def _variants(
    local: Float[Tensor, "emotion sublayer layer d_model"],
    rms: Float[Tensor, "sublayer layer"],
    doses: Sequence[float],
    n_random: int,
) -> Variants:
    random = torch.Generator().manual_seed(in_force().seed)
    drawn = torch.randn(n_random, *local.shape[1:], generator=random)
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    middle = sorted(doses)[len(doses) // 2]
    dose = torch.cat([torch.tensor(doses).repeat(len(local)), torch.full((n_random,), middle)])
    unit = torch.cat([local.repeat_interleave(len(doses), dim=0), drawn])
    lengths = rms[..., None] * dose
    return Variants(rearrange(unit, "v s l d -> s l v d") * lengths[..., None], lengths, len(doses))


def _responses(
    model: Model,
    together: Sequence[tuple[Sequence[tuple[str, list[int]]], Tensor]],
    *,
    variants: Variants,
    reference: Float[Tensor, "emotion d_model"],
    read_at: ReadAt,
) -> tuple[Responses, NeutralSums]:
    """What batches of prompts add to the sums: their names and tokens, the emotions accepted."""

    def score(prompts: Sequence[tuple[str, list[int]]]) -> dict[str, Tensor]:
        rows = pad_left([ids for _, ids in prompts], device_of(model))
        return _scores(model, rows, variants, reference, read_at)

    sums, rest = Responses(variants, len(reference)), NeutralSums(model)
    for prompts, present in together:
        found = halving_tables(score, prompts, lambda prompt: prompt[0])
        rest.update(found["z"], found["post"])
        sums.update(found["scores"], found["baseline"], present)
    return sums, rest


@torch.no_grad()
def _scores(
    model: Model,
    rows: Tokens,
    variants: Variants,
    reference: Float[Tensor, "emotion d_model"],
    read_at: ReadAt,
) -> dict[str, Tensor]:
    """Readouts of all variants, and of the prompts as they are; heads and neurons of those."""
    last, prefix = prefill_prefix(model, rows)
    places = [(s, i) for i in range(variants.lengths.shape[1]) for s in range(len(SUBLAYERS))]
    n_variants = variants.lengths.shape[-1]
    found = torch.zeros(len(rows.ids), *variants.lengths.shape, len(reference))
    untouched: dict[str, Tensor] = {}

    def inject(some: Sequence[tuple[int, int]]) -> None:
        # The first copy of every call is the prompt as it is.
        edits = _edits(variants, some, device_of(model))
        times = 1 + len(some) * n_variants
        with nullcontext({}) if untouched else first_copies(model) as copies:
            final = _final(model, last, prefix, times, edits, read_at)
        check_values(model, final, f"{read_at} of the last layer", token_rows(rows))
        scores = (final @ reference.T).float().cpu()
        for k, (s, layer) in enumerate(some):
            found[:, s, layer] = scores[:, 1 + k * n_variants : 1 + (k + 1) * n_variants]
        untouched.update(copies, baseline=scores[:, 0])

    together = max(1, _VARIANTS_AT_ONCE // n_variants)
    for start in range(0, len(places), together):
        some = places[start : start + together]
        halving(inject, some, lambda place: f"{n_variants} injections at one sublayer", rows=False)
    return {"scores": found, **untouched}


def _edits(
    variants: Variants, places: Sequence[tuple[int, int]], device: torch.device
) -> list[Add]:
    n, d_model = variants.vectors.shape[-2:]
    edits = []
    for k, (s, layer) in enumerate(places):
        added = torch.zeros(1 + len(places) * n, d_model, device=device)
        added[1 + k * n : 1 + (k + 1) * n] = variants.vectors[s, layer]
        edits.append(Add(_WRITES[SUBLAYERS[s]], layer, added, positions="variant"))
    return edits


def _final(
    model: Model,
    last: Int[Tensor, "prompt 1"],
    prefix: Prefix,
    times: int,
    edits: Sequence[Add],
    read_at: ReadAt,
) -> Float[Tensor, "prompt variant d_model"]:
    end = model.cfg.n_layers - 1
    with edited(model, edits), reading(model, {read_at: lambda x: x}, [end]) as table:
        branch(model, last, prefix, times)
    return table[read_at][end].reshape(len(last), times, -1).float().cpu()


def _summarise(
    sums: Responses,
    directions: Directions,
    reference: Float[Tensor, "emotion d_model"],
    *,
    doses: tuple[float, ...],
    stable: tuple[int, ...],
    read_at: ReadAt,
    n_random: int,
) -> Importance:
    by_dose, slope = sums.by_dose.result(), sums.slope.result()
    return Importance(
        slope=slope.mean,
        stderr=slope.stderr,
        response=rearrange(by_dose.mean, "e s l dose -> e dose s l"),
        random_baseline=sums.random_baseline(),
        baseline=sums.baseline.result().mean,
        rms=directions.rms,
        reference=reference,
        emotion=directions.emotion,
        dose=doses,
        sublayer=directions.sublayer,
        layer=directions.layer,
        read_at=read_at,
        stable_layers=stable,
        n_contexts=tuple(slope.count.tolist()),
        n_random=n_random,
    )

"""The published tables from our records: the same numbers under the published columns."""

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.measure.heads import HeadEffects
from circuits.measure.importance import Importance
from circuits.measure.neurons import NeuronEffects
from circuits.published.columns import TABLES
from circuits.published.records import (
    Contributions,
    HeadImportance,
    MeanImportance,
    SublayerImportance,
)

__all__ = ["contributions", "head_importance", "mean_importance", "sublayer_importance"]


def contributions(own: NeuronEffects) -> Contributions:
    """The contributions of one emotion's neurons (stage 4.1)."""
    return Contributions(
        provenance=own.provenance,
        mean=own.mean.double(),
        positive=own.positive.double(),
        negative=own.negative.double(),
        weight=own.weight.double(),
        activation=own.activation.double(),
        row=_rows(own.mean),
        emotion=own.emotion,
        layer=own.layer,
        neuron=own.neuron,
        columns=TABLES[Contributions].columns,
    )


def head_importance(own: HeadEffects, samples: int) -> HeadImportance:
    """The importances of heads for one emotion (stage 4.2).

    The published spread divides by n and not by n - 1, so it is the standard error times the
    root of n - 1; one sample has none.
    """
    mean = own.mean.double()
    spread = own.stderr.double() * max(samples - 1, 0) ** 0.5
    return HeadImportance(
        provenance=own.provenance,
        mean=mean,
        std=spread if samples > 1 else torch.zeros_like(mean),
        samples=torch.full_like(mean, samples),
        baseline=own.baseline.double()[..., None].expand_as(mean),
        row=_rows(mean),
        emotion=own.emotion,
        layer=own.layer,
        head=own.head,
        columns=TABLES[HeadImportance].columns,
    )


def sublayer_importance(own: Importance, samples: int) -> SublayerImportance:
    """The responses of one emotion to one dose (stage 6.3); no anchors were read."""
    response = own.response.double()
    sigma = own.rms.double().expand_as(response)
    length = own.dose[0] * sigma
    base = own.baseline.double().reshape(1, 1, 1, 1).expand_as(response)
    change = response * length.clamp_min(1e-12)
    blank = torch.full_like(response, torch.nan)
    return SublayerImportance(
        provenance=own.provenance,
        sigma=sigma,
        length=length,
        base_final=base,
        final=base + change,
        change_final=change,
        response_final=response,
        base_anchor=blank,
        anchor=blank,
        change_anchor=blank,
        response_anchor=blank,
        samples=torch.full_like(response, samples),
        row=_rows(response),
        emotion=own.emotion,
        dose=own.dose,
        sublayer=own.sublayer,
        layer=own.layer,
        columns=TABLES[SublayerImportance].columns,
    )


def mean_importance(own: Importance) -> MeanImportance:
    """The responses averaged over doses, and their share (stage 6.4).

    Negative responses count in the sum, so shares are no true distribution.
    """
    response = own.response.double().mean(1)
    return MeanImportance(
        provenance=own.provenance,
        response=response,
        share=response / response.sum((1, 2), keepdim=True),
        row=_rows(response),
        emotion=own.emotion,
        sublayer=own.sublayer,
        layer=own.layer,
        columns=TABLES[MeanImportance].columns,
    )


def _rows(like: Tensor) -> Int[Tensor, "..."]:
    return torch.arange(like.numel()).reshape(like.shape)

"""Attributions equal slopes of plain runs, keep their sums, and say how far they can be trusted."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_attribution import PlainPair, in_float64, unit
from scipy.stats import spearmanr
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.errors import AxisError, DataError, ModelError
from circuits.measure import sides
from circuits.measure.agreement import agreement, sampled_parts
from circuits.measure.attribution import NodeScores, attribute
from circuits.measure.attribution_cost import attribution_cost
from circuits.measure.attribution_methods import METHODS
from circuits.measure.pairs import clean_tokens, corrupt_tokens, make_pairs
from circuits.measure.parts import patch_parts
from circuits.measure.parts_cost import parts_cost
from circuits.measure.readouts import LogitDifference, Projection, ReplyLikelihood
from circuits.model.loading import wrap_model
from circuits.model.receipts import counted
from circuits.names import component, hook
from circuits.provenance import Provenance

NOTHING = Provenance()
MODES = ("denoising", "noising")


def random_projection(model, seed=3):
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(seed))
    return Projection((vector / vector.norm()).to(torch.get_default_dtype()))


@pytest.fixture(scope="module")
def double(tokenizer, request):
    """A random model in float64, in which rounding hides no error."""
    from tests.conftest import random_llama

    with in_float64():
        yield random_llama(tokenizer)


@pytest.fixture(scope="module")
def against(llama, contexts):
    """Three pairs of different length against plain, and against another emotion."""
    chosen = [contexts[0], contexts[4], contexts[8]]
    return {
        "plain": make_pairs(llama, chosen, "anger"),
        "fear": make_pairs(llama, chosen, "anger", "fear"),
    }

"""The planted model that answers are tried on, and its prompts as tokens."""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.data.prompts import asked
from circuits.data.sev import Context
from circuits.model.chat import encode_prompt
from circuits.model.protocol import Model
from circuits.planted.plant import Plant, plant

__all__ = ["CONTEXT", "asked_ids", "the_plant", "writer_of"]

CONTEXT = Context("cellar_00", "home", "neutral", "I opened the cellar door.", "It was dark.")
"""A context without an emotion word."""


@cache
def the_plant() -> Plant:
    """The writer's layer has other heads that write, so that a wrong head shows."""
    return plant(122, emotions=("anger", "fear", "sadness"))


def writer_of(planted: Plant) -> tuple[int, int]:
    """Layer and head of the writer."""
    writer = next(node for node in planted.nodes if node.role == "writer")
    return writer.layer, writer.index


def asked_ids(model: Model, emotions: Sequence[str]) -> Int[Tensor, "prompt pos"]:
    """The context asked for each emotion; in a planted model all are of one length."""
    return torch.tensor([encode_prompt(model, asked(CONTEXT, emotion)) for emotion in emotions])

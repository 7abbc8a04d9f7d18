"""``make bench``: the published procedures, and other tools, beside ours in one process.

Ratios, not absolute times: both sides run in turns on the same model and the same prompts.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import peers
import plainly
import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from circuits.effects.activations import ContextGroups, group_by_context, read_activations
from circuits.effects.directions import (
    Directions,
    emotion_directions,
    reference_direction,
    stable_layers,
)
from circuits.effects.heads import head_effects
from circuits.effects.importance import DOSES, sublayer_importance
from circuits.effects.neurons import neuron_effects
from circuits.files import shipped
from circuits.judges.replies import Reply
from circuits.models.load import load_model, wrap_model
from circuits.models.memory import Receipt, counted
from circuits.models.protocol import Model
from circuits.names import EMOTIONS
from circuits.prompts import sev
from circuits.prompts.templates import emotion_prompts

OURS = 6
"""Runs of ours, the short ones, for each of the other side's."""


@dataclass(frozen=True)
class Setting:
    """A model, prompts and directions that both sides are given."""

    model: Model
    grid: ContextGroups
    directions: Directions
    stable: tuple[int, ...]

    def heads(self) -> Tensor:
        """Our head importance, the pass over the prompts included."""
        swept = read_activations(self.model, self.grid)
        return head_effects(self.model, swept, self.directions, readout="post_norm").mean

    def neurons(self) -> Tensor:
        """Our neuron contributions, the pass over the prompts included."""
        swept = read_activations(self.model, self.grid)
        return neuron_effects(self.model, swept, self.directions).mean

    def responses(self) -> Tensor:
        """Our sublayer importance, at every dose."""
        how: dict[str, Any] = {"stable": self.stable, "doses": DOSES, "read_at": "final"}
        return sublayer_importance(self.model, self.grid, self.directions, **how, n_random=0)[
            0
        ].response

    def plainly(self, procedure: Callable[..., Tensor], *more: Any) -> Tensor:
        """A published procedure on the same."""
        return procedure(self.model, self.grid, self.directions, *more)

    def plain_responses(self) -> Tensor:
        """The published sublayer importance."""
        reference = reference_direction(self.directions, self.stable)
        return self.plainly(plainly.importance, reference, DOSES)


def setting(n_contexts: int, emotions: Sequence[str] = EMOTIONS, model: Any = None) -> Setting:
    """The embedded model on the first contexts of different scenarios."""
    model = model or load_model(shipped("sev-mini"))
    scenarios = sev.spread(sev.read(shipped("sev/train.jsonl")), -(-n_contexts // 3))
    contexts = sev.contexts(scenarios)[:n_contexts]
    replies = [Reply(p, "", 0, p.emotion or "") for p in emotion_prompts(contexts, emotions)]
    grid = group_by_context(replies, emotions)
    directions = emotion_directions(read_activations(model, grid))
    return Setting(model, grid, directions, stable_layers(model.cfg.n_layers))


def raw() -> Any:
    """The embedded model as Hugging Face has it."""
    folder = shipped("sev-mini")
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@contextmanager
def in_float64() -> Iterator[None]:
    """Everything in float64, to tell rounding from error.

    The package keeps float32, and a norm or a softmax computes in it whatever the weights are in;
    so inside this block its name stands for float64.
    """
    tensor: Any = torch.Tensor
    library: Any = torch
    usual, single = tensor.float, torch.float32
    tensor.float = tensor.double
    torch.set_default_dtype(torch.float64)
    library.float32 = library.float = torch.float64
    try:
        yield
    finally:
        library.float32 = library.float = single
        torch.set_default_dtype(single)
        tensor.float = usual


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor, Receipt]:
    """Seconds, result and cost of one run."""
    with counted() as cost:
        start = time.perf_counter()
        found = work()
        return time.perf_counter() - start, found, cost


def compare(
    name: str,
    baseline: Callable[[], Tensor],
    ours: Callable[[], Tensor],
    repeats: int,
    note: str = "",
) -> dict[str, Any]:
    """Run both in turns, half of ours before and half after the baseline; medians in seconds."""
    ours()  # not timed, so that no side pays for what is loaded once
    plain, own = [], []
    for _ in range(repeats):
        own += [timed(ours) for _ in range(OURS // 2)]
        plain.append(timed(baseline))
        own += [timed(ours) for _ in range(OURS - OURS // 2)]
    left, right = (statistics.median(seconds for seconds, *_ in runs) for runs in (plain, own))
    (_, theirs, cost), (_, found, our_cost) = plain[-1], own[-1]
    return {
        "name": name,
        "baseline": left,
        "ours": right,
        "ratio": left / right,
        "baseline_passes": cost.passes,
        "our_passes": our_cost.passes,
        "our_steps": our_cost.steps,
        "max_abs_diff": float((theirs - found).abs().max()),
        "largest": float(theirs.abs().max()),
        "note": note,
    }


def rows(n_contexts: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Every comparison in turn."""
    of, small, weights = setting(n_contexts), setting(2), raw()
    units = of.model.cfg.n_layers * of.model.cfg.n_heads
    dose = float(min(DOSES) * of.directions.rms.min())
    yield compare(
        "head importance",
        lambda: of.plainly(plainly.head_importance),
        of.heads,
        repeats,
        f"target: at least 100x; the plain way runs {units} + 1 times per prompt, once per head",
    )
    yield compare(
        "sublayer importance",
        of.plain_responses,
        of.responses,
        repeats,
        f"target: at least 50x; responses are divided by lengths down to {dose:.2g}, so float32 "
        f"noise of a readout (about 1e-6) shows as {1e-6 / dose:.0e}",
    )
    yield compare(
        "neuron contributions",
        lambda: of.plainly(plainly.neuron_contributions),
        of.neurons,
        repeats,
        "ours counts the pass, which heads share",
    )
    yield compare(
        "head importance, TransformerLens's patching",
        lambda: small.plainly(peers.head_importance_by_patching),
        small.heads,
        repeats,
        "prompts of one length share its batches",
    )
    yield compare(
        "head importance, plain Hugging Face",
        lambda: plainly.head_importance_without_hook_points(
            weights, small.model, small.grid, small.directions
        ),
        small.heads,
        repeats,
        "the plain way without the cost of hook points, as published",
    )
    pair = peers.one_pair(of.model)
    yield compare(
        "heads by position, TransformerLens's patching",
        lambda: peers.by_transformer_lens(of.model, pair),
        lambda: peers.by_position(pair),
        min(repeats, 2),
        "target: at least 10x and 1e-4; one context, two emotions",
    )
    yield compare(
        "heads, nnsight's invokes in one batch",
        lambda: peers.by_nnsight(weights, of.model, pair),
        lambda: peers.over_heads(pair),
        repeats,
    )
    tokenizer, doubled = of.model.tokenizer, raw().double()
    with in_float64():
        exact = setting(1, EMOTIONS[:2], wrap_model(doubled, tokenizer))
        note = "a float64 copy of the model: what differs in float32 is rounding"
        plain = lambda: exact.plainly(plainly.head_importance)  # noqa: E731
        yield compare("head importance, float64", plain, exact.heads, 1, note)
        yield compare(
            "sublayer importance, float64", exact.plain_responses, exact.responses, 1, note
        )


def main() -> None:
    """Run everything, print the table, write ``bench.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--contexts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    console = Console(width=170)
    transformers_logging.disable_progress_bar()
    found = []
    for row in rows(given.contexts, given.repeats):
        found.append(row)
        console.print(row["name"], style="dim")
    table = pd.DataFrame(found)
    console.print(table.drop(columns="note").to_string(index=False, float_format="{:.3g}".format))
    for row in found:
        if row["note"]:
            console.print(f"{row['name']}: {row['note']}", highlight=False)
    table.to_json(given.out, orient="records", indent=2, double_precision=15)
    console.print(f"written: {given.out}")


if __name__ == "__main__":
    main()

"""``make bench``: the published procedures, and other tools, beside ours in one process.

Ratios, not absolute times: both sides run in turns on the same model and the same prompts.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plainly
import torch
from patching_peers import by_nnsight, by_position, by_transformer_lens, one_pair, over_heads
from peers import edge_attribution_refusal, head_importance_by_patching
from rich.console import Console
from timing import Row, compare, show, write
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
from circuits.models.generate import elicit
from circuits.models.load import load_model, wrap_model
from circuits.models.protocol import Model
from circuits.names import EMOTIONS
from circuits.prompts import sev
from circuits.prompts.templates import emotion_prompts
from circuits.running import execution


@dataclass(frozen=True)
class Setting:
    """A model, prompts and directions that both sides are given."""

    model: Model
    grid: ContextGroups
    directions: Directions
    stable: tuple[int, ...]

    @property
    def reference(self) -> Tensor:
        """What the readout projects on."""
        return reference_direction(self.directions, self.stable)


def setting(n_contexts: int, emotions: Sequence[str] = EMOTIONS, model: Any = None) -> Setting:
    """The embedded model on the first contexts of different scenarios."""
    model = model or load_model(shipped("sev-mini"))
    scenarios = sev.spread(sev.read(shipped("sev/train.jsonl")), -(-n_contexts // 3))
    contexts = sev.contexts(scenarios)[:n_contexts]
    replies = [Reply(p, "", 0, p.emotion or "") for p in emotion_prompts(contexts, emotions)]
    grid = group_by_context(replies, emotions)
    directions = emotion_directions(read_activations(model, grid))
    return Setting(model, grid, directions, stable_layers(model.cfg.n_layers))


def heads(of: Setting) -> Tensor:
    """Our head importance, the pass over the prompts included."""
    swept = read_activations(of.model, of.grid)
    return head_effects(of.model, swept, of.directions, readout="post_norm").mean


def neurons(of: Setting) -> Tensor:
    """Our neuron contributions, the pass over the prompts included."""
    return neuron_effects(of.model, read_activations(of.model, of.grid), of.directions).mean


def responses(of: Setting) -> Tensor:
    """Our sublayer importance, at every dose."""
    found, _ = sublayer_importance(
        of.model, of.grid, of.directions, stable=of.stable, doses=DOSES, read_at="final", n_random=0
    )
    return found.response


def plain_responses(of: Setting) -> Tensor:
    """The published sublayer importance."""
    return plainly.importance(of.model, of.grid, of.directions, of.reference, DOSES)


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


def replies(of: Setting, batch_size: int, n: int) -> Tensor:
    """Greedy replies as numbers, so that they can be compared."""
    prompts = [reply.prompt for reply in of.grid.cells.values()][:n]
    with execution(batch_size=batch_size):
        texts = elicit(of.model, prompts, max_new_tokens=24)
    rows = [[float(ord(c)) for c in reply.text[:200].ljust(200)] for reply in texts]
    return torch.tensor(rows)


def effects_share(of: Setting) -> Row:
    """Effects after the pass beside the pass itself."""
    swept = read_activations(of.model, of.grid)

    def effects() -> Tensor:
        head_effects(of.model, swept, of.directions)
        neuron_effects(of.model, swept, of.directions)
        return torch.zeros(1)

    def one_pass() -> Tensor:
        read_activations(of.model, of.grid)
        return torch.zeros(1)

    row = compare("the pass itself : effects after it", one_pass, effects, repeats=5)
    share = (
        f"effects cost {row.ours / row.baseline:.1%} of the pass over {len(of.grid.cells)} prompts"
    )
    return Row(**{**vars(row), "note": f"{share} (target: at most 10%)"})


def raw() -> Any:
    """The embedded model as Hugging Face has it."""
    folder = shipped("sev-mini")
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def in_double(n_contexts: int) -> tuple[Row, Row]:
    """Both procedures in float64 on a few prompts: equal, not merely close."""
    folder = shipped("sev-mini")
    tokenizer = load_model(folder).tokenizer
    weights = raw().double()
    with in_float64():
        of = setting(n_contexts, EMOTIONS[:2], wrap_model(weights, tokenizer))
        note = "a float64 copy of the model: what differs in float32 is rounding"
        return (
            compare("head importance, float64", lambda: plain_heads(of), lambda: heads(of),
                    repeats=1, note=note),
            compare("sublayer importance, float64", lambda: plain_responses(of),
                    lambda: responses(of), repeats=1, note=note),
        )  # fmt: skip


def plain_heads(of: Setting) -> Tensor:
    """The published head importance."""
    return plainly.head_importance(of.model, of.grid, of.directions)


def rows(console: Console, n_contexts: int, repeats: int) -> Iterator[Row]:
    """Every comparison in turn."""
    of, many = setting(n_contexts), setting(8 * n_contexts)
    small, weights = setting(2), raw()
    pairs: list[tuple[str, Callable[[], Tensor], Callable[[], Tensor], str]] = [
        ("head importance", lambda: plain_heads(of), lambda: heads(of), _per_head(of)),
        ("sublayer importance", lambda: plain_responses(of), lambda: responses(of),
         _rounding(of)),
        ("neuron contributions", lambda: plainly.neuron_contributions(of.model, of.grid,
         of.directions), lambda: neurons(of), "ours counts the pass, which heads share"),
        ("head importance, TransformerLens's patching",
         lambda: head_importance_by_patching(small.model, small.grid, small.directions),
         lambda: heads(small), "prompts of one length share its batches"),
        ("head importance, plain Hugging Face",
         lambda: plainly.head_importance_without_hook_points(
             weights, small.model, small.grid, small.directions),
         lambda: heads(small), "the plain way without the cost of hook points, as published"),
        ("replies, one by one : batched", lambda: replies(of, 1, 24), lambda: replies(of, 96, 24),
         "difference 0: the same texts"),
    ]  # fmt: skip
    for name, plain, ours, note in pairs:
        console.print(name, style="dim")
        yield compare(name, plain, ours, repeats=repeats, note=note)
    yield effects_share(many)
    yield from patching_rows(of.model, weights, repeats)
    yield from in_double(1)


def patching_rows(model: Model, weights: Any, repeats: int) -> Iterator[Row]:
    """Activation patching of heads beside TransformerLens and nnsight."""
    pair = one_pair(model)
    yield compare(
        "heads by position, TransformerLens's patching",
        lambda: by_transformer_lens(model, pair),
        lambda: by_position(model, pair),
        repeats=min(repeats, 2),
        note="target: at least 10x and 1e-4; one context, two emotions",
    )
    yield compare(
        "heads, nnsight's invokes in one batch",
        lambda: by_nnsight(weights, model.tokenizer, model, pair),
        lambda: over_heads(model, pair),
        repeats=repeats,
    )


def _per_head(of: Setting) -> str:
    n = of.model.cfg.n_layers * of.model.cfg.n_heads
    return f"target: at least 100x; the plain way runs {n} + 1 times per prompt, once per head"


def _rounding(of: Setting) -> str:
    smallest = float(min(DOSES) * of.directions.rms.min())
    return (
        "target: at least 50x; responses are differences of readouts divided by lengths down to "
        f"{smallest:.2g}, so float32 noise of a readout (about 1e-6) shows as {1e-6 / smallest:.0e}"
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
    found = list(rows(console, given.contexts, given.repeats))
    show(console, found)
    refusal = edge_attribution_refusal(load_model(shipped("sev-mini")))
    if refusal:
        console.print(f"TransformerLens's attribution_patch (edges) refuses: {refusal}")
    write(given.out, found)
    console.print(f"written: {given.out}")


if __name__ == "__main__":
    main()

"""Does the model need a circuit to express an emotion that the prompt asks for?

The prompt asks for the emotion; the circuit's heads (z) and neurons (post) are replaced, and the
replies are judged. As controls random sets are replaced that have as many heads and neurons in
every layer, none of them the circuit's where the layer has enough others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.control.bench import Bench
from circuits.data.prompts import Prompt, plain_prompts
from circuits.data.replies import Judged
from circuits.errors import CircuitError, DataError
from circuits.graph.ablation import Ablation
from circuits.graph.circuit import Circuit
from circuits.graph.masks import Masks, random_masks
from circuits.graph.score_statistics import bootstrap_means
from circuits.measure.means import PlainMeans
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.edits import Edit, Replace, When
from circuits.model.generation import Progress
from circuits.model.halving import halving_tables
from circuits.model.protocol import Model, device_of
from circuits.model.runs import capture

__all__ = ["Stand", "ablated", "ablation_drop", "random_sets", "stand_in"]


@dataclass(frozen=True, eq=False)
class Stand:
    """What stands for a component that is ablated, and when."""

    z: Float[Tensor, "context layer head d_head"]
    """One row for all contexts if it is the same for all."""
    post: Float[Tensor, "context layer neuron"]
    when: When = "prompt"

    def edits(self, inside: Masks, contexts: Sequence[int]) -> list[Edit]:
        """Edits of a batch: each row's set, and its context."""
        rows = list(contexts) if len(self.z) > 1 else [0] * len(contexts)
        chosen = {"z": inside.heads[..., None], "post": inside.neurons}
        return [
            Replace(site, layer, values[rows, layer], chosen[site][:, layer], when=self.when)
            for layer in range(self.z.shape[1])
            for site, values in (("z", self.z), ("post", self.post))
            if bool(chosen[site][:, layer].any())
        ]


def stand_in(
    bench: Bench, ablation: Ablation, means: PlainMeans | None = None, *, when: When = "prompt"
) -> Stand:
    """What stands for an ablated component in the bench's contexts.

    Args:
        bench: Its model and contexts.
        ablation: ``mean``: the mean over plain prompts. ``resample``: the value in the same
            context's plain prompt. ``zero``: nothing.
        means: Of plain prompts of train contexts, for ``mean``.
        when: At the last prompt position alone, or at every position of the reply as well (where
            the same value stands).

    Raises:
        DataError: there are no means where they are needed.
    """
    if ablation == "resample":
        found = _plain_values(bench)
        return Stand(found["z"], found["post"], when)
    if ablation == "mean":
        if means is None:
            raise DataError("mean ablation needs the means of the plain prompts; give them")
        return Stand(means.z[None], means.post[None], when)
    cfg = bench.model.cfg
    z = torch.zeros(1, cfg.n_layers, cfg.n_heads, cfg.d_head)
    return Stand(z, torch.zeros(1, cfg.n_layers, cfg.d_mlp), when)


def ablated(
    bench: Bench, sets: Masks, instead: Stand, progress: Progress | None = None
) -> list[Judged]:
    """Judged replies to prompts that ask, without one set per emotion.

    Every context with every emotion, a context's emotions together.
    """
    n_emotions = len(bench.emotions)

    def of_batch(chosen: Sequence[int]) -> Sequence[Edit]:
        own = sets[[place % n_emotions for place in chosen]]
        return instead.edits(own, [place // n_emotions for place in chosen])

    return bench.asked_under(of_batch, progress)


def ablation_drop(
    bench: Bench,
    circuits: Mapping[str, Circuit],
    instead: Stand,
    *,
    draws: int = 30,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """How many points of judged expression the circuits carry, and random sets of their size.

    Args:
        bench: Model, contexts and judge; nothing else was made from its contexts.
        circuits: Emotion -> circuit; one of each of the bench's emotions.
        instead: What stands for them, see :func:`stand_in`.
        draws: Random sets per emotion; all contexts are replied to for each.
        seed: Of the draws and of the bootstrap.
        progress: Told how many replies were made.

    Returns:
        ``circuit_drop`` with its 95% interval ``low`` to ``high`` over contexts, ``random_drop``
        (mean over draws) and ``random_max`` (the largest of a draw), all in percentage points of
        judged expression, as it is minus without; the same ``by_emotion``; ``asked`` and
        ``without``, the percentages themselves; ``heard``, which label how many of the replies
        without the circuit got; and what was ablated.

    Raises:
        CircuitError: an emotion has no circuit, or a circuit is another model's.
        DataError: no draw, or no context.
    """
    missing = [emotion for emotion in bench.emotions if emotion not in circuits]
    if missing:
        raise CircuitError(f"no circuit of {missing[0]!r}; there are {', '.join(circuits)}")
    if draws < 1 or not bench.contexts:
        raise DataError(
            f"found {draws} draws and {len(bench.contexts)} contexts; give one or more of each"
        )
    own = Masks.of(bench.model, [circuits[emotion] for emotion in bench.emotions])
    asked = _matches(bench, bench.prompted(progress))
    replies = ablated(bench, own, instead, progress)
    drop = asked - _matches(bench, replies)
    random = torch.stack([
        asked - _matches(bench, ablated(bench, sets, instead, progress))
        for sets in random_sets(own, draws, torch.Generator().manual_seed(seed))
    ])  # fmt: skip
    by_emotion = {
        emotion: _summary(drop[:, [e]], random[..., [e]], seed)
        for e, emotion in enumerate(bench.emotions)
    }
    return {
        **_summary(drop, random, seed),
        "by_emotion": by_emotion,
        "asked": _percent(asked.mean()),
        "without": _percent((asked - drop).mean()),
        "heard": dict(Counter(row.verdict.label or "-" for row in replies).most_common()),
        "n": len(replies),
        "draws": draws,
        "heads_share": float(own.heads.double().mean()),
        "neurons_share": float(own.neurons.double().mean()),
        "when": instead.when,
    }


def random_sets(own: Masks, draws: int, random: torch.Generator) -> list[Masks]:
    """Draws of one random set per row of ``own``, matched in every layer."""
    drawn = [random_masks(own[[row]], draws, random).flat for row in range(len(own))]
    return [own.like(torch.stack([flat[draw] for flat in drawn])) for draw in range(draws)]


def _summary(
    drop: Float[Tensor, "context emotion"], random: Float[Tensor, "draw context emotion"], seed: int
) -> dict[str, float]:
    again = bootstrap_means(drop.mean(1)[None], seed)[:, 0]
    low, high = again.quantile(torch.tensor([0.025, 0.975], dtype=again.dtype)).tolist()
    by_draw = random.mean((1, 2))
    return {
        "circuit_drop": _percent(drop.mean()),
        "low": _percent(low),
        "high": _percent(high),
        "random_drop": _percent(by_draw.mean()),
        "random_max": _percent(by_draw.max()),
    }


def _percent(share: Tensor | float) -> float:
    return round(100 * float(share), 2)


def _matches(bench: Bench, judged: Sequence[Judged]) -> Float[Tensor, "context emotion"]:
    found: Bool[Tensor, " row"] = torch.tensor([row.verdict.match for row in judged])
    return found.double().reshape(len(bench.contexts), len(bench.emotions))


def _plain_values(bench: Bench) -> dict[str, Float[Tensor, "context layer ..."]]:
    model: Model = bench.model
    prompts, picks = plain_prompts(bench.contexts), {"z": _at_end, "post": _at_end}

    def read(some: Sequence[Prompt]) -> dict[str, Tensor]:
        rows = [encode_prompt(model, prompt) for prompt in some]
        return capture(model, pad_left(rows, device_of(model)), picks)

    together = [prompts[i : i + bench.batch_size] for i in range(0, len(prompts), bench.batch_size)]
    parts = [halving_tables(read, some, lambda prompt: prompt.key) for some in together]
    return {site: torch.cat([part[site] for part in parts]) for site in picks}


def _at_end(activation: Tensor) -> Tensor:
    return activation[:, -1].cpu()

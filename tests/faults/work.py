"""Every piece of work that runs a model over several prompts, as small as can be."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from circuits.circuit.ablate import Masks, begin_neutral, run_added, run_circuits, stand
from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import emotion_directions, own_differences
from circuits.effects.importance import sublayer_importance
from circuits.effects.inspection import trace_scale
from circuits.judges.replies import Reply
from circuits.models.edits import Add, by_row
from circuits.models.generate import choice_logs, elicit, reply_losses
from circuits.names import EMOTIONS
from circuits.neurons.mask import donor_values
from circuits.neurons.profile import label_attribution, profile_texts
from circuits.patching.attribution import attribute
from circuits.patching.pairs import LogitDifference, Projection, make_pairs
from circuits.patching.patch import patch_components, patch_heads, patch_sites
from circuits.patching.paths import exact_paths, path_effects
from circuits.patching.totals import total_estimates
from circuits.prompts.prompt import EMOTION_REQUEST, LabelledText, Texts
from circuits.prompts.templates import emotion_prompts, neutral_prompts
from circuits.steering.interventions import residuals

LABELS = ("anger", "fear")
WORDS = ("They shouted at the door.", "She hid.", "He wept by the river, late.", "They ran.")


def what_it_needs(model: Any, contexts: Any) -> SimpleNamespace:
    """What the pieces of work are about, for a model of two layers and four contexts."""
    replies = [Reply(p, "Fine.", 2, p.emotion or "") for p in emotion_prompts(contexts)]
    grid = group_by_context(replies, EMOTIONS)
    cfg, random = model.cfg, torch.Generator().manual_seed(1)
    heads = torch.rand(9, cfg.n_layers, cfg.n_heads, generator=random) < 0.4
    neurons = torch.rand(9, cfg.n_layers, cfg.d_mlp, generator=random) < 0.3
    directions = emotion_directions(read_activations(model, grid))
    importance, _ = sublayer_importance(
        model, grid, directions, stable=(1,), doses=(0.1,), n_random=2
    )
    rows = [LabelledText(f"{word} {label}", label) for label in LABELS for word in WORDS]
    widths = (cfg.n_layers, cfg.n_heads, cfg.d_head), (cfg.n_layers, cfg.d_mlp)
    return SimpleNamespace(
        model=model,
        contexts=contexts,
        plain=neutral_prompts(contexts),
        grid=grid,
        texts=Texts("train", LABELS, tuple(rows)),
        pairs=make_pairs(model, contexts, "anger", "fear"),
        masks=Masks(heads, neurons),
        directions=directions,
        importance=importance,
        begun=begin_neutral(model, contexts[:2]),
        ones=tuple(torch.ones(width) for width in widths),
        rows=[[Add("mlp_out", 0, torch.randn(cfg.d_model, generator=random))] for _ in range(4)],
        readout=LogitDifference(torch.tensor([5, 9]), torch.tensor([100, 200])),
        projection=Projection(importance.reference[0]),
    )


def replies(given: Any, **options: Any) -> list[str]:
    """What the model says."""
    prompts = emotion_prompts(given.contexts, ("anger",))
    return [own.text for own in elicit(given.model, prompts, max_new_tokens=5, **options)]


CHOSEN = torch.arange(2 * 48).reshape(2, 48) % 5 == 0
EDGES = [("L0H1", "L1H2.q"), ("L0.mlp", "L1.mlp"), ("L0H3", "readout")]
WORK: dict[str, Callable[[Any], Any]] = {
    "replies": replies,
    "replies under edits of their own": lambda g: replies(
        g, edits=lambda places: by_row(g.rows, places)
    ),
    "likelihoods of labels": lambda g: choice_logs(g.model, g.plain, ["Fine", "Oh no"]),
    "likelihoods of replies": lambda g: reply_losses(g.model, g.plain, ["Fine."] * 4),
    "activations of donors": lambda g: donor_values(g.model, g.plain, CHOSEN),
    "residual streams": lambda g: residuals(g.model, g.contexts, EMOTIONS[:2]),
    "a model's own differences": lambda g: own_differences(g.model, g.contexts, EMOTIONS[:2]),
    "the sweep over prompts": lambda g: emotion_directions(read_activations(g.model, g.grid)),
    "injections": lambda g: sublayer_importance(
        g.model, g.grid, g.directions, stable=(1,), doses=(0.1,)
    ),
    "the scale of traces": lambda g: trace_scale(g.model, g.contexts[:2], g.directions),
    "attribution": lambda g: attribute(g.pairs, g.readout, sample=2),
    "patched sites": lambda g: patch_sites(g.pairs, g.readout),
    "patched heads": lambda g: patch_heads(g.pairs, g.readout, by="all"),
    "patched parts": lambda g: patch_components(g.pairs, g.readout, ["L0H1", "L1H2", "L0.mlp"]),
    "paths": lambda g: path_effects(g.pairs, g.readout),
    "exact paths": lambda g: exact_paths(g.pairs, g.readout, EDGES),
    "circuits": lambda g: run_circuits(
        stand(g.model, g.pairs[:2], positions="matched"), g.masks, [g.projection]
    ),
    "added to sets": lambda g: run_added(
        g.model, g.begun, g.masks, g.ones[0], g.ones[1], [g.projection]
    ),
    "total effects": lambda g: total_estimates(g.model, g.contexts[:2], g.importance, (3, 9)),
    "attribution of labels": lambda g: label_attribution(g.model, g.texts, EMOTION_REQUEST),
    "the profile of texts": lambda g: profile_texts(
        g.model, g.texts, EMOTION_REQUEST, n_shuffles=3
    ),
}

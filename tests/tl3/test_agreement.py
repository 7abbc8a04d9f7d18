"""What is measured on a HookedTransformer of TransformerLens 3.9 is what its bridge measures."""

from typing import Any

import pytest
import torch

from circuits.circuit.circuit import Circuit, Node
from circuits.circuit.score import score_circuits
from circuits.effects.inspection import token_trace, trace_scale
from circuits.judges.replies import Reply
from circuits.models.edits import Add, Attenuate, Edit, Replace, Scale
from circuits.models.generate import choice_logs, elicit, named, reply_losses
from circuits.names import head_name, neuron_name
from circuits.neurons.profile import profile_texts
from circuits.patching.attribution import METHODS, attribute
from circuits.patching.pairs import LogitDifference
from circuits.patching.patch import patch_heads, patch_sites
from circuits.patching.paths import exact_paths, path_effects
from circuits.prompts.prompt import EMOTION_REQUEST, LabelledText, Texts, question
from circuits.prompts.templates import emotion_prompts, neutral_prompt
from circuits.running import execution
from circuits.steering.interventions import Steering, steer

LABELS = ("anger", "fear", "deep sadness")


def circuits() -> dict[str, Circuit]:
    nodes = [Node(head_name(0, 1), "head", 0, effect=1.0)]
    nodes += [Node(neuron_name(layer, 5), "neuron", layer, effect=1.0) for layer in (0, 2)]
    return {"anger": Circuit("anger", tuple(nodes), ())}


def edits(study: Any) -> dict[str, list[Edit]]:
    cfg = study.model.cfg
    chosen = torch.arange(cfg.d_mlp) % 3 == 0
    heads = torch.full((cfg.n_heads, cfg.d_head), 0.1)
    return {
        "steer": list(steer(study.directions, "anger", Steering((1, 2), 1.0, "every"))),
        "add to heads": [Add("z", 1, heads, "all")],
        "replace": [Replace("post", 1, torch.zeros(cfg.d_mlp), chosen, "all")],
        "scale": [Scale("attn_out", 1, torch.tensor(1.5).expand(cfg.d_model))],
        "attenuate": [Attenuate("post", 0, 0.5, torch.ones(cfg.d_mlp), chosen, "all")],
    }


def texts() -> Texts:
    rows = [("She shouted at the door", "anger"), ("He hid from the storm in the barn", "fear")]
    return Texts("train", ("anger", "fear"), tuple(LabelledText(*row) for row in rows * 3))


def choices(study: Any, **options: Any) -> Any:
    prompts = [question(EMOTION_REQUEST, text.text) for text in texts().rows]
    return choice_logs(study.model, prompts, LABELS, **options)


def traced(study: Any) -> Any:
    said = Reply(neutral_prompt(study.contexts[1]), "It was a dark day.", 5, "anger")
    scale = trace_scale(study.model, study.contexts, study.directions)
    return token_trace(study.model, said, study.directions, scale)


def patched(study: Any) -> Any:
    every = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    return patch_sites(study.pairs, study.readout, sites=every)


def by_logits(study: Any) -> Any:
    readout = LogitDifference(torch.tensor([5, 9]), torch.tensor([100, 200, 7]))
    return patch_heads(study.pairs, readout, site="v")


def paths(study: Any) -> Any:
    return path_effects(study.pairs, study.readout, neurons=[(1, 3), (2, 40)])


def exact(study: Any) -> Any:
    edges = [("embed", "readout"), ("L0H0", "L1H1.q"), ("L0.mlp", "L2.mlp"), ("L0H1", "L1G0.v")]
    return exact_paths(study.pairs, study.readout, edges)


def scored(study: Any) -> Any:
    vectors = {"anger": study.readout}
    return score_circuits(
        study.model, circuits(), study.contexts[:3], vectors, study.totals, draws=5
    )["anger"].scores


def replies(study: Any) -> Any:
    prompts = emotion_prompts(study.contexts, ("anger", "fear"))
    with execution(batch_size=5):
        return [r.text for r in elicit(study.model, prompts, max_new_tokens=12)]


def edited_replies(study: Any) -> Any:
    prompts = [neutral_prompt(context) for context in study.contexts]
    return {
        name: [
            r.text
            for r in elicit(
                study.model, prompts, edits=lambda places, own=own: own, max_new_tokens=8
            )
        ]
        for name, own in edits(study).items()
    }


def attributed(method: Any) -> Any:
    def scores(study: Any) -> Any:
        return attribute(study.pairs, study.readout, method, steps=2, sample=2)

    return scores


MEASUREMENTS: dict[str, Any] = {
    "sweep": lambda s: [getattr(s.swept, n) for n in ("resid_mid", "resid_post", "z", "post")],
    "directions": lambda s: s.directions,
    "head effects": lambda s: s.heads,
    "neuron effects": lambda s: s.neurons,
    "means": lambda s: s.means,
    "importance": lambda s: s.importance,
    "direct effects": lambda s: s.direct,
    "total effects by gradients": lambda s: s.totals,
    "patching of the residual stream": patched,
    "patching of heads": lambda s: patch_heads(s.pairs, s.readout),
    "patching of values, by logits": by_logits,
    "paths": paths,
    "exact paths": exact,
    "scores of a circuit": scored,
    "token trace": traced,
    "likelihood of replies": lambda s: reply_losses(
        s.model,
        [neutral_prompt(c) for c in s.contexts],
        ["I am so angry.", "Fine.", "Why?", "I am so afraid."],
    ),
    "profile of neurons on texts": lambda s: profile_texts(
        s.model, texts(), EMOTION_REQUEST, n_shuffles=2
    ),
    "choices among labels": choices,
    "choices under edits": lambda s: {
        name: choices(s, edits=own) for name, own in edits(s).items()
    },
    "named labels": lambda s: named(
        s.model, [question(EMOTION_REQUEST, text.text) for text in texts().rows], LABELS
    ),
    "replies": replies,
    "replies under edits": edited_replies,
    **{f"attribution by {method}": attributed(method) for method in METHODS},
}


# Small differences of large numbers, divided by small lengths, keep fewer digits.
BOUND = dict.fromkeys(MEASUREMENTS, 1e-5) | {
    "importance": 5e-5,
    "attribution by relp": 2e-5,
    "scores of a circuit": 5e-5,
}


@pytest.mark.trial("models", "HookedTransformer 3.9 (sev-mini, GPT-2-like, Llama-like): {what}")
@pytest.mark.parametrize("what", MEASUREMENTS)
def test_a_hooked_transformer_measures_what_the_bridge_does(twice, what, apart, trial):
    bridge, hooked = twice
    found, allowed = apart(MEASUREMENTS[what](bridge), MEASUREMENTS[what](hooked)), BOUND[what]
    assert found <= allowed, found
    trial(outcome=f"same to {allowed:g} of the largest value (float32)")

"""Small made-up records of every kind, each with numbers that can be recomputed."""

from collections.abc import Sequence
from typing import Any

import torch

from circuits.circuit.ablate import ORDERS
from circuits.circuit.circuit import (
    LOWER_IS_BETTER,
    SCORES,
    Circuit,
    CircuitScores,
    Edge,
    Node,
    Score,
)
from circuits.circuit.score import SIZES
from circuits.effects.directions import Directions, Generality
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.inspection import TokenTrace
from circuits.effects.neurons import NeuronEffects
from circuits.judges import Verdict
from circuits.judges.replies import Judged, Reply
from circuits.names import EMOTIONS, SUBLAYERS, VALENCES, head_name, neuron_name, sublayer_name
from circuits.patching.exact_paths import ExactPaths
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.patching.paths import PathEffects
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.provenance import Provenance
from circuits.report import ReportContent
from circuits.steering.validation import (
    CHANGES,
    REPLY_CHANGES,
    REPLY_ORDERS,
    ReplyValidation,
    Validation,
)

METHODS = ("none", "prompt", "steer", "circuit")


def provenance(layers: int = 4, heads: int = 3, neurons: int = 40) -> Provenance:
    model = {
        "name": "tiny-emotional-llama",
        "revision": "sha256:0123456789abcdef",
        "architecture": "LlamaForCausalLM",
        "dtype": "float32",
        "n_layers": layers,
        "n_heads": heads,
        "d_model": 24,
        "d_head": 8,
        "d_mlp": neurons,
    }
    return Provenance(model, "sha256:feed", {"seed": 0, "read": "prompt"}, {"python": "3.11"})


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directions(layers: int = 4, emotions: tuple[str, ...] = EMOTIONS) -> Directions:
    vectors = torch.randn(len(emotions), 2, layers, 24, generator=_random(0))
    vectors = vectors - vectors.mean(0)
    norm = vectors.norm(dim=-1)
    return Directions(
        provenance=provenance(layers),
        vectors=vectors / norm[..., None],
        norm=norm,
        rms=torch.ones(2, layers),
        emotion=emotions,
        sublayer=SUBLAYERS,
        layer=tuple(range(layers)),
        n_contexts=12,
        n_left_out=2,
        read="prompt",
    )


def generality(layers: int = 4, emotions: tuple[str, ...] = EMOTIONS) -> Generality:
    n = len(emotions)
    halves = 0.6 + 0.35 * torch.rand(n, 2, layers, generator=_random(1))
    rising = torch.linspace(0.3, 0.95, layers).expand(2, layers)
    return Generality(
        provenance=provenance(layers),
        split_half=halves,
        split_half_low=halves - 0.2,
        without_theme=0.4 + 0.5 * torch.rand(n, 2, layers, 5, generator=_random(2)),
        accuracy=rising,
        random_baseline=torch.full((2, layers), 1 / n),
        emotion=emotions,
        sublayer=SUBLAYERS,
        layer=tuple(range(layers)),
        theme=("work", "family", "school", "travel", "health"),
        n_splits=50,
    )


def heads(layers: int = 4, count: int = 3, emotions: tuple[str, ...] = EMOTIONS) -> HeadEffects:
    n = len(emotions)
    depth = torch.linspace(0.2, 1.0, layers)[None, :, None]
    centred = torch.randn(n, layers, count, generator=_random(3)) ** 3 * 0.05 * depth
    return HeadEffects(
        provenance=provenance(layers, count),
        mean=centred + 0.01,
        stderr=torch.full_like(centred, 0.004),
        centred=centred,
        centred_stderr=torch.full_like(centred, 0.003),
        baseline=torch.ones(n, layers),
        random_baseline=0.03 * depth[..., 0].expand(n, layers).clone(),
        emotion=emotions,
        layer=tuple(range(layers)),
        head=tuple(range(count)),
        readout="resid_mid",
        n_contexts=(12,) * n,
    )


def neurons(
    layers: int = 4, count: int = 40, emotions: tuple[str, ...] = EMOTIONS
) -> NeuronEffects:
    n = len(emotions)
    shape = (n, layers, count)
    centred = torch.randn(shape, generator=_random(4)) ** 5 * 1e-3
    return NeuronEffects(
        provenance=provenance(layers, 3, count),
        mean=centred,
        stderr=torch.full(shape, 1e-4),
        centred=centred,
        centred_stderr=torch.full(shape, 1e-4),
        positive=centred.clamp_min(0),
        negative=(-centred).clamp_min(0),
        weight=torch.ones(shape),
        activation=centred,
        random_baseline=torch.full((n, layers), 4e-3),
        emotion=emotions,
        layer=tuple(range(layers)),
        neuron=tuple(range(count)),
        n_contexts=(12,) * n,
    )


def importance(layers: int = 4, emotions: tuple[str, ...] = EMOTIONS) -> Importance:
    n = len(emotions)
    slope = torch.linspace(0.1, 1.2, layers) + 0.1 * torch.randn(n, 2, layers, generator=_random(5))
    return Importance(
        provenance=provenance(layers),
        slope=slope,
        stderr=torch.full_like(slope, 0.04),
        response=slope[:, None].expand(n, 2, 2, layers).clone(),
        random_baseline=torch.full_like(slope, 0.15),
        baseline=torch.zeros(n),
        rms=torch.ones(2, layers),
        reference=torch.eye(24)[:n],
        emotion=emotions,
        dose=(0.1, 0.5),
        sublayer=SUBLAYERS,
        layer=tuple(range(layers)),
        read_at="resid_post",
        stable_layers=(layers - 1,),
        n_contexts=(12,) * n,
        n_random=8,
    )


def circuit(
    emotion: str = "anger", layers: int = 4, n_heads: int = 2, n_neurons: int = 5
) -> Circuit:
    """``n_heads`` heads and ``n_neurons`` neurons in every layer, some pushing away."""
    nodes, edges, previous = [Node("embed", "embed")], [], "embed"
    for layer in range(layers):
        for sublayer in SUBLAYERS:
            own = _members(layer, n_heads if sublayer == "attn" else n_neurons, sublayer)
            name = sublayer_name(layer, sublayer)
            whole = Node(
                name,
                "sublayer",
                layer,
                stderr=0.02,
                random_baseline=0.15,
                importance=0.1 + 0.2 * layer,
                direct=0.3,
            )
            nodes += [*own, whole]
            edges.append(Edge(previous, name, "residual"))
            edges += [Edge(node.id, name, "part", node.effect) for node in own]
            edges += [Edge(node.id, "readout", "direct", node.direct) for node in (*own, whole)]
            previous = name
    nodes.append(Node("readout", "readout"))
    sizes = provenance(layers, max(3, n_heads), max(40, n_neurons))
    return Circuit(emotion, tuple(nodes), tuple(edges), {"direct_share": 0.62}, sizes)


def _members(layer: int, count: int, sublayer: str) -> list[Node]:
    name, kind = (head_name, "head") if sublayer == "attn" else (neuron_name, "neuron")
    effects = [(layer + 1) * 0.1 / (i + 1) * (-1 if i % 4 == 3 else 1) for i in range(count)]
    return [
        Node(
            name(layer, i),
            kind,
            layer,
            effect=effect,
            stderr=0.01,
            random_baseline=0.05,
            direct=effect / 2,
        )
        for i, effect in enumerate(effects)
    ]


def scores(emotions: Sequence[str] = EMOTIONS) -> dict[str, CircuitScores]:
    """Scores that beat random circuits, but for the completeness of the last emotion's circuit."""
    curve = tuple(i / 9 for i in range(10))

    def score(name: str, *, good: bool) -> Score:
        value = 0.1 if name in LOWER_IS_BETTER else 0.9
        return Score(value, value - 0.05, value + 0.05, 0.5 if good else value, 0.01)

    return {
        emotion: CircuitScores(
            emotion=emotion,
            scores={
                name: score(name, good=(emotion, name) != (emotions[-1], "completeness"))
                for name in SCORES
            },
            heads_fraction=0.2,
            neurons_fraction=0.05,
            size=0.06,
            needed_share=0.9,
            worst_gap=0.2,
            log_area=0.7,
            size_at_80=0.1,
            sizes=SIZES,
            curve=curve,
            curve_low=tuple(v - 0.3 for v in curve),
            curve_high=tuple(v - 0.1 for v in curve),
            loses={"L0H0": 0.1},
            n_contexts=12,
            n_baselines=100,
        )
        for emotion in emotions
    }


def accuracy(emotions: Sequence[str] = EMOTIONS) -> dict[str, Any]:
    """The comparison of methods: every method better than the one before, and a random_baseline."""
    levels = {"none": 12.0, "prompt": 80.0, "steer": 45.0, "circuit": 64.0}
    return {
        "methods": {method: _stats(level, emotions) for method, level in levels.items()},
        "baselines": {
            "random_circuit": _stats(14.0, emotions),
            "random_anywhere": _stats(13.0, emotions),
        },
        "judge": {"name": "lexicon", "error": 0.08, "n": 240},
        "settings": {"circuit": {"strength": 1.5, "when": "prompt"}, "tried": [{"strength": 2}]},
        "best_steering": "steer",
        "strengths": strength_sweep(emotions),
        "suppression": {"strength": -1.0, "prompted": 98.0, "suppressed": 12.0},
    }


def strength_sweep(emotions: Sequence[str] = EMOTIONS) -> dict[str, Any]:
    """Expression that rises with the strength."""
    shares = [0.0, 5.0, 50.0, 95.0, 100.0]
    return {
        "n": 24 * len(emotions),
        "strength": [0.0, 0.25, 0.5, 0.75, 1.0],
        "overall": shares,
        "low": [max(0.0, s - 4) for s in shares],
        "high": [min(100.0, s + 4) for s in shares],
        "perplexity_ratio": [1.6, 1.5, 1.2, 1.0, None],
        "repetition": [0.0] * 5,
        "by_emotion": {e: [max(0.0, s - i) for s in shares] for i, e in enumerate(emotions)},
        "rises": True,
        "unchanged_at_zero": 24 * len(emotions),
    }


def _stats(level: float, emotions: Sequence[str]) -> dict[str, Any]:
    return {
        "n": 60 * len(emotions),
        "overall": level,
        "low": level - 4,
        "high": level + 4,
        "by_emotion": {e: max(0.0, level - 8 + 3 * i) for i, e in enumerate(emotions)},
        "by_valence": {v: level - 2 + 2 * i for i, v in enumerate(VALENCES)},
        "perplexity_ratio": 1.25,
        "repetition": 0.021,
        "mean_tokens": 24.0,
        "empty": 0,
        "second_judge": level - 1,
        "kappa": 0.9,
        "topic_kept": 97.0,
        "opposing": {"overall": 50.0},
        "ratio_by_emotion": {e: 1.2 + 0.1 * i for i, e in enumerate(emotions)},
        "ratio_by_valence": dict.fromkeys(VALENCES, 1.3),
        "intervals": {
            "overall": [level - 5, level + 5],
            "perplexity_ratio": [1.2, 1.3],
            "repetition": [0.01, 0.03],
            "topic_kept": [95.0, 99.0],
        },
    }


def elicitation(emotions: Sequence[str] = EMOTIONS) -> dict[str, Any]:
    def counts(total: str, n: int) -> dict[str, Any]:
        return {total: n, "accepted": n - 10, "rejected": 10, "accuracy": 100 - 1000 / n}

    return {
        "dataset": "sev",
        "overall": counts("total_samples", 60 * len(emotions)),
        "by_emotion": {emotion: counts("total", 60) for emotion in emotions},
        "by_valence": {valence: counts("total", 120) for valence in VALENCES},
    }


def judged(
    emotions: Sequence[str] = EMOTIONS, contexts: int = 4, text: str = "Well, that is something."
) -> dict[str, list[Judged]]:
    """Replies of every method to every context in every emotion."""
    return {
        method: [
            _judged(_context(c), emotion, text, method)
            for c in range(contexts)
            for emotion in emotions
        ]
        for method in (*METHODS, "random_circuit", "random_anywhere")
    }


def _context(number: int) -> Context:
    return Context(
        f"work_{number:02d}",
        "work",
        VALENCES[number % 3],
        f"You have worked on report {number} for a week.",
        f"Your manager reads report {number}.",
    )


def _judged(context: Context, emotion: str, text: str, method: str) -> Judged:
    prompt = emotion_prompt(context, emotion) if method == "prompt" else neutral_prompt(context)
    hit = method == "prompt" or (method == "circuit" and emotion != "surprise")
    verdict = Verdict(hit, emotion if hit else "neutral", "made up")
    return Judged(Reply(prompt, f"{text} ({method}, {emotion})", 8, emotion), verdict)


def stream_patches(places: tuple[str, ...] = ("event", "last")) -> SitePatches:
    """Patches of three sites."""
    shape = (3, 4, len(places))
    effect = torch.randn(shape, generator=_random(21))
    return SitePatches(
        effect,
        effect.abs() / 10,
        torch.tensor([2.0, -1.0]),
        ("resid_pre", "attn_out", "mlp_out"),
        tuple(range(4)),
        places,
        ("clean", "corrupt"),
        "anger",
        "<plain>",
        "denoising",
        "projection",
        3,
    )


def head_patches(places: tuple[str, ...] = ("event", "last"), count: int = 3) -> HeadPatches:
    """Patches of head outputs, the largest of them at the last place."""
    effect = torch.randn(4, count, len(places), generator=_random(22))
    effect[2, 1, -1] = 9.0
    return HeadPatches(
        effect,
        effect.abs() / 10,
        torch.tensor([2.0, -1.0]),
        tuple(range(4)),
        tuple(range(count)),
        places,
        ("clean", "corrupt"),
        "z",
        "anger",
        "neutral",
        "noising",
        "projection",
        3,
    )


def validation(kind: str = "head", emotions: tuple[str, ...] = EMOTIONS) -> Validation:
    """Effects of sets of up to forty components, and a band of random ones."""
    sizes, draws, count = (1, 3, 10, 40), 5, len(emotions)
    effect = torch.randn(count, 4, 3, 4, count, generator=_random(31))
    random_baseline = torch.randn(count, 4, draws, 4, count, generator=_random(32)) / 4
    return Validation(
        provenance=provenance(),
        effect=effect,
        low=effect - 0.5,
        high=effect + 0.25,
        random_baseline=random_baseline,
        random_baseline_low=random_baseline.amin(2),
        random_baseline_high=random_baseline.amax(2),
        asked=torch.eye(count),
        emotion=emotions,
        other_emotion=emotions,
        method=CHANGES,
        order=ORDERS,
        size=sizes,
        draw=tuple(range(draws)),
        kind=kind,
        n_contexts=6,
    )


def heard(kind: str = "head", emotions: tuple[str, ...] = EMOTIONS) -> ReplyValidation:
    """Judged replies by size of the set."""
    sizes = (1, 6, 40)
    judged = 100 * torch.rand(len(emotions), 2, 3, len(sizes), generator=_random(33))
    return ReplyValidation(
        provenance=provenance(),
        judged=judged,
        low=judged * 0.8,
        high=10 + 0.9 * judged,
        emotion=emotions,
        method=REPLY_CHANGES,
        order=REPLY_ORDERS,
        size=sizes,
        kind=kind,
        n_contexts=6,
        n_draws=2,
    )


def report(emotions: tuple[str, ...] = EMOTIONS, **changes: Any) -> ReportContent:
    """What a report shows, with changes."""
    made: dict[str, Any] = {
        "title": "Emotion circuits of a tiny model",
        "directions": directions(emotions=emotions),
        "generality": generality(emotions=emotions),
        "heads": heads(emotions=emotions),
        "neurons": neurons(emotions=emotions),
        "importance": importance(emotions=emotions),
        "circuits": {emotion: circuit(emotion) for emotion in emotions},
        "scores": scores(emotions),
        "elicitation": elicitation(emotions),
        "steering": accuracy(emotions),
        "replies": judged(emotions),
        "receipts": {"replies": {"passes": 1440, "steps": 20_000, "token_layers": 5_000_000}},
        "provenance": provenance(),
    }
    return ReportContent(**{**made, **changes})


def ablation(emotions: tuple[str, ...] = EMOTIONS) -> dict[str, Any]:
    """What is lost without the circuits."""
    own = {
        "circuit_drop": 87.5,
        "low": 81.25,
        "high": 93.75,
        "random_drop": 1.25,
        "random_max": 2.5,
    }
    return {
        **own,
        "by_emotion": dict.fromkeys(emotions, own),
        "n": 36,
        "draws": 5,
        "heads_share": 0.083,
        "neurons_share": 0.02,
    }


def trace(emotions: tuple[str, ...] = EMOTIONS) -> TokenTrace:
    """Seven tokens, the last four of a reply; one of them is hostile."""
    tokens = ("<s>", "I", " am", " <script>alert(1)</script>", "\n", '" onmouseover="x', " &amp;")
    values = torch.linspace(-1.5, 1.5, len(emotions) * 3 * len(tokens))
    return TokenTrace(
        provenance=provenance(),
        value=values.reshape(len(emotions), 3, len(tokens)),
        emotion=emotions,
        layer=(0, 1, 2),
        n_prompt=3,
        pos=tuple(f"{i} {token}" for i, token in enumerate(tokens)),
    )


def paths() -> PathEffects:
    """Nine paths from three senders to four receivers, from -6 to 5."""
    exists = torch.tensor([[True] * 4, [False, True, True, True], [False, False, True, True]])
    mean = (torch.arange(12.0).reshape(3, 4) - 6.0) * exists
    return PathEffects(
        provenance=provenance(),
        mean=mean,
        stderr=mean.abs() / 10,
        random_baseline=torch.ones(3, 4),
        exists=exists,
        node=mean.sum(1),
        by_role=torch.zeros(3, 4, 0),
        sender=("embed", "L0H0", "L0.mlp"),
        receiver=("L0H0.q", "L0.mlp", "L1G0.v", "readout"),
        role=(),
        emotion="fear",
        other="<b>",
        readout="projection",
        mode="noising",
        method="eap",
        steps=1,
        n_contexts=3,
        draws=5,
        gap=0.0,
        receipt={},
    )


def exact_paths() -> ExactPaths:
    """Two of the paths, patched in two contexts."""
    return ExactPaths(
        provenance=provenance(),
        effect=torch.tensor([[-6.0, 4.0], [-4.0, 8.0]]),
        context=("a", "b"),
        edge=("embed->L0H0.q", "L0.mlp->readout"),
        emotion="fear",
        other=None,
        readout="projection",
        mode="noising",
        receipt={},
    )

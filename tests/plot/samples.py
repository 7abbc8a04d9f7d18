"""Small made-up records of every kind, each with numbers that can be recomputed."""

import dataclasses
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
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.patching.paths import ExactPaths, PathEffects
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


AXES: dict[str, Any] = {
    "emotion": EMOTIONS,
    "sublayer": SUBLAYERS,
    "layer": range(4),
    "head": range(3),
    "neuron": range(40),
    "theme": ("work", "family", "school", "travel", "health"),
    "dose": (0.1, 0.5),
    "run": ("clean", "corrupt"),
    "d_model": range(24),
}


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(kind: type[Any], seed: int = 0, /, **known: Any) -> Any:
    """A record of what is known: axes by their labels, tensors; a number fills its tensor.

    Other axes are those above, other tensors random.
    """
    labels, random, values = AXES | known, _random(seed), {}
    for name, axes in kind.axes.items():
        values[name] = known.get(name)
        if not isinstance(values[name], torch.Tensor):
            drawn = torch.randn([len(labels[axis]) for axis in axes], generator=random)
            values[name] = drawn if name not in known else torch.full_like(drawn, known[name])
    for field in dataclasses.fields(kind):
        if field.name in labels and field.name not in values:
            own = labels[field.name]
            values[field.name] = tuple(own) if isinstance(own, range) else own
    return kind(**{"provenance": provenance(), **values})


def directions(layers: int = 4, emotions: tuple[str, ...] = EMOTIONS) -> Directions:
    vectors = torch.randn(len(emotions), 2, layers, 24, generator=_random(0))
    vectors = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1)
    axes = {"emotion": emotions, "layer": range(layers), "vectors": vectors}
    known = {"norm": 1.0, "rms": 1.0, "n_contexts": 12, "n_left_out": 2, "read": "prompt"}
    return made(Directions, **axes, **known)


def generality(layers: int = 4, emotions: tuple[str, ...] = EMOTIONS) -> Generality:
    halves = 0.6 + 0.35 * torch.rand(len(emotions), 2, layers, generator=_random(1))
    return made(
        Generality,
        emotion=emotions,
        layer=range(layers),
        split_half=halves,
        split_half_low=halves - 0.2,
        random_baseline=1 / len(emotions),
        n_splits=50,
    )


def heads(layers: int = 4, count: int = 3, emotions: tuple[str, ...] = EMOTIONS) -> HeadEffects:
    depth = torch.linspace(0.2, 1.0, layers)[None, :, None]
    centred = torch.randn(len(emotions), layers, count, generator=_random(3)) ** 3 * 0.05 * depth
    return made(
        HeadEffects,
        emotion=emotions,
        layer=range(layers),
        head=range(count),
        mean=centred + 0.01,
        stderr=0.004,
        centred=centred,
        centred_stderr=0.003,
        random_baseline=0.03 * depth[..., 0].expand(len(emotions), layers).clone(),
        readout="resid_mid",
        n_contexts=(12,) * len(emotions),
    )


def neurons(
    layers: int = 4, count: int = 40, emotions: tuple[str, ...] = EMOTIONS
) -> NeuronEffects:
    shape = (len(emotions), layers, count)
    centred = torch.randn(shape, generator=_random(4)) ** 5 * 1e-3
    axes = {"emotion": emotions, "layer": range(layers), "neuron": range(count)}
    known: dict[str, Any] = {"stderr": 1e-4, "centred_stderr": 1e-4, "random_baseline": 4e-3}
    known["n_contexts"] = (12,) * len(emotions)
    return made(NeuronEffects, mean=centred, centred=centred, **axes, **known)


def importance(layers: int = 4, emotions: tuple[str, ...] = EMOTIONS) -> Importance:
    return made(
        Importance,
        emotion=emotions,
        layer=range(layers),
        stderr=0.04,
        random_baseline=0.15,
        baseline=0.0,
        read_at="resid_post",
        stable_layers=(layers - 1,),
        n_contexts=(12,) * len(emotions),
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


_PATCHED = {"readout": "projection", "n_contexts": 3, "emotion": "anger"}


def stream_patches(places: tuple[str, ...] = ("event", "last")) -> SitePatches:
    """Patches of three sites."""
    sites = {"site": ("resid_pre", "attn_out", "mlp_out"), "place": places}
    return made(SitePatches, 21, **sites, other="<plain>", mode="denoising", **_PATCHED)


def head_patches(places: tuple[str, ...] = ("event", "last"), count: int = 3) -> HeadPatches:
    """Patches of head outputs, the largest of them at the last place."""
    axes = {"head": range(count), "place": places}
    known = {"site": "z", "other": "neutral", "mode": "noising", **_PATCHED}
    found = made(HeadPatches, 22, **axes, **known)
    found.effect[2, 1, -1] = 9.0
    return found


def validation(kind: str = "head", emotions: tuple[str, ...] = EMOTIONS) -> Validation:
    """Effects of sets of up to forty components, and a band of random ones."""
    sizes, count = (1, 3, 10, 40), len(emotions)
    axes = {"emotion": emotions, "other_emotion": emotions, "method": CHANGES, "order": ORDERS}
    axes |= {"size": sizes, "draw": tuple(range(5))}
    effect = torch.randn(count, 4, 3, 4, count, generator=_random(31))
    random = torch.randn(count, 4, 5, 4, count, generator=_random(32)) / 4
    bands = {"low": effect - 0.5, "high": effect + 0.25, "random_baseline": random}
    bands |= {"random_baseline_low": random.amin(2), "random_baseline_high": random.amax(2)}
    return made(Validation, effect=effect, kind=kind, n_contexts=6, **axes, **bands)


def heard(kind: str = "head", emotions: tuple[str, ...] = EMOTIONS) -> ReplyValidation:
    """Judged replies by size of the set."""
    judged = 100 * torch.rand(len(emotions), 2, 3, 3, generator=_random(33))
    axes = {"emotion": emotions, "method": REPLY_CHANGES, "order": REPLY_ORDERS}
    axes |= {"size": (1, 6, 40), "kind": kind, "n_contexts": 6, "n_draws": 2}
    bounds = {"low": judged * 0.8, "high": 10 + 0.9 * judged}
    return made(ReplyValidation, judged=judged, **axes, **bounds)


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
    pos = tuple(f"{i} {token}" for i, token in enumerate(tokens))
    return made(TokenTrace, 41, emotion=emotions, layer=range(3), pos=pos, n_prompt=3)


def paths() -> PathEffects:
    """Nine paths from three senders to four receivers, from -6 to 5."""
    exists = torch.tensor([[True] * 4, [False, True, True, True], [False, False, True, True]])
    mean = (torch.arange(12.0).reshape(3, 4) - 6.0) * exists
    axes = {"sender": ("embed", "L0H0", "L0.mlp"), "role": ()}
    axes["receiver"] = ("L0H0.q", "L0.mlp", "L1G0.v", "readout")
    known = {"mean": mean, "stderr": mean.abs() / 10, "exists": exists, "random_baseline": 1.0}
    known |= {"emotion": "fear", "other": "<b>", "readout": "projection", "mode": "noising"}
    known |= {"method": "eap", "steps": 1, "n_contexts": 3, "draws": 5, "gap": 0.0, "receipt": {}}
    return made(PathEffects, **axes, **known)


def exact_paths() -> ExactPaths:
    """Two of the paths, patched in two contexts."""
    axes = {"context": ("a", "b"), "edge": ("embed->L0H0.q", "L0.mlp->readout")}
    known = {"emotion": "fear", "other": None, "readout": "projection", "mode": "noising"}
    effect = torch.tensor([[-6.0, 4.0], [-4.0, 8.0]])
    return made(ExactPaths, effect=effect, receipt={}, **axes, **known)

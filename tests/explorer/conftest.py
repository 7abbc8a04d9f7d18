"""Made-up results with numbers that can be recomputed, and one page of them in a real browser."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from circuits.circuit.circuit import Edge
from circuits.effects.inspection import HeadPatterns, NodeExamples, TokenLens
from circuits.effects.neurons import DirectEffects
from circuits.patching.totals import TotalEstimates
from circuits.report import ExplorerContent, explorer_document, explorer_page

HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
    "<!--<script>\u2028 & &lt; {{ 7 * 7 }} \" ' ${window.broken = 3}"
)
EMOTIONS = ("anger", "fear", "awe </script><i>")
LAYERS, HEADS, NEURONS = 4, 3, 40


def circuits(samples: ModuleType) -> dict[str, Any]:
    """Anger and fear share all but fear's third heads; only anger has paths."""
    found = {
        emotion: samples.circuit(emotion, n_heads=3 if emotion == "fear" else 2)
        for emotion in EMOTIONS
    }
    paths = (
        Edge("L0H0", "L2H1", "path", 0.4, "k", 0.01, 0.1, 0.5, 0.02, True),
        Edge("L0H1", "L3N2", "path", -0.2, "mlp", 0.05, 0.3, None, None, False),
        Edge("L1N3", "readout", "path", 0.1, "readout", 0.01, 0.02, 0.09, 0.01, True),
    )
    anger = found["anger"]
    return found | {"anger": dataclasses.replace(anger, edges=(*anger.edges, *paths))}


def records(samples: ModuleType, nodes: list[str], text: str) -> dict[str, Any]:
    """Records of the nodes; the texts of contexts and of one token are ``text``."""
    n, tokens = len(EMOTIONS), ("<s>", " Always", " reply\n", text, "<|end|>")
    heads, parts = [o for o in nodes if "H" in o][:4], tuple(o for o in nodes if "." not in o)
    pattern = torch.ones(2, n, len(heads), 6, 6).tril()
    weight = (255 * pattern / pattern.sum(-1, keepdim=True)).to(torch.uint8)
    few, six = ("work_01/neutral", "work_03/neutral"), ("work",) * 6
    examples = {"context": tuple(f"work_{i:02d}/neutral" for i in range(6)), "theme": six}
    examples |= {"valence": ("neutral",) * 6, "situation": ("So.",) * 5 + (text,)}
    words = (" calm", " rage", text, "\n", " spider")
    lens = {**_lens(n, len(nodes)), "node": tuple(nodes), "rank": (1, 2, 3), "word": words}
    patterns = {"context": few, "node": tuple(heads), "tokens": ((tokens,) * n, (tokens[:3],) * n)}
    of = {"emotion": EMOTIONS}
    return {
        "heads": samples.heads(LAYERS, HEADS, EMOTIONS),
        "neurons": samples.neurons(LAYERS, NEURONS, EMOTIONS),
        "importance": samples.importance(LAYERS, EMOTIONS),
        "direct": samples.made(DirectEffects, 1, **of),
        "totals": samples.made(TotalEstimates, 2, **of),
        "lens": samples.made(TokenLens, **lens, **of),
        "examples": samples.made(NodeExamples, 3, node=parts, event=(text,) * 6, **examples, **of),
        "patterns": samples.made(HeadPatterns, weight=weight, **patterns, **of),
    }


def _lens(n: int, count: int) -> dict[str, torch.Tensor]:
    # What one emotion's write promotes, the next one's suppresses, as it is for a neuron.
    sizes = torch.tensor([3.0, 2.0, 1.0]).expand(n, count, 3)
    lists = ([0, 1, 2], [2, 3, 4])
    up, down = (
        torch.tensor([lists[(e + end) % 2] for e in range(n)])[:, None].expand(n, count, 3)
        for end in (0, 1)
    )
    return {"promoted": sizes, "promoted_token": up, "suppressed": -sizes, "suppressed_token": down}


@pytest.fixture(scope="session")
def make_content(samples: ModuleType) -> Callable[..., ExplorerContent]:
    """Results of a made-up run, with changes."""

    def make(text: str = HOSTILE, **changes: Any) -> ExplorerContent:
        own = circuits(samples)
        nodes = sorted({n.id for c in own.values() for n in c.nodes} - {"embed", "readout"})
        wanted: dict[str, Any] = {
            "title": "Emotion circuits of tiny <b>",
            "model": samples.provenance().model,
            "circuits": own,
            "scores": samples.scores(EMOTIONS),
            "notes": ("A note.",),
            **records(samples, nodes, text),
        }
        return ExplorerContent(**{**wanted, **changes})

    return make


@pytest.fixture(scope="session")
def bare_content(make_content: Callable[..., ExplorerContent]) -> Callable[..., ExplorerContent]:
    """The same without records."""
    names = ("heads", "neurons", "importance", "direct", "totals", "lens", "examples", "patterns")
    return partial(make_content, **dict.fromkeys(names))


@pytest.fixture(scope="session")
def content(make_content: Callable[..., ExplorerContent]) -> ExplorerContent:
    """Results whose every text is hostile."""
    return make_content()


@pytest.fixture(scope="session")
def page_file(content: ExplorerContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of these results."""
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(explorer_page(explorer_document(content)), encoding="utf-8")
    return path

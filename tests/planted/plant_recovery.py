"""What each method finds on planted models: exact ones are tested, all are tabulated.

Run it (``make plants``) for the table of 20 plants. A part counts as found if its score is beyond
``FLOOR`` times the largest score of the same kind; the floor is the same for all methods.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from planted.plant import Plant, Recovery, plant, recovery
from rich.console import Console
from rich.table import Table

from circuits.files import shipped, write_text
from circuits.names import component, head_name, neuron_name, receiver
from circuits.patching.attribution import attribute
from circuits.patching.pairs import CleanCorrupt, Mode, Projection, make_pairs
from circuits.patching.patch import patch_components
from circuits.patching.paths import exact_paths, path_effects, path_ends, sees
from circuits.prompts import sev

FLOOR = 0.02
EMOTIONS = ("anger", "fear", "sadness")
NODE_METHODS = ("patching", "atp", "atp*", "relp", "ig-inputs", "ig-activations")
EDGE_METHODS = ("path patching", "eap", "eap-ig")

Edge = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """A plant and one contrast of it: an emotion asked for against another one, or plain."""

    plant: Plant
    emotion: str
    pairs: CleanCorrupt
    readout: Projection
    mode: Mode = "noising"

    @property
    def parts(self) -> list[str]:
        """All heads and neurons."""
        cfg = self.plant.model.cfg
        heads = [head_name(i, j) for i in range(cfg.n_layers) for j in range(cfg.n_heads)]
        return heads + [neuron_name(i, j) for i in range(cfg.n_layers) for j in range(cfg.d_mlp)]

    @property
    def true_edges(self) -> frozenset[Edge]:
        """Planted edges as (sender, input), keys and values by key-value group."""
        cfg = self.plant.model.cfg
        shared = cfg.n_heads // int(cfg.n_key_value_heads or cfg.n_heads)
        found = set()
        for source, target, kind in self.plant.true_edges(emotion=self.emotion):
            part = component(target)
            if part.kind != "head":
                found.add((source, target))
            elif kind == "q":
                found.add((source, f"{target}.q"))
            else:
                found.add((source, f"L{part.layer}G{(part.index or 0) // shared}.{kind}"))
        return frozenset(found)


def case(
    seed: int, *, n_contexts: int = 2, remove: str | None = None, against_plain: bool = False
) -> Case:
    """The plant of a seed, with the emotions in turn."""
    own = plant(seed, emotions=EMOTIONS, remove=remove)
    emotion = EMOTIONS[seed % 3]
    other = None if against_plain else EMOTIONS[(seed + 1) % 3]
    contexts = sev.contexts(sev.spread(sev.read(shipped("sev/train.jsonl")), 4))[:n_contexts]
    pairs = make_pairs(own.model, contexts, emotion, other)
    readout = Projection(own.readout[EMOTIONS.index(emotion)])
    return Case(own, emotion, pairs, readout, "denoising" if against_plain else "noising")


def node_scores(of: Case, method: str) -> dict[str, float]:
    """Part -> score by the method."""
    if method == "patching":
        found = patch_components(of.pairs, of.readout, of.parts, mode=of.mode).mean(0)
        return dict(zip(of.parts, found.tolist(), strict=True))
    scores = attribute(
        of.pairs,
        of.readout,
        method,  # type: ignore[arg-type]
        mode=of.mode,
        sample=2,
    )
    values = torch.cat([scores.heads[0].flatten(), scores.neurons[0].flatten()])
    return dict(zip(of.parts, values.tolist(), strict=True))


def edge_scores(of: Case, method: str, nodes: Sequence[str]) -> dict[Edge, float]:
    """(sender, input) -> score, for all edges among embedding, ``nodes`` and the readout."""
    neurons = [(p.layer or 0, p.index or 0) for p in map(component, nodes) if p.kind == "neuron"]
    edges = list(_candidates(of, nodes, neurons))
    if method == "path patching":
        exact = exact_paths(of.pairs, of.readout, edges)
        return dict(zip(edges, exact.mean.tolist(), strict=True))
    scores = path_effects(
        of.pairs,
        of.readout,
        method=method,  # type: ignore[arg-type]
        neurons=neurons,
    )
    return {(s, r): scores.at("mean", sender=s, receiver=r) for s, r in edges}


def beyond_floor(scores: Mapping[Edge, float] | Mapping[str, float], least: float) -> set[object]:
    """What counts as found: scores beyond ``FLOOR`` of the largest, or of ``least``."""
    largest = max([least, *map(abs, scores.values())])
    return {name for name, score in scores.items() if abs(score) > FLOOR * largest}


def candidates(of: Case) -> list[str]:
    """Parts between which edges are looked for: planted ones, distractors, and unplanted ones."""
    known = [node.name for node in of.plant.nodes]
    random = torch.Generator().manual_seed(of.plant.seed)
    others = [name for name in of.parts if name not in known]
    drawn = torch.randperm(len(others), generator=random)[:6].tolist()
    return known + [others[i] for i in drawn]


@dataclass(frozen=True)
class Found:
    """What a method found on one plant, and how far its scores are from exact ones."""

    what: str
    method: str
    recovery: Recovery
    error: float
    """Largest |score - exact effect|, in units of the largest exact effect."""


def recovered(seed: int) -> Iterator[Found]:
    """What every method finds on the plant of a seed."""
    for what, against_plain in (("nodes", False), ("nodes, against neutral", True)):
        of = case(seed, against_plain=against_plain)
        exact = node_scores(of, "patching")
        truth = of.plant.true_nodes(emotion=of.emotion)
        for method in NODE_METHODS:
            if against_plain and method == "ig-inputs":
                continue  # no matched token has another input, so there is nothing to interpolate
            scores = node_scores(of, method)
            found = recovery(beyond_floor(scores, 0.0), truth)
            yield Found(what, method, found, _error(scores, exact))
    of = case(seed)
    paths = edge_scores(of, "path patching", candidates(of))
    for method in EDGE_METHODS:
        edges = edge_scores(of, method, candidates(of))
        found = recovery(beyond_floor(edges, 0.0), of.true_edges)
        yield Found("edges", method, found, _error(edges, paths))


def _error(scores: Mapping[Any, float], exact: Mapping[Any, float]) -> float:
    apart = max(abs(scores[name] - exact[name]) for name in exact)
    return apart / max(map(abs, exact.values()))


def _candidates(
    of: Case, nodes: Sequence[str], neurons: Sequence[tuple[int, int]]
) -> Iterator[Edge]:
    ends = path_ends(of.plant.model, neurons)
    wanted = {name for name in nodes if component(name).kind == "head"}
    groups = {name.split(".")[0] for name in _inputs(of, wanted)}
    for sender in ends.senders:
        if sender != "embed" and sender not in nodes:
            continue
        for name in ends.receivers:
            chosen = name == "readout" or name in nodes or name.split(".")[0] in groups
            if chosen and receiver(name) is not None and sees(name, sender):
                yield sender, name


def _inputs(of: Case, heads: set[str]) -> Iterator[str]:
    cfg = of.plant.model.cfg
    shared = cfg.n_heads // int(cfg.n_key_value_heads or cfg.n_heads)
    for name in heads:
        part = component(name)
        yield f"{name}.q"
        yield f"L{part.layer}G{(part.index or 0) // shared}.k"


def main() -> None:
    """Print the table, and write it as Markdown if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plants", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[tuple[str, str], list[Found]] = {}
    for seed in range(given.plants):
        for one in recovered(seed):
            found.setdefault((one.what, one.method), []).append(one)
    rows = [(*names, *_row(own)) for names, own in found.items()]
    header = ("what", "method", "precision", "recall", "worst plant", "error")
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if given.out:
        lines = [header, ("---",) * len(header), *rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        write_text(given.out, f"{_ABOUT.format(n=given.plants, floor=FLOOR)}\n{text}\n")


_ABOUT = """# What each method recovers

{n} planted models (`tests/planted/plant.py`), two contexts each. Nodes and edges: one emotion
against another, noising. Against neutral: an emotion against no emotion, denoising.
A part or edge counts as found if its |score| is above {floor:.0%} of the method's largest. Edges
are looked for among the planted parts, the distractors, six unplanted parts, embedding and readout.
Worst plant: the lowest of precision and recall. Error: the largest distance of a score from the
exact effect, as a share of the largest effect (median over plants): what is found is not yet how
much it does. Made by `make plants`.
"""


def _row(own: Sequence[Found]) -> tuple[str, ...]:
    pairs = [(one.recovery.precision, one.recovery.recall) for one in own]
    precision, recall = (statistics.fmean(pair[i] for pair in pairs) for i in (0, 1))
    worst, error = min(map(min, pairs)), statistics.median(one.error for one in own)
    return f"{precision:.3f}", f"{recall:.3f}", f"{worst:.2f}", f"{error:.0%}"


if __name__ == "__main__":
    main()

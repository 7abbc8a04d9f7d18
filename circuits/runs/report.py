"""The pages of a run: its report and its explorer."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from circuits.circuit.circuit import Circuit
from circuits.effects.activations import differences
from circuits.effects.inspection import (
    HeadPatterns,
    NodeExamples,
    TokenLens,
    head_patterns,
    node_examples,
    token_lens,
)
from circuits.files import held, read_json, write_json
from circuits.judges.replies import read_methods
from circuits.models.families import check_identities
from circuits.models.memory import counted
from circuits.names import component
from circuits.prompts.prompt import Prompt
from circuits.prompts.templates import emotion_prompt
from circuits.provenance import recorded
from circuits.records import Record
from circuits.report import (
    ExplorerContent,
    ReportContent,
    explorer_document,
    explorer_page,
    trimmed,
    write_report,
)
from circuits.runs.folder import Study
from circuits.runs.patching import read_patches
from circuits.runs.steering import read_validation
from circuits.runs.work import Reporter, Run, Silent, plan_of

__all__ = [
    "CONTEXTS",
    "PATTERN_CONTEXTS",
    "PATTERN_HEADS",
    "make_explorer",
    "make_report",
    "refresh_report",
]


def make_report(study: Study, path: Path) -> None:
    """Write the report of a finished run.

    Raises:
        RunError: a stage has not run.
    """
    log, (validation, replies, ablation) = study.log, read_validation(study)
    write_report(
        ReportContent(
            title=f"Emotion circuits of {study.directions.provenance.model['name']}",
            directions=study.directions,
            generality=study.generality,
            heads=study.heads,
            neurons=study.neurons,
            importance=study.importance,
            circuits=study.circuits,
            scores=study.scores,
            elicitation=study.elicitation,
            steering=study.steering,
            replies=read_methods(study.replies_path),
            patches=read_patches(study),
            validation=validation,
            reply_validation=replies,
            ablation=ablation,
            receipts={stage: entry["receipt"] for stage, entry in log["stages"].items()},
            provenance=next(iter(study.circuits.values())).provenance,
        ),
        path,
    )


def refresh_report(study: Study) -> bool:
    """Write the report again if the run has one; says whether it has."""
    path = study.folder / "report.html"
    with held(study.folder):
        if "report" not in study.log["stages"]:
            return False
        make_report(study, path)
    return True


CONTEXTS = 24
"""Contexts in which every node of a circuit is read."""

PATTERN_CONTEXTS = 4
PATTERN_HEADS = 8
"""Heads of each circuit, those with the largest |effect|, whose patterns are kept."""

_FORMAT = "emotion-explorer-records/1"
_KINDS: Mapping[str, type[Record]] = {
    "lens": TokenLens,
    "examples": NodeExamples,
    "patterns": HeadPatterns,
}

T = TypeVar("T")


def make_explorer(study: Study, reporter: Reporter | None = None) -> str:
    """The explorer's page.

    The first time the model is loaded and read on a few train contexts; what it gave lies in
    ``explorer/`` and is used again as long as the run's circuits and directions are the same.

    Raises:
        RunError: the run has no circuits, or another process writes into its folder.
        ModelError: the run's model cannot be loaded.
    """
    circuits, done = study.circuits, study.log["stages"]
    measured = not {"directions", "effects", "importance", "circuits"} - set(done)
    imported = "imported" in study.log["plan"]
    first = next(iter(circuits.values()))
    found: dict[str, Any] = {}
    if measured and not imported:
        read = _records(study, reporter or Silent())
        found = {
            "heads": study.heads,
            "neurons": study.neurons,
            "importance": study.importance,
            "direct": study.direct,
            "totals": study.totals,
            **read,
        }
    content = ExplorerContent(
        title=f"Emotion circuits of {first.provenance.model.get('name', 'an unnamed model')}",
        model=first.provenance.model,
        circuits=circuits,
        effect="mean" if study.log["plan"].get("rank_by") == "mean" else "centred",
        scores=study.scores if "scores" in done else {},
        notes=tuple(_notes(circuits.values(), measured=bool(found))),
        **found,
    )
    return explorer_page(explorer_document(content))


def _notes(circuits: Iterable[Circuit], *, measured: bool) -> list[str]:
    notes = []
    if not measured:
        notes.append(
            "These are imported results: they name no model that could be read, so tokens, "
            "contexts and attention patterns are missing."
        )
    elif not any(circuit.paths for circuit in circuits):
        notes.append(
            "Paths between parts have not been measured; edges show how parts write. "
            "The command `emotion-circuits paths` measures them."
        )
    return notes


def _records(study: Study, reporter: Reporter) -> dict[str, Record]:
    """The records in ``explorer/``, made again if what they were made from has changed."""
    shown = [trimmed(circuit) for circuit in study.circuits.values()]
    folder, nodes, heads = study.folder / "explorer", _nodes(shown), _pattern_heads(shown)
    log, entry = folder / "explorer.json", {"format": _FORMAT, "key": _key(study, nodes, heads)}
    if log.is_file() and entry.items() <= read_json(log).items():
        there = [name for name in _KINDS if (folder / name).is_dir()]
        return {name: _KINDS[name].load(folder / name) for name in there}
    with held(study.folder):
        with counted() as receipt:
            made = _read_model(study, nodes, heads, reporter)
        # The log is written last: without it nothing in the folder is used.
        shutil.rmtree(folder, ignore_errors=True)
        for name, record in made.items():
            record.save(folder / name)
        write_json(log, {**entry, "receipt": receipt.to_json()})
    return made


def _read_model(
    study: Study, nodes: Sequence[str], heads: Sequence[str], reporter: Reporter
) -> dict[str, Record]:
    run, found = Run(plan_of(study), study, reporter), study.directions
    check_identities(run.model)
    provenance = found.provenance.child(explorer=_FORMAT)
    rows = _prompts(run)
    with recorded(provenance):
        made: dict[str, Record] = {"lens": token_lens(run.model, differences(study.means), nodes)}
    parts = [name for name in nodes if component(name).kind != "sublayer"]
    with (
        run.as_planned(),
        run.task("read examples", len(rows) * len(found.emotion)),
        recorded(provenance),
    ):
        made["examples"] = node_examples(run.model, rows, found, parts)
    if heads:
        few = _evenly(rows, PATTERN_CONTEXTS)
        with recorded(provenance):
            made["patterns"] = head_patterns(run.model, few, found.emotion, heads)
    return made


def _prompts(run: Run) -> list[list[Prompt]]:
    grid = run.groups
    whole = [c for c, full in zip(grid.contexts, grid.complete.tolist(), strict=True) if full]
    return [[emotion_prompt(c, e) for e in grid.emotions] for c in _evenly(whole, CONTEXTS)]


def _evenly(rows: Sequence[T], most: int) -> list[T]:
    # From the first to the last: a whole step would always meet the same valence.
    count = min(most, len(rows))
    return [rows[round(i * (len(rows) - 1) / max(1, count - 1))] for i in range(count)]


def _nodes(circuits: Sequence[Circuit]) -> list[str]:
    names = dict.fromkeys(node.id for circuit in circuits for node in circuit.nodes)
    return sorted(name for name in names if name not in ("embed", "readout"))


def _pattern_heads(circuits: Sequence[Circuit]) -> list[str]:
    chosen: set[str] = set()
    for circuit in circuits:
        ranked = sorted(circuit.of_kind("head"), key=lambda node: -abs(node.score or 0.0))
        chosen |= {node.id for node in ranked[:PATTERN_HEADS]}
    return sorted(chosen)


def _key(study: Study, nodes: Sequence[str], heads: Sequence[str]) -> str:
    """Of all that the records are made from."""
    made_from = [
        read_json(study.folder / place / "record.json") for place in ("directions", "effects/means")
    ]
    facts = [nodes, heads, CONTEXTS, PATTERN_CONTEXTS, made_from]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

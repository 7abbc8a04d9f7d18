"""The pages of a run: its report and its explorer."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from circuits.running import Reporter
from circuits.runs.folder import Study
from circuits.runs.patching import read_patches
from circuits.runs.steering import read_validation
from circuits.runs.work import run_of

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
    circuits, log = study.circuits, study.log
    done = log["stages"]
    measured = not {"directions", "effects", "importance", "circuits"} - {*done}
    first = next(iter(circuits.values()))
    found: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if measured and "imported" not in log["plan"]:
        names = ("heads", "neurons", "importance", "direct", "totals")
        found = {name: getattr(study, name) for name in names} | _records(study, reporter)
        if not any(circuit.paths for circuit in circuits.values()):
            notes = (_NO_PATHS,)
    else:
        notes = (_NO_MODEL,)
    content = ExplorerContent(
        title=f"Emotion circuits of {first.provenance.model.get('name', 'an unnamed model')}",
        model=first.provenance.model,
        circuits=circuits,
        effect="mean" if log["plan"].get("rank_by") == "mean" else "centred",
        scores=study.scores if "scores" in done else {},
        notes=notes,
        **found,
    )
    return explorer_page(explorer_document(content))


_NO_PATHS = (
    "Paths between parts have not been measured; edges show how parts write. "
    "The command `emotion-circuits paths` measures them."
)
_NO_MODEL = (
    "These are imported results: they name no model that could be read, so tokens, contexts and "
    "attention patterns are missing."
)


def _records(study: Study, reporter: Reporter | None) -> dict[str, Record]:
    """The records in ``explorer/``, made again if what they were made from has changed."""
    shown = [trimmed(circuit) for circuit in study.circuits.values()]
    nodes = sorted({n.id for own in shown for n in own.nodes} - {"embed", "readout"})
    strongest = [sorted(c.of_kind("head"), key=lambda n: -abs(n.score or 0.0)) for c in shown]
    heads = sorted({node.id for own in strongest for node in own[:PATTERN_HEADS]})
    folder = study.folder / "explorer"
    of = [read_json(study.folder / own / "record.json") for own in ("directions", "effects/means")]
    facts = json.dumps([nodes, heads, CONTEXTS, PATTERN_CONTEXTS, of], sort_keys=True)
    entry = {"format": _FORMAT, "key": hashlib.sha256(facts.encode()).hexdigest()}
    log = folder / "explorer.json"
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
    study: Study, nodes: Sequence[str], heads: Sequence[str], reporter: Reporter | None
) -> dict[str, Record]:
    run, found = run_of(study, reporter), study.directions
    model, groups = run.model, run.groups
    check_identities(model)
    whole = zip(groups.contexts, groups.complete.tolist(), strict=True)
    contexts = _evenly([context for context, full in whole if full], CONTEXTS)
    rows = [[emotion_prompt(c, e) for e in groups.emotions] for c in contexts]
    parts = [name for name in nodes if component(name).kind != "sublayer"]
    work = run.task("read examples", len(rows) * len(found.emotion))
    with recorded(found.provenance.child(explorer=_FORMAT)), run.as_planned():
        made: dict[str, Record] = {"lens": token_lens(model, differences(study.means), nodes)}
        with work:
            made["examples"] = node_examples(model, rows, found, parts)
        if heads:
            few = _evenly(rows, PATTERN_CONTEXTS)
            made["patterns"] = head_patterns(model, few, found.emotion, heads)
    return made


def _evenly(rows: Sequence[T], most: int) -> list[T]:
    # From the first to the last: a whole step would always meet the same valence.
    count = min(most, len(rows))
    return [rows[round(i * (len(rows) - 1) / max(1, count - 1))] for i in range(count)]

"""Collect what a run has saved for its report."""

from pathlib import Path

from circuits.data.replies import read_methods
from circuits.locks import held
from circuits.pipeline.patching import read_patches
from circuits.pipeline.study import Study
from circuits.pipeline.validation import read_validation
from circuits.report import ReportContent, write_report

__all__ = ["make_report", "refresh_report"]


def make_report(study: Study, path: Path) -> None:
    """Write the report of a finished run.

    Raises:
        RunError: a stage has not run.
    """
    log, (validation, heard, ablation) = study.log, read_validation(study)
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
            control=study.control,
            replies=read_methods(study.replies_path),
            patches=read_patches(study),
            validation=validation,
            heard=heard,
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

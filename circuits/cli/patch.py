"""``emotion-circuits patch``: activation patching of a finished run's model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from circuits.cli.console import OUT, cost_table
from circuits.cli.options import (
    Against,
    Contexts,
    DryRun,
    Mode,
    ReadoutOption,
    SomeEmotions,
    words,
)

__all__ = ["patch"]

Sites = Annotated[
    str,
    typer.Option(help="resid_pre, attn_out, resid_mid, mlp_out, resid_post, z, q, k, v, pattern."),
]
By = Annotated[
    Literal["role", "position", "all", "last"],
    typer.Option(help="What is patched at once; position: one at a time."),
]


def patch(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    emotion: SomeEmotions = "",
    against: Against = "plain",
    sites: Sites = "resid_pre,attn_out,mlp_out,z",
    by: By = "role",
    mode: Mode = "denoising",
    readout: ReadoutOption = "projection",
    contexts: Contexts = 8,
    dry_run: DryRun = False,
) -> None:
    """Patch activations between runs of the same test context, and map their effects."""
    from circuits.pipeline.contrast import Contrast
    from circuits.pipeline.patching import patch_run, patch_run_cost
    from circuits.pipeline.report import refresh_report
    from circuits.pipeline.study import Study

    study, costs = Study(run), {}
    for name in words(emotion) or study.emotions:
        contrast = Contrast(study, name, against, contexts)
        if dry_run:
            costs[name] = patch_run_cost(contrast, words(sites), by=by, readout=readout)
            continue
        done = patch_run(contrast, words(sites), by=by, mode=mode, readout=readout)
        OUT.print(str(done), soft_wrap=True)
    if dry_run:
        OUT.print(cost_table(costs))
    elif refresh_report(study):
        OUT.print(f"report: {(run / 'report.html').resolve()}", soft_wrap=True, markup=False)

"""``emotion-circuits patch``: activation patching of a finished run's model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from circuits.cli.console import OUT, cost_table
from circuits.cli.options import words

__all__ = ["patch"]


def patch(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    emotion: Annotated[str, typer.Option(help="Emotions, comma-separated; all by default.")] = "",
    against: Annotated[str, typer.Option(help="plain, or another emotion.")] = "plain",
    sites: Annotated[
        str,
        typer.Option(
            help="resid_pre, attn_out, resid_mid, mlp_out, resid_post, z, q, k, v, pattern."
        ),
    ] = "resid_pre,attn_out,mlp_out,z",
    by: Annotated[
        Literal["role", "position", "all", "last"],
        typer.Option(help="What is patched at once; position: one at a time."),
    ] = "role",
    mode: Annotated[
        Literal["denoising", "noising"],
        typer.Option(help="Clean values into the corrupt run, or the other way round."),
    ] = "denoising",
    readout: Annotated[
        Literal["projection", "logits", "reply"],
        typer.Option(help="Projection on the direction, emotion words, or judged replies."),
    ] = "projection",
    contexts: Annotated[int, typer.Option(help="How many test contexts.")] = 8,
    dry_run: Annotated[bool, typer.Option(help="Only say what it will cost.")] = False,
) -> None:
    """Patch activations between runs of the same test context, and map their effects."""
    from circuits.model.receipts import Cost
    from circuits.pipeline.contrast import Contrast
    from circuits.pipeline.patching import patch_run, patch_run_cost
    from circuits.pipeline.report import refresh_report
    from circuits.pipeline.study import Study

    study, total = Study(run), Cost()
    for name in words(emotion) or study.emotions:
        contrast = Contrast(study, name, against, contexts)
        if dry_run:
            total += patch_run_cost(contrast, words(sites), by=by, readout=readout)
            continue
        done = patch_run(contrast, words(sites), by=by, mode=mode, readout=readout)
        OUT.print(str(done), soft_wrap=True)
    if dry_run:
        OUT.print(cost_table(total))
    elif refresh_report(study):
        OUT.print(f"report: {(run / 'report.html').resolve()}", soft_wrap=True, markup=False)

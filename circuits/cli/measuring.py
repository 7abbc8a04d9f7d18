"""The commands that measure further: patching, paths, class-selective neurons."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from circuits.cli.console import OUT, Bars, finishing_batches, table_of
from circuits.cli.options import RunFolder, SomeEmotions, given, words
from circuits.errors import RunError
from circuits.names import EMOTIONS

if TYPE_CHECKING:
    from circuits.circuit.circuit import Circuit

__all__ = ["neurons", "patch", "paths"]


def patch(
    run: RunFolder,
    emotion: SomeEmotions = "",
    against: Annotated[str, typer.Option(help="plain, or another emotion.")] = "neutral",
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
) -> None:
    """Patch activations between runs of the same test context, and map their effects."""
    from circuits.runs.folder import Study
    from circuits.runs.patching import Contrast, patch_run
    from circuits.runs.report import refresh_report

    study = Study(run)
    for name in words(emotion) or study.emotions:
        contrast = Contrast(study, name, against, contexts)
        done = patch_run(contrast, words(sites), by=by, mode=mode, readout=readout, reporter=Bars())
        OUT.print(str(done), soft_wrap=True)
    if refresh_report(study):
        OUT.print(f"report: {(run / 'report.html').resolve()}", soft_wrap=True)


def paths(context: typer.Context, run: RunFolder, emotion: SomeEmotions = "") -> None:
    """Measure the paths between the parts of a run's circuits and write them into the circuits."""
    from circuits.runs.folder import Study
    from circuits.runs.patching import PathOptions, measure_paths
    from circuits.runs.work import run_of

    options = PathOptions(**given(context))  # type: ignore[arg-type]
    opened = run_of(Study(run), Bars())
    study = opened.study
    known = ("neutral", *dict.fromkeys((*study.emotions, *EMOTIONS)))
    if options.against not in known:
        raise RunError(f"--against: {options.against!r} is none of {', '.join(known)}")
    emotions = words(emotion) or tuple(e for e in study.emotions if e != options.against)
    for name in emotions:
        study.circuit_path(name)  # refuses one that the run lacks, before the first is measured
    found = {}
    with Bars().task("measure paths", len(emotions)) as done:
        for name in emotions:
            circuit, said = measure_paths(opened, name, options)
            found[name] = circuit, said["agreement"]
            done(1)
    OUT.print(_path_table(found))
    OUT.print(f"\npaths: {(study.folder / 'paths').resolve()}", soft_wrap=True)


def _path_table(found: "Mapping[str, tuple[Circuit, Mapping[str, float]]]") -> Table:
    numbers = ("paths", "causal", "rank agreement", "sign agreement")
    title = "Paths between the parts of the circuits"
    table = table_of(title, ["emotion"], numbers, "strongest causal paths")
    for emotion, (circuit, agreement) in found.items():
        causal = [edge for edge in circuit.paths if edge.causal]
        causal.sort(key=lambda edge: -abs(edge.exact or 0.0))
        table.add_row(
            emotion,
            str(len(circuit.paths)),
            str(len(causal)),
            f"{agreement['spearman']:.2f}",
            f"{agreement['sign']:.0%}",
            ", ".join(map(str, causal[:3])) or "-",
        )
    return table


def neurons(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, or a new one with --models.")],
    models: Annotated[
        str, typer.Option(help="Models, comma-separated; after the run's own, if it has one.")
    ] = "",
) -> None:
    """Find the neurons that are selective for a class of texts, mask and steer them.

    Writes neurons.json, neurons.html and the records under neurons/.
    """
    from circuits.files import read_json
    from circuits.runs.neurons import NeuronPlan, neuron_run

    plan = NeuronPlan(**given(context))  # type: ignore[arg-type]
    with finishing_batches():
        page = neuron_run(run, plan, models=words(models), reporter=Bars())
    OUT.print(neuron_table(read_json(run / "neurons.json")))
    OUT.print(f"page: {page.resolve()}", soft_wrap=True)


def neuron_table(found: Mapping[str, Any]) -> Table:
    """Every class with its change, the largest on another class, and p."""
    title = "Change of recognition, own neurons masked (points, test texts)"
    numbers = ("neurons", "change", "95% interval", "other", "p", "supported")
    table = table_of(title, ["class"], numbers)
    for label, row in found.items():
        table.add_row(
            label,
            str(row["n_neurons"]),
            f"{row['own_change']:+.1f}",
            f"{row['low']:+.1f} to {row['high']:+.1f}",
            f"{row['largest_other_change']:+.1f}",
            f"{row['random_p']:.3f}",
            "yes" if row["supported"] else "no",
        )
    return table

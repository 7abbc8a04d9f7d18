"""The commands that measure further: patching, paths, class-selective neurons."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table

from circuits.cli.console import OUT, Bars, finishing_batches
from circuits.cli.options import SomeEmotions, given, words
from circuits.errors import RunError
from circuits.names import EMOTIONS

if TYPE_CHECKING:
    from circuits.circuit.circuit import Circuit
    from circuits.runs.patching import PathStudy

__all__ = [
    "neurons",
    "patch",
    "paths",
]

Against = Annotated[str, typer.Option(help="plain, or another emotion.")]
Mode = Annotated[
    Literal["denoising", "noising"],
    typer.Option(help="Clean values into the corrupt run, or the other way round."),
]
ReadoutOption = Annotated[
    Literal["projection", "logits", "reply"],
    typer.Option(
        "--readout", help="Projection on the direction, emotion words, or judged replies."
    ),
]
Contexts = Annotated[int, typer.Option(help="How many test contexts.")]
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
    against: Against = "neutral",
    sites: Sites = "resid_pre,attn_out,mlp_out,z",
    by: By = "role",
    mode: Mode = "denoising",
    readout: ReadoutOption = "projection",
    contexts: Contexts = 8,
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
        OUT.print(f"report: {(run / 'report.html').resolve()}", soft_wrap=True, markup=False)


def paths(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    emotion: SomeEmotions = "",
) -> None:
    """Measure the paths between the parts of a run's circuits and write them into the circuits."""
    from circuits.runs.patching import PathOptions, PathStudy

    options = PathOptions(**given(context))  # type: ignore[arg-type]
    study = PathStudy(run, options, Bars())
    known = ("neutral", *dict.fromkeys((*study.study.emotions, *EMOTIONS)))
    if options.against not in known:
        raise RunError(f"--against: {options.against!r} is none of {', '.join(known)}")
    emotions = words(emotion) or tuple(e for e in study.study.emotions if e != options.against)
    for name in emotions:
        study.study.circuit_path(name)
    _measure(study, emotions)


def _measure(study: "PathStudy", emotions: tuple[str, ...]) -> None:
    found = {}
    with Bars().task("measure paths", len(emotions)) as done:
        for name in emotions:
            circuit, said = study.measure(name)
            found[name] = circuit, said["agreement"]
            done(1)
    OUT.print(_path_table(found))
    place = (study.study.folder / "paths").resolve()
    OUT.print(f"\npaths: {place}", soft_wrap=True, markup=False)


def _path_table(found: "Mapping[str, tuple[Circuit, Mapping[str, float]]]") -> Table:
    table = Table(title="Paths between the parts of the circuits")
    table.add_column("emotion")
    for name in ("paths", "causal", "rank agreement", "sign agreement"):
        table.add_column(name, justify="right")
    table.add_column("strongest causal paths")
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
    OUT.print(f"page: {page.resolve()}", soft_wrap=True, markup=False)


def neuron_table(found: Mapping[str, Any]) -> Table:
    """Every class with its change, the largest on another class, and p."""
    title = "Change of recognition, own neurons masked (points, test texts)"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    for name in ("neurons", "change", "95% interval", "other", "p", "supported"):
        table.add_column(name, justify="right", no_wrap=True)
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

"""``emotion-circuits paths``: along which paths the parts of a circuit act on each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from circuits.cli.console import OUT, Bars, cost_table
from circuits.cli.options import Against, Contexts, DryRun, Mode, Seed, SomeEmotions, words
from circuits.errors import RunError
from circuits.names import EMOTIONS

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit
    from circuits.pipeline.paths import PathStudy

__all__ = ["paths_command"]


def paths_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    emotion: SomeEmotions = "",
    against: Against = "plain",
    method: Annotated[
        Literal["eap", "eap-ig"],
        typer.Option(help="One gradient, or the mean over inputs between two emotions."),
    ] = "eap",
    steps: Annotated[int, typer.Option(help="Inputs of eap-ig.")] = 5,
    mode: Mode = "noising",
    contexts: Contexts = 12,
    split: Annotated[
        Literal["test", "dev"], typer.Option(help="Held-out contexts: test ones, or dev ones.")
    ] = "test",
    keep: Annotated[int, typer.Option(help="Paths patched and written into a circuit.")] = 60,
    sample: Annotated[int, typer.Option(help="Random paths patched beside them.")] = 60,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Measure the paths between the parts of a run's circuits and write them into the circuits."""
    from circuits.pipeline.paths import PathOptions, PathStudy

    options = PathOptions(
        other=None if against == "plain" else against, method=method, steps=steps, mode=mode,
        split=split, contexts=contexts, keep=keep, sample=sample, seed=seed,
    )  # fmt: skip
    study = PathStudy(run, options, Bars())
    known = ("plain", *dict.fromkeys((*study.study.emotions, *EMOTIONS)))
    if against not in known:
        raise RunError(f"--against: {against!r} is none of {', '.join(known)}")
    emotions = words(emotion) or tuple(e for e in study.study.emotions if e != options.other)
    for name in emotions:
        study.study.circuit_path(name)
    if dry_run:
        costs = {name: study.cost(name) for name in emotions}
        OUT.print(
            cost_table({f"{e}: {work}": c for e, own in costs.items() for work, c in own.items()})
        )
        return
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

"""``emotion-circuits neurons``: class-selective neurons for emotions and rhetorical devices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from circuits.cli.console import OUT, Bars
from circuits.cli.interrupting import finishing_batches
from circuits.cli.options import words

__all__ = ["neurons"]

TextColumn = Annotated[str, typer.Option(help="Column of the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the class.")]
Request = Annotated[
    str | None, typer.Option(help="The question put to every text; needed for own texts.")
]
TextSets = Annotated[
    str, typer.Option(help="emotion, rhetoric, or folders with train, dev and test files.")
]
Share = Annotated[float, typer.Option(help="Of the model's neurons, for each class.")]
Sign = Annotated[str, typer.Option(help="What must be above zero: gate or product.")]
Where = Annotated[str, typer.Option(help="Counted tokens: content, all or last.")]


def neurons(
    run: Annotated[Path, typer.Argument(help="A run folder, or a new one with --models.")],
    models: Annotated[
        str, typer.Option(help="Models, comma-separated; after the run's own, if it has one.")
    ] = "",
    texts: TextSets = "emotion,rhetoric",
    request: Request = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    pair: Annotated[str | None, typer.Option(help="Column that pairs share.")] = None,
    selector: Annotated[
        str,
        typer.Option(help="lape, lap, mad, cas, z, contribution, attribution or random."),
    ] = "attribution",
    share: Share = 0.02,
    mask: Annotated[
        str, typer.Option(help="zero, mean, resample, gain, attenuate or static.")
    ] = "zero",
    sign: Sign = "gate",
    where: Where = "content",
    test_texts: Annotated[int, typer.Option(help="Test texts of a class, at most.")] = 200,
    few_texts: Annotated[int, typer.Option(help="The same for sweeps and comparisons.")] = 40,
    draws: Annotated[int, typer.Option(help="Random sets for the main result.")] = 40,
    few_draws: Annotated[int, typer.Option(help="Random sets for everything else.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Find the neurons that are selective for a class of texts, mask and steer them.

    Writes neurons.json, neurons.html and the records under neurons/.
    """
    from circuits.files import read_json
    from circuits.pipeline.neuron_plan import NeuronPlan
    from circuits.pipeline.neuron_run import neuron_run

    chosen: dict[str, Any] = {"sign": sign, "where": where}
    plan = NeuronPlan(
        sets=words(texts), request=request, text=text, label=label, pair=pair, selector=selector,
        share=share, mask=mask, test_texts=test_texts, few_texts=few_texts, draws=draws,
        few_draws=few_draws, seed=seed, **chosen,
    )  # fmt: skip
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

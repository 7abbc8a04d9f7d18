"""Class-selective neurons into a run folder: records, ``neurons.json`` and a page."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from circuits.assets import shipped
from circuits.data.texts import LabelledSet
from circuits.errors import DataError, RunError
from circuits.files import exists, is_file, is_folder, remove_leftovers, write_json
from circuits.graph.circuit import Circuit
from circuits.locks import held
from circuits.model.loading import EMBEDDED as SHIPPED_MODELS
from circuits.model.loading import load_model
from circuits.model.protocol import Model
from circuits.names import neuron_name
from circuits.pipeline.neuron_plan import EMBEDDED, NeuronPlan, open_set
from circuits.pipeline.neurons import SetStudy
from circuits.pipeline.places import made_beside
from circuits.pipeline.study import Study
from circuits.pipeline.trust import trusted
from circuits.pipeline.work import Reporter, Run, Silent, plan_of
from circuits.report.neuron_results import SetResults
from circuits.report.neurons import NeuronPage, write_neuron_page
from circuits.selective.asking import Asking
from circuits.selective.cross import CrossSignal, cross_signal
from circuits.selective.selection import Association

__all__ = ["neuron_run"]


def neuron_run(
    folder: Path,
    plan: NeuronPlan,
    *,
    models: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Path:
    """Measure class-selective neurons; return the page's path.

    Everything is measured for the first model; of the others the main result. What was measured
    before in the same folder by the same plan is read again.

    Args:
        folder: A run folder, or a new one.
        plan: Texts, selector, mask, and how much is asked.
        models: Names or folders; the run's own model is the first by default.
        reporter: Shows progress; silent by default.

    Raises:
        RunError: there is no model, or the sets cannot be opened.
        DataError: labelled texts are not what they should be.
        ModelError: a model cannot be loaded, or lacks a hook point.
    """
    reporter = reporter or Silent()
    sets = [open_set(name, plan) for name in plan.sets]
    _check_labels(sets)
    run = Study(folder) if is_file(folder / "run.json") else None
    own = None if run is None else Run(plan_of(run), run, reporter)
    sources = _sources(own, models, folder)
    noted = nullcontext() if run is None else made_beside(run, folder / "neurons", ("circuits",))
    with held(folder), noted:
        remove_leftovers(folder)
        return _measured(folder, sets, plan, run, _opened(own, sources), reporter)


def _measured(
    folder: Path,
    sets: Sequence[LabelledSet],
    plan: NeuronPlan,
    run: Study | None,
    opened: Iterator[tuple[str, Model]],
    reporter: Reporter,
) -> Path:
    found: dict[str, list[SetStudy]] = {}
    for name, model in opened:
        place = folder / "neurons" / name
        found[name] = [SetStudy(model, own, plan, place / own.name, reporter) for own in sets]
        for own in found[name]:
            _ = own.effects
        write_json(place / "neurons.json", _summary(found[name]))
    own = next(iter(found.values()))
    page = _page(own, found, run)
    write_json(folder / "neurons.json", _summary(own))
    path = folder / "neurons.html"
    write_neuron_page(page, path)
    return path


def _check_labels(sets: Sequence[Any]) -> None:
    seen: dict[str, str] = {}
    for own in sets:
        for label in own.label:
            if label in seen:
                raise DataError(
                    f"the class {label!r} is in the sets {seen[label]!r} and {own.name!r}; "
                    "give sets of different classes, or run them one by one"
                )
            seen[label] = own.name


def _sources(own: Run | None, models: Sequence[str], folder: Path) -> dict[str, Path]:
    """Name of every model's folder, and where the model is; the run's own first."""
    if not models and own is None:
        raise RunError(f"{folder} is no run folder; give --models, such as sev-mini,sev-nano")
    sources: dict[str, Path] = {}
    for model in models if own is None else (own.plan.model, *models):
        name, source = Path(model).name, _source(model)
        if sources.setdefault(name, source) != source:
            raise RunError(
                f"--models: {sources[name]} and {source} are both called {name!r}, and so would "
                "their results be; give one of the folders another name"
            )
    return sources


def _opened(own: Run | None, sources: Mapping[str, Path]) -> Iterator[tuple[str, Model]]:
    for place, (name, source) in enumerate(sources.items()):
        if own is not None and place == 0:
            yield name, own.model
        else:
            yield name, load_model(source, trust_remote_code=trusted("code"))


def _source(model: str) -> Path:
    """The folder of a model on disk; a name on the hub as it is."""
    if model in SHIPPED_MODELS and not exists(model):
        return shipped(model).resolve()
    return Path(model).resolve() if is_folder(model) else Path(model)


def _summary(studies: Sequence[SetStudy]) -> dict[str, Any]:
    return {label: row for own in studies for label, row in own.summary().items()}


def _page(
    studies: Sequence[SetStudy], found: Mapping[str, Sequence[SetStudy]], run: Study | None
) -> NeuronPage:
    sets = [_results(own) for own in studies]
    cross = _cross(studies)
    first = studies[0]
    return NeuronPage(
        title=f"Class-selective neurons of {first.provenance.model['name']}",
        sets=sets,
        association=_association(studies),
        cross=cross,
        circuit_overlap=[] if run is None else list(_overlap(studies, run)),
        models={name: [own.effects for own in each] for name, each in found.items()},
        receipts={
            f"{own.texts.name}: {part}": cost
            for own in studies
            for part, cost in own.receipts.items()
        },
        provenance=first.provenance,
        options=first.plan.to_json(),
    )


def _results(own: SetStudy) -> SetResults:
    return SetResults(
        name=own.texts.name,
        claimed=own.claimed,
        masks=own.masks,
        selectors=own.selectors,
        halves=own.halves,
        null=own.null,
        sweep=own.sweep,
        adaptive=own.adaptive,
        induction=own.induction,
        depth=own.depth,
        paired=own.paired,
        naming=own.naming,
    )


def _association(studies: Sequence[SetStudy]) -> list[Association]:
    """Classes within every set, and those of the first set with those of the second."""
    within = [own.chosen.jaccard() for own in studies]
    between = [studies[0].chosen.jaccard(other.chosen) for other in studies[1:]]
    return [*within, *between]


def _cross(studies: Sequence[SetStudy]) -> CrossSignal | None:
    """Rhetoric into emotion, where both shipped sets (or their like) were measured."""
    named = {own.texts.name: own for own in studies}
    if not set(EMBEDDED) <= set(named):
        return None
    emotion, rhetoric = (named[name] for name in EMBEDDED)
    plan = emotion.plan

    def make(done: Any) -> CrossSignal:
        return cross_signal(
            emotion.model, emotion.texts, emotion.chosen.sel(label=emotion.claimed),
            rhetoric.profile.sel(label=rhetoric.claimed), progress=done,
            how=Asking(plan.few_texts, plan.few_draws, plan.seed, batch_size=plan.batch_size),
        )  # fmt: skip

    return emotion.kept(CrossSignal, "cross", "rhetoric into emotion", 0, make)


def _overlap(studies: Sequence[SetStudy], run: Study) -> Iterator[tuple[str, str, int, int, int]]:
    """The neurons of the run's circuits beside those of every selector."""
    if "circuits" not in run.log["stages"]:
        return
    for own in studies:
        for label in own.claimed:
            if label not in run.emotions:
                continue
            mine = _neurons(run.circuits[label])
            for selector in own.selectors:
                theirs = set(own.selection(selector).neurons_of(label))
                yield label, selector, len(mine), len(theirs), len(mine & theirs)


def _neurons(circuit: Circuit) -> set[str]:
    return {neuron_name(layer, neuron) for layer, neuron in circuit.neurons}

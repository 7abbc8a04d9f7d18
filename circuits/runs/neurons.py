"""Class-selective neurons of one or several models: everything that is measured, and its files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass as options_dataclass

from circuits.errors import DataError, RunError
from circuits.files import (
    exists,
    held,
    is_file,
    is_folder,
    read_json,
    remove_leftovers,
    shipped,
    write_json,
)
from circuits.journal import forget, journal, stop_if_asked
from circuits.judges.replies import Reply, read_replies, write_rows
from circuits.models.generate import elicit
from circuits.models.load import EMBEDDED as SHIPPED_MODELS
from circuits.models.load import describe_model, load_model
from circuits.models.memory import counted
from circuits.models.protocol import Model
from circuits.names import LITERAL, neuron_name
from circuits.neurons.mask import KINDS, Mask
from circuits.neurons.profile import (
    LabelAttribution,
    Profile,
    Sign,
    Where,
    label_attribution,
    profile_texts,
)
from circuits.neurons.select import (
    SELECTORS,
    Selection,
    depth_profile,
    entropy_null,
    select_neurons,
    split_half,
)
from circuits.neurons.steer import CrossSignal, Induction, add_class_means, cross_signal
from circuits.neurons.study import (
    Adaptive,
    MaskEffects,
    Naming,
    PairedEffects,
    RangeSweep,
    Schedule,
    adaptive_masking,
    mask_effects,
    naming,
    paired_effects,
    range_sweep,
)
from circuits.prompts import sev
from circuits.prompts.prompt import SPLITS, LabelledSet, Prompt, Texts
from circuits.prompts.templates import neutral_prompts
from circuits.prompts.texts import embedded_set, read_texts
from circuits.provenance import Provenance, recorded, versions
from circuits.report.neurons import NeuronPage, SetResults, write_neuron_page
from circuits.running import Reporter, execution
from circuits.runs.folder import Study, digest_of, made_beside
from circuits.runs.plan import CONFIG, Count, checked, listed, trusted
from circuits.runs.work import Run, run_of

__all__ = ["EMBEDDED", "NeuronPlan", "SetStudy", "neuron_run", "open_set"]

EMBEDDED = ("emotion", "rhetoric")
"""Sets of labelled texts that are shipped."""

AtLeastTwo = Annotated[int, Field(ge=2)]


@checked
@options_dataclass(frozen=True, config=CONFIG)
class NeuronPlan:
    """Texts, selector, mask, and how much is measured."""

    texts: Annotated[tuple[str, ...], Field(min_length=1)] = EMBEDDED
    """Shipped sets (emotion, rhetoric), or folders that hold a file per split (``train.jsonl``,
    ``dev.tsv``, ...)."""
    text: str = "text"
    """Column of the text."""
    label: str = "label"
    """Column of the class."""
    pair: str | None = None
    """Column that pairs share; texts without one have no paraphrases."""
    request: str | None = None
    """How the model is asked for the class of a text; the set's own wording by default."""
    selector: str = "attribution"
    """lape, lap, mad, cas, z, contribution, attribution or random."""
    share: Annotated[float, Field(gt=0, le=1 / 3)] = 0.02
    """Of the model's neurons, selected for each class."""
    mask: str = "zero"
    """The main mask: zero, mean, resample, gain, attenuate or static; others are compared with
    it."""
    sign: Sign = "gate"
    """What must be above zero: gate or product."""
    where: Where = "content"
    """Counted tokens: content, all or last."""
    train_texts: AtLeastTwo = 200
    """Train texts of every class, at most."""
    dev_texts: AtLeastTwo = 40
    """Dev texts of every class, at most."""
    test_texts: AtLeastTwo = 200
    """Test texts of every class, at most."""
    few_texts: AtLeastTwo = 40
    """The same for sweeps, the other masks and selectors, and steering."""
    draws: AtLeastTwo = 40
    """Random sets for the main result."""
    few_draws: AtLeastTwo = 10
    """Random sets or pools for everything else."""
    shares: tuple[float, ...] = (0.01, 0.02, 0.03, 0.04, 0.05)
    """Of the model's neurons, masked in every range of layers."""
    doses: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    """Multiples of a class's mean activation that are added to its neurons."""
    loop_steps: int = 10
    """Trials of the adaptive loop, at most."""
    neutral: AtLeastTwo = 24
    """Plain contexts whose replies tell whether a masked model is broken."""
    batch_size: Count = 256
    """Prompts at once, at most."""
    seed: int = 0
    """Of everything random."""

    @field_validator("texts", "shares", "doses", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("selector", "mask")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        known = tuple(SELECTORS) if info.field_name == "selector" else KINDS
        if value not in known:
            raise RunError(f"{info.field_name}: found {value!r}; give {', '.join(known)}")
        return value

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {**asdict(self), "texts": list(self.texts)}


def open_set(name: str, plan: NeuronPlan) -> LabelledSet:
    """A shipped set, or the one in a folder.

    Raises:
        RunError: the folder lacks a split, or has one twice.
        DataError: a file is not what it should be.
    """
    if name in EMBEDDED:
        own = embedded_set(name)
        return own if plan.request is None else replace(own, request=plan.request)
    folder, columns = Path(name), {"text": plan.text, "label": plan.label, "pair": plan.pair}
    if plan.request is None:
        raise RunError(f"--texts {name}: give --request, the question put to every text")
    read = dict[str, Texts]()
    for split in SPLITS:
        names = [f"{split}.{suffix}" for suffix in ("jsonl", "tsv", "csv")]
        there = [folder / own for own in names if is_file(folder / own)]
        if len(there) != 1:
            raise RunError(
                f"--texts {folder}: expected one file for the {split} split ({', '.join(names)}), "
                f"found {len(there)}; or give a shipped set: {', '.join(EMBEDDED)}"
            )
        labels = read["train"].label if read else None
        read[split] = read_texts(there[0], split=split, labels=labels, **columns)
    return LabelledSet(folder.name, plan.request, **read)


COMPARED = ("lape", "lap", "mad", "cas", "contribution", "attribution", "random")
"""Selectors of which the neurons are compared."""

MASKS = (Mask("zero"), Mask("mean"), Mask("resample"), Mask("attenuate", 1.0))
"""Masks that are compared on the same neurons."""

T = TypeVar("T")


@dataclass
class SetStudy:
    """One set of labelled texts and one model; what was measured before is read again.

    Seed and batch size are those in force, which :func:`neuron_run` takes from the plan.
    """

    model: Model
    texts: LabelledSet
    plan: NeuronPlan
    folder: Path
    reporter: Reporter
    receipts: dict[str, dict[str, int]] = field(default_factory=dict)

    @cached_property
    def provenance(self) -> Provenance:
        """Model, texts and versions."""
        rows = [[r.text, r.label] for own in self.texts.splits for r in own.rows]
        return Provenance(
            describe_model(self.model), digest_of(rows), {"request": self.texts.request}, versions()
        )

    @cached_property
    def _train(self) -> tuple[Model, Texts, str]:
        return self.model, self.texts.train.first(self.plan.train_texts), self.texts.request

    @cached_property
    def profile(self) -> Profile:
        """Activity on train texts."""
        how, work = {"sign": self.plan.sign, "where": self.plan.where}, len(self._train[1])
        return self.kept(Profile, "profile", profile_texts, *self._train, **how, _work=work)

    @cached_property
    def attribution(self) -> LabelAttribution:
        """What the own label's margin loses without each neuron, to first order, on train texts."""
        work, parts = len(self._train[1]), self._train
        return self.kept(LabelAttribution, "attribution", label_attribution, *parts, _work=work)

    def selection(self, selector: str | None = None, share: float | None = None) -> Selection:
        """The neurons of every class by a selector; as many for each, so that they compare."""
        return select_neurons(
            self.profile,
            selector or self.plan.selector,
            share=share or self.plan.share,
            attribution=self.attribution,
            per="label",
        )

    @cached_property
    def chosen(self) -> Selection:
        """The neurons that the main results are about."""
        found = self.selection()
        found.save(self.folder / "selection")
        return found

    @cached_property
    def effects(self) -> MaskEffects:
        """The main result: the plan's mask on all test texts."""
        how = {"per_label": self.plan.test_texts, "draws": self.plan.draws}
        return self._masked("effects", self.chosen, Mask(self.plan.mask), how)

    @property
    def claimed(self) -> tuple[str, ...]:
        """Classes of which something is said."""
        return tuple(label for label in self.texts.label if label != LITERAL)

    @cached_property
    def neutral(self) -> list[Reply]:
        """The model's own replies to neutral prompts."""
        count = self.plan.neutral
        scenarios = sev.spread(sev.read(shipped("sev/test.jsonl")), (count + 2) // 3)
        prompts = neutral_prompts(sev.contexts(scenarios)[:count])
        return self.kept(_Replies, "neutral", _replies, self.model, prompts, _work=count).rows

    def results(self) -> SetResults:
        """Everything that is measured on one set by itself."""
        plan, mask, kept = self.plan, Mask(self.plan.mask), self.kept
        model, texts, chosen, profile = parts = self.model, self.texts, self.chosen, self.profile
        few = {"per_label": plan.few_texts, "draws": plan.few_draws}
        wide = {"per_label": plan.test_texts, "draws": plan.few_draws}
        masks = {plan.mask: self.effects}
        for own in MASKS:
            if own.kind != plan.mask:
                masks[own.kind] = self._masked(f"masks/{own.kind}", chosen, own, few)
        selectors = {
            name: self._masked(f"selectors/{name}", self.selection(name), mask, few)
            for name in COMPARED
        }
        loop = {"schedule": Schedule(steps=plan.loop_steps, per_label=plan.dev_texts), **wide}
        ranges = {**few, "shares": plan.shares, "draws": min(3, plan.few_draws)}
        of_share = model, texts, lambda share: self.selection(share=share), profile, mask
        by = {"share": plan.share, "attribution": self.attribution}
        paired = None
        if LITERAL in texts.label:
            paired = kept(PairedEffects, "paired", paired_effects, *parts, mask, **wide)
        doses = {"doses": plan.doses, **few}
        return SetResults(
            name=texts.name,
            claimed=self.claimed,
            masks=masks,
            selectors=selectors,
            halves=split_half(profile, plan.selector, **by),
            null=entropy_null(profile),
            depth=depth_profile(chosen),
            sweep=kept(RangeSweep, "sweep", range_sweep, *of_share, **ranges),
            adaptive=kept(Adaptive, "adaptive", adaptive_masking, *parts, **loop),
            induction=kept(Induction, "induction", add_class_means, *parts, **doses),
            paired=paired,
            naming=kept(Naming, "naming", naming, *parts, mask, per_label=plan.few_texts),
        )

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per class: size, changes on test texts in percentage points, and p."""
        found, rows = self.effects, {}
        for label in self.claimed:
            i, j = found.index("label", label), found.index("other_label", label)
            points = {
                "own_change": found.own[i],
                "low": found.low[i, j],
                "high": found.high[i, j],
                "largest_other_change": found.largest_other[i],
                "accuracy": found.base[j],
            }
            rows[label] = {
                "n_neurons": int(found.n_neurons[i]),
                **{name: round(float(value), 2) for name, value in points.items()},
                "random_p": round(float(found.random_p[i]), 4),
                "corrected_p": round(float(found.corrected_p[i]), 4),
                "supported": bool(found.supported[i]),
            }
        return rows

    def _masked(
        self, place: str, selection: Selection, mask: Mask, how: Mapping[str, int]
    ) -> MaskEffects:
        parts = self.model, self.texts, selection, self.profile, mask, self.neutral
        return self.kept(MaskEffects, place, mask_effects, *parts, **how)

    def kept(
        self, kind: Any, place: str, work: Callable[..., T], *parts: Any, _work: int = 0, **how: Any
    ) -> T:
        """What the same plan made before, or ``work(*parts, **how)``, which is saved."""
        folder = self.folder / place
        key = digest_of([self.plan.to_json(), self.provenance.to_json()])
        unfinished = self.folder / ".resume" / f"{place.replace('/', '-')}.jsonl"
        note = folder / "key.json"
        with (
            self.reporter.task(f"{self.texts.name}: {place}", _work) as done,
            execution(progress=done),
            recorded(self.provenance),
        ):
            if note.is_file() and read_json(note)["key"] == key:
                found, self.receipts[place] = kind.load(folder), read_json(note)["receipt"]
            else:
                note.unlink(missing_ok=True)
                with counted() as receipt, journal(unfinished, key):
                    found: Any = work(*parts, **how)
                found.save(folder)
                self.receipts[place] = receipt.to_json()
                # The key is written last: without it the result counts as not made.
                write_json(note, {"key": key, "receipt": receipt.to_json()})
            forget(unfinished)
            stop_if_asked()
        return found


@dataclass(frozen=True)
class _Replies:
    """Replies, kept as records are."""

    rows: list[Reply]

    def save(self, folder: Path) -> None:
        write_rows(folder / "replies.jsonl", self.rows)

    @classmethod
    def load(cls, folder: Path) -> "_Replies":
        return cls(read_replies(folder / "replies.jsonl"))


def _replies(model: Model, prompts: Sequence[Prompt]) -> _Replies:
    return _Replies(elicit(model, prompts))


def neuron_run(
    folder: Path, plan: NeuronPlan, *, models: Sequence[str] = (), reporter: Reporter | None = None
) -> Path:
    """Measure class-selective neurons; return the page's path.

    Everything is measured for the first model; of the others the main result. What was measured
    before in the same folder by the same plan is read again.

    Args:
        folder: A run folder, or a new one.
        plan: Texts, selector, mask, and how much is measured.
        models: Names or folders; the run's own model is the first by default.
        reporter: Shows progress; silent by default.

    Raises:
        RunError: there is no model, or the sets cannot be opened.
        DataError: labelled texts are not what they should be.
        ModelError: a model cannot be loaded, or lacks a hook point.
    """
    reporter = reporter or Reporter()
    sets = [open_set(name, plan) for name in plan.texts]
    _check_labels(sets)
    run = Study(folder) if is_file(folder / "run.json") else None
    own = None if run is None else run_of(run, reporter)
    sources = _sources(own, models, folder)
    noted = nullcontext() if run is None else made_beside(run, folder / "neurons", ("circuits",))
    with held(folder), noted, execution(batch_size=plan.batch_size, seed=plan.seed):
        remove_leftovers(folder)
        found: dict[str, list[SetStudy]] = {}
        for name, source in sources.items():
            if own is not None and not found:
                model = own.model
            else:
                model = load_model(source, trust_remote_code=trusted("code"))
            place = folder / "neurons" / name
            found[name] = [SetStudy(model, one, plan, place / one.name, reporter) for one in sets]
            write_json(place / "neurons.json", _summary(found[name]))
        page = _page(found, run)
        write_json(folder / "neurons.json", _summary(next(iter(found.values()))))
        write_neuron_page(page, folder / "neurons.html")
    return folder / "neurons.html"


def _check_labels(sets: Sequence[LabelledSet]) -> None:
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
        path = shipped(model) if model in SHIPPED_MODELS and not exists(model) else Path(model)
        path = path.resolve() if is_folder(path) else path  # others are names on the hub
        if sources.setdefault(path.name, path) != path:
            raise RunError(
                f"--models: {sources[path.name]} and {path} are both called {path.name!r}, and so "
                "would their results be; give one of the folders another name"
            )
    return sources


def _summary(studies: Sequence[SetStudy]) -> dict[str, Any]:
    return {label: row for own in studies for label, row in own.summary().items()}


def _page(found: Mapping[str, Sequence[SetStudy]], run: Study | None) -> NeuronPage:
    studies = next(iter(found.values()))
    first, *others = studies
    sets = [own.results() for own in studies]
    cross = _cross({own.texts.name: own for own in studies})
    return NeuronPage(
        title=f"Class-selective neurons of {first.provenance.model['name']}",
        sets=sets,
        # Classes within every set, and those of the first set with those of the others.
        association=[
            *(own.chosen.jaccard() for own in studies),
            *(first.chosen.jaccard(own.chosen) for own in others),
        ],
        cross=cross,
        circuit_overlap=[] if run is None else list(_overlap(studies, run)),
        models={name: [own.effects for own in each] for name, each in found.items()},
        receipts={f"{s.texts.name}: {part}": r for s in studies for part, r in s.receipts.items()},
        provenance=first.provenance,
        options=first.plan.to_json(),
    )


def _cross(studies: Mapping[str, SetStudy]) -> CrossSignal | None:
    """Rhetoric into emotion, where both shipped sets (or their like) were measured."""
    if not set(EMBEDDED) <= set(studies):
        return None
    emotion, rhetoric = (studies[name] for name in EMBEDDED)
    return emotion.kept(
        CrossSignal,
        "cross",
        cross_signal,
        emotion.model,
        emotion.texts,
        emotion.chosen.sel(label=emotion.claimed),
        rhetoric.profile.sel(label=rhetoric.claimed),
        per_label=emotion.plan.few_texts,
        draws=emotion.plan.few_draws,
    )


def _overlap(studies: Sequence[SetStudy], run: Study) -> Iterator[tuple[str, str, int, int, int]]:
    """The neurons of the run's circuits compared with those of every selector."""
    emotions = run.emotions if "circuits" in run.keys else ()
    for own in studies:
        for label in [label for label in own.claimed if label in emotions]:
            mine = {neuron_name(*neuron) for neuron in run.circuits[label].neurons}
            for selector in COMPARED:
                theirs = set(own.selection(selector).neurons_of(label))
                yield label, selector, len(mine), len(theirs), len(mine & theirs)

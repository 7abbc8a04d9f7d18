"""Class-selective neurons of one or several models: everything that is measured, and its files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass as options_dataclass

from circuits.circuit.circuit import Circuit
from circuits.errors import DataError, RunError
from circuits.files import exists, held, is_file, is_folder, remove_leftovers, shipped, write_json
from circuits.judges.replies import Reply, read_replies, write_rows
from circuits.models.generate import Progress, elicit
from circuits.models.load import EMBEDDED as SHIPPED_MODELS
from circuits.models.load import describe_model, load_model
from circuits.models.protocol import Model
from circuits.names import LITERAL, neuron_name
from circuits.neurons.adaptive import Adaptive, Schedule, adaptive_masking
from circuits.neurons.mask import KINDS, Asking, Mask, Naming, naming
from circuits.neurons.profile import (
    LabelAttribution,
    Profile,
    Sign,
    Where,
    label_attribution,
    profile_texts,
)
from circuits.neurons.recognition import (
    DepthProfile,
    MaskEffects,
    PairedEffects,
    Ranges,
    RangeSweep,
    depth_profile,
    mask_effects,
    paired_effects,
    range_sweep,
)
from circuits.neurons.select import (
    SELECTORS,
    Association,
    EntropyNull,
    Selection,
    SplitHalf,
    entropy_null,
    select_neurons,
    split_half,
)
from circuits.neurons.steer import CrossSignal, Induction, cross_signal, induce
from circuits.prompts import sev
from circuits.prompts.prompt import SPLITS, LabelledSet, Split
from circuits.prompts.templates import neutral_prompts
from circuits.prompts.texts import embedded_set, read_texts
from circuits.provenance import Provenance, recorded, versions
from circuits.records import Record
from circuits.report.neurons import NeuronPage, SetResults, write_neuron_page
from circuits.running import execution
from circuits.runs.folder import Study, digest_of, kept_result, made_beside
from circuits.runs.plan import CONFIG, Count, checked, listed, trusted
from circuits.runs.work import Reporter, Run, Silent, plan_of

__all__ = [
    "EMBEDDED",
    "NeuronPlan",
    "SetStudy",
    "neuron_run",
    "open_set",
]

EMBEDDED = ("emotion", "rhetoric")
"""Sets of labelled texts that are shipped."""

_SUFFIXES = (".jsonl", ".tsv", ".csv")


AtLeastTwo = Annotated[int, Field(ge=2)]


@checked
@options_dataclass(frozen=True, config=CONFIG)
class NeuronPlan:
    """Texts, selector, mask, and how much is asked."""

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
    """The main mask: zero, mean, resample, gain, attenuate or static; others are measured beside
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
        return own if plan.request is None else _asked(own, plan.request)
    folder = Path(name)
    if plan.request is None:
        raise RunError(f"--texts {name}: give --request, the question put to every text")
    found = {split: _file_of(folder, split) for split in SPLITS}
    columns: dict[str, Any] = {"text": plan.text, "label": plan.label, "pair": plan.pair}
    train = read_texts(found["train"], split="train", **columns)
    others = (
        read_texts(found[split], split=split, labels=train.label, **columns) for split in SPLITS[1:]
    )
    return LabelledSet(folder.name, plan.request, train, *others)


def _asked(own: LabelledSet, request: str) -> LabelledSet:
    return LabelledSet(own.name, request, own.train, own.dev, own.test)


def _file_of(folder: Path, split: Split) -> Path:
    found = [folder / f"{split}{suffix}" for suffix in _SUFFIXES]
    there = [path for path in found if is_file(path)]
    if len(there) != 1:
        raise RunError(
            f"--texts {folder}: expected one file for the {split} split "
            f"({', '.join(path.name for path in found)}), found {len(there)}; "
            f"or give a shipped set: {', '.join(EMBEDDED)}"
        )
    return there[0]


COMPARED = ("lape", "lap", "mad", "cas", "contribution", "attribution", "random")
"""What is compared."""

MASKS = (Mask("zero"), Mask("mean"), Mask("resample"), Mask("attenuate", 1.0))
"""What is compared on the same neurons."""

R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass
class SetStudy:
    """One set of labelled texts asked of one model; what was measured before is read again."""

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
    def profile(self) -> Profile:
        """Activity on train texts."""
        train = self.texts.train.first(self.plan.train_texts)

        def make(done: Progress) -> Profile:
            with recorded(self.provenance):
                return profile_texts(
                    self.model,
                    train,
                    self.texts.request,
                    sign=self.plan.sign,
                    where=self.plan.where,
                    seed=self.plan.seed,
                    progress=done,
                )

        return self.kept(Profile, "profile", "read train texts", len(train), make)

    @cached_property
    def attribution(self) -> LabelAttribution:
        """What the own label's margin loses without each neuron, to first order, on train texts."""
        train = self.texts.train.first(self.plan.train_texts)

        def make(done: Progress) -> LabelAttribution:
            with recorded(self.provenance):
                return label_attribution(
                    self.model,
                    train,
                    self.texts.request,
                    seed=self.plan.seed,
                    progress=done,
                )

        return self.kept(LabelAttribution, "attribution", "attribute margins", len(train), make)

    def selection(self, selector: str | None = None, share: float | None = None) -> Selection:
        """The neurons of every class by a selector."""
        return select_neurons(
            self.profile,
            selector or self.plan.selector,
            share=share or self.plan.share,
            attribution=self.attribution,
            seed=self.plan.seed,
            per=self._per(selector),
        )

    def _per(self, selector: str | None) -> Any:
        # As many for every class, so that selectors can be compared.
        return "label" if (selector or self.plan.selector) == "lape" else None

    @cached_property
    def chosen(self) -> Selection:
        """The neurons that the main results are about."""
        found = self.selection()
        found.save(self.folder / "selection")
        return found

    @cached_property
    def effects(self) -> MaskEffects:
        """The main result: the plan's mask on all test texts."""
        how = self._asking(self.plan.test_texts, self.plan.draws)
        return self._masked("effects", self.chosen, Mask(self.plan.mask), how)

    @cached_property
    def masks(self) -> dict[str, MaskEffects]:
        """Every kind of mask on the same neurons; the plan's first."""
        own = {self.plan.mask: self.effects}
        others = {mask.kind: mask for mask in MASKS if mask.kind != self.plan.mask}
        return own | {
            kind: self._masked(f"masks/{kind}", self.chosen, mask) for kind, mask in others.items()
        }

    @cached_property
    def selectors(self) -> dict[str, MaskEffects]:
        """The plan's mask on the neurons of every selector."""
        mask = Mask(self.plan.mask)
        return {
            name: self._masked(f"selectors/{name}", self.selection(name), mask) for name in COMPARED
        }

    @cached_property
    def sweep(self) -> RangeSweep:
        """Layer ranges by shares of the model's neurons."""

        def make(done: Progress) -> RangeSweep:
            return range_sweep(
                self.model,
                self.texts,
                lambda share: self.selection(share=share),
                self.profile,
                Mask(self.plan.mask),
                ranges=Ranges(self.plan.shares),
                how=self._asking(self.plan.few_texts, min(3, self.plan.few_draws)),
                progress=done,
            )

        return self.kept(RangeSweep, "sweep", "mask layer ranges", 0, make)

    @cached_property
    def adaptive(self) -> Adaptive:
        """The adaptive loop, and the same on random pools."""

        def make(done: Progress) -> Adaptive:
            return adaptive_masking(
                self.model,
                self._fewer_dev,
                self.chosen,
                self.profile,
                schedule=Schedule(steps=self.plan.loop_steps),
                how=self._asking(self.plan.test_texts, self.plan.few_draws),
                progress=done,
            )

        return self.kept(Adaptive, "adaptive", "adaptive masking", 0, make)

    @cached_property
    def induction(self) -> Induction:
        """The mean activation of a class added to its neurons."""

        def make(done: Progress) -> Induction:
            return induce(
                self.model,
                self.texts,
                self.chosen,
                self.profile,
                doses=self.plan.doses,
                how=self._asking(self.plan.few_texts, self.plan.few_draws),
                progress=done,
            )

        return self.kept(Induction, "induction", "induce classes", 0, make)

    @cached_property
    def naming(self) -> Naming:
        """Classes as the model writes them, with and without the mask."""

        def make(done: Progress) -> Naming:
            return naming(
                self.model,
                self.texts,
                self.chosen,
                self.profile,
                Mask(self.plan.mask),
                how=self._asking(self.plan.few_texts, 1),
                progress=done,
            )

        return self.kept(Naming, "naming", "let classes be written", 0, make)

    @cached_property
    def paired(self) -> PairedEffects | None:
        """Devices against their own literal paraphrases; ``None`` for a set without them."""
        if LITERAL not in self.texts.label:
            return None

        def make(done: Progress) -> PairedEffects:
            return paired_effects(
                self.model,
                self.texts,
                self.chosen,
                self.profile,
                Mask(self.plan.mask),
                how=self._asking(self.plan.test_texts, self.plan.few_draws),
                progress=done,
            )

        return self.kept(PairedEffects, "paired", "ask about paraphrases", 0, make)

    @cached_property
    def halves(self) -> SplitHalf:
        """The same neurons from either half of the train texts?"""
        return split_half(
            self.profile, self.plan.selector, share=self.plan.share, attribution=self.attribution
        )

    @cached_property
    def null(self) -> EntropyNull:
        """Entropies beside those under permuted labels."""
        return entropy_null(self.profile)

    @property
    def depth(self) -> DepthProfile:
        """Where the chosen neurons lie."""
        return depth_profile(self.chosen)

    @property
    def claimed(self) -> tuple[str, ...]:
        """Classes of which something is said."""
        return tuple(label for label in self.texts.label if label != LITERAL)

    @cached_property
    def neutral(self) -> list[Reply]:
        """The model's own replies to neutral prompts."""
        scenarios = sev.spread(sev.read(shipped("sev/test.jsonl")), (self.plan.neutral + 2) // 3)
        prompts = neutral_prompts(sev.contexts(scenarios)[: self.plan.neutral])
        path = self.folder / "neutral" / "replies.jsonl"

        def make(done: Progress) -> list[Reply]:
            with execution(progress=done):
                return elicit(self.model, prompts)

        ways = (lambda replies: write_rows(path, replies)), (lambda: read_replies(path))
        return self._kept("neutral", "reply to neutral prompts", len(prompts), make, *ways)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per class: size, changes on test texts in percentage points, and p."""
        found = self.effects
        return {
            label: {
                "n_neurons": int(found.n_neurons[i]),
                "own_change": _points(found.own[i]),
                "low": _points(found.low[i, j]),
                "high": _points(found.high[i, j]),
                "largest_other_change": _points(found.largest_other[i]),
                "random_p": round(float(found.random_p[i]), 4),
                "corrected_p": round(float(found.corrected_p[i]), 4),
                "accuracy": _points(found.base[j]),
                "supported": bool(found.supported[i]),
            }
            for label in self.claimed
            for i, j in [(found.index("label", label), found.index("other_label", label))]
        }

    @cached_property
    def _fewer_dev(self) -> LabelledSet:
        own = self.texts
        return LabelledSet(
            own.name, own.request, own.train, own.dev.first(self.plan.dev_texts), own.test
        )

    def _asking(self, per_label: int, draws: int) -> Asking:
        return Asking(per_label, draws, self.plan.seed, batch_size=self.plan.batch_size)

    def _masked(
        self, place: str, selection: Selection, mask: Mask, how: Asking | None = None
    ) -> MaskEffects:
        how = how or self._asking(self.plan.few_texts, self.plan.few_draws)
        neutral = self.neutral

        def make(done: Progress) -> MaskEffects:
            return mask_effects(
                self.model,
                self.texts,
                selection,
                self.profile,
                mask,
                neutral,
                how=how,
                progress=done,
            )

        return self.kept(MaskEffects, place, f"mask: {place}", 0, make)

    def kept(
        self, kind: type[R], place: str, what: str, total: int, make: Callable[[Progress], R]
    ) -> R:
        """What was measured before by the same plan, or is measured now and saved."""
        folder = self.folder / place
        ways = (lambda found: found.save(folder)), (lambda: kind.load(folder))
        return self._kept(place, what, total, make, *ways)

    def _kept(
        self,
        place: str,
        what: str,
        total: int,
        make: Callable[[Progress], T],
        save: Callable[[T], None],
        read: Callable[[], T],
    ) -> T:
        key = digest_of([self.plan.to_json(), self.provenance.to_json()])
        unfinished = self.folder / ".resume" / f"{place.replace('/', '-')}.jsonl"
        with self.reporter.task(f"{self.texts.name}: {what}", total) as done:
            found, self.receipts[place] = kept_result(
                self.folder / place, unfinished, key, lambda: make(done), save=save, read=read
            )
        return found


def _points(value: Any) -> float:
    return round(float(value), 2)


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
    sets = [open_set(name, plan) for name in plan.texts]
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
            emotion.model,
            emotion.texts,
            emotion.chosen.sel(label=emotion.claimed),
            rhetoric.profile.sel(label=rhetoric.claimed),
            progress=done,
            how=Asking(plan.few_texts, plan.few_draws, plan.seed, batch_size=plan.batch_size),
        )

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

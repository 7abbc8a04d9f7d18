"""Class-selective neurons of one or several models: everything that is measured, and its files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from circuits.assets import shipped
from circuits.data import sev
from circuits.data.prompts import plain_prompts
from circuits.data.replies import Reply, read_replies, write_rows
from circuits.data.texts import LabelledSet
from circuits.model.generation import Progress, elicit
from circuits.model.loading import describe_model
from circuits.model.protocol import Model
from circuits.names import LITERAL
from circuits.pipeline.keeping import digest_of, kept_result
from circuits.pipeline.neuron_plan import NeuronPlan
from circuits.pipeline.work import Reporter
from circuits.provenance import Provenance, versions
from circuits.records import Record
from circuits.selective.adaptive import Adaptive, adaptive_masking
from circuits.selective.asking import Asking
from circuits.selective.attribution import LabelAttribution, label_attribution
from circuits.selective.consistency import EntropyNull, SplitHalf, entropy_null, split_half
from circuits.selective.evaluation import MaskEffects, mask_effects
from circuits.selective.feedback import Schedule
from circuits.selective.masks import Mask
from circuits.selective.naming import Naming, naming
from circuits.selective.paired import PairedEffects, paired_effects
from circuits.selective.profile import Profile, profile_texts
from circuits.selective.selection import Selection, select_neurons
from circuits.selective.steering import Induction, induce
from circuits.selective.sweeps import DepthProfile, Ranges, RangeSweep, depth_profile, range_sweep

__all__ = ["SetStudy"]

SELECTORS = ("lape", "lap", "mad", "cas", "contribution", "attribution", "random")
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
            return profile_texts(
                self.model, train, self.texts.request, self.provenance,
                sign=self.plan.sign, where=self.plan.where, seed=self.plan.seed, progress=done,
            )  # fmt: skip

        return self.kept(Profile, "profile", "read train texts", len(train), make)

    @cached_property
    def attribution(self) -> LabelAttribution:
        """What the own label's margin loses without each neuron, to first order, on train texts."""
        train = self.texts.train.first(self.plan.train_texts)

        def make(done: Progress) -> LabelAttribution:
            return label_attribution(
                self.model, train, self.texts.request, self.provenance, seed=self.plan.seed,
                progress=done,
            )  # fmt: skip

        return self.kept(LabelAttribution, "attribution", "attribute margins", len(train), make)

    def selection(self, selector: str | None = None, share: float | None = None) -> Selection:
        """The neurons of every class by a selector."""
        return select_neurons(
            self.profile, selector or self.plan.selector, share=share or self.plan.share,
            attribution=self.attribution, seed=self.plan.seed, per=self._per(selector),
        )  # fmt: skip

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
            name: self._masked(f"selectors/{name}", self.selection(name), mask)
            for name in SELECTORS
        }

    @cached_property
    def sweep(self) -> RangeSweep:
        """Layer ranges by shares of the model's neurons."""

        def make(done: Progress) -> RangeSweep:
            return range_sweep(
                self.model, self.texts, lambda share: self.selection(share=share), self.profile,
                Mask(self.plan.mask), ranges=Ranges(self.plan.shares),
                how=self._asking(self.plan.few_texts, min(3, self.plan.few_draws)), progress=done,
            )  # fmt: skip

        return self.kept(RangeSweep, "sweep", "mask layer ranges", 0, make)

    @cached_property
    def adaptive(self) -> Adaptive:
        """The adaptive loop, and the same on random pools."""

        def make(done: Progress) -> Adaptive:
            return adaptive_masking(
                self.model, self._fewer_dev, self.chosen, self.profile,
                schedule=Schedule(steps=self.plan.loop_steps),
                how=self._asking(self.plan.test_texts, self.plan.few_draws), progress=done,
            )  # fmt: skip

        return self.kept(Adaptive, "adaptive", "adaptive masking", 0, make)

    @cached_property
    def induction(self) -> Induction:
        """The mean activation of a class added to its neurons."""

        def make(done: Progress) -> Induction:
            return induce(
                self.model, self.texts, self.chosen, self.profile, doses=self.plan.doses,
                how=self._asking(self.plan.few_texts, self.plan.few_draws), progress=done,
            )  # fmt: skip

        return self.kept(Induction, "induction", "induce classes", 0, make)

    @cached_property
    def naming(self) -> Naming:
        """Classes as the model writes them, with and without the mask."""

        def make(done: Progress) -> Naming:
            return naming(
                self.model, self.texts, self.chosen, self.profile, Mask(self.plan.mask),
                how=self._asking(self.plan.few_texts, 1), progress=done,
            )  # fmt: skip

        return self.kept(Naming, "naming", "let classes be written", 0, make)

    @cached_property
    def paired(self) -> PairedEffects | None:
        """Devices against their own literal paraphrases; ``None`` for a set without them."""
        if LITERAL not in self.texts.label:
            return None

        def make(done: Progress) -> PairedEffects:
            return paired_effects(
                self.model, self.texts, self.chosen, self.profile, Mask(self.plan.mask),
                how=self._asking(self.plan.test_texts, self.plan.few_draws), progress=done,
            )  # fmt: skip

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
        """The model's own replies to plain prompts."""
        scenarios = sev.spread(sev.read(shipped("sev/test.jsonl")), (self.plan.neutral + 2) // 3)
        prompts = plain_prompts(sev.contexts(scenarios)[: self.plan.neutral])
        path = self.folder / "neutral" / "replies.jsonl"

        def make(done: Progress) -> list[Reply]:
            return elicit(self.model, prompts, progress=done)

        ways = (lambda replies: write_rows(path, replies)), (lambda: read_replies(path))
        return self._kept("neutral", "reply to plain prompts", len(prompts), make, *ways)

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
                self.model, self.texts, selection, self.profile, mask, neutral, how=how,
                progress=done,
            )  # fmt: skip

        return self.kept(MaskEffects, place, f"mask: {place}", 0, make)

    def kept(
        self, kind: type[R], place: str, what: str, total: int, make: Callable[[Progress], R]
    ) -> R:
        """What was measured before by the same plan, or is measured now and saved."""
        folder = self.folder / place
        ways = (lambda found: found.save(folder)), (lambda: kind.load(folder))
        return self._kept(place, what, total, make, *ways)

    def _kept(
        self, place: str, what: str, total: int, make: Callable[[Progress], T],
        save: Callable[[T], None], read: Callable[[], T],
    ) -> T:  # fmt: skip
        key = digest_of([self.plan.to_json(), self.provenance.to_json()])
        unfinished = self.folder / ".resume" / f"{place.replace('/', '-')}.jsonl"
        with self.reporter.task(f"{self.texts.name}: {what}", total) as done:
            found, self.receipts[place] = kept_result(
                self.folder / place, unfinished, key, lambda: make(done), save=save, read=read
            )
        return found


def _points(value: Any) -> float:
    return round(float(value), 2)

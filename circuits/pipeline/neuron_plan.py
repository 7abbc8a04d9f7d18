"""What is to be found out about class-selective neurons."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from circuits.data.text_files import embedded_set, read_texts
from circuits.data.texts import SPLITS, LabelledSet, Split
from circuits.errors import RunError
from circuits.files import is_file
from circuits.selective.counting import Where
from circuits.selective.masks import KINDS
from circuits.selective.profile import Sign
from circuits.selective.selectors import SELECTORS

__all__ = ["EMBEDDED", "NeuronPlan", "open_set"]

EMBEDDED = ("emotion", "rhetoric")
"""Sets of labelled texts that are shipped."""

_SUFFIXES = (".jsonl", ".tsv", ".csv")


@dataclass(frozen=True)
class NeuronPlan:
    """Texts, selector, mask, and how much is asked."""

    sets: tuple[str, ...] = EMBEDDED
    """Shipped sets, or folders that hold a file per split (``train.jsonl``, ``dev.tsv``, ...)."""
    text: str = "text"
    label: str = "label"
    pair: str | None = None
    """Columns of the files; texts without a ``pair`` have no paraphrases."""
    request: str | None = None
    """How the model is asked for the class of a text; the set's own wording by default."""
    selector: str = "attribution"
    share: float = 0.02
    """Of the model's neurons, selected for each class."""
    mask: str = "zero"
    """The main mask; the others are measured beside it."""
    sign: Sign = "gate"
    where: Where = "content"
    train_texts: int = 200
    dev_texts: int = 40
    test_texts: int = 200
    """Texts of every class, at most."""
    few_texts: int = 40
    """The same for sweeps, the other masks and selectors, and steering."""
    draws: int = 40
    """Random sets for the main result."""
    few_draws: int = 10
    """Random sets or pools for everything else."""
    shares: tuple[float, ...] = (0.01, 0.02, 0.03, 0.04, 0.05)
    """Of the model's neurons, masked in every range of layers."""
    doses: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    """Multiples of a class's mean activation that are added to its neurons."""
    loop_steps: int = 10
    """Trials of the adaptive loop, at most."""
    neutral: int = 24
    """Plain contexts whose replies tell whether a masked model is broken."""
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured, before a model is loaded."""
        for name, value, known in (
            ("selector", self.selector, tuple(SELECTORS)),
            ("mask", self.mask, KINDS),
            ("sign", self.sign, get_args(Sign)),
            ("where", self.where, get_args(Where)),
        ):
            if value not in known:
                raise RunError(f"--{name}: {value!r} is not known; give {', '.join(known)}")
        if not 0 < self.share <= 1 / 3:
            raise RunError(f"--share: {self.share:g}; give a share above 0 and at most 1/3")
        if not self.sets:
            raise RunError("--texts: nothing; give emotion, rhetoric or folders of labelled texts")
        counts = ("train_texts", "dev_texts", "test_texts", "few_texts", "draws", "few_draws")
        for name in (*counts, "neutral"):
            if getattr(self, name) < 2:
                option = "--" + name.replace("_", "-")
                raise RunError(f"{option}: {getattr(self, name)}; give 2 or more")

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {**asdict(self), "sets": list(self.sets)}


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

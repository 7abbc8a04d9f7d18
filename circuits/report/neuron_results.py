"""What was measured of class-selective neurons on one set of labelled texts."""

from collections.abc import Mapping
from dataclasses import dataclass

from circuits.selective.adaptive import Adaptive
from circuits.selective.consistency import EntropyNull, SplitHalf
from circuits.selective.evaluation import MaskEffects
from circuits.selective.naming import Naming
from circuits.selective.paired import PairedEffects
from circuits.selective.steering import Induction
from circuits.selective.sweeps import DepthProfile, RangeSweep

__all__ = ["SetResults"]


@dataclass(frozen=True, eq=False)
class SetResults:
    """What was measured on one set of labelled texts."""

    name: str
    claimed: tuple[str, ...]
    """Classes of which something is said; a literal paraphrase is only there to compare with."""
    masks: Mapping[str, MaskEffects]
    """Kind of mask -> its effects; the first one is the main result."""
    selectors: Mapping[str, MaskEffects]
    """Selector -> effects of the same mask on as many neurons of its own."""
    halves: SplitHalf
    null: EntropyNull
    sweep: RangeSweep
    adaptive: Adaptive
    induction: Induction
    depth: DepthProfile
    naming: Naming
    paired: PairedEffects | None = None

    @property
    def effects(self) -> MaskEffects:
        """The main result."""
        return next(iter(self.masks.values()))

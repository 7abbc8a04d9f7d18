"""What the columns of the published CSV tables mean (Wang et al. 2025, arXiv 2510.11328)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from circuits.published.records import (
    AllocationLog,
    Contributions,
    HeadImportance,
    MeanImportance,
    SublayerImportance,
)
from circuits.records import Record

__all__ = ["TABLES", "Table"]


@dataclass(frozen=True)
class Table:
    """What the columns of a table mean: axes first, then numbers."""

    axes: Mapping[str, str]
    """Axis -> column."""
    numbers: Mapping[str, str]
    """Field -> column."""
    whole: frozenset[str] = frozenset()
    """Columns of whole numbers."""
    blank: frozenset[str] = frozenset()
    """Columns that may be blank."""
    optional: frozenset[str] = frozenset()
    """Columns that may be absent."""
    order: tuple[str, ...] = ()
    """Columns as they stand in the file, if axes do not simply come first."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in the published order."""
        return self.order or (*self.axes.values(), *self.numbers.values())


_SUBLAYERS = {"emotion": "emotion", "sublayer": "kind", "layer": "layer"}

TABLES: Final[Mapping[type[Record], Table]] = {
    HeadImportance: Table(
        {"emotion": "emotion", "layer": "layer", "head": "head"},
        {
            "mean": "mean_importance", "std": "std_importance", "samples": "samples",
            "baseline": "baseline_mean",
        },
        whole=frozenset({"samples"}),
        optional=frozenset({"emotion"}),
    ),
    Contributions: Table(
        {"emotion": "emotion", "layer": "layer", "neuron": "neuron"},
        {
            "mean": "C_mean", "positive": "C_pos", "negative": "C_neg", "weight": "beta",
            "activation": "H_mean",
        },
    ),
    SublayerImportance: Table(
        {"emotion": "emotion", "dose": "alpha", "sublayer": "kind", "layer": "layer"},
        {
            "sigma": "sigma", "length": "dose", "base_final": "s_base_final", "final": "s_final",
            "change_final": "ds_final", "response_final": "I_final",
            "base_anchor": "s_base_anchor", "anchor": "s_anchor", "change_anchor": "ds_anchor",
            "response_anchor": "I_anchor", "samples": "n_samples",
        },
        whole=frozenset({"n_samples"}),
        blank=frozenset({"s_base_anchor", "s_anchor", "ds_anchor", "I_anchor"}),
        order=(
            "emotion", "kind", "layer", "alpha", "sigma", "dose", "s_base_final", "s_final",
            "ds_final", "I_final", "s_base_anchor", "s_anchor", "ds_anchor", "I_anchor",
            "n_samples",
        ),
    ),
    MeanImportance: Table(
        _SUBLAYERS, {"response": "I_final", "share": "I_final_normalized"}
    ),
    AllocationLog: Table(
        _SUBLAYERS,
        {
            "weight": "w", "share": "w_norm", "base": "k_base", "added": "k_add",
            "assigned": "k_assigned", "available": "available", "cap": "cap", "used": "k_used",
        },
        whole=frozenset({"k_base", "k_add", "k_assigned", "available", "cap", "k_used"}),
        blank=frozenset({"available", "cap"}),
    ),
}  # fmt: skip
"""Record -> its table."""

"""What a published folder holds, as a value, and the looks at it that circuits are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import DataError
from circuits.names import EMOTIONS
from circuits.published.documents import Document
from circuits.published.layout import CIRCUITS, CONTRIBUTIONS, DIFFERENCES, HEADS, KINDS
from circuits.published.records import (
    Contributions,
    DifferenceVectors,
    HeadImportance,
    MeanImportance,
    SublayerImportance,
)
from circuits.records import Record

__all__ = ["Contents", "Entry"]

Entry = Record | Document
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, eq=False)
class Contents:
    """Place of a file, relative to the model's folder -> what it holds."""

    entries: Mapping[str, Entry]
    model: str = "model"
    """Folder name of the model."""
    prefix: str = ""
    """Where the model's folder lay in the folder that was read."""
    left_out: tuple[str, ...] = ()
    """Files that were not read."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """Emotions that a circuit is there for or can be assembled for; else all that occur."""
        can = {e for e in EMOTIONS if e in self.circuits or self.has_tables(e)}
        if not can:
            for record in self.entries.values():
                own = getattr(record, "emotion", ())
                can |= {own} if isinstance(own, str) else set(own)
        return tuple(e for e in EMOTIONS if e in can)

    @property
    def misnamed(self) -> tuple[str, ...]:
        """Folders of differences whose files the released stage 7 would not find.

        It looks for attention differences as ``L0.npy`` and takes zeros for what it does not
        find; the released stage 5.3 writes ``layer0.npy``.
        """
        attention = (DIFFERENCES.format(kind=KINDS["attn"], emotion=e) for e in EMOTIONS)
        found = {place: self._get(place, DifferenceVectors) for place in attention}
        return tuple(place for place, own in found.items() if own and own.stem != "L")

    @property
    def circuits(self) -> dict[str, Any]:
        """Emotion -> its published circuit."""
        places = {emotion: f"{CIRCUITS}/{emotion}.json" for emotion in EMOTIONS}
        found = {emotion: self.entries.get(place) for emotion, place in places.items()}
        return {e: entry.value for e, entry in found.items() if isinstance(entry, Document)}

    def has_tables(self, emotion: str) -> bool:
        """Are the tables there that a circuit is assembled from?"""
        return self.has_weights(emotion) and self.heads(emotion) is not None

    def has_weights(self, emotion: str) -> bool:
        """Is the emotion in an importance table?"""
        tables = [*self._of(MeanImportance), *self._of(SublayerImportance)]
        return any(emotion in own.emotion for own in tables)

    def heads(self, emotion: str) -> HeadImportance | None:
        """Head importances of an emotion."""
        return self._get(HEADS.format(emotion=emotion), HeadImportance)

    def contributions(self, emotion: str) -> Contributions | None:
        """Neurons' contributions of an emotion."""
        return self._get(CONTRIBUTIONS.format(emotion=emotion), Contributions)

    def n_neurons(self, emotion: str) -> int | None:
        """Neurons of a layer, from contributions or else from difference vectors."""
        ranked = self.contributions(emotion)
        if ranked is not None:
            return len(ranked.neuron)
        place = DIFFERENCES.format(kind="mlp", emotion=emotion)
        found = self._get(place, DifferenceVectors)
        return None if found is None else found.value.shape[1]

    def weights(self, emotion: str) -> Float[Tensor, "sublayer layer"]:
        """Importance of every sublayer: the published mean over doses, or that of the doses.

        Raises:
            DataError: no table has the emotion, or two tables disagree.
        """
        for own in self._of(MeanImportance):
            if emotion in own.emotion:
                return own.sel(emotion=emotion, sublayer=("attn", "mlp")).response[0]
        doses: dict[float, Tensor] = {}
        for table in self._of(SublayerImportance):
            for dose in table.dose if emotion in table.emotion else ():
                chosen = table.sel(emotion=emotion, dose=dose, sublayer=("attn", "mlp"))
                found = chosen.response_final[0, 0]
                if not torch.equal(doses.setdefault(dose, found), found):
                    raise DataError(f"two importance tables disagree on {emotion}, alpha {dose}")
        if not doses:
            raise DataError(f"there is no importance table of {emotion!r}; import one")
        return torch.stack([doses[dose] for dose in sorted(doses)]).mean(0)

    def _of(self, kind: type[R]) -> list[R]:
        return [entry for entry in self.entries.values() if isinstance(entry, kind)]

    def _get(self, place: str, kind: type[R]) -> R | None:
        entry = self.entries.get(place)
        return entry if isinstance(entry, kind) else None

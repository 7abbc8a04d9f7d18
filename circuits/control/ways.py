"""Where methods reply differently: penalties, wording, number type and judge of each.

By default nothing differs, so that a comparison compares methods. The published runs differ in all
of these (Wang et al. 2025, arXiv 2510.11328, stages 1, 3 and 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from circuits.data.judges.protocol import Judge
from circuits.model.decoding import Decoding
from circuits.model.protocol import Model

__all__ = ["CIRCUIT_STAGE", "PUBLISHED_DECODING", "DecodingBy", "Way"]

DecodingBy = Literal["identical", "published"]
"""The same decoding for all methods, or that of :data:`PUBLISHED_DECODING`."""

CIRCUIT_STAGE = ("none", "circuit")
"""Methods of the published stage 7, whose baseline is replied to like its circuits."""

PUBLISHED_DECODING: Mapping[str, Decoding] = {
    "none": Decoding(1.1, 3, 10),
    "prompt": Decoding(),
    "steer": Decoding(1.05, 3, 10),
    "circuit": Decoding(1.1, 3, 10),
}
"""Method -> its penalties in the published runs."""


@dataclass(frozen=True, eq=False)
class Way:
    """How one method replies and is judged."""

    decoding: Decoding = Decoding()
    indented: bool = False
    """Plain prompts in the indented wording."""
    model: Model | None = None
    """Another model than that of the bench, such as the same in another number type."""
    judge: Judge | None = None
    """Another judge than that of the bench."""

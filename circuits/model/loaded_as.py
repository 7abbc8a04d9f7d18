"""How a model was loaded, so that another process can load the same."""

from dataclasses import asdict, dataclass
from typing import Any

from circuits.model.chat import Begin
from circuits.model.protocol import Model

__all__ = ["LoadedAs", "loaded_as"]


@dataclass(frozen=True)
class LoadedAs:
    """The arguments that :func:`~circuits.model.loading.load_model` was given."""

    name: str
    revision: str | None
    device: str | None
    dtype: str
    begin: Begin
    date: str
    device_map: str | None
    trust_remote_code: bool

    def arguments(self) -> dict[str, Any]:
        """The arguments of ``load_model``."""
        return asdict(self)


def loaded_as(model: Model) -> LoadedAs | None:
    """How ``load_model`` was asked for it; ``None`` for a model that was given in memory."""
    return getattr(model.cfg, "loaded_as", None)

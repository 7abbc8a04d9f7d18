"""Where a result comes from: model, data, options, versions, and the results it was made of."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import metadata
from typing import Any

from circuits.errors import DataError

__all__ = ["Provenance", "current", "recorded", "versions"]

_PACKAGES = ("emotion-circuits", "torch", "transformer-lens", "transformers")


@dataclass(frozen=True)
class Provenance:
    """What somebody else needs to make the same result again."""

    model: Mapping[str, Any] = field(default_factory=dict)
    """Name, revision (commit or digest of the weights), sizes and dtype."""
    data: str = ""
    """Digest of the contexts (``sha256:...``)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options of the step that made the result."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that do arithmetic."""
    parents: tuple[str, ...] = ()
    """Fingerprints of the results that this one was made of."""

    def to_json(self) -> dict[str, Any]:
        """The provenance as plain JSON values."""
        return {**asdict(self), "parents": list(self.parents)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Provenance":
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: a field is unknown, missing or of the wrong kind.
        """
        mappings = ("model", "options", "versions")
        names = [own.name for own in fields(cls)]
        if (
            not isinstance(values, Mapping)
            or sorted(values) != sorted(names)
            or not all(isinstance(values[name], Mapping) for name in mappings)
            or not isinstance(values["parents"], list | tuple)
        ):
            raise DataError(
                f"not a provenance: expected an object with {', '.join(names)}, of which "
                f"{', '.join(mappings)} are objects and parents is a list"
            )
        return cls(**{**values, "parents": tuple(values["parents"])})

    def fingerprint(self) -> str:
        """A short digest of everything in this provenance."""
        text = json.dumps(self.to_json(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def child(self, **options: object) -> "Provenance":
        """The provenance of a result made from this one with ``options``."""
        return Provenance(self.model, self.data, options, self.versions, (self.fingerprint(),))


_CURRENT: ContextVar[Provenance | None] = ContextVar("provenance", default=None)


@contextmanager
def recorded(provenance: Provenance) -> Iterator[None]:
    """Give this provenance to every result that is made inside the block.

    >>> with recorded(Provenance(data="sha256:12")):
    ...     current().data
    'sha256:12'
    """
    token = _CURRENT.set(provenance)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Provenance:
    """The provenance of results made here: empty outside of :func:`recorded`."""
    return _CURRENT.get() or Provenance()


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose arithmetic decides the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found

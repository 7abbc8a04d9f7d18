"""Results: frozen records of tensors whose axes have names and labels.

A record's annotations are the single source of its axes. A field annotated
``Float[Tensor, "emotion layer head"]`` must have the sizes of the label fields ``emotion``,
``layer`` and ``head``; widths such as ``d_model`` carry no labels but must agree with each other.

Nothing ever writes into a record's tensors.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
import torch
from jaxtyping import AbstractArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from circuits.errors import AxisError, DataError
from circuits.files import PathLike, digest, read_json, resolved, write_atomically, write_json
from circuits.provenance import Provenance, current

__all__ = ["FORMAT", "Record", "write_tensors"]

FORMAT = 1
"""Version of the files a record saves."""

_DAMAGE = (SafetensorError, OSError, LookupError, TypeError, AttributeError, AxisError)

R = TypeVar("R", bound="Record")
Label = str | int | float


@dataclass(frozen=True, eq=False)
class Record:
    """Base of every result: checked at construction, selectable by label, saved without pickle."""

    provenance: Provenance = field(default_factory=current, kw_only=True)

    axes: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Field name -> the names of its axes."""

    def __init_subclass__(cls) -> None:
        """Read the axes from the annotations."""
        axes = dict(cls.axes)
        for name, kind in cls.__annotations__.items():
            if isinstance(kind, str):
                raise TypeError(
                    f"{cls.__name__}.{name}: annotations are strings; remove "
                    "`from __future__ import annotations`, which hides the axes"
                )
            if isinstance(kind, type) and issubclass(kind, AbstractArray):
                axes[name] = tuple(kind.dim_str.split())
        cls.axes = axes

    def __post_init__(self) -> None:
        """Check every tensor's rank and sizes against the labels and each other."""
        sizes: dict[str, int] = {}
        for name, axes in self.axes.items():
            shape = tuple(getattr(self, name).shape)
            if len(shape) != len(axes):
                raise AxisError(
                    f"{type(self).__name__}.{name}: axes {' '.join(axes)!r} expected, "
                    f"found a tensor of shape {shape}"
                )
            for axis, size in zip(axes, shape, strict=True):
                expected = self._size(axis, sizes.setdefault(axis, size))
                if size != expected:
                    raise AxisError(
                        f"{type(self).__name__}.{name}: axis {axis!r} has size {size}, "
                        f"expected {expected}"
                    )

    def _size(self, axis: str, otherwise: int) -> int:
        labels = getattr(self, axis, None)
        return otherwise if labels is None else len(labels)

    def labels(self, axis: str) -> tuple[Label, ...]:
        """The labels of ``axis``.

        Raises:
            AxisError: no such axis, or it carries no labels.
        """
        known = {a for axes in self.axes.values() for a in axes}
        found = getattr(self, axis, None) if axis in known else None
        if found is None:
            labelled = sorted(a for a in known if hasattr(self, a))
            raise AxisError(
                f"{type(self).__name__} has no labelled axis {axis!r}; it has {', '.join(labelled)}"
            )
        return found

    def index(self, axis: str, label: Label) -> int:
        """Position of ``label`` on ``axis``.

        Raises:
            AxisError: the label is absent; lists those that are there.
        """
        labels = self.labels(axis)
        if label not in labels:
            shown = ", ".join(map(str, labels[:12])) + (", ..." if len(labels) > 12 else "")
            raise AxisError(
                f"{type(self).__name__}: axis {axis!r} has no label {label!r}; it has {shown}"
            )
        return labels.index(label)

    def sel(self: R, **wanted: Label | tuple[Label, ...]) -> R:
        """A new record with only the wanted labels; every axis stays."""
        changes: dict[str, Any] = {}
        for axis, labels in wanted.items():
            chosen = labels if isinstance(labels, tuple) else (labels,)
            keep = torch.tensor([self.index(axis, label) for label in chosen], dtype=torch.long)
            changes[axis] = chosen
            for name, axes in self.axes.items():
                if axis in axes:
                    tensor = changes.get(name, getattr(self, name))
                    changes[name] = tensor.index_select(axes.index(axis), keep.to(tensor.device))
        return replace(self, **changes)

    def at(self, name: str, **labels: Label) -> float:
        """One number of the tensor ``name``; every axis must be given a label.

        Raises:
            AxisError: an axis is missing or a label absent.
        """
        if name not in self.axes:
            raise AxisError(
                f"{type(self).__name__} has no tensor {name!r}; it has {', '.join(self.axes)}"
            )
        missing = [axis for axis in self.axes[name] if axis not in labels]
        if missing:
            raise AxisError(f"{type(self).__name__}.{name}: give a label for {', '.join(missing)}")
        place = tuple(self.index(axis, labels[axis]) for axis in self.axes[name])
        return float(getattr(self, name)[place])

    def to_frame(self) -> pd.DataFrame:
        """Long form: one column per axis, one per tensor; tensors on other axes are left out.

        The tensors that share the axes of the first one are shown.
        """
        first = next(iter(self.axes.values()))
        names = [name for name, axes in self.axes.items() if axes == first]
        shape = getattr(self, names[0]).shape
        labels = [
            getattr(self, axis, None) or tuple(range(size))
            for axis, size in zip(first, shape, strict=True)
        ]
        index = pd.MultiIndex.from_product(labels, names=first)
        columns = {name: getattr(self, name).detach().cpu().flatten().numpy() for name in names}
        return pd.DataFrame(columns, index=index).reset_index()

    def save(self, folder: PathLike) -> None:
        """Write ``record.safetensors`` and ``record.json`` into ``folder``."""
        folder = resolved(folder)
        # Clones, since fields may be views of one tensor, which safetensors refuses.
        layout = torch.contiguous_format
        tensors = {
            name: getattr(self, name).detach().cpu().clone(memory_format=layout)
            for name in self.axes
        }
        path = folder / "record.safetensors"
        write_tensors(path, tensors)
        described = {
            "kind": type(self).__name__,
            "format": FORMAT,
            "tensors": digest(path),
            "axes": {name: list(axes) for name, axes in self.axes.items()},
            "labels": self._others(),
            "provenance": self.provenance.to_json(),
        }
        write_json(folder / "record.json", {**described, "digest": _digest(described)})

    def _others(self) -> dict[str, Any]:
        names = (f.name for f in fields(self) if f.name not in self.axes)
        return {name: getattr(self, name) for name in names if name != "provenance"}

    @classmethod
    def load(cls: type[R], folder: PathLike) -> R:
        """Read a record that :meth:`save` wrote.

        Raises:
            DataError: a file is missing or damaged, or holds another kind of record.
        """
        folder = resolved(folder)
        described, path = read_json(folder / "record.json"), folder / "record.safetensors"
        found = described.get("kind") if isinstance(described, dict) else None
        if found != cls.__name__ or described.get("format") != FORMAT:
            raise DataError(
                f"{folder}: expected a {cls.__name__} (format {FORMAT}), found {found!r} "
                f"(format {described.get('format') if isinstance(described, dict) else None!r})"
            )
        try:
            noted = described.pop("digest")
            if _digest(described) != noted:
                raise DataError(f"{folder / 'record.json'} was changed after it was saved")
            if digest(path) != described["tensors"]:
                raise DataError(f"{path} is not the file that record.json was saved with")
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            labels = {name: _frozen(value) for name, value in described["labels"].items()}
            provenance = Provenance.from_json(described["provenance"])
            return cls(provenance=provenance, **tensors, **labels)
        except _DAMAGE as error:
            raise DataError(f"{folder}: damaged record of {cls.__name__} ({error})") from error


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata)
        except SafetensorError as error:
            # Its text is all that it says of the system's error.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    write_atomically(path, write)


def _digest(described: dict[str, Any]) -> str:
    """Of what is said about the tensors, however it is spaced."""
    text = json.dumps(described, sort_keys=True, default=list)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _frozen(value: object) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value

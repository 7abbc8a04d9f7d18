"""How many heads and neurons every layer gets, as published.

Wang et al. 2025 (arXiv 2510.11328, stage 6.5). Unlike :func:`circuits.circuit.find.allocate`
this keeps the released rule as it is: the cap does not count a layer's minimum, the remainder is
dealt out in two rounds at most, and components with a negative score may be taken.

Circuits from published tables alone, without a model.

Wang et al. 2025 (arXiv 2510.11328, stage 6.5): importance deals places out to layers, and a
layer takes the first of its ranking, whatever their sign. Where no contributions are there, the
number of neurons is known but not which; then the ids are ``None``.

Archives of published outputs, unpacked so that nothing lands outside one temporary folder.

Only plain files and folders are taken. A member that is a link or a device, whose name leads out,
or that two systems would read differently, ends the import by name; so does an archive that is
larger unpacked than published outputs can be. Sizes are counted while writing, since what an
archive says about itself need not be so.
"""

import math
import os
import re
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError, DataError, RunError
from circuits.export.node_link import write_circuit
from circuits.files import held, is_file, read_json, write_json, write_text
from circuits.models.memory import Receipt
from circuits.names import EMOTIONS, head_name, neuron_name, sublayer_name
from circuits.provenance import Provenance, recorded, versions
from circuits.published.folder import WRITERS, Contents, Entry, read_folder
from circuits.published.layout import (
    CIRCUITS,
    ELICITATION,
    Document,
    dumped,
    place,
    read_document,
    written_whole,
)
from circuits.published.tables import TABLES, AllocationLog, read_table, write_table

__all__ = [
    "Assembled",
    "Layers",
    "Settings",
    "as_graph",
    "assemble_published",
    "assemble_run",
    "assembled_entries",
    "deal_out",
    "import_folder",
    "is_imported",
    "load_contents",
    "published_form",
    "unpacked",
    "write_assembled",
]

_ROUNDS = 2


@dataclass(frozen=True)
class Settings:
    """Constants of the published circuits."""

    total: int | None = None
    """Components of a circuit; by default ten per sublayer, as in the published 560."""
    ratio_mode: Literal["fixed", "auto"] = "fixed"
    ratio: tuple[float, float] = (0.7, 0.3)
    """Shares of neurons and of heads; ``auto`` takes those of the sublayers' importance."""
    min_mlp: int = 4
    min_attention: int = 2
    cap_ratio: float = 0.4
    """A layer never gets more than this share beyond its minimum."""

    def __post_init__(self) -> None:
        if self.total is not None and self.total < 1:
            raise CircuitError(f"total: {self.total} is too few components; give 1 or more")
        if min(self.ratio) < 0 or abs(sum(self.ratio) - 1) > 1e-9:
            raise CircuitError(f"ratio: {self.ratio} must be two shares that sum to 1")
        if min(self.min_mlp, self.min_attention) < 0 or not 0 <= self.cap_ratio <= 1:
            raise CircuitError("minima must be 0 or more, and cap_ratio a share")

    def split(
        self, n_sublayers: int, mlp: Sequence[float], attention: Sequence[float]
    ) -> tuple[int, int]:
        """Neurons and heads of a circuit whose sublayers have these weights.

        >>> Settings().split(56, [1.0], [1.0])
        (392, 168)
        """
        total = 10 * n_sublayers if self.total is None else self.total
        share, both = self.ratio[0], sum(mlp) + sum(attention)
        if self.ratio_mode == "auto" and both > 1e-12:
            share = sum(mlp) / both
        neurons = round(total * share)
        return neurons, total - neurons


@dataclass(frozen=True)
class Layers:
    """Places of one kind of component, layer by layer."""

    weights: tuple[float, ...]
    shares: tuple[float, ...]
    base: tuple[int, ...]
    added: tuple[int, ...]
    available: tuple[int | None, ...]
    """``None`` where it is not known how many components there are."""
    used: tuple[int, ...]

    @property
    def planned(self) -> tuple[int, ...]:
        """Places before a layer's lack of components counts."""
        return tuple(base + added for base, added in zip(self.base, self.added, strict=True))


def deal_out(
    scores: Sequence[float],
    available: Sequence[int | None],
    count: int,
    *,
    minimum: int,
    cap_ratio: float,
) -> Layers:
    """Deal ``count`` places out to layers with these scores; negative ones weigh nothing.

    Raises:
        CircuitError: a score is not finite.

    >>> deal_out([3.0, 1.0, -1.0], [9, 9, 9], 9, minimum=1, cap_ratio=0.4).planned
    (4, 3, 2)
    """
    if not all(map(math.isfinite, scores)):
        raise CircuitError("a layer's importance is not finite; look at the importance table")
    weights = [max(score, 0.0) for score in scores]
    mass, n = sum(weights), len(weights)
    shares = [weight / mass for weight in weights] if mass > 1e-12 else [1 / n] * n
    if count < minimum * n:
        minimum = 1 if count >= n else 0
    added = _added(shares, count - minimum * n, math.floor(cap_ratio * count))
    planned = [minimum + more for more in added]
    return Layers(
        tuple(weights),
        tuple(shares),
        (minimum,) * n,
        tuple(added),
        tuple(available),
        tuple(_backfilled(planned, available)),
    )


def _added(shares: Sequence[float], rest: int, cap: int) -> list[int]:
    raw = [share * rest for share in shares]
    added = [min(math.floor(value), cap) for value in raw]
    left = rest - sum(added)
    # Largest fraction first, ties to the earlier layer.
    order = sorted(range(len(raw)), key=lambda i: (math.floor(raw[i]) - raw[i], i))
    for i in order * _ROUNDS:
        if left > 0 and added[i] < cap:
            added[i] += 1
            left -= 1
    return added


def _backfilled(planned: Sequence[int], available: Sequence[int | None]) -> list[int]:
    room = [math.inf if most is None else most for most in available]
    used = [int(min(k, most)) for k, most in zip(planned, room, strict=True)]
    missing = sum(planned) - sum(used)
    for i in sorted(range(len(used)), key=lambda i: (-planned[i], i)):
        more = int(min(missing, room[i] - used[i]))
        used[i] += more
        missing -= more
    return used


_SUBLAYERS = ("attn", "mlp")


@dataclass(frozen=True)
class Assembled:
    """The published circuit of one emotion, with how its places were dealt out."""

    emotion: str
    settings: Settings
    split: tuple[int, int]
    """Neurons and heads that were asked for."""
    neurons: Layers
    heads: Layers
    neuron_ids: tuple[tuple[int, ...], ...] | None
    """Per layer in rank order; ``None`` if there are no contributions to rank by."""
    head_ids: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The circuit in its published form."""
        given, layers = self.settings, []
        for layer, heads in enumerate(self.head_ids):
            neurons = None if self.neuron_ids is None else list(self.neuron_ids[layer])
            layers.append(
                {
                    "layer": layer,
                    "mlp": {"k": self.neurons.used[layer], "neurons": neurons},
                    "attention": {"k": self.heads.used[layer], "heads": list(heads)},
                }
            )
        return published_form(
            self.emotion,
            layers,
            total=sum(self.split),
            ratio=(given.ratio_mode, ",".join(f"{share:g}" for share in given.ratio)),
            split=self.split,
            minima=(self.neurons.base[0], self.heads.base[0]),
            cap_ratio=given.cap_ratio,
            planned=(sum(self.neurons.planned), sum(self.heads.planned)),
        )

    def log(self) -> AllocationLog:
        """How places were dealt out, attention first."""
        both = (self.heads, self.neurons)
        size = (1, 2, len(self.head_ids))
        available = [own.available for own in both]
        return AllocationLog(
            provenance=Provenance(options={"assembled": "published"}, versions=versions()),
            weight=_grid([own.weights for own in both]),
            share=_grid([own.shares for own in both]),
            base=_grid([own.base for own in both]),
            added=_grid([own.added for own in both]),
            assigned=_grid([own.planned for own in both]),
            available=_grid(available),
            # The published logs say here how many there are, not what a layer may get at most.
            cap=_grid(available),
            used=_grid([own.used for own in both]),
            row=torch.arange(2 * size[2]).reshape(size),
            emotion=(self.emotion,),
            sublayer=_SUBLAYERS,
            layer=tuple(range(size[2])),
            columns=TABLES[AllocationLog].columns,
        )


def assemble_published(
    contents: Contents, emotion: str, settings: Settings | None = None
) -> Assembled:
    """The circuit of one emotion by the published rule.

    Raises:
        DataError: head importances or importance tables lack, or their layers differ.
        CircuitError: an importance is not finite.
    """
    given = settings or Settings()
    heads, neurons = contents.heads(emotion), contents.contributions(emotion)
    if heads is None:
        raise DataError(f"there are no head importances of {emotion!r}; import them")
    weights = contents.weights(emotion)
    n_layers = weights.shape[1]
    for found in (heads, neurons):
        if found is not None and len(found.layer) != n_layers:
            raise DataError(
                f"{emotion}: the importance table has {n_layers} layers, "
                f"{type(found).__name__} has {len(found.layer)}"
            )
    attention, mlp = weights.tolist()
    positive = weights.clamp_min(0.0).tolist()
    split = given.split(2 * n_layers, mlp=positive[1], attention=positive[0])
    n_neurons, n_heads, cap = contents.n_neurons(emotion), len(heads.head), given.cap_ratio
    dealt_mlp = deal_out(
        mlp, [n_neurons] * n_layers, split[0], minimum=given.min_mlp, cap_ratio=cap
    )
    dealt_heads = deal_out(
        attention, [n_heads] * n_layers, split[1], minimum=given.min_attention, cap_ratio=cap
    )
    return Assembled(
        emotion,
        given,
        split,
        dealt_mlp,
        dealt_heads,
        neuron_ids=None if neurons is None else _first(neurons.mean[0], dealt_mlp.used),
        head_ids=_first(heads.mean[0], dealt_heads.used),
    )


def published_form(
    emotion: str,
    layers: Sequence[dict[str, Any]],
    *,
    total: int,
    ratio: tuple[str | None, str | None],
    split: tuple[int, int],
    minima: tuple[int | None, int | None],
    cap_ratio: float | None,
    planned: tuple[int, int],
) -> dict[str, Any]:
    """A circuit with the published keys in their order; pairs are neurons, then heads."""
    used = [sum(entry[kind]["k"] for entry in layers) for kind in ("mlp", "attention")]
    summary = [
        {"planned": asked, "used": taken, "final_deficit": asked - taken}
        for asked, taken in zip(planned, used, strict=True)
    ]
    return {
        "emotion": emotion,
        "K_total": total,
        "ratio_mode": ratio[0],
        "ratio_fixed": ratio[1],
        "K_alloc": _both(split),
        "min_per_layer": _both(minima),
        "cap_ratio": cap_ratio,
        "summary": _both(summary),
        "layers": list(layers),
    }


def _both(pair: Sequence[Any]) -> dict[str, Any]:
    return {"mlp": pair[0], "attention": pair[1]}


def _first(
    scores: Float[Tensor, "layer component"], counts: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    order = scores.argsort(dim=1, descending=True, stable=True)
    return tuple(tuple(order[i, :k].tolist()) for i, k in enumerate(counts))


def _grid(rows: Sequence[Sequence[float | int | None]]) -> Float[Tensor, "emotion sublayer layer"]:
    values = [[float("nan") if value is None else float(value) for value in row] for row in rows]
    return torch.tensor([values], dtype=torch.float64)


def as_graph(circuit: Mapping[str, Any], contents: Contents) -> Circuit:
    """The graph of a published circuit.

    Members stand in rank order within their layer. Effects are the published importances and
    contributions where they are there; what a part adds to the readout is not known, so no part
    has an edge to it. Neurons whose ids are not known are left out.

    Raises:
        DataError: the circuit has more layers than the tables, or an id that they lack.
    """
    emotion = str(circuit["emotion"])
    nodes, edges, previous = [Node("embed", "embed")], [], "embed"
    scores = _Scores(contents, emotion)
    for entry in circuit["layers"]:
        layer = int(entry["layer"])
        heads = [scores.head(layer, i) for i in entry["attention"]["heads"] or ()]
        neurons = [scores.neuron(layer, i) for i in entry["mlp"]["neurons"] or ()]
        for sublayer, members in (("attn", heads), ("mlp", neurons)):
            site = scores.sublayer(layer, sublayer)
            nodes += [*members, site]
            edges.append(Edge(previous, site.id, "residual"))
            edges += [Edge(node.id, site.id, "part", node.effect) for node in members]
            previous = site.id
    nodes.append(Node("readout", "readout"))
    edges.append(Edge(previous, "readout", "residual"))
    kinds = [node.kind for node in nodes]
    return Circuit(
        emotion,
        tuple(nodes),
        tuple(edges),
        {"n_heads": float(kinds.count("head")), "n_neurons": float(kinds.count("neuron"))},
        Provenance(
            model={"name": contents.model},
            options={"published": {key: circuit[key] for key in circuit if key != "layers"}},
            versions=versions(),
        ),
    )


class _Scores:
    """Nodes of one emotion, with what the tables say of them."""

    def __init__(self, contents: Contents, emotion: str) -> None:
        self._heads, self._neurons = contents.heads(emotion), contents.contributions(emotion)
        known = contents.has_weights(emotion)
        self._weights = contents.weights(emotion) if known else None

    def head(self, layer: int, index: int) -> Node:
        own, name = self._heads, head_name(layer, index)
        if own is None:
            return Node(name, "head", layer)
        _check(own.mean, layer, index, name)
        samples = float(own.samples[0, layer, index])
        spread = float(own.std[0, layer, index])
        # The published spread divides by n; an error of the mean needs two samples.
        error = spread / (samples - 1) ** 0.5 if samples > 1 else None
        return Node(name, "head", layer, effect=float(own.mean[0, layer, index]), stderr=error)

    def neuron(self, layer: int, index: int) -> Node:
        own, name = self._neurons, neuron_name(layer, index)
        if own is None:
            return Node(name, "neuron", layer)
        _check(own.mean, layer, index, name)
        return Node(name, "neuron", layer, effect=float(own.mean[0, layer, index]))

    def sublayer(self, layer: int, sublayer: str) -> Node:
        name, own = sublayer_name(layer, sublayer), self._weights
        if own is None:
            return Node(name, "sublayer", layer)
        if layer >= own.shape[1]:
            raise DataError(f"the importance table has no layer {layer}, which a circuit names")
        place = (0 if sublayer == "attn" else 1, layer)
        return Node(name, "sublayer", layer, importance=float(own[place]))


def _check(table: torch.Tensor, layer: int, index: int, name: str) -> None:
    if layer >= table.shape[1] or index >= table.shape[2]:
        raise DataError(f"a circuit names {name}, which the tables do not have")


_STAGE: Final = re.compile(r"0[1-7]_")
_ZIP, _TAR = (".zip",), (".tar", ".tar.gz", ".tgz")
_MOST_BYTES: Final = 8 << 30
_MOST_FILES: Final = 100_000
_PIECE: Final = 1 << 20
_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@contextmanager
def unpacked(path: Path, most_bytes: int = _MOST_BYTES) -> Iterator[Path]:
    """The folder itself, or that of an archive, which is gone afterwards.

    Raises:
        DataError: the archive is damaged or too large, or a member of it is refused; names both.
    """
    if not is_file(path) or not path.name.lower().endswith((*_ZIP, *_TAR)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="emotion-circuits-") as made:
        folder = Path(made)
        try:
            _unpack(path, folder, most_bytes)
        except DataError:
            raise
        except _DAMAGED as error:
            raise DataError(f"{path}: the archive cannot be unpacked ({error})") from error
        inside = list(folder.iterdir())
        # Archives of a repository hold one folder, named after it.
        home = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
        try:
            yield folder if _STAGE.match(home.name) else home
        except DataError as error:
            # The temporary folder says nothing to anybody.
            raise DataError(str(error).replace(made, str(path))) from error


def _unpack(path: Path, folder: Path, most_bytes: int) -> None:
    left = most_bytes
    for number, (name, file) in enumerate(_members(path)):
        _check_name(path, name)
        target = folder / name
        if number >= _MOST_FILES:
            raise DataError(f"{path}: more than {_MOST_FILES:,} files; unpack it yourself")
        target.parent.mkdir(parents=True, exist_ok=True)
        with file, target.open("xb") as copy:
            while piece := file.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise DataError(
                        f"{path}: more than {most_bytes:,} bytes unpacked (at {name!r}); unpack it "
                        "yourself and import the folder"
                    )
                copy.write(piece)


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file; refuses what is neither file nor folder."""
    if path.name.lower().endswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            for own in archive.infolist():
                kind = stat.S_IFMT(own.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(path, own.filename, "is no plain file")
                _check_name(path, own.filename)
                if not own.is_dir():
                    yield own.filename, archive.open(own)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if not (member.isreg() or member.isdir()):
                raise _refused(path, member.name, "is no plain file")
            _check_name(path, member.name)
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name)
    odd = "\\" in name or ":" in name or "\0" in name
    if odd or parts.is_absolute() or ".." in parts.parts or os.path.isabs(name):  # noqa: PTH117
        raise _refused(path, name, "leads out of the archive")


def _refused(path: Path, name: str, why: str) -> DataError:
    return DataError(f"{path}: the member {name!r} {why}; nothing was imported")


FORMAT = "published-outputs/1"
_FOLDER = "published"
_LABELLED = f"{ELICITATION}/labeled/sev"
_KINDS = {kind.__name__: kind for kind in WRITERS if kind is not Document}


def import_folder(folder: Path, run: Path) -> Contents:
    """Read a published folder and keep it as a run folder.

    ``folder`` may be an archive (``.zip``, ``.tar``, ``.tar.gz``), which is unpacked for a while.
    Records lie in ``published/``; labels and circuits also where a run has them.

    Raises:
        RunError: ``run`` holds something already.
        DataError: what :func:`~circuits.published.folder.read_folder` refuses.
    """
    started = time.perf_counter()
    with written_whole(run) as temporary, unpacked(folder) as home:
        contents = read_folder(home)
        for emotion in EMOTIONS:
            if contents.has_weights(emotion):
                contents.weights(emotion)  # refuses tables that disagree
        _save(contents, temporary / _FOLDER)
        done = [*_write_elicitation(contents, temporary), *_write_circuits(contents, temporary)]
        plan = {
            "imported": str(folder),
            "files": len(contents.entries),
            "model": contents.model,
            "emotions": list(contents.emotions),
        }
        stages = {stage: _entry("imported") for stage in done}
        log = {"plan": plan, "versions": versions(), "stages": stages}
        write_json(temporary / "run.json", log)
        write_json(temporary / "timings.json", {"stages": dict.fromkeys(done, _since(started))})
    return contents


def is_imported(run: Path) -> bool:
    """Was this run folder made from a published one?"""
    return is_file(run / _FOLDER / "manifest.json")


def load_contents(run: Path) -> Contents:
    """What was imported into a run folder.

    Raises:
        RunError: nothing was.
        DataError: a file of it is missing or damaged.
    """
    home = run / _FOLDER
    if not is_imported(run):
        raise RunError(f"{run} was not imported; make it with `emotion-circuits import`")
    described = read_json(home / "manifest.json")
    try:
        if described["format"] != FORMAT:
            raise DataError(f"{home}: expected {FORMAT}, found {described['format']!r}")
        entries = {
            str(name): _load(place(home, str(name)), kind)
            for name, kind in described["entries"].items()
        }
        model, prefix = str(described["model"]), str(described["prefix"])
        return Contents(entries, model, prefix, tuple(described["left_out"]))
    except (KeyError, TypeError, AttributeError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{home}/manifest.json: damaged ({error!r}); import again") from error


def assemble_run(run: Path, settings: Settings | None = None) -> dict[str, Assembled]:
    """Assemble every emotion of an imported run by the published rule, and write the circuits.

    Circuits and logs are written to ``assembled/`` in their published form; an imported circuit
    stays what it is in ``circuits/``, where those of the other emotions are added.

    Raises:
        RunError: the run was not imported.
        DataError: no emotion has all tables.
    """
    started = time.perf_counter()
    contents = load_contents(run)
    with held(run):
        found = write_assembled(contents, run, settings)
        for emotion, assembled in found.items():
            if emotion not in contents.circuits:
                graph = as_graph(assembled.to_json(), contents)
                write_circuit(graph, run / "circuits" / f"{emotion}.json")
        log, took = read_json(run / "run.json"), run / "timings.json"
        before = read_json(took)["stages"] if took.is_file() else {}
        write_json(took, {"stages": {**before, "circuits": _since(started)}})
        entry = _entry(f"published {sorted(asdict(settings or Settings()).items())}")
        write_json(run / "run.json", {**log, "stages": {**log["stages"], "circuits": entry}})
    return found


def write_assembled(
    contents: Contents, run: Path, settings: Settings | None = None
) -> dict[str, Assembled]:
    """Assemble every emotion that has its tables, and write circuits and logs.

    Raises:
        DataError: no emotion has all tables.
    """
    chosen = [emotion for emotion in contents.emotions if contents.has_tables(emotion)]
    if not chosen:
        raise DataError(
            f"{run}: no emotion has both head importances and an importance table; import them"
        )
    found = {emotion: assemble_published(contents, emotion, settings) for emotion in chosen}
    for emotion, assembled in found.items():
        write_text(run / "assembled" / f"{emotion}.json", dumped(assembled.to_json()))
        write_table(assembled.log(), run / "assembled" / f"{emotion}_alloc_log.csv")
    return found


def assembled_entries(contents: Contents, run: Path) -> dict[str, Entry]:
    """Assembled circuits and logs, under their published places, where none was imported."""
    found: dict[str, Entry] = {}
    for emotion in contents.emotions:
        log, circuit = f"{emotion}_alloc_log.csv", f"{emotion}.json"
        home = run / "assembled"
        if f"{CIRCUITS}/{circuit}" in contents.entries or not (home / circuit).is_file():
            continue
        found[f"{CIRCUITS}/{circuit}"] = read_document(home / circuit)
        with recorded(Provenance(options={"assembled": "published"})):
            found[f"{CIRCUITS}/{log}"] = read_table(home / log, AllocationLog, emotion)
    return found


def _save(contents: Contents, home: Path) -> None:
    for name, entry in contents.entries.items():
        path = place(home, name)
        entry.write(path) if isinstance(entry, Document) else entry.save(path)
    described = {
        "format": FORMAT,
        "model": contents.model,
        "prefix": contents.prefix,
        "entries": {name: type(entry).__name__ for name, entry in contents.entries.items()},
        "left_out": list(contents.left_out),
    }
    write_json(home / "manifest.json", described)


def _load(path: Path, kind: str) -> Entry:
    if kind == Document.__name__:
        return read_document(path)
    if kind not in _KINDS:
        raise DataError(f"{path}: {kind!r} is none of {', '.join(_KINDS)}")
    return _KINDS[kind].load(path)


def _write_elicitation(contents: Contents, run: Path) -> Sequence[str]:
    names = ("accepted.jsonl", "rejected.jsonl", "accuracy_stats.json")
    if any(f"{_LABELLED}/{name}" not in contents.entries for name in names):
        return ()
    for name in names:
        entry = contents.entries[f"{_LABELLED}/{name}"]
        assert isinstance(entry, Document)
        entry.write(run / "elicitation" / name)
    return ("judgements",)


def _write_circuits(contents: Contents, run: Path) -> Sequence[str]:
    circuits: Mapping[str, Any] = contents.circuits
    for emotion, circuit in circuits.items():
        try:
            graph = as_graph(circuit, contents)
        except DataError as error:
            raise DataError(f"{CIRCUITS}/{emotion}.json: {error}") from error
        write_circuit(graph, run / "circuits" / f"{emotion}.json")
    # A run's circuits are there when every emotion of it has one.
    return ("circuits",) if circuits and set(contents.emotions) == set(circuits) else ()


def _entry(key: str) -> dict[str, Any]:
    # Nothing was run: no pass is on the receipt.
    return {"key": key, "receipt": asdict(Receipt())}


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)

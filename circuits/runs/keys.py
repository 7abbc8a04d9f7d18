"""What a stage's result depends on, and the key that sums it up.

A stage is made of its own options, the files that it reads, the model, its code, and the keys of
the stages that it needs. While its key is the same, so is its result.

Which code a stage runs, as a digest per module: comments, docstrings and layout do not count.

From a stage's function everything is followed that it can reach through imports: in the package's
pipeline name by name, below it module by module.
"""

import ast
import gc
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from circuits.files import digest, exists, is_file, shipped
from circuits.models.load import EMBEDDED, folder_digest
from circuits.runs.plan import JUDGES, STAGES, Plan, Stage, judge_file

__all__ = [
    "Kind",
    "NEEDS",
    "STAGE_FUNCTIONS",
    "changes",
    "code_of",
    "dependents",
    "key_of",
    "made_of",
    "needed",
    "stage_key",
]

STAGE_FUNCTIONS = "circuits.runs.stages"
"""The module whose functions are the stages."""

_PACKAGE = "circuits"
_BY_NAME = "circuits.runs."
_RUN = "circuits.runs.work:Run"
"""A member of it counts only where something of that name is read."""
_PLUMBING = (
    "circuits",
    "circuits.errors",
    "circuits.files",
    "circuits.journal",
    "circuits.models.engines",
    "circuits.runs.plan:Plan",
    "circuits.runs.folder:Study",
)
"""Reads what earlier stages left, writes files, hands out work, says what is wrong: it decides no
number. The values of a plan are in a stage's key by themselves."""


def code_of(stage: str, package: Path | None = None) -> dict[str, str]:
    """Digest of every module (or name of the pipeline) that the stage's work can reach.

    Args:
        stage: Name of a function of :data:`STAGE_FUNCTIONS`.
        package: Folder of the package; this one by default.
    """
    with _no_collection():
        return dict(_code_of(stage, package or Path(__file__).parents[1]))


@cache
def _code_of(stage: str, package: Path) -> Mapping[str, str]:
    found: dict[str, str] = {}
    waiting, seen = [f"{STAGE_FUNCTIONS}:{stage}"], set[str]()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        source = _source(place.partition(":")[0], package)
        if source is None:
            continue
        digest, leads = source.look(place.partition(":")[2])
        if digest:
            found[place] = digest
        waiting += [lead for lead in leads if not {lead, lead.partition(":")[0]} & {*_PLUMBING}]
    return {place.removeprefix(f"{_PACKAGE}."): found[place] for place in sorted(found)}


@cache
def _source(module: str, package: Path) -> "_Source | None":
    base = package.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return _Source(module, path, package)
    return None


class _Source:
    """A module's syntax tree without docstrings, and what it leads to."""

    def __init__(self, module: str, path: Path, package: Path) -> None:
        self.module, self.path, self.package = module, path, package
        self.text = path.read_text(encoding="utf-8")
        tree = ast.parse(self.text)
        _drop_docstrings(tree)
        self.tree = tree
        self.imported = dict(_imports(tree))
        self._looked: dict[str, tuple[str, list[str]]] = {}

    def look(self, name: str) -> tuple[str, list[str]]:
        """Digest of one name's definition, or of the module, and where it leads."""
        if name not in self._looked:
            self._looked[name] = self._name(name) if name else self._whole()
        return self._looked[name]

    def _whole(self) -> tuple[str, list[str]]:
        # A page's templates, a judge's words: data beside the code that names their kind.
        near = sorted(self.path.parent.iterdir())
        kinds = [kind for kind in (".j2", ".js", ".css", ".json") if kind in self.text]
        data = [path.read_bytes() for path in near if path.suffix in kinds]
        leads = [self._lead(*own) for own in self.imported.values()]
        return _digest(self.tree, *data), leads

    def _name(self, name: str) -> tuple[str, list[str]]:
        nodes = self._members(name)
        if not nodes and name in self.imported:
            return "", [self._lead(*self.imported[name])]
        inside = [inner for own in nodes for inner in ast.walk(own)]
        local = {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        leads = []
        for node in inside:
            if isinstance(node, ast.Name) and node.id not in local:
                leads += self._leads_of(node.id)
            elif isinstance(node, ast.Attribute):
                leads += _members_called(node.attr, self.package)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                leads += [self._lead(*own) for _, own in _imports(node)]
        return _digest(*nodes), leads

    def _leads_of(self, name: str) -> list[str]:
        if name in self.imported:
            return [self._lead(*self.imported[name])]
        return [f"{self.module}:{name}"] if name in self.names else []

    def _lead(self, module: str, name: str) -> str:
        if name and _source(f"{module}.{name}", self.package) is not None:
            return f"{module}.{name}"
        source = _source(module, self.package)
        if source and source.path.name == "__init__.py" and name in source.imported:
            return source._lead(*source.imported[name])  # a package only hands it on
        return f"{module}:{name}" if module.startswith(_BY_NAME) and name else module

    @cached_property
    def names(self) -> dict[str, ast.stmt]:
        """Top-level names and the statements that define them."""
        return {name: node for node in self.tree.body for name in _defined(node)}

    def _members(self, name: str) -> list[ast.stmt]:
        own, _, member = name.partition(".")
        node = self.names.get(own)
        if node is None:
            return []
        if not isinstance(node, ast.ClassDef) or f"{self.module}:{own}" != _RUN:
            return [node]
        wanted = member or "__init__"
        return [inner for inner in node.body if wanted in _defined(inner)]


def _members_called(name: str, package: Path) -> list[str]:
    return [f"{_RUN}.{name}"] if name in _members_of_run(package) else []


@cache
def _members_of_run(package: Path) -> frozenset[str]:
    module, _, own = _RUN.partition(":")
    source = _source(module, package)
    node = source.names.get(own) if source else None
    body = node.body if isinstance(node, ast.ClassDef) else []
    return frozenset(name for inner in body for name in _defined(inner))


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, str]]]:
    """Local name -> module of the package, and name in it; not those that only types need."""
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PACKAGE):
            yield from ((a.asname or a.name, (node.module or "", a.name)) for a in node.names)
        if isinstance(node, ast.Import):
            own = [a.name for a in node.names if a.name.startswith(f"{_PACKAGE}.")]
            yield from ((name, (name, "")) for name in own)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The node and all statements in it, but not what only type checkers read."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        parts = ("body", "orelse", "finalbody", "handlers", "cases")
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            parts = ("orelse",)
        for part in parts:
            own = getattr(node, part, None)
            waiting += own if isinstance(own, list) else []


def _drop_docstrings(tree: ast.Module) -> None:
    # Every string that stands alone: docstrings of modules, classes, functions and attributes.
    for node in _statements(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [own for own in body if not _is_text(own)]


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _digest(*parts: ast.AST | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part if isinstance(part, bytes) else " ".join(_words(part, [])).encode())
    return total.hexdigest()[:12]


def _words(node: ast.AST, words: list[str]) -> list[str]:
    # As ast.dump has them, without the names of fields and with fewer calls.
    words.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "type_params" and not value:
            continue  # older versions of Python have no such field
        if isinstance(value, list):
            words.append("[")
            for own in value:
                _words(own, words) if isinstance(own, ast.AST) else words.append(repr(own))
            words.append("]")
        elif isinstance(value, ast.AST):
            if name != "ctx":  # follows from where the name stands
                _words(value, words)
        else:
            words.append(repr(value))
    return words


@contextmanager
def _no_collection() -> Iterator[None]:
    # A syntax tree is many small objects, none of them garbage; looking for some takes longest.
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


NEEDS: Mapping[Stage, tuple[Stage, ...]] = {
    "replies": (),
    "judgements": ("replies",),
    "directions": ("judgements",),
    "effects": ("directions",),
    "importance": ("directions",),
    "circuits": ("effects", "importance"),
    "scores": ("circuits",),
    "control": ("circuits",),
    "report": ("scores", "control"),
}
"""Stage -> the stages whose results it reads; what these need themselves is not said again."""

_MATTERS: Mapping[Stage, tuple[str, ...]] = {
    "replies": (
        "model",
        "dtype",
        "begin",
        "date",
        "data",
        "accepted",
        "emotions",
        "scenarios",
        "dev_scenarios",
        "max_new_tokens",
    ),
    "judgements": ("judge", "meanings"),
    "directions": ("samples", "read", "last", "half"),
    "effects": ("head_readout", "diff_prompt", "diff_grouping", "seed"),
    "importance": ("doses", "stable_layers", "read_at", "seed"),
    "circuits": ("budget", "rank_by", "signed"),
    "scores": ("test", "score_contexts", "ablation", "positions", "draws", "seed"),
    "control": (
        "test",
        "test_scenarios",
        "relative_to",
        "control_budget",
        "diff_unit",
        "head_positions",
        "neuron_positions",
        "circuit_strength",
        "circuit_when",
        "steering",
        "decoding",
        "circuit_dtype",
        "judge_profile",
        "seed",
        "methods",
        "tuning",
        "second_judge",
        "meanings",
        "dial_contexts",
        "ablation_draws",
        "hard",
    ),
    "report": (),
}
"""Options that decide a stage's result, beside those of the stages that it needs."""

_FILES = ("data", "test", "accepted", "hard")
_SMALL = (".json", ".jinja", ".model", ".txt")

Kind = Literal["options", "files", "model", "code", "needs"]


def made_of(plan: Plan, stage: Stage, needs: Mapping[str, str]) -> dict[Kind, dict[str, Any]]:
    """Everything that decides the stage's result, by kind.

    Args:
        plan: What is asked for.
        stage: Which stage.
        needs: Stage -> key of what is there of it; of those that the stage needs.
    """
    values, own = plan.to_json(), _MATTERS[stage]
    return {
        "options": {name: values[name] for name in own if name not in (*_FILES, "model")},
        "files": {name: _file(_path(plan, name)) for name in own if name in (*_FILES, *JUDGES)},
        "model": _model(plan) if "model" in own else {},
        "code": code_of(stage),
        "needs": {need: needs.get(need, "") for need in NEEDS[stage]},
    }


def key_of(made: Mapping[Kind, Mapping[str, Any]]) -> str:
    """The key: a digest of what :func:`made_of` says."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def stage_key(plan: Plan, stage: Stage) -> str:
    """The key that the stage will have where all that it needs is made by the same plan."""
    return key_of(made_of(plan, stage, {need: stage_key(plan, need) for need in NEEDS[stage]}))


def needed(stage: Stage) -> tuple[Stage, ...]:
    """All stages that must come before it, in order."""
    own = {need for near in NEEDS[stage] for need in (near, *needed(near))}
    return tuple(before for before in STAGES if before in own)


def dependents(stage: Stage) -> tuple[Stage, ...]:
    """All stages that are made from it, in order."""
    return tuple(after for after in STAGES if stage in needed(after))


def changes(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[Kind, Mapping[str, Any]]
) -> dict[Kind, list[str]]:
    """What differs, in words, by kind; empty where nothing does."""
    found: dict[Kind, list[str]] = {}
    for kind, values in now.items():
        old = before.get(kind, {})
        names = [n for n in {**old, **values} if old.get(n, _NOTHING) != values.get(n, _NOTHING)]
        if names:
            found[kind] = [_said(kind, name, old.get(name), values.get(name)) for name in names]
    return found


_NOTHING = object()


def _said(kind: Kind, name: str, before: Any, now: Any) -> str:
    if kind in ("options", "model"):
        what = f"model {name}" if kind == "model" else name
        return f"{what}: {_short(before)} -> {_short(now)}"
    if kind == "files":
        return f"{name}: another file" if before and now else f"{name}: {_there(before, now)}"
    return f"{name} was made again" if kind == "needs" else f"code of {name.replace(':', '.')}"


def _there(before: Any, now: Any) -> str:
    return "no file any more" if before else "a file where there was none"


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _path(plan: Plan, name: str) -> Path | None:
    value = getattr(plan, name)
    return judge_file(value) if name in JUDGES else value


def _file(path: Path | None) -> str | None:
    if path is None:
        return None
    found = path.stat()
    return _file_at(path, found.st_mtime_ns, found.st_size)


@cache
def _file_at(path: Path, changed: int, size: int) -> str:
    return digest(path)


def _model(plan: Plan) -> dict[str, Any]:
    name = plan.model
    if name in EMBEDDED and not exists(name):
        name = str(shipped(name))
    folder = Path(name)
    if not is_file(folder / "config.json"):
        return {"name": plan.model, "revision": plan.revision}
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (*_SMALL, ".safetensors")]
    stamps = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return {"name": folder.resolve().name, "revision": _folder_at(folder, stamps)}


@cache
def _folder_at(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    small = [folder / name for name, _, _ in stamps if Path(name).suffix in _SMALL]
    return hashlib.sha256(f"{folder_digest(folder)} {digest(*small)}".encode()).hexdigest()[:16]

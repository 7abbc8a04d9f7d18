"""Which code a stage runs, as a digest per module: comments, docstrings and layout do not count.

From a stage's function everything is followed that it can reach through imports: in the package's
pipeline name by name, below it module by module.
"""

import ast
import gc
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

__all__ = ["STAGE_FUNCTIONS", "code_of"]

STAGE_FUNCTIONS = "circuits.pipeline.stages"
"""The module whose functions are the stages."""

_PACKAGE = "circuits"
_BY_NAME = "circuits.pipeline."
_RUN = "circuits.pipeline.work:Run"
"""A member of it counts only where something of that name is read."""
_PLUMBING = (
    "circuits",
    "circuits.errors",
    "circuits.files",
    "circuits.assets",
    "circuits.journal",
    "circuits.locks",
    "circuits.stopping",
    "circuits.model.engine",
    "circuits.model.halving",
    "circuits.model.ray_engine",
    "circuits.model.resuming",
    "circuits.pipeline.engines",
    "circuits.pipeline.plan",
    "circuits.pipeline.study",
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
        waiting += [lead for lead in leads if lead.partition(":")[0] not in _PLUMBING]
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

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import circuits
from circuits.records import Record

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "circuits"
FILES = sorted(PACKAGE.rglob("*.py"))

AXES = {
    # What a result can be counted over, and the widths of the model. A word is added here only
    # for a new kind of axis; a second axis of the same kind is called other_....
    "prompt", "context", "emotion", "judged", "valence", "layer", "sublayer", "head", "neuron",
    "group", "site", "sender", "receiver", "node", "dose", "method", "pos", "d_model", "d_head",
    "d_mlp", "width", "batch", "vocab",
    # Left-out themes, halves of a split, heads or neurons alike, random draws.
    "theme", "split", "component", "draw",
    # Where a patch is put, and the runs it is put between.
    "place", "run",
    # Place of a token among those that a part promotes.
    "rank",
    # Paths from a sender to a receiver, and what a token of a prompt is there for.
    "edge", "role",
    # Sets of components: how they are chosen by rank, and how many they have.
    "order", "size",
    # Classes of labelled texts (emotions and rhetorical devices), and the texts.
    "label", "text",
}  # fmt: skip


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


MODULES = [dotted(path) for path in FILES]


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(found.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["from circuits import read_circuit, export_circuit, Circuit", "import circuits.judges"],
)
def test_a_circuit_is_opened_and_a_judge_made_without_torch_or_network(statement):
    heavy = {"torch", "transformers", "transformer_lens", "plotly", "httpx2", "openai"}
    assert loaded_after(statement) & heavy == set()


def test_every_public_name_of_the_package_is_there():
    missing = [name for name in circuits.__all__ if not hasattr(circuits, name)]
    assert missing == []
    assert set(circuits.__all__) <= set(dir(circuits))
    assert len(set(circuits.__all__)) == len(circuits.__all__) <= 80


def test_a_name_that_the_package_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="^module 'circuits' has no attribute 'joy'$"):
        _ = circuits.joy


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_is_public_and_has_it(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    if module.__file__ and has_code(Path(module.__file__)):
        assert hasattr(module, "__all__"), f"{name} has no __all__"
    public = getattr(module, "__all__", [])
    assert [own for own in public if not hasattr(module, own)] == []
    assert len(set(public)) == len(public)


def has_code(path: Path) -> bool:
    """Whether there is more than a docstring."""
    return len(ast.parse(path.read_text(encoding="utf-8")).body) > 1


def records_below(kind: type[Record]) -> Iterator[type[Record]]:
    for below in kind.__subclasses__():
        yield below
        yield from records_below(below)


def test_axes_of_results_bear_known_names():
    for name in MODULES:
        importlib.import_module(name)
    kinds = [kind for kind in records_below(Record) if kind.__module__.startswith("circuits.")]
    assert len(kinds) > 5
    unknown = [
        f"{kind.__name__}.{field}: {axis}"
        for kind in kinds
        for field, axes in kind.axes.items()
        for axis in axes
        if axis.removeprefix("other_") not in AXES
    ]
    assert unknown == []


def test_nothing_is_printed_and_no_postponed_annotation_hides_an_axis():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                found.append(f"{short(path)}:{node.lineno} print")
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                found.append(f"{short(path)}:{node.lineno} __future__")
    assert found == []


def texts() -> list[tuple[Path, str]]:
    """Every text file that is or could be committed."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, cwd=ROOT, check=True,
    )  # fmt: skip
    found = []
    for name in sorted(set(listed.stdout.decode().split("\0")) - {""}):
        try:
            found.append((ROOT / name, (ROOT / name).read_text(encoding="utf-8")))
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return found


def test_no_file_mentions_a_folder_of_somebodys_machine():
    private = re.compile(r"(?<![\w.~}/-])/(?:home|root|Users|work|tmp|mnt|scratch)/\w")
    found = [
        f"{short(path)}:{number}: {line.strip()[:80]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if private.search(line)
    ]
    assert found == []


def test_no_name_is_used_that_is_not_there():
    # Linters and type checkers are told to pass over shape strings, and with them over the rest.
    words = ("ruff", "check", "--select", "F821", "--output-format", "json", "circuits", "tests")
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = {row["message"].split("`")[1] for row in json.loads(done.stdout)}
    assert found <= AXES | {"rest", "row"}

"""The package as it is shipped: built once, installed apart from the checkout."""

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built(once) -> Path:
    """A folder with ``sdist``, ``wheel`` (of the sdist) and ``direct`` (of the tree)."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling; install the extra dev")
    with once("dist") as out:
        if not (out / "direct").exists():
            build(out)
        return out


def build(out: Path) -> None:
    source = out / "source"
    shutil.copytree(ROOT, source, ignore=left_out)  # a build must not write into the checkout
    made("--sdist", "--outdir", out / "sdist", source)
    (archive,) = (out / "sdist").glob("*.tar.gz")
    shutil.unpack_archive(archive, out / "unpacked", filter="data")
    made("--wheel", "--outdir", out / "wheel", next((out / "unpacked").iterdir()))
    made("--wheel", "--outdir", out / "direct", source)


def left_out(folder: str, names: list[str]) -> set[str]:
    """What is made and no source; ``runs`` is a package elsewhere than at the top."""
    of_tools = {"__pycache__", ".pytest_cache", ".hypothesis"} & {*names}
    at_top = {".git", ".venv", ".venv-tl3", "runs", "dist", "site"} & {*names}
    return of_tools | at_top if Path(folder) == ROOT else of_tools


def made(*words: object) -> None:
    """Build without network: the backend is the one that is installed."""
    command = [sys.executable, "-m", "build", "--no-isolation", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    """The wheel, built from the sdist."""
    (path,) = (built / "wheel").glob("*.whl")
    return path


class Installed:
    """An environment of its own with our wheel, and other packages as they are here."""

    def __init__(self, home: Path) -> None:
        self.python = home / "bin" / "python"
        self.site = Path(self("-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))

    def __call__(self, *words: object, cwd: Path | None = None, timeout: int = 300) -> str:
        """What a command of the environment says."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        env = {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        done = subprocess.run(
            [str(self.python), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd or self.python.parents[1],
            env=env,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="session")
def installed(wheel: Path, once) -> Installed:
    """The wheel in a fresh environment outside the checkout."""
    with once("fresh") as folder:
        home = folder / "env"
        return Installed(home) if home.exists() else install(wheel, home)


def install(wheel: Path, home: Path) -> Installed:
    venv.create(home)
    found = Installed(home)
    words = ("--python", found.python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    # The dependencies as they are here. A .pth file inside that folder is not followed, so that
    # a checkout which is installed there for development is not seen.
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    others += pth_folders(others)
    (found.site / "others.pth").write_text("\n".join(others) + "\n")
    return found


def pth_folders(folders: list[str]) -> list[str]:
    """Site folders that are named by others, as where one environment looks into another."""
    lines = [
        line.strip()
        for folder in folders
        for path in Path(folder).glob("*.pth")
        for line in path.read_text().splitlines()
    ]
    return [line for line in lines if line.endswith("site-packages") and Path(line).is_dir()]

"""One brief run, which stands where the pages have that of ``make demo``."""

import shlex
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from pages import typed

BRIEF = shlex.split("""
emotion-circuits run --model sev-mini --emotions anger,fear --scenarios 4 --dev-scenarios 1
--test-scenarios 1 --score-contexts 2 --set draws=10 --set ablation_draws=1 --set second_judge=none
--set hard=none --stages replies,judgements,directions,effects,importance,circuits,scores
--out runs/demo
""")


@pytest.fixture(scope="session")
def elsewhere():
    """A process of its own, as a reader's: with no checks of shapes, loaded once."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def brief_run(once, elsewhere):
    with once("docs") as folder:
        if not folder.exists():
            folder.mkdir()
            told = elsewhere.submit(typed, BRIEF, folder).result()
            assert told is None, told
        return folder / "runs/demo"


@pytest.fixture
def reader(brief_run, tmp_path):
    """A folder in which a page is followed: with the run of ``make demo``, or instead of it."""
    shutil.copytree(brief_run, tmp_path / "runs/demo")
    return tmp_path

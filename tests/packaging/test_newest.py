"""What `make test-newest` makes of versions and failures; nothing is installed here."""

import json
import re
import tomllib

import pytest
from newest import (
    HEAD,
    LISTED,
    RATES,
    TESTS,
    TOOLS,
    Attempt,
    FailedError,
    NotInstalledError,
    check_rates,
    environment,
    marked,
    moved,
    verdict,
    versions,
    write_list,
)
from pages import PAGES, ROOT

TRIED = {"certifi": "2026.10.19", "transformers": "5.24.0"}
NEWER = {"certifi": "2026.10.19", "transformers": "5.100.0"}
FAILED = FailedError("the brief run: prompt 4%")


def judged(installed, failure=None, on_listed=None):
    """The verdict, and how often the listed versions were tried."""
    tries = []

    def with_listed():
        tries.append(True)
        return Attempt(TRIED, on_listed)

    return *verdict(TRIED, Attempt(installed, failure), with_listed), len(tries)


def test_versions_are_compared_as_versions_and_builds_are_left_out():
    text = "# a line\nTorch==2.13.0+cpu\ntyping_extensions==4.16.0\nown @ file:///own.whl\n"
    assert versions(text) == {"torch": "2.13.0", "typing-extensions": "4.16.0"}
    assert moved(TRIED, NEWER) == ["transformers 5.24.0 -> 5.100.0"]
    assert moved({"a": "1.9"}, {"a": "1.10"}) == ["a 1.9 -> 1.10"]
    assert moved({"a": "1.10"}, {"a": "1.9"}) == []
    assert moved({"a": "1.0"}, {"a": "1.0.post1"}) == ["a 1.0 -> 1.0.post1"]
    assert moved({"a": "1.0"}, {"a": "1.0", "b": "2.0"}) == []


LIKE_LISTED = [TRIED, {**TRIED, "transformers": "5.23.0"}, {**TRIED, "other": "1.0"}]
MOVED, BROKEN = "a library moved: transformers 5.24.0 -> 5.100.0", "import circuits: broken"


@pytest.mark.parametrize(
    ("installed", "failure", "on_listed", "status", "tries", "said"),
    [
        *((own, None, None, 0, 0, ()) for own in (*LIKE_LISTED, {})),
        *((own, FAILED, None, 1, 0, ("prompt 4%",)) for own in LIKE_LISTED),
        (NEWER, None, None, 0, 0, (MOVED, "make newest")),
        (NEWER, FAILED, None, 0, 1, (MOVED, "prompt 4%")),
        (NEWER, FAILED, FailedError(BROKEN), 1, 1, (MOVED, BROKEN)),
    ],
)
def test_only_what_fails_with_the_listed_versions_is_a_failure(
    installed, failure, on_listed, status, tries, said
):
    found, text, tried = judged(installed, failure, on_listed)
    assert (found, tried) == (status, tries)
    assert [own for own in said if own not in text] == []
    assert ("a library moved" in text) == (installed is NEWER)


def test_what_cannot_be_installed_is_tried_with_the_listed_versions():
    output = "pip install x\nWARNING: retrying\nERROR: No matching distribution\nERROR: x"
    cause = NotInstalledError(FailedError(output))
    assert str(cause) == "nothing could be installed: No matching distribution"
    status, text, tries = judged({}, cause)
    assert (status, tries) == (0, 1)
    assert "the newest versions cannot be installed" in text
    status, text, tries = judged({}, cause, cause)
    assert (status, tries) == (1, 1)
    assert str(cause) in text
    assert "moved" not in text


def test_the_list_is_written_whole_and_read_as_it_was(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("old==1.0\n")
    write_list(NEWER, path)
    assert path.read_text().startswith(HEAD)
    assert versions(path.read_text()) == NEWER
    assert [own.name for own in tmp_path.iterdir()] == ["list.txt"]


def test_the_list_holds_every_dependency_and_the_torch_of_the_pages():
    listed = versions(LISTED.read_text())
    assert LISTED.read_text().startswith(HEAD)
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[><=!]", needed)[0] for needed in own["dependencies"]}
    assert names <= listed.keys()
    assert OURS_NOT_LISTED.isdisjoint(listed)
    text = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(r"torch==([\d.]+\d)", text)) == {listed["torch"]}
    wheels = set(re.findall(r"emotion_circuits-([\d.]+)-py3", text))
    assert wheels == {own["version"]}


OURS_NOT_LISTED = {"emotion-circuits", "pip", "setuptools", "build", "pyproject-hooks", *TOOLS}


@pytest.mark.parametrize("extra", ["gguf", "ray"])
def test_what_is_said_of_a_missing_extra_has_its_bound(extra):
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (needed,) = own["optional-dependencies"][extra]
    said = [
        line
        for path in (ROOT / "circuits").rglob("*.py")
        for line in re.findall(rf"pip install '({extra}[^']*)'", path.read_text())
    ]
    assert said
    assert set(said) == {needed}


def test_no_text_installs_the_package_from_an_index():
    texts = [*PAGES, *(ROOT / "circuits").rglob("*.py"), *(ROOT / "notebooks").rglob("*.ipynb")]
    found = [
        path for path in texts if re.search(r"pip install ['\"]?emotion-circuits", path.read_text())
    ]
    assert found == []


def test_the_pages_say_how_to_build_and_to_install():
    (build,), installation = marked("build"), marked("wheel")[0]
    assert "python -m build" in build.text
    assert "pip install torch==" in installation.text
    assert ".whl" in installation.text
    assert any("--out runs/brief" in block.text for block in marked("wheel"))
    extras = {"gguf", "http", "ray", "notebooks"}
    text = "".join(block.text for block in marked("wheel"))
    assert set(re.findall(r"\.whl\[(\w+)\]", text)) == extras
    assert all((ROOT / path).is_file() for path in TESTS)


def test_rates_are_those_of_the_file(tmp_path, capsys):
    path = tmp_path / "steering.json"
    path.write_text(json.dumps({"methods": {name: {"overall": r} for name, r in RATES.items()}}))
    check_rates(path)
    for found in ({"prompt": {"overall": 100.0}, "circuit": {"overall": 97.2}}, {}):
        path.write_text(json.dumps({"methods": found}))
        with pytest.raises(FailedError, match="the brief run"):
            check_rates(path)
    assert "prompt 100.0%" in capsys.readouterr().out


def test_nothing_of_the_checkout_reaches_the_environment(monkeypatch, tmp_path):
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "PIP_CONSTRAINT", "PYTEST_ADDOPTS"):
        monkeypatch.setenv(name, str(ROOT))
    env = environment(tmp_path)
    assert str(ROOT) not in {*env.values()}
    assert env["PATH"].startswith(str(tmp_path / "bin"))
    listed = environment(tmp_path, LISTED)["PIP_CONSTRAINT"]
    assert listed == str(LISTED)

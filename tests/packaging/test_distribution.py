"""What is shipped: a wheel and an sdist with models, data, documentation and type information."""

import email
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def texts(folder):
    return {
        path.relative_to(ROOT / folder).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.trial("packaging", "the wheel is built from the sdist, and from the tree")
def test_both_ways_to_the_wheel_give_the_same_files(built, wheel, trial):
    (direct,) = (built / "direct").glob("*.whl")
    assert wheel.read_bytes() == direct.read_bytes()
    trial(times=2, outcome="byte-equal")


@pytest.mark.trial("packaging", "the wheel holds all modules, models, data and type information")
def test_the_wheel_is_complete(wheel, trial):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        shipped = {
            name.removeprefix("circuits/_assets/"): archive.read(name)
            for name in names
            if name.startswith("circuits/_assets/")
        }
    code = {name.removeprefix("circuits/") for name in names if name.startswith("circuits/")}
    assert {name for name in code if not name.startswith("_assets/")} == texts("circuits")
    assert "py.typed" in code
    assert {name.split("/")[0] for name in names} == {
        "circuits",
        next(name for name in names if name.endswith("METADATA")).split("/")[0],
    }
    folders = ("sev", "sev-mini", "sev-nano", "texts", "judge")
    wanted = {f"{own}/{name}" for own in folders for name in texts(f"assets/{own}")}
    schemas = {f"{name}.schema.json" for name in ("circuit", "eap-ig", "neuronpedia")}
    assert set(shipped) == wanted | schemas
    different = [name for name in shipped if shipped[name] != (ROOT / "assets" / name).read_bytes()]
    assert different == []
    trial(times=len(names), outcome="every file is there, none too many")


@pytest.mark.trial("packaging", "the sdist holds the tests, the documentation and all they need")
def test_the_sdist_is_complete(built, trial):
    (path,) = (built / "sdist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    for folder in ("circuits", "assets", "docs", "notebooks", "tests"):
        assert {f"{folder}/{name}" for name in texts(folder)} <= names
    for name in (
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "constraints-newest.txt",
        "constraints-tl3.txt",
        "pyproject.toml",
    ):
        assert name in names
    trial(times=len(names), outcome="every file is there")


def test_the_metadata_say_what_is_so(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        found = email.message_from_bytes(archive.read(name))
    assert found["Name"] == "emotion-circuits"
    assert found["License-Expression"] == "MIT"
    assert "Typing :: Typed" in (found.get_all("Classifier") or [])
    assert not [own for own in found.get_all("Classifier") or [] if own.startswith("License")]
    assert found["Requires-Python"] == ">=3.11"
    assert {"dev", "gguf", "ray"} <= set(found.get_all("Provides-Extra") or [])


def test_no_new_major_version_is_taken_unseen(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        found = email.message_from_bytes(archive.read(name))
    needed = [Requirement(own) for own in found.get_all("Requires-Dist") or []]
    users = [own for own in needed if own.marker is None or own.marker.evaluate({"extra": "gguf"})]
    assert len(users) > 15
    for own in users:
        assert any(bound.operator in ("<", "<=") for bound in own.specifier), own


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-tl3.txt"])
def test_the_versions_that_are_tested_are_within_the_bounds(wheel, name):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (file for file in archive.namelist() if file.endswith("METADATA"))
        found = email.message_from_bytes(archive.read(metadata))
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    tested = dict(line.lower().split("==") for line in lines if "==" in line)
    for own in map(Requirement, found.get_all("Requires-Dist") or []):
        if own.name.lower() in tested:
            assert own.specifier.contains(tested[own.name.lower()]), own


def test_the_versions_that_an_error_advises_are_those_that_are_tested():
    from circuits.models.load import TESTED

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for name in ("torch", "transformers", "transformer-lens"):
        (pin,) = (line for line in lines if line.startswith(f"{name}=="))
        assert pin in TESTED

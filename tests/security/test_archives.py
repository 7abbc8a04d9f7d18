"""What is imported from an archive stays in its folder."""

import io
import stat
import tarfile
import tempfile
import zipfile

import pytest

from circuits.errors import DataError
from circuits.published import import_folder
from circuits.published.importing import unpacked

SIGMA = ("06_emotion_circuit_integration/sigma_summary.json", b'{"attention_0": 0.1, "mlp_0": 0.2}')
KINDS = [".zip", ".tar", ".tar.gz"]


def packed(path, files, *, links=()):
    """An archive of (name, bytes), and of (name, type, target) for what is no file."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files:
                archive.writestr(name, data)
            for name, _, target in links:
                link = zipfile.ZipInfo(name)
                link.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(link, target)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, kind, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return path


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where archives are unpacked, so that a test can look at what is left."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.mark.parametrize(
    ("kind", "above"),
    [(".zip", ""), (".tar", "repository-main/"), (".tar.gz", "repository-main/outputs/model/")],
)
def test_an_archive_is_imported_as_its_folder_would_be(tmp_path, scratch, kind, above):
    archive = packed(tmp_path / f"own{kind}", [(above + SIGMA[0], SIGMA[1])])
    contents = import_folder(archive, tmp_path / "run")
    assert list(contents.entries) == [SIGMA[0]]
    assert (tmp_path / "run" / "published" / "manifest.json").is_file()
    assert list(scratch.iterdir()) == []


def refused(tmp_path, scratch, archive, message):
    """The import ends by name, and nothing is left or written elsewhere."""
    with pytest.raises(DataError, match=message) as error:
        import_folder(archive, tmp_path / "deep" / "run")
    assert "own" in str(error.value)
    assert list(scratch.iterdir()) == []
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {archive.name}


@pytest.mark.trial("security", "a member of an archive leads out of it ({kind})")
@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_leads_out_is_refused(tmp_path, scratch, kind, trial):
    names = ["../outside", "a/../../outside", "/outside", "..\\outside", "C:\\out", "a/..", "c:x"]
    for name in names:
        archive = packed(tmp_path / f"own{kind}", [SIGMA, (name, b"x")])
        refused(tmp_path, scratch, archive, "leads out of the archive")
    trial(times=len(names), outcome="refused by name, nothing written")


@pytest.mark.trial("security", "a member of an archive is a link or a device ({kind})")
@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_no_file_is_refused(tmp_path, scratch, kind, trial):
    types = [tarfile.SYMTYPE]
    if "tar" in kind:
        types += [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    for own in types:
        link = ("06_emotion_circuit_integration/link", own, "/etc/hostname")
        archive = packed(tmp_path / f"own{kind}", [SIGMA], links=[link])
        refused(tmp_path, scratch, archive, "is no plain file")
    trial(times=len(types), outcome="refused by name, nothing written")


@pytest.mark.trial("security", "an archive is a bomb ({kind})")
@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_an_archive_that_is_too_large_is_refused(tmp_path, scratch, kind, trial):
    archive = packed(tmp_path / f"own{kind}", [SIGMA, ("zeros.json", bytes(30_000_000))])
    assert archive.stat().st_size < 100_000
    with (
        pytest.raises(DataError, match="more than 1,000,000 bytes unpacked"),
        unpacked(archive, 1_000_000),
    ):
        pass
    assert list(scratch.iterdir()) == []
    trial(outcome="refused while unpacking, nothing left")


@pytest.mark.trial("security", "an archive is cut short, or is none ({kind})")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_is_refused(tmp_path, scratch, kind, trial):
    whole = packed(tmp_path / f"own{kind}", [SIGMA, ("a.json", bytes(range(256)) * 64)])
    data = whole.read_bytes()
    for part in (data[: len(data) // 2], b"no archive", data[:100] + bytes(400)):
        whole.write_bytes(part)
        with pytest.raises(DataError, match="own"):
            import_folder(whole, tmp_path / "run")
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "run").exists()
    trial(times=3, outcome="refused by name, nothing written")


@pytest.mark.trial("security", "an archive holds the same file twice ({kind})")
@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
def test_a_file_that_comes_twice_is_refused(tmp_path, scratch, kind, trial):
    archive = packed(tmp_path / f"own{kind}", [SIGMA, SIGMA])
    refused(tmp_path, scratch, archive, "cannot be unpacked")
    trial(outcome="refused, nothing written")

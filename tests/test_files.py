import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.files import (
    digest,
    read_json,
    read_json_lines,
    remove_leftovers,
    write_atomically,
    write_json,
    write_json_lines,
    write_text,
)

quick = settings(deadline=None, max_examples=40)
plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "file.json"


@quick
@given(st.lists(st.dictionaries(plain_text, values, max_size=3), max_size=4))
def test_json_lines_come_back_as_they_were_written(place, rows):
    write_json_lines(place, rows)
    assert [row for _, row in read_json_lines(place)] == rows


@quick
@given(values)
def test_json_comes_back_as_it_was_written(place, value):
    write_json(place, value)
    assert read_json(place) == value


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \r\n{"a": 2}')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (4, {"a": 2})]


def test_unusual_line_separators_inside_a_text_do_not_end_a_line(tmp_path):
    path, row = tmp_path / "rows.jsonl", {"a": "one\u2028two\x0bthree\x85four"}
    write_json_lines(path, [row, row])
    assert list(read_json_lines(path)) == [(1, row), (2, row)]


def test_text_is_written_as_utf8_with_plain_line_ends(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "größer\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == b"gr\xc3\xb6\xc3\x9fer\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ValueError])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "kept.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise error

    with pytest.raises(error):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["kept.txt"]


def test_a_full_disk_is_a_data_error_and_leaves_no_temporary_file(tmp_path):
    def full(temporary: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"^cannot write .*a\.txt: No space left on device; free"):
        write_atomically(tmp_path / "a.txt", full)
    assert names_in(tmp_path) == []


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"^cannot write .*choose another folder$"):
        write_text(tmp_path / "file" / "a.txt", "text")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, -float("inf")]])
def test_numbers_that_json_does_not_have_are_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"value": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_lines(tmp_path / "a.json", [{"value": value}])
    assert names_in(tmp_path) == []


def test_half_a_character_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")
    with pytest.raises(DataError, match=r"^cannot write .*'\\ud83d' is half a character"):
        write_json(path, "\ud83d")
    assert read_json(path) == "old"
    assert names_in(tmp_path) == ["a.json"]


READERS = [read_json, lambda path: list(read_json_lines(path))]


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path, read):
    with pytest.raises(DataError, match=r"^cannot read .*absent\.json: .*; check the path$"):
        read(tmp_path / "absent.json")
    with pytest.raises(DataError, match=r"^cannot read "):
        read(tmp_path)


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path, read):
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"a": 1}\n\n{"a": "gr\xf6\xdfer"}\n')
    with pytest.raises(DataError, match=r"latin\.json, line 3: not UTF-8; save the file as UTF-8$"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_what_is_not_json_is_refused_with_its_line(tmp_path, read):
    path = tmp_path / "broken.json"
    path.write_text('\n\n{"a": }')
    with pytest.raises(DataError, match=r"broken\.json, line 3: not JSON \(Expecting value\)$"):
        read(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("text", "reason"), [("[" * 100_000, "recursion"), ("9" * 5000, "integer string conversion")]
)
def test_json_that_python_gives_up_on_is_a_data_error(tmp_path, read, text, reason):
    path = tmp_path / "strange.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"strange\.json.*not JSON \(.*{reason}"):
        read(path)


@pytest.mark.parametrize(("line", "kind"), [("[1]", "list"), ("3", "int"), ("null", "NoneType")])
def test_a_line_that_is_no_object_is_refused(tmp_path, line, kind):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{{}}\n{line}\n")
    with pytest.raises(DataError, match=rf"line 2: expected a JSON object, found {kind}$"):
        list(read_json_lines(path))


@quick
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(place, content):
    place.write_bytes(content)
    for read in READERS:
        with contextlib.suppress(DataError):
            read(place)


def test_a_digest_is_that_of_the_contents_in_order(tmp_path):
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    one.write_text("a")
    two.write_text("b")
    both.write_text("ab")
    assert digest(one).startswith("sha256:ca978112ca1bbdcafac231b39a23dc4d")
    assert digest(one, two) == digest(both) != digest(two, one)


@pytest.mark.parametrize("name", ["a.txt", "record.safetensors", "plain", ".hidden.json"])
def test_the_leftovers_of_a_killed_writer_are_known_by_their_names(tmp_path, name):
    seen = []
    write_atomically(tmp_path / "deep" / name, lambda path: seen.append(path.name))
    (tmp_path / "deep" / seen[0]).write_text("half")
    (tmp_path / ".mine.partial.txt").write_text("somebody's own")
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [".mine.partial.txt", "deep"]
    assert names_in(tmp_path / "deep") == [name]

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.prompts.prompt import LabelledText, Texts
from circuits.prompts.texts import read_texts, write_texts

FORMATS = (".jsonl", ".tsv", ".csv")
said = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n"),
    min_size=1,
    max_size=12,
).filter(lambda text: text == text.strip())


def texts_of(*rows, labels=("joy", "rage")):
    return Texts("train", tuple(labels), tuple(LabelledText(*row) for row in rows))


def file_of(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("texts")


@pytest.mark.parametrize("suffix", FORMATS)
@settings(deadline=None, max_examples=60)
@given(rows=st.dictionaries(said.map(str.lower), st.tuples(said, st.none() | said), min_size=1))
def test_what_is_written_is_read_back(place, suffix, rows):
    labels = sorted({label for label, _ in rows.values()})
    alike = {" ".join(text.lower().split()): text for text in rows}
    texts = texts_of(*((text, *rows[text]) for text in alike.values()), labels=labels)
    path = place / f"texts{suffix}"
    write_texts(path, texts)
    pair = "pair" if any(row.pair is not None for row in texts.rows) else None
    assert read_texts(path, split="train", pair=pair, labels=labels) == texts


def test_columns_are_named_by_the_caller_and_others_are_let_be(tmp_path):
    path = file_of(
        tmp_path, "a.tsv", "id\tsentence\tfeeling\tsame\n1\tI won\tjoy\tp\n2\tGo\trage\t\n"
    )
    found = read_texts(path, split="dev", text="sentence", label="feeling", pair="same")
    assert found.rows == (LabelledText("I won", "joy", "p"), LabelledText("Go", "rage"))
    assert found.split == "dev"


def test_labels_are_sorted_unless_an_order_is_given(tmp_path):
    path = file_of(tmp_path, "a.csv", "text,label\nGo,rage\nI won,joy\n")
    assert read_texts(path, split="test").label == ("joy", "rage")
    labels = ("rage", "joy", "awe")
    assert read_texts(path, split="test", labels=labels).label == labels


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufefftext,label\r\n\r\nGo,rage\r\n".encode())
    assert read_texts(str(path), split="train").rows == (LabelledText("Go", "rage"),)


def line(**fields):
    return json.dumps({"text": "Go", "label": "rage", **fields}) + "\n"


TWO_LABELS = 'text,label\n"Go\nnow",rage\nGo  NOW,joy\n'


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.jsonl", "", r"a\.jsonl: no text found"),
        ("a.csv", "text,label\n", r"a\.csv: no text found"),
        ("a.jsonl", line(text=" "), "line 1: field 'text': .* at least 1 character"),
        ("a.csv", "text,label\nGo,\n", "line 2: field 'label': .* at least 1 character"),
        ("a.csv", "text,label\n,\n", "line 2: field 'text': .* at least 1 character"),
        ("a.jsonl", line(text=3), "line 1: field 'text': .* valid string, found 3"),
        ("a.jsonl", line(label=None), "field 'label': .* valid string, found None"),
        ("a.jsonl", line(text="a\ud800"), "line 1: field 'text': .* unicode"),
        ("a.tsv", "sentence\tlabel\nGo\trage\n", "line 2: field 'text': .*, found .*'sentence'"),
        ("a.jsonl", line() + "{", r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected a JSON object, found list"),
        ("a.csv", TWO_LABELS, "line 4: field 'label': .* labelled 'joy' here and 'rage' before"),
        ("a.csv", "text,label\nGo, now,rage\n", "line 2: expected 2 fields .*found 3"),
        ("a.csv", 'text,label\nI won,joy\n"Go,rage\n', "line 3: not a table"),
        ("a.csv", "text,label,text\n", "line 1: a column is there twice"),
        ("a.txt", "Go", r"read from \.jsonl, \.tsv and \.csv, found '\.txt'"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line_and_column(tmp_path, file, content, message):
    with pytest.raises(DataError, match=message):
        read_texts(file_of(tmp_path, file, content), split="train")


@pytest.mark.parametrize("suffix", FORMATS)
def test_another_encoding_and_a_missing_file_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match="cannot read .*check the path"):
        read_texts(path, split="train")
    path.write_bytes("text\nCaf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_texts(path, split="train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("joy",)}, "line 1: field 'label': unknown label 'rage'; labels are joy"),
        ({"pair": "pair"}, "line 1: field 'pair': Field required"),
        ({"split": "valid"}, "no split is called 'valid'; splits are train, dev, test"),
    ],
)
def test_what_the_file_does_not_have_is_refused(tmp_path, options, message):
    path = file_of(tmp_path, "a.jsonl", line())
    with pytest.raises(DataError, match=message):
        read_texts(path, **{"split": "train", **options})

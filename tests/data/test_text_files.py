import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.prompts.prompt import SPLITS, LabelledSet, LabelledText, Texts
from circuits.prompts.texts import read_texts, split_texts, write_texts

FORMATS = (".jsonl", ".tsv", ".csv")
quick = settings(deadline=None, max_examples=60)
said = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: text == text.strip()
)


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
@quick
@given(rows=st.dictionaries(said.map(str.lower), st.tuples(said, st.none() | said), min_size=1))
def test_what_is_written_is_read_back(place, suffix, rows):
    labels = sorted({label for label, _ in rows.values()})
    alike = {" ".join(text.lower().split()): text for text in rows}
    own = [(text, *rows[text]) for text in alike.values()]
    texts = texts_of(*own, labels=labels)
    path = place / f"texts{suffix}"
    write_texts(path, texts)
    pair = "pair" if any(row.pair is not None for row in texts.rows) else None
    assert read_texts(path, split="train", pair=pair, labels=labels) == texts


@pytest.mark.parametrize("suffix", FORMATS)
def test_quotes_separators_and_line_breaks_in_a_text_survive(tmp_path, suffix):
    texts = texts_of(('He said: "No,\tnever"\nand left.', "rage"), ("It's, well, fine", "joy"))
    write_texts(tmp_path / f"texts{suffix}", texts)
    assert read_texts(tmp_path / f"texts{suffix}", split="train") == texts


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


REFUSED = {
    "empty file": ("a.jsonl", "", r"a\.jsonl: no text found"),
    "head only": ("a.csv", "text,label\n", r"a\.csv: no text found"),
    "empty text": ("a.jsonl", line(text=" "), r"line 1: column 'text': the text is empty"),
    "empty label": ("a.csv", "text,label\nGo,\n", r"line 2: column 'label': the text is empty"),
    "empty fields": ("a.csv", "text,label\n,\n", r"line 2: column 'text': the text is empty"),
    "number": ("a.jsonl", line(text=3), r"line 1: column 'text': expected a text, found int"),
    "null": ("a.jsonl", line(label=None), r"column 'label': expected a text, found nothing"),
    "half": ("a.jsonl", line(text="a\ud800"), r"line 1: column 'text': half a character"),
    "no column": (
        "a.tsv",
        "sentence\tlabel\nGo\trage\n",
        r"line 2: no column 'text'; columns are sentence, label",
    ),
    "bad JSON": ("a.jsonl", line() + "{", r"a\.jsonl, line 2: not JSON"),
    "list": ("a.jsonl", "[1]\n", r"line 1: expected a JSON object, found list"),
    "two labels": (
        "a.csv",
        'text,label\n"Go\nnow",rage\nGo  NOW,joy\n',
        r"line 4: column 'label': the text is labelled 'joy' here and 'rage' in line 2",
    ),
    "field too many": ("a.csv", "text,label\nGo, now,rage\n", r"line 2: expected 2 fields .*d 3"),
    "open quote": ("a.csv", 'text,label\nI won,joy\n"Go,rage\n', r"line 3: not a table"),
    "column twice": ("a.csv", "text,label,text\n", r"line 1: column 'text' is there twice"),
    "suffix": ("a.txt", "Go", r"read from \.jsonl, \.tsv and \.csv, found '\.txt'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_file_is_refused_with_its_line_and_column(tmp_path, name):
    file, content, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        read_texts(file_of(tmp_path, file, content), split="train")


def test_a_label_that_is_not_wanted_is_refused(tmp_path):
    path = file_of(tmp_path, "a.jsonl", line() + line(text="I won", label="joy"))
    with pytest.raises(
        DataError, match="line 2: column 'label': unknown label 'joy'; labels are r"
    ):
        read_texts(path, split="train", labels=("rage",))


@pytest.mark.parametrize("suffix", FORMATS)
def test_another_encoding_and_a_missing_file_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match="cannot read .*check the path"):
        read_texts(path, split="train")
    path.write_bytes("text\nCaf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_texts(path, split="train")


def test_a_pair_that_is_asked_for_must_be_a_column(tmp_path):
    with pytest.raises(DataError, match="no column 'pair'; columns are text, label"):
        read_texts(file_of(tmp_path, "a.jsonl", line()), split="train", pair="pair")


def test_an_unknown_split_is_refused(tmp_path):
    split: str = "valid"
    with pytest.raises(DataError, match="no split is called 'valid'; splits are train, dev, test"):
        read_texts(file_of(tmp_path, "a.jsonl", line()), split=split)


rows_to_split = st.lists(
    st.tuples(
        st.sampled_from(["Go", "go ", "I won", "Stop", "Wait", "Come", "Stay"]) | said,
        st.sampled_from(["joy", "rage"]),
        st.none() | st.sampled_from("pqrstuvw"),
    ),
    max_size=40,
)
# Enough texts of every label alone, so that no split lacks one.
SINGLE = [(f"{label} {n}", label, None) for label in ("joy", "rage") for n in range(10)]


@quick
@given(rows_to_split, st.integers(0, 3))
def test_a_split_loses_nothing_keeps_pairs_together_and_is_the_same_again(rows, seed):
    texts = texts_of(*rows, *SINGLE)
    parts = split_texts(texts, seed=seed)
    assert split_texts(texts, seed=seed) == parts
    assert tuple(part.split for part in parts) == SPLITS
    assert Counter(row for part in parts for row in part.rows) == Counter(texts.rows)
    LabelledSet("any", "Name it.", *parts)  # refuses a text or a pair in two splits


@quick
@given(st.integers(5, 60), st.integers(5, 60), st.integers(0, 30), st.integers(0, 3))
def test_every_label_and_every_kind_of_pair_has_its_share_of_every_split(joys, rages, pairs, seed):
    rows = [(f"joy {n}", "joy", None) for n in range(joys)]
    rows += [(f"rage {n}", "rage", None) for n in range(rages)]
    both = [[(f"a {n}", "joy", f"{n}"), (f"b {n}", "rage", f"{n}")] for n in range(pairs)]
    texts = texts_of(*rows, *(row for pair in both for row in pair))
    shares = (0.5, 0.3, 0.2)
    for share, part in zip(shares, split_texts(texts, shares, seed), strict=True):
        alone = Counter(row.label for row in part.rows if row.pair is None)
        assert abs(alone["joy"] - share * joys) <= 1
        assert abs(alone["rage"] - share * rages) <= 1
        assert abs(sum(row.pair is not None for row in part.rows) / 2 - share * pairs) <= 1


def test_the_seed_decides_who_goes_where():
    texts = texts_of(*SINGLE)
    assert split_texts(texts, seed=0) != split_texts(texts, seed=1)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.4, 0.2)])
def test_shares_must_be_three_parts_of_a_whole(shares):
    with pytest.raises(DataError, match="shares of train, dev, test are wanted that add up to 1"):
        split_texts(texts_of(*SINGLE), shares)


def test_a_split_without_a_label_is_refused():
    with pytest.raises(DataError, match="the dev split would have no text of awe; give more"):
        split_texts(texts_of(*SINGLE, ("Oh", "awe"), labels=("joy", "rage", "awe")))

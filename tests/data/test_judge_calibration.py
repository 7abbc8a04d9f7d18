import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.judges import LexiconJudge, Verdict, error_rate, read_labelled, wilson_interval
from circuits.names import EMOTIONS, NEUTRAL

LABELLED = Path(__file__).parents[2] / "assets" / "judge" / "labelled.jsonl"


class Yes:
    """Agrees with every question, and hears nothing."""

    name = "yes"

    def judge(self, texts, emotions):
        return [Verdict(text != "no", None, "") for text in texts]

    def describe(self):
        return {}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_labelled_texts_are_forty_per_label_without_repeats():
    labelled = read_labelled(LABELLED)
    assert Counter(item.label for item in labelled) == dict.fromkeys((*EMOTIONS, NEUTRAL), 40)
    assert len({item.text for item in labelled}) == len(labelled)


def test_the_lexicon_agrees_with_most_labels():
    calibration = error_rate(LexiconJudge(), LABELLED)
    assert calibration.n == 280
    assert calibration.judge == "lexicon"
    assert calibration.accuracy > 0.8
    assert calibration.error == pytest.approx(1 - calibration.accuracy)
    assert min(calibration.by_label.values()) > 0.6


def test_the_confusion_counts_add_up_to_the_texts(tmp_path):
    path = write(
        tmp_path / "few.jsonl",
        {"text": "I am furious.", "label": "anger"},
        {"text": "I am sad.", "label": "anger"},
        {"text": "It is noon.", "label": "neutral"},
    )
    calibration = error_rate(LexiconJudge(), path)
    assert calibration.confusion == {"anger": {"anger": 1, "sadness": 1}, "neutral": {"neutral": 1}}
    assert calibration.by_label == {"anger": 0.5, "neutral": 1.0}
    assert calibration.accuracy == pytest.approx(2 / 3)
    low, high = calibration.interval
    assert 0 < low < 2 / 3 < high < 1


def test_a_judge_without_labels_hears_other_where_it_disagrees(tmp_path):
    path = write(
        tmp_path / "two.jsonl", {"text": "yes", "label": "fear"}, {"text": "no", "label": "fear"}
    )
    assert error_rate(Yes(), path).confusion == {"fear": {"fear": 1, "other": 1}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "label": "fear"}, {"text": "x"}], r"bad\.jsonl, line 2: field 'label'"),
        ([{"text": "x", "label": "joy"}], "line 1: field 'label': 'joy' is none of anger, "),
        ([{"text": "x", "label": ["fear"]}], "line 1: field 'label': .* valid string"),
        ([{"text": None, "label": "fear"}], "line 1: field 'text': .* valid string"),
        ([], "holds no labelled texts"),
    ],
)
def test_malformed_lines_are_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_labelled(write(tmp_path / "bad.jsonl", *rows))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_stays_within_0_and_1(counts):
    right, n = counts
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n + 1e-12
    assert right / n - 1e-12 <= high <= 1


@given(st.integers(0, 40))
def test_more_texts_narrow_the_interval(right):
    low, high = wilson_interval(right, 40)
    narrow_low, narrow_high = wilson_interval(right * 10, 400)
    assert narrow_high - narrow_low < high - low

"""Judges of labels that are nobody's emotions but the user's."""

import json

import pytest

from circuits.errors import DataError, JudgeError
from circuits.judges import HttpJudge, LexiconJudge, WordingJudge, open_judge
from circuits.judges.classifier import emotion_of_labels

LABELS = ("gratitude", "envy")


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"gratitude": ["thank*", "so kind of"], "envy": ["jealous of"]}))
    return path


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    said = {
        "gratitude": ("Thank you for the soup.", "How kind, many thanks.", "I am so thankful."),
        "envy": ("Why does she get it all?", "I wish it were mine.", "He has it and I do not."),
        "neutral": ("The bus leaves at nine.", "The box is in the hall.", "It is a table."),
    }
    rows = [{"text": text, "label": label} for label in said for text in said[label]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_words_of_ones_own_decide(words):
    judge = open_judge(f"lexicon:{words}", labels=LABELS)
    heard = judge.judge(
        ["Thanks! I thank you.", "I am jealous of her.", "I am not jealous of her.", "A box."],
        ["gratitude", "gratitude", "envy", "neutral"],
    )
    assert [v.label for v in heard] == ["gratitude", "envy", "neutral", "neutral"]
    assert [v.match for v in heard] == [True, False, False, True]


def test_texts_of_ones_own_are_learnt_from(texts):
    judge = open_judge(f"wording:{texts}", labels=LABELS)
    assert isinstance(judge, WordingJudge)
    assert judge.labels == LABELS
    heard = judge.judge(["Many thanks for the box.", "I wish it were mine."], list(LABELS))
    assert [v.label for v in heard] == list(LABELS)
    assert judge.describe()["texts"] == {"gratitude": 3, "envy": 3, "neutral": 3}


def test_a_label_that_an_offline_judge_does_not_know_is_refused_before_it_judges(words):
    with pytest.raises(
        JudgeError, match="lexicon knows anger, .*not 'gratitude'; give lexicon:FILE"
    ):
        open_judge("lexicon", labels=LABELS)
    with pytest.raises(JudgeError, match="knows gratitude, envy, not 'pride'"):
        open_judge(f"lexicon:{words}", labels=(*LABELS, "pride"))
    with pytest.raises(JudgeError, match="item 0 asks for 'anger'; this judge knows gratitude"):
        LexiconJudge(words).judge(["x"], ["anger"])


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("[]", JudgeError, "expected an object such as"),
        ("{}", JudgeError, "expected an object such as"),
        ('{"envy": "jealous"}', JudgeError, "'envy': expected a list of words"),
        ('{"envy": []}', JudgeError, "'envy': expected a list of words"),
        ('{"envy": [" "]}', JudgeError, "'envy': expected a list of words"),
        ("{", DataError, "not JSON"),
    ],
)
def test_a_file_that_holds_no_words_is_refused(tmp_path, content, kind, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(kind, match=message):
        open_judge(f"lexicon:{path}")


def test_texts_of_one_label_teach_nothing(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"text": "Thanks.", "label": "gratitude"}\n')
    with pytest.raises(JudgeError, match="one label teach nothing"):
        open_judge(f"wording:{path}")
    for kind in ("wording", "lexicon"):
        with pytest.raises(DataError, match="cannot read"):
            open_judge(f"{kind}:{tmp_path / 'none.jsonl'}")


def test_a_chat_model_is_told_the_labels_and_what_they_mean():
    judge = open_judge(
        "http:https://host/v1", labels=LABELS, meanings=[("envy", "wanting what others have")]
    )
    assert isinstance(judge, HttpJudge)
    assert "The labels are gratitude, envy (wanting what others have)." in judge.system
    assert "six" not in judge.system
    assert "The six emotions are anger, sadness" in HttpJudge(base_url="https://host/v1").system


def test_a_classifiers_own_labels_are_taken_as_they_are():
    found = emotion_of_labels(["Gratitude", "joy", "envy", "neutral"], None, "m", LABELS)
    assert found == ("gratitude", "other", "envy", "neutral")
    # To the six, gratitude is a kind of happiness.
    assert emotion_of_labels(["gratitude"], None, "m") == ("happiness",)
    with pytest.raises(JudgeError, match="labels without a known emotion: joy"):
        emotion_of_labels(["joy"], None, "m", LABELS)

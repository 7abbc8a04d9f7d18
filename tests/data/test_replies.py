import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.judges import LexiconJudge
from circuits.judges.judge import Verdict
from circuits.judges.replies import (
    Judged,
    Reply,
    judge_replies,
    read_judged,
    read_methods,
    read_replies,
    write_rows,
)
from circuits.names import EMOTIONS, NEUTRAL, VALENCES
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompt, emotion_prompts, neutral_prompt
from circuits.running import execution

WON = Context("work_00", "Work", "positive", "I ran a race", "I won.")
REPLY = Reply(emotion_prompt(WON, "happiness"), "How lovely.", 3, "happiness")
VERDICT = Verdict(True, "happiness", "by name")
PUBLISHED = "outputs/llama32_3b/01_emotion_elicited_generation_prompt_based/labeled/sev"
LEAVE_OUT = object()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
contexts = st.builds(
    Context, st.text("abc_0", min_size=1), texts, st.sampled_from(VALENCES), texts, texts
)
emotions = st.sampled_from([*EMOTIONS, "quiet pride"])
asked_replies = st.builds(
    lambda context, emotion, text, n: Reply(emotion_prompt(context, emotion), text, n, emotion),
    contexts,
    emotions,
    texts,
    st.integers(0, 300),
)
plain_replies = st.builds(
    lambda context, emotion, text, n: Reply(neutral_prompt(context), text, n, emotion),
    contexts,
    emotions | st.just(NEUTRAL),
    texts,
    st.integers(0, 300),
)
verdicts = st.builds(Verdict, st.booleans(), st.none() | emotions, texts)


def key(reply: Reply) -> str:
    return reply.to_json()["key"]


replies = st.lists(asked_replies | plain_replies, max_size=4, unique_by=key)
judged_replies = st.lists(
    st.builds(Judged, asked_replies | plain_replies, verdicts),
    max_size=4,
    unique_by=lambda row: key(row.reply),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("replies") / "replies.jsonl"


def written(folder: Path, *rows: object) -> Path:
    path = folder / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row_with(**fields: object) -> dict[str, object]:
    row = {**Judged(REPLY, VERDICT).to_json(), **fields}
    return {name: value for name, value in row.items() if value is not LEAVE_OUT}


@settings(deadline=None, max_examples=40)
@given(replies)
def test_replies_come_back_as_they_were_written(place, rows):
    write_rows(place, rows)
    assert read_replies(place) == rows


@settings(deadline=None, max_examples=40)
@given(judged_replies)
def test_judged_replies_come_back_as_they_were_written(place, rows):
    write_rows(place, rows)
    assert read_judged(place) == rows
    assert read_replies(place) == [row.reply for row in rows]


def test_a_judged_reply_has_the_published_fields_in_their_order():
    row = Judged(REPLY, VERDICT).to_json()
    assert list(row) == [
        "key",
        "skeleton_id",
        "theme",
        "valence",
        "emotion",
        "scenario",
        "event",
        "gen_text",
        "judge",
        "meta",
    ]
    assert row["key"] == "work_00__positive__happiness"
    assert row["judge"] == {"match": 1, "reason": "by name", "label": "happiness"}


def test_a_reply_to_a_plain_prompt_keeps_the_emotion_that_it_should_express(tmp_path):
    steered = Reply(neutral_prompt(WON), "I won!", 4, "anger")
    write_rows(tmp_path / "a.jsonl", [steered])
    (found,) = read_replies(tmp_path / "a.jsonl")
    assert (found.prompt.emotion, found.emotion) == (None, "anger")


def test_fields_of_others_are_let_be(tmp_path):
    row = row_with(meta={"model_id": "other", "seed": 1}, extra=[1])
    (found,) = read_judged(written(tmp_path, row))
    assert found == Judged(Reply(REPLY.prompt, REPLY.text, 2, "happiness"), VERDICT)
    assert read_replies(written(tmp_path, row_with(meta=LEAVE_OUT, key=LEAVE_OUT)))


def test_a_key_that_occurs_twice_is_refused(tmp_path):
    message = r"line 3: field 'key': 'work_00__positive__happiness' is already in .*line 1$"
    other = Reply(emotion_prompt(WON, "fear"), "Help.", 1, "fear").to_json()
    with pytest.raises(DataError, match=message):
        read_replies(written(tmp_path, row_with(), other, row_with()))


def test_two_replies_to_one_request_are_refused_whatever_keys_the_file_gives_them(tmp_path):
    with pytest.raises(
        DataError, match=r"line 2: field 'key': .*happiness' is already in .*line 1$"
    ):
        read_replies(written(tmp_path, row_with(), row_with(key="another")))


NO_TEXT = "valid string"
TEXTS = ("skeleton_id", "theme", "scenario", "event", "gen_text", "emotion")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(({name: LEAVE_OUT}, f"field '{name}': Field required") for name in TEXTS),
        *(({name: None}, f"field '{name}': .*{NO_TEXT}") for name in TEXTS),
        *(({name: ["text"]}, f"field '{name}': .*{NO_TEXT}") for name in TEXTS),
        *(({"emotion": own}, "field 'emotion': ") for own in ("", " ", "anger\nand fear")),
        ({"valence": "mixed"}, "field 'valence': .*'positive', 'neutral' or 'negative'"),
        ({"meta": {"n_tokens": -1}}, "field 'n_tokens': "),
        ({"gen_text": "a\ud800"}, "field 'gen_text': .*unicode"),
    ],
)
def test_a_malformed_reply_is_refused_with_file_line_and_field(tmp_path, fields, message):
    with pytest.raises(DataError, match=rf"replies\.jsonl, line 1: {message}"):
        read_replies(written(tmp_path, row_with(**fields)))


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        *((own, "field 'judge': ") for own in (LEAVE_OUT, None, "yes", 1, [1])),
        *((own, "field 'judge.match': ") for own in ({}, {"match": 2}, {"match": "1"})),
        ({"match": None}, "field 'judge.match': "),
        ({"match": 1, "label": 5}, f"field 'judge.label': .*{NO_TEXT}"),
        ({"match": 1, "label": "\ud800"}, "field 'judge.label': .*unicode"),
        ({"match": 1, "reason": "\ud800"}, "field 'judge.reason': .*unicode"),
    ],
)
def test_a_malformed_judgement_is_refused(tmp_path, judge, message):
    with pytest.raises(DataError, match=rf"line 1: {message}"):
        read_judged(written(tmp_path, row_with(judge=judge)))


def test_methods_are_read_in_groups_and_may_share_keys(tmp_path):
    rows = [row_with(method=method) for method in ("prompt", "circuit")]
    groups = read_methods(written(tmp_path, *rows))
    assert list(groups) == ["prompt", "circuit"]
    assert groups["prompt"] == groups["circuit"] == [Judged(REPLY, VERDICT)]


@pytest.mark.parametrize("method", [LEAVE_OUT, None, 3])
def test_a_row_without_a_method_is_refused_where_methods_are_wanted(tmp_path, method):
    with pytest.raises(DataError, match="line 1: field 'method': "):
        read_methods(written(tmp_path, row_with(method=method)))


class LastWord:
    name = "last word"

    def judge(self, texts, emotions):
        pairs = zip(texts, emotions, strict=True)
        return [Verdict(text.endswith(emotion), None, "") for text, emotion in pairs]

    def describe(self):
        return {}


def test_every_judged_reply_is_told_to_progress_once():
    told = []
    with execution(progress=told.append):
        judge_replies([REPLY] * 70, LexiconJudge())
    assert told == [64, 6]


def test_every_reply_is_judged_against_the_emotion_that_it_should_express():
    rows = [Reply(p, "Full of fear", 3, p.emotion or "") for p in emotion_prompts([WON])]
    judged = judge_replies(rows, LastWord())
    assert [row.reply for row in judged] == rows
    assert [row.reply.emotion for row in judged if row.verdict.match] == ["fear"]


@pytest.mark.parametrize(("name", "count"), [("accepted", 2847), ("rejected", 33)])
def test_the_published_replies_are_read(shared, name, count):
    path = shared / "data" / "published" / PUBLISHED / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"the published {name} replies are not here")
    rows = read_judged(path)
    assert len(rows) == count
    assert {row.verdict.match for row in rows} == {name == "accepted"}
    first = json.loads(path.read_text(encoding="utf-8").split("\n", 1)[0])
    ours = rows[0].to_json()
    assert list(ours) == list(first)
    assert {k: v for k, v in ours.items() if k != "meta"} == {
        k: v for k, v in first.items() if k != "meta"
    }

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import DataError
from circuits.names import VALENCES
from circuits.prompts.sev import Scenario, contexts, read, spread

EVENT = {"positive": "I won.", "neutral": "I waited.", "negative": "I lost."}
ROW = {"theme": "Work", "scenario": "I ran a race", "event": EVENT, "skeleton_id": "work_00"}
LEAVE_OUT = object()
quick = settings(deadline=None, max_examples=60)


def changed(**fields):
    return {k: v for k, v in {**ROW, **fields}.items() if v is not LEAVE_OUT}


def with_event(**events):
    return changed(event={k: v for k, v in {**EVENT, **events}.items() if v is not LEAVE_OUT})


def written(folder: Path, *lines: object) -> Path:
    path = folder / "contexts.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def scenarios_of(themes):
    return tuple(Scenario(f"s{i}", theme, "I sat", EVENT) for i, theme in enumerate(themes))


def test_a_scenario_is_read_with_its_three_events(tmp_path):
    (scenario,) = read(written(tmp_path, ROW))
    assert scenario == Scenario("work_00", "Work", "I ran a race", EVENT)
    assert tuple(scenario.events) == VALENCES


def test_events_stand_in_the_order_of_the_valences_whatever_the_file_says(tmp_path):
    turned = dict(reversed(EVENT.items()))
    (scenario,) = read(written(tmp_path, changed(event=turned)))
    assert tuple(scenario.events) == VALENCES


def test_space_around_texts_and_fields_of_others_are_let_be(tmp_path):
    row = changed(theme=" Work ", scenario="I ran a race\n", event=EVENT, note=[1, 2])
    assert read(written(tmp_path, row)) == read(written(tmp_path, ROW))


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "windows.jsonl"
    second = changed(skeleton_id="work_01")
    text = f"\ufeff{json.dumps(ROW)}\r\n\r\n   \r\n{json.dumps(second)}"
    path.write_bytes(text.encode())
    assert [scenario.id for scenario in read(path)] == ["work_00", "work_01"]
    assert read(str(path)) == read(path)


def field(name, what):
    return rf"contexts\.jsonl, line 2: field '{name}': {what}"


MALFORMED = {
    "theme missing": (changed(theme=LEAVE_OUT), field("theme", "expected a text, found nothing")),
    "theme null": (changed(theme=None), field("theme", "expected a text, found nothing")),
    "theme blank": (changed(theme="  "), field("theme", "the text is empty")),
    "scenario number": (changed(scenario=3), field("scenario", "expected a text, found int")),
    "scenario list": (changed(scenario=["I"]), field("scenario", "expected a text, found list")),
    "scenario empty": (changed(scenario=""), field("scenario", "the text is empty")),
    "scenario cut": (changed(scenario="I \ud83d"), field("scenario", "half a character")),
    "id number": (changed(skeleton_id=7), field("skeleton_id", "expected a text, found int")),
    "id slash": (changed(skeleton_id="a/b"), field("skeleton_id", "'a/b' may not contain")),
    "id backslash": (changed(skeleton_id="a\\b"), field("skeleton_id", ".* may not contain")),
    "id space": (changed(skeleton_id="a b"), field("skeleton_id", "'a b' may not contain")),
    "id twice": (ROW | {"theme": "Home"}, field("skeleton_id", "'work_00' is already .* line 1")),
    "event missing": (
        changed(event=LEAVE_OUT),
        field("event", "expected an object with positive, neutral, negative, found nothing"),
    ),
    "event list": (changed(event=list(EVENT)), field("event", "expected an object .*found list")),
    "event text": (changed(event="I won."), field("event", "expected an object .*found str")),
    "event of events": (
        with_event(positive={"text": "I won."}),
        field("event.positive", "expected a text, found dict"),
    ),
    "valence missing": (
        with_event(neutral=LEAVE_OUT),
        field("event.neutral", "expected a text, found nothing"),
    ),
    "valence extra": (
        with_event(mixed="Both."),
        field("event", "unknown valence 'mixed'; valences are positive, neutral, negative"),
    ),
    "event blank": (with_event(negative="\t"), field("event.negative", "the text is empty")),
    "not JSON": ("{'theme': 1}", r"contexts\.jsonl, line 2: not JSON"),
    "two objects": ("{} {}", r"contexts\.jsonl, line 2: not JSON \(Extra data\)"),
    "no object": ("[]", r"contexts\.jsonl, line 2: expected a JSON object, found list"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_refused_with_file_line_and_field(tmp_path, name):
    line, message = MALFORMED[name]
    with pytest.raises(DataError, match=message):
        read(written(tmp_path, ROW, line))


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"theme": "\xe9cole"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl, line 2: not UTF-8"):
        read(path)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_a_file_without_scenarios_is_refused(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.jsonl: no scenario found; expected one JSON"):
        read(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"^cannot read .*absent\.jsonl: .*; check the path$"):
        read(tmp_path / "absent.jsonl")


def test_contexts_are_every_scenario_with_every_event_in_order():
    found = contexts(scenarios_of(["Work", "Home"]))
    assert [context.id for context in found] == [f"s{i}/{v}" for i in (0, 1) for v in VALENCES]
    assert [context.event for context in found] == [*EVENT.values()] * 2
    assert {context.situation for context in found} == {"I sat"}


themes = st.lists(st.sampled_from("abcde"), min_size=1, max_size=30)


@quick
@given(themes, st.data())
def test_spread_takes_as_many_of_each_theme_as_there_are_and_keeps_the_order(themes, data):
    scenarios = scenarios_of(themes)
    count = data.draw(st.integers(1, len(scenarios)))
    chosen = spread(scenarios, count)
    assert len(chosen) == count
    assert list(chosen) == [scenario for scenario in scenarios if scenario in chosen]
    own, all_of = Counter(s.theme for s in chosen), Counter(themes)
    most = max(own.values())
    assert all(own[theme] >= min(most - 1, all_of[theme]) for theme in all_of)
    for theme in all_of:
        of_theme = [s for s in scenarios if s.theme == theme]
        assert [s for s in chosen if s.theme == theme] == of_theme[: own[theme]]


def test_spread_of_everything_is_everything():
    scenarios = scenarios_of("aabbb")
    assert spread(scenarios, 5) == scenarios


@pytest.mark.parametrize("count", [-1, 0, 3])
def test_spread_of_too_many_or_none_is_refused(count):
    with pytest.raises(DataError, match=rf"^asked for {count} scenarios, found 2$"):
        spread(scenarios_of("ab"), count)


@pytest.mark.parametrize("name", ["sev", "test_set"])
def test_the_published_files_are_read(shared, name):
    path = shared / "data" / "published" / "data" / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"the published file {name}.jsonl is not here")
    scenarios = read(path)
    assert len(scenarios) == 160
    assert set(Counter(scenario.theme for scenario in scenarios).values()) == {20}
    assert len({context.id for context in contexts(scenarios)}) == 480

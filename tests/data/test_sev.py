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
    (scenario,) = read(written(tmp_path, changed(event=dict(reversed(EVENT.items())))))
    assert scenario == Scenario("work_00", "Work", "I ran a race", EVENT)
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
    return rf"contexts\.jsonl, line 2: field '{name}': .*{what}"


NO_TEXT, EMPTY, MISSING = "valid string, found", "at least 1 character", "Field required"
MALFORMED = [
    (changed(theme=LEAVE_OUT), field("theme", MISSING)),
    (changed(theme=None), field("theme", NO_TEXT)),
    (changed(theme="  "), field("theme", EMPTY)),
    (changed(scenario=["I"]), field("scenario", NO_TEXT)),
    (changed(scenario="I \ud83d"), field("scenario", "unicode")),
    (changed(skeleton_id=7), field("skeleton_id", NO_TEXT)),
    *(
        (changed(skeleton_id=own), field("skeleton_id", "may not contain"))
        for own in ("a/b", "a\\b", "a b")
    ),
    (ROW | {"theme": "Home"}, field("skeleton_id", "'work_00' is there already")),
    (changed(event=LEAVE_OUT), field("event", MISSING)),
    (changed(event="I won."), field("event", "found 'I won.'")),
    (with_event(positive={"text": "I won."}), field("event.positive", NO_TEXT)),
    (with_event(neutral=LEAVE_OUT), field("event.neutral", MISSING)),
    (with_event(mixed="Both."), field("event.mixed", "not permitted")),
    (with_event(negative="\t"), field("event.negative", EMPTY)),
    ("{'theme': 1}", r"contexts\.jsonl, line 2: not JSON"),
    ("{} {}", r"contexts\.jsonl, line 2: not JSON \(Extra data\)"),
    ("[]", r"contexts\.jsonl, line 2: expected a JSON object, found list"),
]


@pytest.mark.parametrize(("line", "message"), MALFORMED)
def test_a_malformed_line_is_refused_with_file_line_and_field(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read(written(tmp_path, ROW, line))


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_a_file_without_scenarios_is_refused(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.jsonl: no scenario found; expected one JSON"):
        read(path)


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

import pytest

from circuits.errors import JudgeError
from circuits.judges import ClassifierJudge, HttpJudge, LexiconJudge, open_judge


def test_each_form_opens_its_judge():
    assert isinstance(open_judge("lexicon"), LexiconJudge)
    assert isinstance(open_judge("classifier:some/model"), ClassifierJudge)
    assert open_judge("http:https://api.example.org/v1") == HttpJudge(
        base_url="https://api.example.org/v1"
    )
    assert open_judge("http:http://localhost:8000/v1#own-model") == HttpJudge(
        base_url="http://localhost:8000/v1", model="own-model"
    )


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "lexikon",
        "lexicon:",
        "wording:",
        "classifier",
        "classifier:",
        "http",
        "http:",
        "http://host/v1",
        "https://host/v1",
        "http:https://host/v1#",
    ],
)
def test_a_wrong_form_lists_the_right_ones(spec):
    with pytest.raises(
        JudgeError, match=r"lexicon, wording, classifier:ID_OR_PATH .* http:BASE_URL"
    ):
        open_judge(spec)


@pytest.mark.parametrize("base", ["ftp://host", "host/v1", "http://[bad", "https://"])
def test_an_address_that_cannot_work_is_refused(base):
    with pytest.raises(JudgeError, match="base URL"):
        open_judge(f"http:{base}")


def test_the_description_tells_how_to_judge_in_the_same_way():
    described = HttpJudge(base_url="https://host/v1", model="m").describe()
    assert (described["name"], described["model"], described["temperature"]) == ("http", "m", 0)
    assert described["base_url"] == "https://host/v1"
    assert "disgust" in described["system"]


@pytest.mark.parametrize("options", [{"attempts": 0}, {"workers": 0}, {"timeout": 0.0}])
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(JudgeError, match="a judge needs attempts and workers from 1"):
        HttpJudge(base_url="https://host/v1", **options)


@pytest.mark.parametrize("bad", ["sk-a b", "sk-a\nX-Other: 1", "sk-\u00e9\u00e9\u00e9"])
def test_a_malformed_key_is_refused_without_repeating_it(monkeypatch, bad):
    monkeypatch.setenv("OPENAI_API_KEY", bad)
    with pytest.raises(JudgeError, match="OPENAI_API_KEY does not hold a key") as refused:
        HttpJudge(base_url="http://127.0.0.1:9/v1").judge(["wow"], ["surprise"])
    assert "sk-" not in str(refused.value)


def test_without_the_client_its_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(JudgeError, match=r"pip install 'openai>=3\.57,<4'"):
        open_judge("http:https://host/v1")

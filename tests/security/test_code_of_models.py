"""Code that comes with a model runs only where the user asked for it."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import plan_in

from circuits.cli.app import main
from circuits.errors import CircuitsError, JudgeError, ModelError
from circuits.judges import open_judge
from circuits.models.load import load_model
from circuits.models.tokens import encode, render
from circuits.prompts.templates import neutral_prompts
from circuits.runs.folder import Study
from circuits.runs.plan import Plan, trusted, trusting
from circuits.runs.work import plan_of

NEEDED = [("model",), ("tokenizer",), ("model", "tokenizer")]


def kind_for(parts):
    """A kind of model that transformers does not know, if the model's code is to be needed."""
    return "brought_along" if "model" in parts else "llama"


@pytest.mark.trial("security", "a model folder that needs code of its own is loaded")
@pytest.mark.parametrize("parts", NEEDED, ids="+".join)
def test_code_that_a_model_needs_is_named_and_not_run(model_folder, parts, trial):
    model_folder.bring(*parts, kind=kind_for(parts))
    with pytest.raises(ModelError, match=r"needs code of its own .*brought\.") as refused:
        load_model(model_folder.path)
    assert not model_folder.ran
    assert "--trust-remote-code, or trust_remote_code=True in Python" in str(refused.value)
    trial(outcome="refused by name, not run; the message says how to allow it")


@pytest.mark.trial("security", "a model folder brings code for a kind of model that is known")
def test_code_that_a_model_does_not_need_is_left_alone(model_folder, trial):
    model_folder.bring("model")
    model = load_model(model_folder.path)
    assert not model_folder.ran
    wrapped: Any = model
    assert type(wrapped.original_model).__module__.startswith("transformers.models.llama")
    trial(outcome="loaded without the code")


@pytest.mark.trial("security", "code of a model's own is allowed by the user")
def test_code_that_was_asked_for_runs(model_folder, trial):
    model_folder.bring("tokenizer")
    try:
        model = load_model(model_folder.path, trust_remote_code=True)
    except ModelError:
        pass  # the made-up tokenizer need not fit; that its code ran is what counts
    else:
        assert type(model.tokenizer).__name__ == "Tokenizer"
    assert model_folder.ran
    trial(outcome="run")


@pytest.mark.trial("security", "a tokenizer is opened again for begin tokens as saved")
def test_a_tokenizer_that_changed_after_loading_does_not_run(model_folder, contexts, trial):
    model = load_model(model_folder.path, begin="tokenizer")
    model_folder.bring("tokenizer")
    with pytest.raises((CircuitsError, ValueError), match="custom code"):
        encode(model, neutral_prompts(contexts)[0])
    assert not model_folder.ran
    trial(outcome="refused, not run")


@pytest.mark.trial("security", "a classifier judge that needs code of its own")
def test_a_judge_runs_no_code(model_folder, monkeypatch, trial):
    model_folder.bring("model", "tokenizer", kind="brought_along")
    # On a terminal transformers would ask; nobody is there to answer.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    judge = open_judge(f"classifier:{model_folder.path}")
    with pytest.raises(JudgeError, match="needs code of its own"):
        judge.judge(["How dare you!"], ["anger"])
    assert not model_folder.ran
    trial(outcome="refused by name, not run")


class Marking:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def spoil(folder, form):
    (folder.path / "model.safetensors").unlink()
    weights = folder.path / "pytorch_model.bin"
    if form == "torch":
        torch.save({"model.norm.weight": Marking(folder.mark)}, weights)  # noqa: TID251
    else:
        weights.write_bytes(pickle.dumps({"model.norm.weight": Marking(folder.mark)}, protocol=2))


@pytest.mark.trial("security", "weights that are a pickle with code in it ({form})")
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_weights_that_are_code_are_refused_and_not_run(model_folder, form, trial):
    spoil(model_folder, form)
    with pytest.raises(ModelError, match="a pickle that names more than tensors") as refused:
        load_model(model_folder.path)
    assert not model_folder.ran
    assert "weights_only" not in str(refused.value)  # torch's advice is to open it unchecked
    trial(outcome="refused by name, not run")


@pytest.mark.trial("security", "a chat template that reaches for the operating system")
def test_a_chat_template_cannot_reach_out(model_folder, contexts, trial):
    reach = "{{ cycler.__init__.__globals__.os.popen('touch %s').read() }}{{ messages[0].content }}"
    (model_folder.path / "chat_template.jinja").write_text(reach % model_folder.mark)
    model = load_model(model_folder.path)
    with pytest.raises(ModelError, match="chat template"):
        render(model, neutral_prompts(contexts)[0])
    assert not model_folder.ran
    trial(outcome="refused, not run")


@pytest.fixture
def received(model_folder, tmp_path):
    """A run folder from somebody else whose plan allows its model's code."""
    model_folder.bring("model", "tokenizer", kind="brought_along")
    code = model_folder.path / "brought.py"
    code.write_text(f"{code.read_text()}\nraise RuntimeError('far enough')\n")
    plan = plan_in(tmp_path / "run", model=str(model_folder.path), trust_remote_code=True)
    plan.out.mkdir()
    log = {"plan": plan.to_json(), "versions": {}, "stages": {}}
    (plan.out / "run.json").write_text(json.dumps(log))
    return Study(plan.out)


def typed(monkeypatch, *words):
    """A command that cannot go well, as it is typed."""
    monkeypatch.setattr("sys.argv", ["emotion-circuits", *map(str, words)])
    with pytest.raises((SystemExit, ModelError)):
        main()


def test_a_folder_does_not_decide_what_may_run(received):
    assert received.log["plan"]["trust_remote_code"] is True
    assert plan_of(received).trust_remote_code is False
    assert Plan.trust_remote_code is False
    with trusting("code"):
        assert plan_of(received).trust_remote_code is True
    assert not trusted("code")


@pytest.mark.trial("security", "a received run folder says that its model's code may run")
def test_a_received_run_folder_cannot_allow_its_own_code(
    received, model_folder, monkeypatch, capsys, trial
):
    typed(monkeypatch, "neurons", received.folder)
    assert "needs code of its own" in " ".join(capsys.readouterr().err.split())
    assert not model_folder.ran
    trial(outcome="not run; only the option of the command allows it")


@pytest.mark.parametrize("first", [True, False])
def test_the_option_allows_code_for_one_command(received, model_folder, first, monkeypatch):
    option, words = ["--trust-remote-code"], ["neurons", received.folder]
    typed(monkeypatch, *(option + words if first else words + option))
    assert model_folder.ran
    assert not trusted("code")

"""Model folders that bring code."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from circuits.files import shipped

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

class Config(LlamaConfig):
    model_type = {kind!r}

class Own(LlamaForCausalLM):
    config_class = Config

class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


class ModelFolder:
    """A copy of the smallest shipped model; code that it brings leaves a mark when it runs."""

    def __init__(self, path: Path) -> None:
        self.path, self.mark = path, path.parent / "mark"
        shutil.copytree(shipped("sev-nano"), path)

    @property
    def ran(self) -> bool:
        """Did the code run?"""
        return self.mark.exists()

    def change(self, name: str, **values: object) -> None:
        """Change fields of a JSON file."""
        path = self.path / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def bring(self, *parts: str, kind: str = "llama") -> None:
        """Bring code for the ``model`` or the ``tokenizer``; ``kind`` is the type of the model."""
        code = CODE.format(mark=str(self.mark), kind=kind)
        (self.path / "brought.py").write_text(code)
        self.change("config.json", model_type=kind)
        if "model" in parts:
            named = {"AutoConfig": "brought.Config", "AutoModelForCausalLM": "brought.Own"}
            self.change("config.json", auto_map=named)
        if "tokenizer" in parts:
            named = {"AutoTokenizer": [None, "brought.Tokenizer"]}
            self.change("tokenizer_config.json", auto_map=named, tokenizer_class="Tokenizer")


@pytest.fixture
def model_folder(tmp_path, monkeypatch) -> Iterator[ModelFolder]:
    """A folder of a model that a test may spoil."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    before = list(sys.path)
    yield ModelFolder(tmp_path / "model")
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]

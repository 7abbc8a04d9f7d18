import json

import pytest

from circuits.errors import JudgeError
from circuits.judges import ClassifierJudge
from circuits.running import execution

transformers = pytest.importorskip("transformers")
LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "i",
    "am",
    "so",
    "glad",
    "afraid",
    "angry",
    "sad",
    "wow",
    "yuck",
    "today",
]


def save(folder, labels=LABELS, bias=None, **config):
    """A tiny random classifier with its tokenizer; ``bias`` fixes what it answers."""
    import torch

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    settings = transformers.DistilBertConfig(
        vocab_size=len(WORDS),
        dim=8,
        hidden_dim=16,
        n_heads=2,
        n_layers=1,
        max_position_embeddings=16,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **config,
    )
    model = transformers.DistilBertForSequenceClassification(settings)
    if bias is not None:
        torch.nn.init.zeros_(model.classifier.weight)
        model.classifier.bias.data = torch.tensor(bias)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("classifier") / "model")


def test_joy_and_love_add_up_to_happiness(tmp_path):
    model = save(tmp_path / "m", bias=[0.5, 0.4, 0.4, 0.0, 0.0, 0.0])
    happy, sad = ClassifierJudge(model, device="cpu").judge(
        ["i am glad", "i am sad"], ["happiness", "sadness"]
    )
    assert (happy.match, happy.label) == (True, "happiness")
    assert (sad.match, sad.label) == (False, "happiness")
    assert happy.reason.startswith("happiness with score 0.39")


def test_labels_that_do_not_exclude_each_other_are_not_added(tmp_path):
    model = save(
        tmp_path / "m",
        bias=[0.5, 0.4, 0.4, 0.0, 0.0, 0.0],
        problem_type="multi_label_classification",
    )
    assert ClassifierJudge(model, device="cpu").judge(["i am"], ["fear"])[0].label == "sadness"


def test_verdicts_do_not_depend_on_batches_order_or_whitespace(random_model):
    some = ["i am so glad", "wow", "yuck today i am sad", "angry", "so afraid today"]
    asked = ["fear"] * len(some)
    together = ClassifierJudge(random_model, device="cpu").judge(some, asked)
    judge = ClassifierJudge(random_model, device="cpu")
    with execution(batch_size=2):
        assert judge.judge(some, asked) == together
        assert judge.judge(some[::-1], asked) == together[::-1]
        assert judge.judge([f" {text}\n" for text in some], asked) == together


def test_long_texts_are_cut_and_empty_ones_match_nothing(random_model):
    long, empty = ClassifierJudge(random_model, device="cpu").judge(
        ["wow " * 99, " "], ["fear"] * 2
    )
    assert long.label is not None
    assert (empty.match, empty.label, empty.reason) == (False, "neutral", "empty text")


def save_other(folder, kind, pad=None, side="right", **config):
    """A tiny random classifier of another architecture, over words."""
    import tokenizers
    import torch

    torch.manual_seed(0)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="[SEP]", pad_token=pad, padding_side=side
    ).save_pretrained(folder)
    settings = transformers.AutoConfig.for_model(
        kind,
        vocab_size=len(WORDS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        **config,
    )
    model = transformers.AutoModelForSequenceClassification.from_config(settings)
    model.save_pretrained(folder)
    return str(folder)


GPT2 = {"n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2, "pad_token_id": None}
OTHERS = {
    "gpt2 without a padding token": ("gpt2", GPT2, {}),
    "gpt2 that pads left": ("gpt2", {**GPT2, "pad_token_id": 0}, {"pad": "[PAD]", "side": "left"}),
    "xlnet without positions": (
        "xlnet",
        {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 16, "dropout": 0.0},
        {"pad": "[PAD]"},
    ),
    "mpnet with few positions": (
        "mpnet",
        {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 14,
            "pad_token_id": 1,
        },
        {"pad": "[PAD]"},
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_classifiers_without_padding_or_positions_score_a_text_the_same_in_a_batch(tmp_path, kind):
    name, config, tokens = OTHERS[kind]
    model = save_other(tmp_path / "m", name, **tokens, **config)
    texts = ["i am", "wow i am so glad today", "sad", "wow " * 40]
    judge = ClassifierJudge(model, device="cpu")
    together = judge.judge(texts, ["fear"] * 4)
    assert [judge.judge([text], ["fear"])[0] for text in texts] == together


def test_a_tokenizer_that_can_pad_in_no_way_is_named(tmp_path):
    model = save_other(tmp_path / "m", "gpt2", **GPT2)
    path = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    with pytest.raises(JudgeError, match="neither a padding nor an end token"):
        ClassifierJudge(model, device="cpu").judge(["wow"], ["fear"])


def test_no_texts_give_no_verdicts(random_model):
    assert ClassifierJudge(random_model, device="cpu").judge([], []) == []


def test_the_description_tells_the_model_and_the_meaning_of_its_labels(random_model):
    described = ClassifierJudge(random_model, device="cpu").describe()
    assert described["model"] == random_model
    assert described["labels"]["joy"] == "happiness"
    assert json.dumps(described)


def test_an_asked_emotion_without_a_label_is_refused(random_model):
    with pytest.raises(JudgeError, match="'disgust' was asked, but no label .* sadness, joy"):
        ClassifierJudge(random_model, device="cpu").judge(["wow"], ["disgust"])


def test_unknown_labels_are_named_and_can_be_mapped(tmp_path):
    model = save(tmp_path / "m", labels=("LABEL_0", "LABEL_1", "Fear"), bias=[1.0, 0.0, 0.0])
    with pytest.raises(JudgeError, match="labels without a known emotion: LABEL_0, LABEL_1"):
        ClassifierJudge(model, device="cpu").judge(["wow"], ["fear"])
    mapped = ClassifierJudge(
        model, labels={"LABEL_0": "disgust", "LABEL_1": "neutral"}, device="cpu"
    )
    assert mapped.judge(["wow"], ["disgust"])[0].match


def test_a_label_map_that_does_not_fit_is_refused(random_model):
    with pytest.raises(JudgeError, match="the label map names boredom"):
        ClassifierJudge(random_model, labels={"boredom": "neutral"}).judge(["wow"], ["fear"])
    with pytest.raises(JudgeError, match="the label map leads to boredom"):
        ClassifierJudge(random_model, labels={"joy": "boredom"}).judge(["wow"], ["fear"])


def test_a_missing_model_says_to_log_in_or_give_a_folder(tmp_path):
    with pytest.raises(JudgeError, match=r"cannot be loaded .* log in .* local folder"):
        ClassifierJudge(str(tmp_path / "absent")).judge(["wow"], ["fear"])


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    folder = save(tmp_path / "m")
    transformers.DistilBertModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(JudgeError, match=r"no trained classifier: it lacks .*classifier"):
        ClassifierJudge(folder, device="cpu").judge(["wow"], ["fear"])


def test_an_absent_device_is_refused(random_model):
    with pytest.raises(JudgeError, match="cannot run on 'nowhere'"):
        ClassifierJudge(random_model, device="nowhere").judge(["wow"], ["fear"])

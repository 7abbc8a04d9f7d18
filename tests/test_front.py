"""From plain strings to effects, patches and steered replies, in at most three lines each."""

import json
from pathlib import Path

import pytest
import torch

import circuits as ec
from circuits.circuit.circuit import Node
from circuits.errors import AxisError, CircuitError, DataError, ModelError
from circuits.files import shipped
from circuits.models.tokens import encode
from circuits.names import VALENCES
from circuits.prompts.prompt import Message, as_prompts
from circuits.prompts.templates import TEMPLATES, Template, neutral_prompt
from circuits.steering.steered import Steered

AFRAID, GLAD = "I opened the door and felt fear today", "I opened the door and felt glad today"
BY_EMOTION = {
    "fear": [AFRAID, "They left the house in fear"],
    "happiness": [GLAD, "They left the house in glad"],
}


def bridge():
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(shipped("sev-mini")), device="cpu")


def test_a_string_is_read_as_transformer_lens_reads_it(mini):
    assert encode(mini, "The sky is") == mini.to_tokens("The sky is")[0].tolist()


def test_messages_go_through_the_chat_template(mini):
    turns = [{"role": "user", "content": "Hello."}]
    rendered = mini.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert mini.tokenizer.decode(encode(mini, turns)) == rendered
    assert encode(mini, [Message("user", "Hello.")]) == encode(mini, turns)


def test_ids_are_read_as_they_are(mini):
    ids = encode(mini, AFRAID)
    assert encode(mini, ids) == ids == encode(mini, torch.tensor(ids))
    assert ec.generate(mini, ids, max_new_tokens=4) == ec.generate(mini, AFRAID, max_new_tokens=4)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "no prompt is given"),
        ([""], "the prompt is empty"),
        ([[]], "a prompt is a text, messages or token ids"),
        ([["a", 1]], r"found \['a', 1\]"),
        ([1, -2], "token id -2 is not in the model's vocabulary, whose ids are 0 to 1499"),
        ([1500], "token id 1500 is not in the model's vocabulary"),
        ([1] * 600, "has 600 tokens, the model reads 512"),
        ([{"role": "user"}], "a message has a role and a content"),
        ([{"role": "user", "content": " "}], "all empty"),
    ],
)
def test_what_is_no_prompt_is_refused(mini, prompt, message):
    with pytest.raises(DataError, match=message):
        ec.generate(mini, prompt)


def test_one_prompt_gives_one_text_and_several_give_a_list(mini):
    both = ec.generate(mini, [AFRAID, GLAD], max_new_tokens=4)
    assert both == [ec.generate(mini, own, max_new_tokens=4) for own in (AFRAID, GLAD)]
    assert [len(as_prompts(own)) for own in (AFRAID, [AFRAID, GLAD], [1, 2])] == [1, 2, 1]


def test_directions_of_strings_are_the_contrast_of_the_last_positions(mini):
    found = ec.directions(mini, BY_EMOTION)
    last = torch.stack([
        torch.stack([resid_post(mini, text, 3) for text in texts]) for texts in BY_EMOTION.values()
    ])  # fmt: skip
    contrast = (last - last.mean(0)).mean(1)
    wanted = contrast / contrast.norm(dim=-1, keepdim=True)
    assert torch.allclose(found.sel(sublayer="mlp", layer=3).vectors[:, 0, 0], wanted, atol=1e-5)


def resid_post(model, text, layer):
    _, cache = model.run_with_cache(torch.tensor([encode(model, text)]))
    return cache[f"blocks.{layer}.hook_resid_post"][0, -1]


def test_effects_of_heads_and_neurons_need_no_run(mini):
    directions = ec.directions(mini, BY_EMOTION)
    heads = ec.head_effects(mini, BY_EMOTION, directions)
    neurons = ec.neuron_effects(mini, BY_EMOTION, directions)
    assert heads.provenance.model == {}
    assert list(heads.to_frame())[:4] == ["emotion", "layer", "head", "mean"]
    assert neurons.mean.shape == (2, 6, 384)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"fear": [AFRAID]}, "two emotions or more"),
        ({"fear": [AFRAID], "calm": []}, "no prompt is given"),
        ({"fear": [AFRAID, GLAD], "calm": [GLAD]}, "found 2 of fear, 1 of calm"),
    ],
)
def test_prompts_that_form_no_group_are_refused(mini, prompts, message):
    with pytest.raises(DataError, match=message):
        ec.directions(mini, prompts)


@torch.no_grad()
def test_a_patched_head_is_what_a_hook_makes_of_it(mini):
    words = ec.logit_difference(" fear", " glad")
    found = ec.patch(mini, AFRAID, GLAD, sites="heads", readout=words)
    clean, corrupt = (torch.tensor([encode(mini, own)]) for own in (AFRAID, GLAD))
    _, cache = mini.run_with_cache(clean)

    def put(z, hook):
        z = z.clone()
        z[:, :, 2] = cache[hook.name][:, :, 2]
        return z

    def score(logits):
        return float(words.of(mini).score(logits[:, -1]))

    patched = mini.run_with_hooks(corrupt, fwd_hooks=[("blocks.1.attn.hook_z", put)])
    effect = score(patched) - score(mini(corrupt))
    assert float(found.effect[1, 2, 0]) == pytest.approx(effect, abs=1e-4)
    assert found.gap.tolist() == pytest.approx([score(mini(clean)), score(mini(corrupt))], abs=1e-4)


def test_sites_of_the_stream_are_patched_by_position(mini):
    words = ec.logit_difference(" fear", " glad")
    found = ec.patch(mini, AFRAID, GLAD, sites="resid_post", readout=words)
    assert len(found.place) == len(encode(mini, AFRAID))
    whole = float(found.gap[0] - found.gap[1])
    assert float(found.effect[0, -1, -1]) == pytest.approx(whole, abs=1e-4)


def test_what_cannot_be_patched_is_refused(mini):
    words = ec.logit_difference(" fear", " glad")
    with pytest.raises(AxisError, match="'layers' is no site"):
        ec.patch(mini, AFRAID, GLAD, sites="layers", readout=words)
    with pytest.raises(DataError, match="are the same"):
        ec.patch(mini, AFRAID, AFRAID, readout=words)
    with pytest.raises(DataError, match="they end differently"):
        ec.patch(mini, AFRAID, "They left the house", readout=words)
    with pytest.raises(DataError, match="each clean prompt needs one"):
        ec.patch(mini, [AFRAID], [GLAD, GLAD], readout=words)
    with pytest.raises(DataError, match="is 2 tokens for this model"):
        ec.patch(mini, AFRAID, GLAD, readout=ec.logit_difference(" good", " glad"))


def test_a_bridge_is_taken_as_it_is(mini):
    own = bridge()
    assert ec.wrap_model(own) is own
    assert ec.load_model(own) is own
    assert ec.generate(own, AFRAID, max_new_tokens=5) == ec.generate(mini, AFRAID, max_new_tokens=5)


def test_a_bridge_with_folded_weights_is_refused():
    own = bridge()
    own.enable_compatibility_mode()
    for call in (ec.wrap_model, ec.load_model, lambda model: ec.generate(model, AFRAID)):
        with pytest.raises(ModelError, match="weights were folded and centred"):
            call(own)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_first_notebook_runs_with_a_model_that_the_user_has_loaded(mini, request):
    if request.config.getoption("--model-kind") == "bridge":
        pytest.skip("the tests of notebooks run it with a bridge that is loaded")
    notebook = Path(__file__).parents[1] / "notebooks" / "00_five_minutes.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert codes[0] == 'MODEL = "sev-mini"'
    names = {"MODEL": mini}
    for code in codes[1:]:
        if "%pip" not in code:
            exec(compile(code, notebook.name, "exec"), names)  # noqa: S102  # its own claims are its test
    assert names["model"] is mini


@pytest.fixture(scope="module")
def fear(mini):
    """Found on few contexts, and not scored."""
    emotions = ("fear", "happiness")
    return ec.find_circuit(
        mini, "fear", contexts=ec.sev("train", 6), held_out=(), emotions=emotions
    )


def test_a_circuit_says_what_it_was_made_from(fear):
    assert fear.evidence == {
        "template": "published",
        "judge": "lexicon",
        "contexts": 6,
        "complete_contexts": 6,
        "elicited": {"fear": [6, 6], "happiness": [6, 6]},
    }
    assert repr(fear) == f"Circuit('fear', 7 heads, {len(fear.neurons)} neurons, of sev-mini)"
    assert fear.to_frame()["id"].tolist() == [node.id for node in fear.nodes]
    assert "plotly" in fear._repr_html_()  # noqa: SLF001
    with pytest.raises(AttributeError, match="no score 'faithfulness'; it has"):
        _ = fear.scores.faithfulness


def test_a_circuit_is_saved_under_a_path_in_any_form(fear, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("a.json", "~/b.json", tmp_path / "c.json"):
        fear.save(path)
        assert ec.read_circuit(path) == fear
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "c.json"]


def test_a_steered_model_is_afraid_and_stays_as_it_was(mini, fear):
    text = "I opened the cellar door. It was dark."
    before = ec.generate(mini, neutral_prompt(ec.Context("a", "b", "neutral", text, text)))
    steered = ec.steer(mini, fear)
    assert isinstance(steered, Steered)
    replies = [steered.generate(text), *steered.generate(["The lift stopped. I was alone."])]
    assert all(verdict.match for verdict in ec.LexiconJudge().judge(replies, ["fear"] * 2))
    after = ec.generate(mini, neutral_prompt(ec.Context("a", "b", "neutral", text, text)))
    assert after == before
    # Token ids are no context: they are read as they are.
    ids = encode(mini, text)
    assert ec.steer(mini, fear, strength=0.0).generate(ids) == ec.generate(mini, ids)


def test_directions_of_strings_steer(mini):
    directions = ec.directions(mini, BY_EMOTION)
    steered = ec.steer(mini, directions, "fear", strength=4.0)
    assert steered.generate(GLAD) != ec.steer(mini, directions, "fear", strength=0.0).generate(GLAD)
    with pytest.raises(DataError, match="one of fear, happiness"):
        ec.steer(mini, directions, "anger")


def test_what_does_not_steer_is_refused(mini, fear):
    with pytest.raises(DataError, match="that of 'fear', not of 'anger'"):
        ec.steer(mini, fear, "anger")
    bare = ec.Circuit("fear", (Node("embed", "embed"),), ())
    with pytest.raises(CircuitError, match="neither heads nor neurons to write"):
        ec.steer(mini, bare)


def test_a_circuit_of_nothing_is_refused_with_counts_a_reply_and_what_to_do(llama):
    with pytest.raises(CircuitError) as refused:
        ec.find_circuit(llama, "fear", contexts=ec.sev("train", 2), max_new_tokens=4)
    message = str(refused.value)
    assert "anger 0 of 2, sadness 0 of 2" in message
    assert "A reply that should express" in message
    assert "larger model, more contexts, another judge, or fewer emotions" in message


def test_contexts_that_made_the_circuit_do_not_score_it(mini):
    contexts = ec.sev("train", 3)
    with pytest.raises(DataError, match="is one that the circuits were made from"):
        ec.find_circuit(mini, "fear", contexts=contexts, held_out=contexts)
    with pytest.raises(DataError, match="'joy' is none of the emotions"):
        ec.find_circuit(mini, "joy", contexts=contexts)


def test_sev_gives_contexts_with_all_valences():
    assert {context.valence for context in ec.sev("train", 24)} == {*VALENCES}
    with pytest.raises(DataError, match="no split 'dev'; it has train, test, hard"):
        ec.sev("dev")
    with pytest.raises(DataError, match="asked for 100000 contexts"):
        ec.sev("train", 100000)


def test_a_template_of_ones_own_words_the_prompts(mini):
    own = Template(
        "own",
        lambda context, emotion: TEMPLATES["published"].emotion(context, f"great {emotion}"),
        TEMPLATES["published"].neutral,
    )
    (prompt,) = ec.emotion_prompts(ec.sev("train", 1), ("fear",), own)
    assert prompt.system.startswith("Always reply in great fear.")
    with pytest.raises(DataError, match="no elicitation template is called 'none'"):
        ec.neutral_prompts(ec.sev("train", 1), "none")

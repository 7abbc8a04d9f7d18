"""Number types agree within their rounding; padding and batches change nothing beyond it."""

from typing import Any

import pytest
import torch
from families.models import EMOTIONS, GROUPED, OLD, random_model
from families.using import TEXTS
from selective import plain_profile
from torch import Tensor

from circuits.effects import importance as importance_of
from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.effects.neurons import neuron_effects
from circuits.errors import ModelError
from circuits.judges.replies import Reply
from circuits.models.generate import choice_logs, elicit, reply_losses
from circuits.models.load import DTYPES, load_model, wrap_model
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.neurons.profile import profile_texts
from circuits.prompts.prompt import EMOTION_REQUEST, questions
from circuits.prompts.templates import emotion_prompts
from circuits.running import execution

SHORT = ("bfloat16", "float16")
WINDOW = {**GROUPED, "sliding_window": 40}
POSITIONS = {
    "absolute positions (GPT-2)": ("GPT2", OLD),
    "rotary positions (Llama)": ("Llama", GROUPED),
    "a sliding window of 40 tokens (Mistral)": ("Mistral", WINDOW),
}
SIZES = (1, 3, 96)


def measured(model: Any, contexts: Any, directions: Any = None) -> Any:
    """Directions, effects and importance along given directions, and replies."""
    prompts = emotion_prompts(contexts, EMOTIONS)
    grid = group_by_context([Reply(p, "Fine.", 2, p.emotion or "") for p in prompts], EMOTIONS)
    swept = read_activations(model, grid)
    own = emotion_directions(swept)
    along = directions or own
    found = {
        "heads": head_effects(model, swept, along).mean,
        "neurons": neuron_effects(model, swept, along).mean,
    }
    found["importance"] = _importance(model, grid, along)
    return own, found, [r.text for r in elicit(model, prompts, max_new_tokens=8)]


def _importance(model: Any, grid: Any, directions: Any) -> Tensor:
    layers = (model.cfg.n_layers - 1,)
    return sublayer_importance(model, grid, directions, stable=layers, doses=(0.5,), n_random=0)[
        0
    ].slope


def apart(found: Tensor, exact: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - exact).abs().max() / exact.abs().max())


@pytest.fixture(scope="module")
def exactly(contexts: Any) -> dict[str, Any]:
    return {}


def in_type(name: str, dtype: str, tokenizer: Any, device: str = "cpu") -> Any:
    if name == "sev-mini":
        return load_model(name, dtype=dtype, device=device)
    hf = random_model("Qwen3", GROUPED, tokenizer)
    hf = hf.to(device=device, dtype=DTYPES[dtype])
    return wrap_model(hf, tokenizer)


# A head's or neuron's effect is a product of values that were rounded a few times on their way,
# so a few units of the type's precision. A response to a dose is the small difference of two
# readouts, each rounded as a whole stream is, and so off by some more of them.
UNITS = {"heads": 8, "neurons": 8, "importance": 32}


def check_type(name, dtype, device, tokenizer, contexts, exactly) -> None:
    if name not in exactly:
        exactly[name] = measured(in_type(name, "float32", tokenizer), contexts[:4])
    directions, exact, said = exactly[name]
    model = in_type(name, dtype, tokenizer, device)
    own, found, texts = measured(model, contexts[:4], directions)
    precision = max(torch.finfo(DTYPES[dtype]).eps, 1e-5)
    for what, units in UNITS.items():
        assert apart(found[what], exact[what]) < units * precision, what
    cosine = (own.vectors * directions.vectors).sum(-1)
    assert cosine.min() > 1 - 2 * precision
    if name == "sev-mini":  # random models have near ties in almost every choice
        assert sum(a == b for a, b in zip(texts, said, strict=True)) >= 0.75 * len(said)


@pytest.mark.trial("numbers", "{name} in {dtype}: directions, effects, importance, replies")
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", ["sev-mini", "Qwen3"])
def test_short_number_types_agree_with_float32(
    name, dtype, tokenizer, contexts, exactly, trial
) -> None:
    check_type(name, dtype, "cpu", tokenizer, contexts, exactly)
    trial(outcome="as in float32, within 8 (importance 32) units of the type's precision")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.trial("numbers", "{name} in {dtype} on a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", *SHORT])
@pytest.mark.parametrize("name", ["sev-mini", "Qwen3"])
def test_a_cuda_device_agrees_with_float32_on_the_cpu(
    name, dtype, tokenizer, contexts, exactly, trial
) -> None:
    check_type(name, dtype, "cuda", tokenizer, contexts, exactly)
    trial(outcome="as on the CPU in float32, within 8 (importance 32) units of precision")


@pytest.mark.trial("numbers", "a number type that is none of the three")
def test_other_number_types_are_refused_by_name(trial) -> None:
    with pytest.raises(ModelError, match="dtype 'float8' is not known; choose float32"):
        load_model("sev-mini", dtype="float8")
    trial(outcome="refused by name")


@pytest.fixture(scope="module", params=POSITIONS)
def placed(request, tokenizer) -> Any:
    kind, sizes = POSITIONS[request.param]
    return request.param, wrap_model(random_model(kind, sizes, tokenizer), tokenizer)


@pytest.mark.trial("numbers", "left padding, {placed}")
@pytest.mark.parametrize("placed", POSITIONS, indirect=True)
def test_left_padding_equals_no_padding(placed, contexts, trial) -> None:
    model = placed[1]
    rows = [encode(model, p) for p in emotion_prompts(contexts[:3], EMOTIONS)]
    rows[1] = rows[1] + rows[1][-7:]
    sites = ("resid_mid", "resid_post", "z", "post", "final")
    picks: dict[str, Any] = dict.fromkeys(sites, lambda x: x[:, -1])
    padded = capture(model, pad_left(rows, torch.device("cpu")), picks)
    for i, row in enumerate(rows):
        alone = capture(model, pad_left([row], torch.device("cpu")), picks)
        for site in sites:
            assert apart(padded[site][i], alone[site][0]) < 1e-5, site
    trial(times=len(rows), outcome="as without padding, to 1e-5 of the largest activation")


def _all_sizes(make: Any) -> list[Any]:
    found = []
    for size in SIZES:
        with execution(batch_size=size):
            found.append(make(size))
    return found


def _alike(found: list[Tensor], what: str) -> None:
    for other in found[1:]:
        assert apart(other, found[0]) < 2e-5, what


@pytest.mark.trial("numbers", "batches of 1, 3 and 96, {placed}")
@pytest.mark.parametrize("placed", POSITIONS, indirect=True)
def test_batch_sizes_change_nothing_beyond_rounding(placed, contexts, monkeypatch, trial) -> None:
    name, model = placed
    prompts = emotion_prompts(contexts[:4], EMOTIONS)
    grid = group_by_context([Reply(p, "Fine.", 2, p.emotion or "") for p in prompts], EMOTIONS)
    sweeps = _all_sizes(lambda _: read_activations(model, grid))
    along = emotion_directions(sweeps[0])
    found = [emotion_directions(own) for own in sweeps]
    # Before they are made unit length: outside the window nothing differs, and rounding has no
    # direction.
    _alike([own.vectors * own.norm[..., None] for own in found], "directions")
    for effects in (head_effects, neuron_effects):
        _alike([effects(model, own, along).mean for own in sweeps], effects.__name__)
    if "window" in name:  # its last token cannot be run again
        with pytest.raises(ModelError, match="attention window of 40"):
            _importance(model, grid, along)
    else:
        found = []
        for size in (1, 3, 96):
            monkeypatch.setattr(importance_of, "_PROMPTS_AT_ONCE", size)
            found.append(_importance(model, grid, along))
        _alike(found, "importance")
    texts = ["I am angry.", "It was a long day, and I am tired."] * 4
    _alike(_all_sizes(lambda _: reply_losses(model, prompts, texts)), "likelihood")
    asked = questions(TEXTS.rows, EMOTION_REQUEST)
    _alike(_all_sizes(lambda _: choice_logs(model, asked, EMOTIONS)), "choices")
    profiles = _all_sizes(lambda _: profile_texts(model, TEXTS, EMOTION_REQUEST, n_shuffles=1))
    _alike([own.total.float() for own in profiles], "profiles")
    doubtful = plain_profile.doubtful(model, TEXTS, EMOTION_REQUEST)
    for own in profiles:
        assert bool(((own.active - profiles[0].active).abs() <= doubtful).all())
    said = _all_sizes(lambda _: elicit(model, prompts, max_new_tokens=6))
    assert all([r.text for r in own] == [r.text for r in said[0]] for own in said)
    trial(
        times=len(SIZES), outcome="the same, to 2e-5 of the largest value; replies letter by letter"
    )

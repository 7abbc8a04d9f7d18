"""Paths against a plain Llama in which every input has a copy of the residual stream of its own."""

import itertools
import math
from functools import partial
from inspect import unwrap

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from circuits.effects.heads import random_directions
from circuits.errors import AxisError, DataError, ModelError
from circuits.models.load import wrap_model
from circuits.models.memory import counted
from circuits.patching import paths as paths_module
from circuits.patching.pairs import (
    CleanCorrupt,
    LogitDifference,
    Projection,
    ReplyLikelihood,
    make_pairs,
)
from circuits.patching.paths import edge_name, exact_paths, path_effects, path_ends, sees
from circuits.running import execution

NEURONS = ((0, 3), (1, 40), (1, 7), (2, 0))


def random_model(tokenizer, groups=2, heads=4):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=heads, num_key_value_heads=groups, head_dim=8,
        max_position_embeddings=512, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    hf = LlamaForCausalLM(config).double()
    for parameter in hf.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
    for norm in hf.modules():
        if isinstance(norm, LlamaRMSNorm):
            norm.forward = partial(double_norm, norm)  # type: ignore[method-assign]
    model = wrap_model(hf, tokenizer, name="random-llama")
    for block in model.blocks:  # type: ignore[attr-defined]
        # TransformerLens rounds the pattern to float32 in every model, and gets NaN where a row of
        # a float64 model is masked throughout.
        block.attn._masked_softmax = lambda scores, dtype=None: scores.softmax(-1)
    return model


def double_norm(norm, x):
    """What Hugging Face computes in float32, whatever the model."""
    return norm.weight * x * (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()


@pytest.fixture(scope="module")
def double(tokenizer):
    """A grouped-query Llama in float64."""
    return random_model(tokenizer)


@pytest.fixture(scope="module")
def readouts():
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1)).double()
    return {
        "projection": Projection(vector / vector.norm()),
        "logits": LogitDifference(torch.tensor([5, 9]), torch.tensor([7])),
    }


def plain_run(model, ids, copies=None, inputs=None):
    """Residual stream at the end, and what every sender writes; ``copies`` are added to inputs."""
    hf, copies = model.original_model, copies or {}
    config, norms = hf.config, hf.model
    x = norms.embed_tokens(torch.tensor([list(ids)])) if inputs is None else inputs
    written = {"embed": x}
    place = torch.arange(x.shape[1])[None]
    cos, sin = norms.rotary_emb(x, place)
    hidden = torch.triu(torch.full((x.shape[1],) * 2, -torch.inf, dtype=x.dtype), 1)

    def weight(linear):
        return (
            linear.original_component.weight
            if hasattr(linear, "original_component")
            else linear.weight
        )

    for number, layer in enumerate(norms.layers):
        attn, mlp = layer.self_attn, layer.mlp

        def seen(name, norm, x=x):
            return norm(x + copies.get(name, 0.0))

        def part(linear, i, name, norm=layer.input_layernorm, seen=seen):
            return seen(name, norm) @ weight(linear)[8 * i : 8 * i + 8].T

        heads, groups = config.num_attention_heads, config.num_key_value_heads
        q = torch.stack([part(attn.q_proj, i, f"L{number}H{i}.q") for i in range(heads)], 1)
        k = torch.stack([part(attn.k_proj, i, f"L{number}G{i}.k") for i in range(groups)], 1)
        v = torch.stack([part(attn.v_proj, i, f"L{number}G{i}.v") for i in range(groups)], 1)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k, v = (y.repeat_interleave(heads // groups, 1) for y in (k, v))
        z = (q @ k.transpose(2, 3) / math.sqrt(8) + hidden).softmax(-1) @ v
        for i in range(heads):
            written[f"L{number}H{i}"] = z[:, i] @ weight(attn.o_proj)[:, 8 * i : 8 * i + 8].T
        x = x + sum(written[f"L{number}H{i}"] for i in range(heads))
        norm = layer.post_attention_layernorm
        whole = copies.get(f"L{number}.mlp", 0.0)

        def inside(linear, x=x, norm=norm, whole=whole, number=number):
            value = norm(x + whole) @ weight(linear).T
            for n in (n for at, n in NEURONS if at == number and f"L{at}N{n}" in copies):
                own = norm(x + whole + copies[f"L{number}N{n}"]) @ weight(linear)[n]
                value = own[..., None].where(functional.one_hot(torch.tensor(n), 48).bool(), value)
            return value

        gate, up = inside(mlp.gate_proj), inside(mlp.up_proj)
        post = functional.silu(gate) * up
        for at, n in NEURONS:
            if at == number:
                written[f"L{at}N{n}"] = post[..., n, None] * weight(mlp.down_proj)[:, n]
        written[f"L{number}.mlp"] = post @ weight(mlp.down_proj).T
        x = x + written[f"L{number}.mlp"]
    return x + copies.get("readout", 0.0), written


def plain_readout(model, readout, x):
    if readout.site == "resid_post":
        return readout.score(x[:, -1])
    head = model.original_model.lm_head
    return readout.score(head(model.original_model.model.norm(x))[:, -1])


def matched_change(pair, clean, corrupt, length):
    """Clean minus corrupt at matched positions of a run of ``length`` tokens, zero elsewhere."""
    change = clean[:, -pair.matched :] - corrupt[:, -pair.matched :]
    return functional.pad(change, (0, 0, length - pair.matched, 0))


def sides(pair, mode):
    ids = pair.clean.ids, pair.corrupt.ids
    return ids if mode == "noising" else ids[::-1]


def plain_edges(model, pair, readout, mode, steps, ends):
    """Attribution of every edge: gradients at leaves, one for each input."""
    with torch.no_grad():
        clean, corrupt = (plain_run(model, side.ids)[1] for side in (pair.clean, pair.corrupt))
    base = sides(pair, mode)[0]
    own = clean if mode == "noising" else corrupt
    change = {s: matched_change(pair, clean[s], corrupt[s], len(base)) for s in ends.senders}
    sign = -1 if mode == "noising" else 1
    total = torch.zeros(len(ends.senders), len(ends.receivers), dtype=torch.float64)
    for step in range(steps):
        inputs = own["embed"] + sign * step / steps * change["embed"]
        leaves = {name: torch.zeros_like(inputs, requires_grad=True) for name in ends.receivers}
        score = plain_readout(model, readout, plain_run(model, base, leaves, inputs)[0])
        gradients = torch.autograd.grad(score.sum(), list(leaves.values()))
        for (i, s), (j, r) in itertools.product(enumerate(ends.senders), enumerate(ends.receivers)):
            if sees(r, s):
                total[i, j] += (change[s] * gradients[j]).sum() / steps
    return total


@torch.no_grad()
def plain_exact(model, pair, readout, mode, edges):
    """The base run once more for every edge, with one input that sees the other sender."""
    clean, corrupt = (plain_run(model, side.ids)[1] for side in (pair.clean, pair.corrupt))
    base = sides(pair, mode)[0]
    sign = -1 if mode == "noising" else 1
    before = plain_readout(model, readout, plain_run(model, base)[0])
    found = []
    for s, r in edges:
        copies = {r: sign * matched_change(pair, clean[s], corrupt[s], len(base))}
        found.append(
            sign * (plain_readout(model, readout, plain_run(model, base, copies)[0]) - before)
        )
    return torch.cat(found)


def all_edges(ends):
    return [(s, r) for s in ends.senders for r in ends.receivers if sees(r, s)]


CASES = [
    ("eap", None, "noising", "projection"),
    ("eap", None, "denoising", "logits"),
    ("eap", "fear", "noising", "logits"),
    ("eap-ig", "fear", "denoising", "projection"),
    ("eap-ig", "surprise", "noising", "logits"),
]


@pytest.mark.parametrize(("method", "other", "mode", "kind"), CASES)
def test_attributions_are_those_of_plainly_split_inputs(
    double, contexts, readouts, method, other, mode, kind
):
    pairs = make_pairs(double, contexts[:3], "anger", other)
    found = path_effects(pairs, readouts[kind], method=method, steps=3, mode=mode, neurons=NEURONS)
    steps, ends = (3 if method == "eap-ig" else 1), path_ends(double, NEURONS)
    plain = torch.stack([plain_edges(double, p, readouts[kind], mode, steps, ends) for p in pairs])
    largest = plain.mean(0).abs().max()
    assert largest > 1e-3
    assert (found.mean - plain.mean(0)).abs().max() < 1e-6 * largest
    assert (found.stderr - plain.std(0) / 3**0.5).abs().max() < 1e-6 * largest
    assert (found.mean[~found.exists] == 0).all()


@pytest.mark.parametrize(
    ("other", "mode", "kind"),
    [
        (None, "noising", "logits"),
        (None, "denoising", "projection"),
        ("fear", "noising", "projection"),
    ],
)
def test_exact_paths_are_base_runs_with_one_other_input(
    double, contexts, readouts, other, mode, kind
):
    pairs = make_pairs(double, contexts[2:5], "anger", other)
    edges = all_edges(path_ends(double, NEURONS))
    chosen = [edges[i] for i in torch.randperm(len(edges), generator=torch.manual_seed(0))[:80]]
    chosen += [("L0H1", "readout"), ("L2.mlp", "readout"), ("L0H1", "L1G0.k"), ("embed", "L2N0")]
    chosen = list(dict.fromkeys(chosen))
    with execution(batch_size=37):
        found = exact_paths(pairs, readouts[kind], chosen, mode=mode)
    plain = torch.stack([plain_exact(double, p, readouts[kind], mode, chosen) for p in pairs])
    assert plain.abs().max() > 1e-3
    assert (found.effect - plain).abs().max() < 1e-9 * plain.abs().max()
    assert found.edge == tuple(edge_name(*edge) for edge in chosen)


def test_small_differences_are_attributed_exactly(double, contexts, readouts, monkeypatch):
    """First order: the gap between both shrinks with the square of the difference."""
    pairs = make_pairs(double, contexts[:2], "anger", "fear")
    edges = all_edges(path_ends(double))[::7]
    gaps = []
    for size in (1e-2, 1e-3):
        shrink(monkeypatch, size)
        found = path_effects(pairs, readouts["logits"])
        exact = exact_paths(pairs, readouts["logits"], edges)
        monkeypatch.undo()
        estimate = torch.tensor([found.at("mean", sender=s, receiver=r) for s, r in edges])
        gaps.append(float((estimate - exact.mean).abs().max() / exact.mean.abs().max()))
    assert gaps[0] < 0.1
    assert gaps[1] < gaps[0] / 5


def shrink(monkeypatch, size):
    whole = CleanCorrupt.change
    monkeypatch.setattr(CleanCorrupt, "change", lambda *given: size * whole(*given))


def test_a_path_straight_to_a_linear_readout_is_attributed_exactly(double, contexts, readouts):
    pairs = make_pairs(double, contexts[:2], "anger")
    found = path_effects(pairs, readouts["projection"], neurons=NEURONS)
    edges = [(sender, "readout") for sender in found.sender]
    with counted() as receipt:
        exact = exact_paths(pairs, readouts["projection"], edges)
    assert torch.allclose(found.mean[:, -1], exact.mean, atol=1e-12)
    assert receipt.steps == 0


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
def test_the_paths_of_a_sender_add_up_to_the_sender(double, contexts, readouts, method):
    pairs = make_pairs(double, contexts[:3], "anger", "sadness")
    found = path_effects(pairs, readouts["logits"], method=method, neurons=NEURONS)
    whole = torch.tensor(["N" not in name for name in found.receiver])
    together = found.mean[:, whole].sum(1)
    assert found.node.abs().max() > 1e-3
    assert (together - found.node).abs().max() < 1e-6 * found.node.abs().max()
    assert found.gap < 1e-6


def test_paths_into_all_neurons_add_up_to_the_path_into_their_mlp(double, contexts, readouts):
    pairs = make_pairs(double, contexts[:1], "anger")
    every = [(1, neuron) for neuron in range(48)]
    found = path_effects(pairs, readouts["logits"], neurons=every)
    own = torch.tensor([name.startswith("L1N") for name in found.receiver])
    mlp = found.mean[:, found.index("receiver", "L1.mlp")]
    assert torch.allclose(found.mean[:, own].sum(1), mlp, atol=1e-9)
    written = torch.tensor([name.startswith("L1N") for name in found.sender])
    row = found.mean[found.index("sender", "L1.mlp")]
    assert torch.allclose(found.mean[written].sum(0), row, atol=1e-9)


@pytest.mark.parametrize("other", [None, "surprise"])
def test_neither_batch_nor_padding_changes_a_score(double, contexts, readouts, other):
    pairs = make_pairs(double, contexts[:5], "anger", other)
    assert len({len(pair.clean.ids) for pair in pairs}) > 1
    together = path_effects(pairs, readouts["logits"], positions=True)
    single = [pairs[i : i + 1] for i in range(5)]
    alone = [path_effects(pair, readouts["logits"], positions=True) for pair in single]
    with execution(batch_size=2):
        some = path_effects(pairs, readouts["logits"], positions=True)
    by_hand = torch.stack([one.mean for one in alone]).mean(0)
    largest = together.mean.abs().max()
    assert (together.mean - by_hand).abs().max() < 1e-9 * largest
    assert (together.mean - some.mean).abs().max() < 1e-9 * largest
    assert (together.random_baseline - some.random_baseline).abs().max() < 1e-9 * largest
    assert (together.by_role - some.by_role).abs().max() < 1e-9 * largest


def test_roles_share_out_what_a_path_carries(double, contexts, readouts):
    pairs = make_pairs(double, contexts[:3], "anger", "fear")
    found = path_effects(pairs, readouts["logits"], positions=True)
    assert set(found.role) == {role for pair in pairs for role in pair.roles}
    assert torch.allclose(found.by_role.sum(-1), found.mean, atol=1e-12)
    emotion = found.by_role[0, :, found.index("role", "emotion")]
    # Inputs differ at the emotion word alone.
    assert torch.allclose(emotion, found.mean[0], atol=1e-12)
    assert path_effects(pairs, readouts["logits"]).role == ()


def test_the_control_is_the_size_along_random_directions(double, contexts, readouts):
    """Against senders that are replaced, one direction after the other."""
    pairs = make_pairs(double, contexts[:2], "anger")
    with execution(seed=3):
        found = path_effects(pairs, readouts["projection"])
    ends = path_ends(double)
    sender, end = "L0H1", "L2.mlp"
    drawn = torch.zeros(found.draws, dtype=torch.float64)
    for pair in pairs:
        with torch.no_grad():
            clean, corrupt = (plain_run(double, s.ids)[1] for s in (pair.clean, pair.corrupt))
        leaf = torch.zeros_like(clean["embed"], requires_grad=True)
        x, _ = plain_run(double, pair.clean.ids, {end: leaf})
        (gradient,) = torch.autograd.grad(
            plain_readout(double, readouts["projection"], x).sum(), leaf
        )
        size = matched_change(pair, clean[sender], corrupt[sender], x.shape[1]).norm(dim=-1)
        for i, direction in enumerate(random_directions(found.draws, 32, seed=3).double()):
            drawn[i] += (size[..., None] * direction * gradient).sum() / len(pairs)
    expected = 2.5758293 * drawn.square().mean().sqrt()
    assert sender in ends.senders
    assert found.at("random_baseline", sender=sender, receiver=end) == pytest.approx(
        float(expected)
    )


def test_scores_are_those_of_transformer_lens_where_it_has_them(tokenizer, contexts, readouts):
    """One key-value group per head, prompts of one length, gradients of the corrupt run."""
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
    )

    model = random_model(tokenizer, groups=2, heads=2)
    pairs = make_pairs(model, contexts[:1], "anger", "sadness")
    clean, corrupt = (
        torch.tensor([list(ids)]) for ids in (pairs[0].clean.ids, pairs[0].corrupt.ids)
    )
    assert clean.shape == corrupt.shape
    found = path_effects(pairs, readouts["logits"], mode="denoising")
    config = EdgeAttributionConfig(granularity="edge")
    theirs = attribution_patch(
        model, clean, corrupt, lambda logits: readouts["logits"].score(logits[:, -1]).sum(), config
    )
    sums = torch.zeros_like(found.mean)
    for (writer, reader), score in theirs.edge_scores.items():
        sums[found.index("sender", their_sender(writer)),
             found.index("receiver", their_receiver(reader))] += score  # fmt: skip
    assert sums.abs().max() > 1e-3
    assert (found.mean - sums).abs().max() < 1e-6 * sums.abs().max()


def their_sender(node):
    names = {"embed": "embed", "attn_head_out": f"L{node.layer}H{node.head}"}
    return names.get(node.kind, f"L{node.layer}.mlp")


def their_receiver(node):
    if node.kind == "logits":
        return "readout"
    if node.kind == "mlp_in":
        return f"L{node.layer}.mlp"
    return f"L{node.layer}{'H' if node.kind[0] == 'q' else 'G'}{node.head}.{node.kind[0]}"


def test_attribution_agrees_with_patching_on_the_embedded_model(mini, contexts):
    vector = torch.randn(192, generator=torch.Generator().manual_seed(0))
    readout, pairs = Projection(vector / vector.norm()), make_pairs(mini, contexts[:2], "anger")
    found = path_effects(pairs, readout)
    assert found.gap < 1e-5
    strongest = found.mean.abs().flatten().argsort(descending=True)[:12].tolist()
    edges = [(found.sender[i // len(found.receiver)], found.receiver[i % len(found.receiver)])
             for i in strongest]  # fmt: skip
    exact = exact_paths(pairs, readout, edges)
    estimate = torch.tensor([found.at("mean", sender=s, receiver=r) for s, r in edges])
    assert (estimate * exact.mean > 0).all()


def test_a_model_in_which_paths_do_not_add_up_is_refused(double, contexts, readouts, monkeypatch):
    pairs = make_pairs(double, contexts[:1], "anger")
    whole = paths_module.norm_pullback
    monkeypatch.setattr(paths_module, "norm_pullback", lambda *given: 1.25 * whole(*given))
    with pytest.raises(ModelError, match="differ from the sender as a whole by"):
        path_effects(pairs, readouts["logits"])


def test_what_cannot_be_measured_is_refused(double, contexts, readouts):
    pairs = make_pairs(double, contexts[:2], "anger")
    mixed = CleanCorrupt(double, (*pairs, *make_pairs(double, contexts[:1], "fear")))
    projection = readouts["projection"]
    with pytest.raises(DataError, match="are the same in both prompts"):
        path_effects(pairs, projection, method="eap-ig")
    with pytest.raises(DataError, match="different emotions"):
        path_effects(mixed, projection)
    with pytest.raises(DataError, match="no pair to measure"):
        exact_paths(pairs[:0], projection, [("embed", "readout")])
    with pytest.raises(AxisError, match="which reads replies"):
        path_effects(pairs, ReplyLikelihood({}, {}))
    with pytest.raises(DataError, match="method is 'atp'"):
        unwrap(path_effects)(pairs, projection, method="atp")
    with pytest.raises(DataError, match="steps is 0"):
        path_effects(pairs, projection, method="eap-ig", steps=0)
    with pytest.raises(DataError, match="mode is 'both'"):
        next(unwrap(CleanCorrupt.judged)(pairs, projection, "both"))
    with pytest.raises(AxisError, match="no neuron L0N48"):
        path_effects(pairs, projection, neurons=[(0, 48)])
    with pytest.raises(AxisError, match="named twice"):
        path_ends(double, [(0, 1), (0, 1)])


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ([], "no paths are named"),
        ([("embed", "readout")] * 2, "a path is named twice"),
        ([("L1H0", "L1H1.q")], "L1H1.q does not come after L1H0"),
        ([("L1.mlp", "L1.mlp")], "does not come after"),
        ([("L1.attn", "readout")], "the model has no path from 'L1.attn'"),
        ([("embed", "L3H0.q")], "the model has no path from 'embed' to 'L3H0.q'"),
        ([("embed", "L0G2.k")], "the model has no path"),
        ([("embed", "L0H1")], "'L0H1' names no input"),
        ([("embed", "L0N48")], "no neuron L0N48"),
    ],
)
def test_paths_that_the_model_lacks_are_refused(double, contexts, readouts, edges, said):
    pairs = make_pairs(double, contexts[:1], "anger")
    with pytest.raises(AxisError, match=said):
        exact_paths(pairs, readouts["projection"], edges)

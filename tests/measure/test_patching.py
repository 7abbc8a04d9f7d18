"""Patching sweeps equal one patch per run, in every mode, site, place and readout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import rounding

from circuits.errors import AxisError, DataError
from circuits.models.protocol import device_of
from circuits.models.run import run
from circuits.models.tokens import pad_left
from circuits.names import hook
from circuits.patching.pairs import (
    CleanCorrupt,
    LogitDifference,
    Projection,
    ReplyLikelihood,
    make_pairs,
)
from circuits.patching.patch import patch_components, patch_heads, patch_sites
from circuits.running import execution

CLEAN, CORRUPT = (17, 23, 40), (9, 31)


@pytest.fixture(scope="module")
def readouts(llama, contexts):
    """One readout of every kind."""
    torch.manual_seed(3)
    vector = torch.randn(llama.cfg.d_model)
    ids = [context.id for context in contexts]
    return {
        "projection": Projection(vector / vector.norm()),
        "logits": LogitDifference(torch.tensor([5, 9]), torch.tensor([100, 200, 7])),
        "reply": ReplyLikelihood(dict.fromkeys(ids, CLEAN), dict.fromkeys(ids, CORRUPT)),
    }


@pytest.fixture(scope="module")
def near(llama, contexts, readouts):
    """By readout, what an effect may be off by: the rounding of what both of its runs are read
    off, a stream, logits or their logarithmic shares."""
    tokens = make_pairs(llama, contexts[:1], "anger").clean
    stream = seen(llama, tokens, "resid_post", llama.cfg.n_layers - 1)
    with torch.no_grad():
        logits = run(llama, tokens)[0, -1]
    sizes = {
        "projection": float(stream[0, -1].norm()),
        "logits": float(logits.abs().max()),
        "reply": float(logits.log_softmax(-1).abs().max()),
    }
    assert set(sizes) == set(readouts)
    return {name: rounding(size) for name, size in sizes.items()}


def plainly(model, pair, readout, mode, *places):
    """The effect of patching places (site, layer, positions, head or neuron), by whole runs of
    single prompts."""
    tails = readout.tails(pair.context.id) if isinstance(readout, ReplyLikelihood) else [()]
    total = 0.0
    for tail, sign in zip(tails, (1.0, -1.0), strict=False):
        ids = (pair.clean.ids, pair.corrupt.ids)
        clean, corrupt = (pad_left([[*own, *tail]], device_of(model)) for own in ids)
        source, base = (clean, corrupt) if mode == "denoising" else (corrupt, clean)
        hooks = [patching(model, source, base, len(tail), *place) for place in places]
        total += sign * (
            score(model, base, readout, tail, hooks) - score(model, base, readout, tail)
        )
    return total if mode == "denoising" else -total


def patching(model, source, base, n_tail, site, layer, positions, unit=None):
    value, whole = seen(model, source, site, layer), slice(None)
    if site == "resid_mid":
        # What the bridge calls resid_mid is the MLP's input only; the stream is changed by what
        # attention writes into it.
        before, site = seen(model, base, "resid_pre", layer), "attn_out"
        width = min(value.shape[1], before.shape[1])
        value = value[:, -width:] - before[:, -width:]

    def put(activation, hook):
        changed = activation.clone()
        for place in (position - n_tail for position in positions):
            at = (whole, unit, place) if site == "pattern" else (whole, place)
            at = at if site == "pattern" or unit is None else (whole, place, unit)
            changed[at] = value[at]
        return changed

    return hook(site, layer), put


@torch.no_grad()
def seen(model, tokens, site, layer, hooks=()):
    kept = []
    keep = (hook(site, layer), lambda activation, hook: kept.append(activation.clone()))
    with model.hooks(fwd_hooks=[*hooks, keep]):
        run(model, tokens)
    return kept[0]


@torch.no_grad()
def score(model, tokens, readout, tail, hooks=()):
    if getattr(readout, "site", None) == "resid_post":
        at_end = seen(model, tokens, "resid_post", model.cfg.n_layers - 1, hooks)
        return float(readout.score(at_end[:, -1])[0])
    with model.hooks(fwd_hooks=list(hooks)):
        logits = run(model, tokens)
    if isinstance(readout, ReplyLikelihood):
        likely = logits[0, -len(tail) - 1 : -1].log_softmax(-1)
        return float(likely[range(len(tail)), list(tail)].mean())
    return float(readout.score(logits[:, -1])[0])


@pytest.mark.parametrize("name", ["projection", "logits", "reply"])
@pytest.mark.parametrize("mode", ["denoising", "noising"])
@pytest.mark.parametrize("other", [None, "fear"])
def test_head_patches_equal_one_patch_per_run(llama, contexts, readouts, near, name, mode, other):
    pairs = make_pairs(llama, contexts[:2], "anger", other)
    found = patch_heads(pairs, readouts[name], mode=mode)
    for layer, head, role in [(0, 1, "event"), (1, 3, "last"), (2, 0, "brief"), (2, 2, "last")]:
        expected = [
            plainly(llama, p, readouts[name], mode, ("z", layer, p.positions(role), head))
            for p in pairs
        ]
        value = found.at("effect", layer=layer, head=head, place=role)
        assert value == pytest.approx(sum(expected) / 2, rel=0, abs=near[name])


@pytest.mark.parametrize("site", ["q", "k", "v", "pattern"])
@pytest.mark.parametrize("mode", ["denoising", "noising"])
def test_queries_keys_values_and_patterns_equal_one_patch_per_run(
    llama, contexts, readouts, near, site, mode
):
    pairs = make_pairs(llama, contexts[:1], "anger", "fear")
    found = patch_heads(pairs, readouts["projection"], site=site, by="position", mode=mode)
    assert len(found.head) == (2 if site in ("k", "v") else 4)
    effects = found.effect.flatten().abs().topk(3).indices.tolist()
    for place in [*effects, 7]:
        layer, rest = divmod(place, found.effect.shape[1] * found.effect.shape[2])
        head, position = divmod(rest, found.effect.shape[2])
        expected = plainly(
            llama, pairs[0], readouts["projection"], mode,
            (site, layer, [position - len(found.place)], head),
        )  # fmt: skip
        value = float(found.effect[layer, head, position])
        assert value == pytest.approx(expected, rel=0, abs=near["projection"])


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"])
@pytest.mark.parametrize("mode", ["denoising", "noising"])
def test_patches_of_the_stream_equal_one_patch_per_run(llama, contexts, readouts, near, site, mode):
    pairs = make_pairs(llama, contexts[:2], "anger")
    for name in ("projection", "logits"):
        found = patch_sites(pairs, readouts[name], sites=[site], mode=mode)
        for layer, role in [(0, "scenario"), (1, "event"), (2, "last")]:
            expected = [
                plainly(llama, p, readouts[name], mode, (site, layer, p.positions(role)))
                for p in pairs
            ]
            value = found.at("effect", site=site, layer=layer, place=role)
            assert value == pytest.approx(sum(expected) / 2, rel=0, abs=near[name])


def test_patching_everything_turns_one_run_into_the_other(llama, contexts, readouts, near):
    # Two emotions: every token that can differ is matched, so nothing is left unpatched.
    pairs = make_pairs(llama, contexts[:3], "anger", "fear")
    for name, readout in readouts.items():
        for mode in ("denoising", "noising"):
            found = patch_sites(pairs, readout, sites=["resid_pre"], by="all", mode=mode)
            whole = float(found.gap[0] - found.gap[1])
            effect = found.effect[0, 0, 0].item()
            assert effect == pytest.approx(whole, rel=0, abs=near[name]), name
            assert abs(whole) > 10 * near[name]


def test_what_is_behind_the_last_layer_of_a_place_is_not_run_and_has_no_effect_at_all(
    llama, contexts, readouts
):
    pairs = make_pairs(llama, contexts[:2], "anger")
    for readout in readouts.values():
        found = patch_heads(pairs, readout, by="position").effect
        assert float(found[-1, :, :-1].abs().max()) == 0.0
        assert float(found[-1, :, -1].abs().min()) > 0.0
    found = patch_sites(pairs, readouts["logits"], by="role").effect
    behind = [role for role in pairs.positions("role") if role != "last"]
    assert behind
    assert float(found[1:, -1, : len(behind)].abs().max()) == 0.0
    assert float(found[1:, -1, -1].abs().min()) > 0.0


def test_the_batch_does_not_change_the_effects(llama, contexts, readouts, near, monkeypatch):
    pairs = make_pairs(llama, contexts[:5], "sadness")
    whole = patch_heads(pairs, readouts["logits"])
    for pairs_at_once, tokens in [(1, 4096), (3, 64), (5, 700)]:
        monkeypatch.setattr("circuits.patching.patch.TOKENS_AT_ONCE", tokens)
        with execution(batch_size=pairs_at_once):
            again = patch_heads(pairs, readouts["logits"])
        torch.testing.assert_close(again.effect, whole.effect, rtol=0, atol=near["logits"])
        torch.testing.assert_close(again.stderr, whole.stderr, rtol=0, atol=near["logits"])


def test_named_components_equal_the_sweep_and_groups_equal_hooks_on_all_their_members(
    llama, contexts, readouts, near
):
    pairs = make_pairs(llama, contexts[:3], "happiness")
    readout = readouts["logits"]
    swept = patch_heads(pairs, readout, by="all", mode="noising").effect
    names = [f"L{i}H{j}" for i in range(3) for j in range(4)]
    found = patch_components(pairs, readout, names, mode="noising")
    torch.testing.assert_close(found.mean(0), swept.flatten(), rtol=0, atol=near["logits"])
    group = ["L0H1", "L1N7", "L2.mlp"]
    joint = patch_components(pairs, readout, [group, "L0H1"], mode="denoising")
    for row, pair in enumerate(pairs):
        every = range(-pair.matched, 0)
        places = ("z", 0, every, 1), ("post", 1, every, 7), ("mlp_out", 2, every)
        expected = plainly(llama, pair, readout, "denoising", *places)
        assert float(joint[row, 0]) == pytest.approx(expected, rel=0, abs=near["logits"])


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_any_head_at_any_place_of_any_context(llama, contexts, readouts, near, data):
    context = data.draw(st.sampled_from(contexts))
    other = data.draw(st.sampled_from([None, "surprise", "sadness"]))
    pairs = make_pairs(llama, [context], "disgust", other)
    pair, found = pairs[0], patch_heads(pairs, readouts["projection"], by="position")
    layer, head = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 3))
    position = data.draw(st.integers(-pair.matched, -1))
    expected = plainly(
        llama, pair, readouts["projection"], "denoising", ("z", layer, [position], head)
    )
    value = float(found.effect[layer, head, position])
    assert value == pytest.approx(expected, rel=0, abs=near["projection"])


def test_one_context_has_its_tokens_as_labels_and_several_count_from_the_end(llama, contexts):
    pairs = make_pairs(llama, contexts[:2], "anger", "fear")
    single = pairs[:1].positions("position")
    assert single[-1].startswith("-1 ")
    assert " anger| fear" in single[0]
    assert pairs.positions("position")[-1] == "-1"


REFUSED = [
    (lambda p, r: patch_heads(p, r, site="pattern"), "patterns of context .* the asking line"),
    (lambda p, r: patch_sites(p, r, sites=["z"]), "no hook point of the residual stream"),
    (lambda p, r: patch_heads(p, r, site="mlp"), "give z, q, k, v, pattern"),
    (lambda p, r: patch_heads(p, r, by="token"), "position, role, all or last"),
    (lambda p, r: patch_heads(p[:0], r), "no pair"),
    (lambda p, r: make_pairs(p.model, [p[0].context], "anger", "anger"), "are the same"),
    (lambda p, r: patch_components(p, r, ["L9H0"]), "L9H0 is no component of the model"),
    (lambda p, r: patch_components(p, r, ["embed"]), "cannot be patched"),
    (lambda p, r: patch_components(p, r, ["L0H0", []]), "group 1 .* is empty"),
    (lambda p, r: patch_heads(p, ReplyLikelihood({p[0].context.id: (1,)}, {})), "no corrupt reply"),
]


@pytest.mark.parametrize(("patch", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_patched_is_refused_by_name(llama, contexts, readouts, patch, said):
    pairs = make_pairs(llama, contexts[:2], "anger")
    with pytest.raises((AxisError, DataError), match=said):
        patch(pairs, readouts["projection"])


def test_pairs_of_different_emotions_are_refused(llama, contexts, readouts):
    pairs = make_pairs(llama, contexts[:2], "anger")
    assert pairs[0].positions("emotion") == ()  # it has no counterpart in a neutral prompt
    mixed = CleanCorrupt(llama, (pairs[0], *make_pairs(llama, contexts[:1], "fear")))
    with pytest.raises(DataError, match="different emotions"):
        patch_heads(mixed, readouts["projection"])


def test_matched_tokens_stand_under_each_other(llama, contexts):
    pairs = make_pairs(llama, contexts[:4], "anger", "surprise")
    clean, corrupt = pairs.clean.ids, pairs.corrupt.ids
    for row, pair in enumerate(pairs):
        assert pair.roles[0] == "emotion"
        assert torch.equal(clean[row, -pair.matched + 1 :], corrupt[row, -pair.matched + 1 :])
        assert clean[row, -pair.matched] != corrupt[row, -pair.matched]

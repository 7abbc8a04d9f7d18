"""Patching sweeps equal one patch per run, in every mode, site, place and readout."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import rounding
from torch import Tensor

from circuits.errors import AxisError, DataError
from circuits.models.protocol import Model, device_of
from circuits.models.run import run
from circuits.models.tokens import Tokens, pad_left
from circuits.names import hook
from circuits.patching.pairs import (
    CleanCorrupt,
    LogitDifference,
    Mode,
    Pair,
    Projection,
    Readout,
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
    pair = make_pairs(llama, contexts[:1], "anger")[0]
    last = hook("resid_post", llama.cfg.n_layers - 1)
    seen: list[Tensor] = []
    with torch.no_grad(), llama.hooks(fwd_hooks=[(last, _into(seen))]):
        logits = run(llama, _tokens(llama, pair.clean.ids, ()))[0, -1]
    sizes = {
        "projection": float(seen[0][0, -1].norm()),
        "logits": float(logits.abs().max()),
        "reply": float(logits.log_softmax(-1).abs().max()),
    }
    assert set(sizes) == set(readouts)
    return {name: rounding(size) for name, size in sizes.items()}


def plainly(
    model: Model,
    pair: Pair,
    readout: Readout,
    mode: Mode,
    site: str,
    layer: int,
    positions: Sequence[int],
    head: int | None = None,
) -> float:
    """The effect of one patch, by whole runs of single prompts."""
    tails = readout.tails(pair.context.id) if isinstance(readout, ReplyLikelihood) else [()]
    total = 0.0
    for tail, sign in zip(tails, (1.0, -1.0), strict=False):
        runs = {
            "clean": _tokens(model, pair.clean.ids, tail),
            "corrupt": _tokens(model, pair.corrupt.ids, tail),
        }
        source, base = ("clean", "corrupt") if mode == "denoising" else ("corrupt", "clean")
        kept: list[Tensor] = []
        _score(model, runs[source], readout, tail, [(hook(site, layer), _into(kept))])

        before: list[Tensor] = []
        if site == "resid_mid":
            # What the bridge calls resid_mid is the MLP's input only; the stream is changed by
            # what attention writes into it.
            _score(model, runs[base], readout, tail, [(hook("resid_pre", layer), _into(before))])
            kept = [kept[0][:, -min(kept[0].shape[1], before[0].shape[1]) :]]
            kept = [kept[0] - before[0][:, -kept[0].shape[1] :]]
        place_of_patch = "attn_out" if site == "resid_mid" else site

        def patch(activation: Tensor, hook: Any, tail: Any = tail, kept: Any = kept) -> Tensor:
            changed = activation.clone()
            for position in positions:
                place = position - len(tail)
                if site == "pattern":
                    changed[:, head, place] = kept[0][:, head, place]
                elif head is None:
                    changed[:, place] = kept[0][:, place]
                else:
                    changed[:, place, head] = kept[0][:, place, head]
            return changed

        patched = _score(model, runs[base], readout, tail, [(hook(place_of_patch, layer), patch)])
        total += sign * (patched - _score(model, runs[base], readout, tail, []))
    return total if mode == "denoising" else -total


def _tokens(model: Model, ids: Sequence[int], tail: Sequence[int]) -> Tokens:
    return pad_left([[*ids, *tail]], device_of(model))


def _into(kept: list[Tensor]) -> Callable[..., None]:
    def keep(activation: Tensor, hook: Any) -> None:
        kept.append(activation.clone())

    return keep


@torch.no_grad()
def _score(
    model: Model, tokens: Tokens, readout: Readout, tail: Sequence[int], hooks: list[Any]
) -> float:
    seen: list[Tensor] = []
    last = hook("resid_post", model.cfg.n_layers - 1)
    with model.hooks(fwd_hooks=[*hooks, (last, _into(seen))]):
        logits = run(model, tokens)
    if isinstance(readout, ReplyLikelihood):
        likely = logits[0, -len(tail) - 1 : -1].log_softmax(-1)
        return float(likely[range(len(tail)), list(tail)].mean())
    at_last = seen[0] if readout.site == "resid_post" else logits
    return float(readout.score(at_last[:, -1])[0])


@pytest.mark.parametrize("name", ["projection", "logits", "reply"])
@pytest.mark.parametrize("mode", ["denoising", "noising"])
@pytest.mark.parametrize("other", [None, "fear"])
def test_head_patches_equal_one_patch_per_run(llama, contexts, readouts, near, name, mode, other):
    pairs = make_pairs(llama, contexts[:2], "anger", other)
    found = patch_heads(pairs, readouts[name], mode=mode)
    for layer, head, role in [(0, 1, "event"), (1, 3, "last"), (2, 0, "brief"), (2, 2, "last")]:
        expected = [
            plainly(llama, p, readouts[name], mode, "z", layer, p.positions(role), head)
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
            llama, pairs[0], readouts["projection"], mode, site, layer,
            [position - len(found.place)], head,
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
                plainly(llama, p, readouts[name], mode, site, layer, p.positions(role))
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
        expected = _jointly(
            llama, pair, readout, [("z", 0, 1), ("post", 1, 7), ("mlp_out", 2, None)]
        )
        assert float(joint[row, 0]) == pytest.approx(expected, rel=0, abs=near["logits"])


def _jointly(model: Model, pair: Pair, readout: Readout, places: list[Any]) -> float:
    clean, corrupt = (_tokens(model, own.ids, ()) for own in (pair.clean, pair.corrupt))
    kept: dict[str, list[Tensor]] = {hook(site, i): [] for site, i, _ in places}
    _score(model, clean, readout, (), [(name, _into(own)) for name, own in kept.items()])
    hooks = []
    for site, layer, unit in places:
        own = kept[hook(site, layer)]

        def patch(x: Tensor, hook: Any, own: Any = own, unit: Any = unit) -> Tensor:
            changed, tail = x.clone(), slice(-pair.matched, None)
            if unit is None:
                changed[:, tail] = own[0][:, tail]
            else:
                changed[:, tail, unit] = own[0][:, tail, unit]
            return changed

        hooks.append((hook(site, layer), patch))
    patched = _score(model, corrupt, readout, (), hooks)
    return patched - _score(model, corrupt, readout, (), [])


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
        llama, pair, readouts["projection"], "denoising", "z", layer, [position], head
    )
    value = float(found.effect[layer, head, position])
    assert value == pytest.approx(expected, rel=0, abs=near["projection"])


def test_one_context_has_its_tokens_as_labels_and_several_count_from_the_end(llama, contexts):
    pairs = make_pairs(llama, contexts[:2], "anger", "fear")
    single = pairs[:1].positions("position")
    assert single[-1].startswith("-1 ")
    assert " anger| fear" in single[0]
    assert pairs.positions("position")[-1] == "-1"


def test_what_cannot_be_patched_is_refused_by_name(llama, contexts, readouts):
    pairs, readout = make_pairs(llama, contexts[:2], "anger"), readouts["projection"]
    with pytest.raises(AxisError, match=r"attention patterns of context .* the asking line"):
        patch_heads(pairs, readout, site="pattern")
    with pytest.raises(AxisError, match="no hook point of the residual stream"):
        patch_sites(pairs, readout, sites=["z"])
    with pytest.raises(AxisError, match="give z, q, k, v, pattern"):
        patch_heads(pairs, readout, site="mlp")
    with pytest.raises(AxisError, match="position, role, all or last"):
        patch_heads(pairs, readout, by="token")
    with pytest.raises(DataError, match="no pair"):
        patch_heads(pairs[:0], readout)
    mixed = CleanCorrupt(llama, (pairs[0], *make_pairs(llama, contexts[:1], "fear")))
    with pytest.raises(DataError, match="different emotions"):
        patch_heads(mixed, readout)
    with pytest.raises(DataError, match="are the same"):
        make_pairs(llama, contexts[:1], "anger", "anger")
    assert pairs[0].positions("emotion") == ()  # it has no counterpart in a neutral prompt
    with pytest.raises(AxisError, match="L9H0 is no component of the model"):
        patch_components(pairs, readout, ["L9H0"])
    with pytest.raises(AxisError, match="cannot be patched"):
        patch_components(pairs, readout, ["embed"])
    with pytest.raises(AxisError, match="group 1 .* is empty"):
        patch_components(pairs, readout, ["L0H0", []])
    with pytest.raises(DataError, match="no corrupt reply"):
        patch_heads(pairs, ReplyLikelihood({contexts[0].id: (1,)}, {}))


def test_matched_tokens_stand_under_each_other(llama, contexts):
    pairs = make_pairs(llama, contexts[:4], "anger", "surprise")
    clean, corrupt = pairs.clean.ids, pairs.corrupt.ids
    for row, pair in enumerate(pairs):
        assert pair.roles[0] == "emotion"
        assert torch.equal(clean[row, -pair.matched + 1 :], corrupt[row, -pair.matched + 1 :])
        assert clean[row, -pair.matched] != corrupt[row, -pair.matched]

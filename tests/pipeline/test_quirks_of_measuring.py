"""Quirks of the published stages 1 to 6, each by the function that carries its switch."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits.circuit.find import Budget, allocate, assemble, select, select_by_layer
from circuits.effects.activations import (
    component_means,
    differences,
    group_by_context,
    last_valence,
    read_activations,
    reworded,
)
from circuits.effects.directions import emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.files import shipped
from circuits.models.edits import Add, edited
from circuits.models.load import load_model
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left, render
from circuits.prompts.templates import emotion_prompt, neutral_prompt
from circuits.published.tables import HeadImportance
from circuits.runs import Plan
from circuits.runs.keys import stage_key

INDENTED = "\n    Always reply in fear.\n    Keep the reply to at most two sentences.\n    "


@pytest.fixture(scope="module")
def few(grid):
    """One complete context."""
    chosen = next(
        c for c, whole in zip(grid.contexts, grid.complete.tolist(), strict=True) if whole
    )
    return group_by_context([grid.cells[chosen.id, e] for e in grid.emotions], grid.emotions)


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """The embedded model with a tokenizer that adds a begin token by itself, as Llama's does."""
    folder = tmp_path_factory.mktemp("models") / "twice"
    shutil.copytree(shipped("sev-mini"), folder)
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    (begin,) = (own["id"] for own in saved["added_tokens"] if own["content"] == "<s>")
    added = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    saved["post_processor"]["single"].insert(0, added)
    saved["post_processor"]["special_tokens"] = {
        "<s>": {"id": "<s>", "ids": [begin], "tokens": ["<s>"]}
    }
    path.write_text(json.dumps(saved))
    return folder


def test_two_begin_tokens(twice, contexts):
    prompt = emotion_prompt(contexts[0], "fear")
    one, two = (encode(load_model(twice, begin=begin), prompt) for begin in ("one", "tokenizer"))
    assert two == [one[0], *one]
    assert one[0] != one[1]


def test_moving_date(mini, contexts, monkeypatch):
    monkeypatch.setattr(mini.tokenizer, "chat_template", "{{ date_string }}{{ messages }}")
    monkeypatch.setattr(mini.cfg, "date", "15 Sep 2025")
    assert render(mini, neutral_prompt(contexts[0])).startswith("15 Sep 2025")
    monkeypatch.setattr("circuits.runs.plan.today", lambda: "01 Feb 2030")
    data = shipped("sev/train.jsonl")
    pinned = Plan(model="sev-mini", data=data, test=data, out=data.parent)
    moving = replace(pinned, date="today")
    assert (pinned.date, moving.date) == ("26 Jul 2024", "01 Feb 2030")
    assert stage_key(pinned, "replies") != stage_key(moving, "replies")


def test_final_norm_as_last_layer(llama, grid, swept, directions):
    found = read_activations(llama, grid, last="final")
    normed = llama.ln_final(swept.resid_post[..., -1, :]).detach()
    torch.testing.assert_close(found.resid_post[..., -1, :][grid.present], normed[grid.present])
    assert torch.equal(found.resid_post[..., :-1, :], swept.resid_post[..., :-1, :])
    plain_last, normed_last = (
        sublayer_importance(llama, grid, directions, stable=(1, 2), doses=(0.1,), read_at=read_at)[
            0
        ]
        for read_at in ("resid_post", "final")
    )
    assert not torch.allclose(plain_last.baseline, normed_last.baseline, rtol=0.01)
    assert not torch.allclose(plain_last.slope, normed_last.slope, rtol=0.01)


def test_half_dumps(llama, few):
    exact, rounded = (
        read_activations(llama, few),
        read_activations(llama, few, half=True, half_parts=True),
    )
    streams = torch.stack([exact.resid_mid[0], exact.resid_post[0]], dim=1).half()
    expected = streams.float() - streams.float().mean(0)
    one, other = emotion_directions(exact), emotion_directions(rounded)
    torch.testing.assert_close(other.vectors * other.norm[..., None], expected)
    assert not torch.equal(one.vectors, other.vectors)
    # The mean of one half-precision number is that number.
    means = component_means(rounded)
    assert torch.equal(means.z, exact.z[0].half().float())
    assert torch.equal(means.post, exact.post[0].half().float())
    assert (exact.z - exact.z.half()).abs().max() > 1e-6
    torch.testing.assert_close(other.rms, (streams * streams).mean(-1).sqrt().float().mean(0))


def test_heads_after_the_norm(llama, few, directions):
    swept = read_activations(llama, few)
    before, after = (
        head_effects(llama, swept, directions, readout=readout)
        for readout in ("resid_mid", "post_norm")
    )
    e, layer, head = 3, 1, 2
    stream = swept.resid_mid[0, e, layer]
    write = swept.z[0, e, layer, head] @ llama.W_O.detach()[layer, head]
    vector = directions.vectors[e, 0, layer]
    norm = llama.blocks[layer].ln2
    with torch.no_grad():
        dropped = (norm(stream[None, None]) - norm((stream - write)[None, None]))[0, 0] @ vector
    assert after.mean[e, layer, head] == pytest.approx(float(dropped), abs=1e-5)
    assert before.mean[e, layer, head] == pytest.approx(float(write @ vector), abs=1e-5)


def test_signed_ranking(measured):
    effects = torch.tensor([[0.2, -0.1], [-0.3, 0.5]])
    assert select(effects, 3) == [(0, 0), (1, 1)]
    assert select(effects, 3, signed=True) == [(0, 0), (0, 1), (1, 1)]
    even = torch.ones(2)
    assert select_by_layer(effects, even, 4) == [(0, 0), (1, 1)]
    assert len(select_by_layer(effects, even, 4, signed=True)) == 4
    all_of_it = Budget(heads=1.0, neurons=1.0)
    for rank_by in ("total", "mean"):
        ours, theirs = (
            assemble(measured, "fear", budget=all_of_it, rank_by=rank_by, signed=signed)
            for signed in (False, True)
        )
        assert len(ours.heads) < len(theirs.heads) == measured.heads.mean[0].numel()
        assert any((node.effect or 0) < 0 for node in theirs.of_kind("head"))


def test_uncentred_contributions(measured):
    """A head that pushes alike towards every emotion is taken only by its own mean."""
    mean, centred = measured.heads.mean.clone(), measured.heads.centred.clone()
    mean[:, 1, 2], centred[:, 1, 2] = 100.0, 0.0
    changed = replace(measured, heads=replace(measured.heads, mean=mean, centred=centred))
    budget = Budget(heads=0.5, neurons=0.1)
    taken = {
        rank_by: assemble(changed, "fear", budget=budget, rank_by=rank_by).heads
        for rank_by in ("mean", "centred")
    }
    assert [(1, 2) in heads for heads in taken.values()] == [True, False]


def test_indented_prompt(llama, grid):
    other = reworded(grid, "indented")
    prompts = [own.cells[grid.contexts[5].id, "fear"].prompt for own in (grid, other)]
    assert prompts[1].system == INDENTED
    assert prompts[0].system == INDENTED.replace("\n    ", "\n").strip()
    assert INDENTED.strip() in render(llama, prompts[1])  # the template trims the ends
    assert not torch.allclose(
        read_activations(llama, grid).z, read_activations(llama, other).z, rtol=1e-3
    )


def test_valences_overwrite_each_other(grid):
    kept = last_valence(grid)
    complete = zip(grid.contexts, grid.complete.tolist(), strict=True)
    left = {c.scenario: "" for c in grid.contexts}
    for context, whole in complete:
        if whole:
            left[context.scenario] = max(left[context.scenario], context.valence)
    assert {c.scenario: c.valence for c in kept.contexts} == left
    assert {"positive", "neutral"} >= set(left.values())
    assert len(kept.contexts) == len(grid.contexts) // 3
    assert bool(kept.complete.all())


def test_unit_attention_differences(swept):
    means = component_means(swept)
    own, unit = differences(means), differences(means, unit=True)
    lengths = unit.z.flatten(2).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert (own.z.flatten(2).norm(dim=-1) - 1).abs().max() > 0.1
    assert torch.equal(own.post, unit.post)


def test_list_as_baseline(measured):
    baseline = measured.importance.baseline
    assert baseline.shape == (len(measured.importance.emotion),)
    assert bool(baseline.isfinite().all())


@given(
    weights=st.lists(st.floats(-1, 1), min_size=1, max_size=12),
    total=st.integers(0, 60),
    minimum=st.integers(0, 4),
)
def test_sum_falls_short(weights, total, minimum):
    available = [3 + i % 3 for i in range(len(weights))]
    assert sum(allocate(weights, available, total, minimum)) == min(total, sum(available))


def test_heads_are_query_heads(llama, contexts):
    assert llama.W_K.shape[1] < llama.cfg.n_heads  # keys and values are shared
    tokens = pad_left([encode(llama, neutral_prompt(contexts[0]))], torch.device("cpu"))
    value = torch.zeros(llama.cfg.n_heads, llama.cfg.d_head)
    value[1] = 1.0
    every = {site: (lambda activation: activation[:, -1]) for site in ("z", "resid_mid")}
    before = capture(llama, tokens, every)
    with edited(llama, [Add("z", 0, value)]):
        after = capture(llama, tokens, every)
    changed = (after["z"] - before["z"])[0, 0].abs().sum(-1)
    assert changed.nonzero()[:, 0].tolist() == [1]
    write = (after["resid_mid"] - before["resid_mid"])[0, 0]
    torch.testing.assert_close(write, value[1] @ llama.W_O.detach()[0, 1], atol=1e-4, rtol=1e-4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6))
def test_last_digit_of_tables(tmp_path_factory, numbers):

    path = tmp_path_factory.mktemp("tables") / "head_importance_anger.csv"
    rows = [f"{i // 2},{i % 2},{own!r},0.5,12,0.25" for i, own in enumerate(numbers)]
    header = "layer,head,mean_importance,std_importance,samples,baseline_mean"
    path.write_text("\n".join([header, *rows]) + "\n")
    for _ in range(2):
        table = HeadImportance.read(path, "anger")
        assert table.mean.flatten().tolist() == numbers
        table.write(path)

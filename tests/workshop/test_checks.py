"""Every check takes the right answer and says of each typical mistake what is wrong with it."""

import random
import re
from typing import Any

import pytest
import torch

import circuits as ec
from circuits.errors import ExerciseError
from circuits.workshop import checks_directions as d
from circuits.workshop.answers import asked_ids, the_plant, writer_of

CHECKS = sorted(ec.workshop.__all__)


def unit(x, dim=-1):
    return x / x.norm(dim=dim, keepdim=True)


def over_emotions(stream):
    return stream - stream.mean(1, keepdim=True)


def own_contexts(stream):
    return stream - stream.mean(0)


# --- right and wrong answers --------------------------------------------------------------------


def split(contexts):
    scenarios = sorted({context.scenario for context in contexts})
    train = set(scenarios[: len(scenarios) // 2])
    return (
        [context for context in contexts if context.scenario in train],
        [context for context in contexts if context.scenario not in train],
    )


def hits(vectors, stream, dim=-1):
    return (over_emotions(stream) @ vectors.T).argmax(dim) == torch.arange(stream.shape[1])


def share(vectors, stream):
    return hits(vectors, stream).float().mean()


def head_effects(z, W_O, v):
    return torch.einsum("chd,hdm,m->h", z, W_O, v) / len(z)


def rows(model, head):
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[head] = True
    return chosen


def columns(model, head):
    chosen = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.bool)
    chosen[:, head] = True
    return chosen


def ablate(model, ids, layer, chosen, *, last=True):
    nothing = torch.zeros(model.cfg.n_heads, model.cfg.d_head)
    with ec.edited(model, [ec.Replace("z", layer, nothing, chosen, positions="all")]):
        _, cache = model.run_with_cache(ids)
    stream = cache[f"blocks.{layer}.hook_resid_mid"]
    return stream[:, -1] if last else stream


def as_it_is(model, ids, layer):
    _, cache = model.run_with_cache(ids)
    return cache[f"blocks.{layer}.hook_resid_mid"][:, -1]


def without_head(model, ids, layer, head):
    return ablate(model, ids, layer, rows(model, head))


def top_heads(effect, count, key=torch.Tensor.abs, name="L{0}H{1}", descending=True):
    order = key(effect).flatten().argsort(descending=descending)[:count]
    return [name.format(*divmod(int(i), effect.shape[1])) for i in order]


def effect(mode, clean, corrupt, patched):
    return (clean - patched if mode == "noising" else patched - corrupt).mean()


def patch(model, ids, source, layer, chosen, *, last=True):
    _, cache = model.run_with_cache(source)
    value = cache[f"blocks.{layer}.attn.hook_z"]
    with ec.edited(model, [ec.Replace("z", layer, value, chosen, positions="all")]):
        logits = model(ids)
    return logits[:, -1] if last else logits


def denoise_head(model, clean, corrupt, layer, head):
    return patch(model, corrupt, clean, layer, rows(model, head))


def choose(effects, floor):
    largest = max(abs(value) for value in effects.values())
    return {name for name, value in effects.items() if abs(value) >= floor * largest}


def faithfulness(circuit, empty, model):
    return (circuit - empty).mean() / (model - empty).mean()


def p_value(value, others):
    return (1 + (others >= value).sum()) / (1 + len(others))


def random_heads(circuit, n_heads, seed, *, own=False, layers=True, twice=False, count=None):
    draw, found = random.Random(seed), []
    for layer in sorted({layer for layer, _ in circuit}):
        taken = {head for at, head in circuit if at == layer}
        free = [head for head in range(n_heads) if own or head not in taken]
        free = sorted(taken) if own else free
        heads = draw.choices(free[:1], k=len(taken)) if twice else draw.sample(free, len(taken))
        found += [(layer if layers else layer + 1, head) for head in heads]
    return found[:count]


def steer_edits(vectors, lengths, layers, strength, *, each=None, **changes):
    each = each or (lambda i, layer: lengths[layer] * vectors[layer] / len(layers))
    how: Any = {"positions": "last", "when": "prompt"} | changes
    return [
        ec.Add("resid_post", layer, strength * each(i, layer), **how)
        for i, layer in enumerate(layers)
    ]


def circuit_edits(heads, difference, strength, *, put=None, **changes):
    how: Any = {"positions": "last", "when": "prompt"} | changes
    value = torch.zeros_like(difference)
    for layer, head in heads:
        value[layer, head] = difference[layer, head]
    value = value if put is None else put(value, difference)
    return [ec.Add("z", layer, strength * value[layer], **how) for layer in range(len(value))]


def swapped_writing(heads, difference, strength):
    value = torch.zeros_like(difference)
    for layer, head in heads:
        if head < len(value) and layer < value.shape[1]:
            value[head, layer] = difference[head, layer]
    return circuit_edits([], value, strength, put=lambda _, all: all)


def matches(said, names):
    return sum(said[name] for name in names) / len(names)


def excess(method, control, used):
    new = [name for name in method if name not in used]
    return matches(method, new) - matches(control, new)


RIGHT = {
    "check_split": split,
    "check_directions": lambda s: unit(over_emotions(s).mean(0)),
    "check_accuracy": lambda a, b: share(d.directions(a), b),
    "check_head_effects": head_effects,
    "check_without_head": without_head,
    "check_top_heads": top_heads,
    "check_effect": effect,
    "check_share": lambda e, a, b: e.mean() / (a - b).mean(),
    "check_denoise_head": denoise_head,
    "check_choose": choose,
    "check_faithfulness": faithfulness,
    "check_p_value": p_value,
    "check_random_heads": random_heads,
    "check_steer_edits": steer_edits,
    "check_circuit_edits": circuit_edits,
    "check_excess": excess,
}

WRONG = [
    # split
    ("check_split", lambda c: c, "a list"),
    ("check_split", lambda c: (c, []), "an empty side"),
    ("check_split", lambda c: (c, c[:3]), "train and test mixed: 3 contexts are on both sides"),
    ("check_split", lambda c: (c[:7], c[7:]), "is on both sides. Its three contexts share a text"),
    ("check_split", lambda c: (split(c)[0], split(c)[1][1:]), "14 contexts on both sides together"),
    # directions
    ("check_directions", lambda s: -d.directions(s), "the wrong sign"),
    ("check_directions", lambda s: over_emotions(s).mean(0), "not normalised"),
    ("check_directions", lambda s: -over_emotions(s).mean(0), "wrong sign, and vectors that are"),
    ("check_directions", lambda s: unit(s.mean(0)), "what the emotions share is still in"),
    ("check_directions", lambda s: own_contexts(s).mean(0), "only zeros"),
    ("check_directions", lambda s: unit(0 * own_contexts(s).mean(0)), "NaN"),
    ("check_directions", lambda s: d.directions(s).T, "the axes are swapped"),
    ("check_directions", lambda s: unit(own_contexts(s).mean(1)), r"wrong axis \(over emotions\)"),
    ("check_directions", lambda s: unit(over_emotions(s)), "no mean over contexts"),
    (
        "check_directions",
        lambda s: over_emotions(s).mean(0) / over_emotions(s).mean(0).norm(),
        "one length for all emotions together",
    ),
    (
        "check_directions",
        lambda s: unit(over_emotions(s).mean(0), dim=0),
        "normalised over the wrong axis",
    ),
    (
        "check_directions",
        lambda s: unit(unit(over_emotions(s)).mean(0)),
        "every context was normalised before the mean",
    ),
    ("check_directions", lambda s: d.directions(s)[:2], r"shape \(2, 24\) instead of \(3, 24\)"),
    ("check_directions", lambda s: d.directions(s) + 0.5, r"at \[\d, \d+\] instead of"),
    ("check_directions", lambda s: "anger", "a str"),
    # accuracy
    ("check_accuracy", lambda a, b: share(d.directions(a), a), "the share on train"),
    ("check_accuracy", lambda a, b: share(d.directions(b), b), "directions were made from test"),
    (
        "check_accuracy",
        lambda a, b: share(d.directions(torch.cat([a, b])), b),
        "directions were made from both",
    ),
    ("check_accuracy", lambda a, b: hits(d.directions(a), b).sum(), "a number of prompts"),
    ("check_accuracy", lambda a, b: 100 * share(d.directions(a), b), "a percentage"),
    ("check_accuracy", lambda a, b: 1 - share(d.directions(a), b), "the share of the wrong ones"),
    (
        "check_accuracy",
        lambda a, b: hits(d.directions(a), b, dim=1).float().mean(),
        "over the wrong axis",
    ),
    # head effects
    ("check_head_effects", lambda *x: -head_effects(*x), "the wrong sign"),
    ("check_head_effects", lambda *x: head_effects(*x).abs(), "the sign is lost: heads"),
    (
        "check_head_effects",
        lambda z, W, v: torch.einsum("chd,hdm,m->ch", z, W, v).abs().mean(0),
        "the sign is lost in every context",
    ),
    ("check_head_effects", lambda z, W, v: len(z) * head_effects(z, W, v), "a sum over contexts"),
    (
        "check_head_effects",
        lambda z, W, v: (unit(torch.einsum("chd,hdm->chm", z, W)) @ v).mean(0),
        "a cosine",
    ),
    (
        "check_head_effects",
        lambda *x: head_effects(*x) - head_effects(*x).mean(),
        "the mean over the heads was taken off",
    ),
    (
        "check_head_effects",
        lambda z, W, v: torch.einsum("chd,hdm,m->ch", z, W, v),
        "no mean over contexts",
    ),
    (
        "check_head_effects",
        lambda z, W, v: torch.einsum("chd,hdm,m->ch", z, W, v).mean(1),
        r"wrong axis \(over heads\)",
    ),
    (
        "check_head_effects",
        lambda z, W, v: torch.einsum("chd,hdm->chm", z, W).mean(0),
        "not projected on v",
    ),
    ("check_head_effects", lambda *x: head_effects(*x).sum(), "summed over heads"),
    # without a head
    ("check_without_head", lambda m, ids, i, h: as_it_is(m, ids, i), "nothing was ablated"),
    (
        "check_without_head",
        lambda m, ids, i, h: without_head(m, ids, i, h) - as_it_is(m, ids, i),
        "a difference of streams, with the sign",
    ),
    (
        "check_without_head",
        lambda m, ids, i, h: as_it_is(m, ids, i) - without_head(m, ids, i, h),
        "a difference of streams\n",
    ),
    (
        "check_without_head",
        lambda m, ids, i, h: ablate(m, ids, i, rows(m, h) | True),
        "all heads of the layer were ablated",
    ),
    (
        "check_without_head",
        lambda m, ids, i, h: ablate(m, ids, i, ~rows(m, h)),
        "all heads but this one",
    ),
    (
        "check_without_head",
        lambda m, ids, i, h: ablate(m, ids, i, columns(m, h)),
        "the wrong axis: one dimension of every head",
    ),
    (
        "check_without_head",
        lambda m, ids, i, h: without_head(m, ids, i, h - 1),
        "another head was ablated",
    ),
    (
        "check_without_head",
        lambda m, ids, i, h: ablate(m, ids, i, rows(m, h), last=False),
        "the stream at every position",
    ),
    # top heads
    ("check_top_heads", lambda e, n: top_heads(e, n, lambda x: x), "push away are missing"),
    ("check_top_heads", lambda e, n: top_heads(e, n, descending=False), "the smallest effects"),
    ("check_top_heads", lambda e, n: top_heads(e, n, lambda x: -x), "the most negative effects"),
    ("check_top_heads", lambda e, n: top_heads(e, n, name="L{1}H{0}"), "head are swapped"),
    ("check_top_heads", lambda e, n: top_heads(e, n)[::-1], "in the wrong order"),
    ("check_top_heads", lambda e, n: [(2, 0), (1, 1), (0, 2)], "no list of names"),
    ("check_top_heads", lambda e, n: top_heads(e, 1), "L2H0 instead of L2H0, L1H3, L0H2"),
    # effect
    ("check_effect", lambda *x: -effect(*x), "noising: the wrong sign"),
    ("check_effect", lambda mode, a, b, x: (x - b).mean(), "noising: compared with the wrong run"),
    ("check_effect", lambda mode, a, b, x: (b - x).mean(), "noising: compared with the wrong run"),
    ("check_effect", lambda mode, a, b, x: (a - x).mean(), "denoising: compared with the wrong"),
    (
        "check_effect",
        lambda mode, *x: effect(mode, *x) * (1 if mode == "noising" else -1),
        "denoising: the wrong sign",
    ),
    ("check_effect", lambda m, a, b, x: effect(m, a, b, x) / (a - b).mean(), "a share of the gap"),
    ("check_effect", lambda mode, a, b, x: (a - b).mean(), "the whole gap"),
    ("check_effect", lambda mode, a, b, x: a - x, "an effect for every context"),
    # share
    ("check_share", lambda e, a, b: (e / (a - b)).mean(), "the mean of the ratios"),
    ("check_share", lambda e, a, b: e.mean() / (b - a).mean(), "the wrong sign"),
    ("check_share", lambda e, a, b: 100 * e.mean() / (a - b).mean(), "a percentage"),
    ("check_share", lambda e, a, b: e.mean() / a.mean(), "a share of the clean readout"),
    ("check_share", lambda e, a, b: e.mean(), "the effect itself"),
    ("check_share", lambda e, a, b: 1 - e.mean() / (a - b).mean(), "what is left of the gap"),
    ("check_share", lambda e, a, b: e / (a - b), "a share for every context"),
    # denoising a head
    ("check_denoise_head", lambda m, a, b, i, h: m(b)[:, -1], "nothing was patched"),
    ("check_denoise_head", lambda m, a, b, i, h: m(a)[:, -1], "the clean run, or all heads"),
    ("check_denoise_head", lambda m, a, b, i, h: denoise_head(m, b, a, i, h), "noising: corrupt"),
    (
        "check_denoise_head",
        lambda m, a, b, i, h: patch(m, b, a, i, rows(m, h) | True),
        "or all heads of the layer",
    ),
    (
        "check_denoise_head",
        lambda m, a, b, i, h: patch(m, b, a, i, columns(m, h)),
        "the wrong axis: one dimension",
    ),
    (
        "check_denoise_head",
        lambda m, a, b, i, h: denoise_head(m, a, b, i, h) - m(b)[:, -1],
        "a difference of logits",
    ),
    (
        "check_denoise_head",
        lambda m, a, b, i, h: patch(m, b, a, i, rows(m, h), last=False),
        "logits at every position",
    ),
    # choosing parts
    (
        "check_choose",
        lambda e, f: {n for n in choose(e, f) if e[n] > 0},
        "away .* are missing",
    ),
    ("check_choose", lambda e, f: {n for n in e if abs(e[n]) >= f}, "taken as an effect"),
    ("check_choose", lambda e, f: set(e) - choose(e, f), "the parts below the floor"),
    ("check_choose", lambda e, f: list(e), "all parts"),
    ("check_choose", lambda e, f: [], "no part"),
    ("check_choose", lambda e, f: 3, "no collection of names"),
    ("check_choose", lambda e, f: sorted(choose(e, f))[1:], "missing: L2H0; too many: none"),
    # faithfulness
    ("check_faithfulness", lambda c, e, m: c.mean() / m.mean(), "circuit of nothing would not"),
    ("check_faithfulness", lambda c, e, m: (c - e).mean() / m.mean(), "not taken off below"),
    ("check_faithfulness", lambda c, e, m: ((c - e) / (m - e)).mean(), "the mean of the ratios"),
    ("check_faithfulness", lambda *x: 1 - faithfulness(*x), "what the circuit lacks"),
    ("check_faithfulness", lambda *x: 1 / faithfulness(*x), "upside down"),
    ("check_faithfulness", lambda *x: -faithfulness(*x), "the wrong sign"),
    ("check_faithfulness", lambda *x: 100 * faithfulness(*x), "a percentage"),
    ("check_faithfulness", lambda c, e, m: (c - e) / (m - e), "a number for every context"),
    # p
    ("check_p_value", lambda v, r: (r >= v).float().mean(), "without the two ones"),
    ("check_p_value", lambda v, r: (r > v).float().mean(), "without the ones, and ties"),
    ("check_p_value", lambda v, r: (1 + (r > v).sum()) / (1 + len(r)), "ties do not count"),
    ("check_p_value", lambda v, r: (1 + (r <= v).sum()) / (1 + len(r)), "the wrong side: random"),
    ("check_p_value", lambda v, r: (r < v).float().mean(), "the wrong side: the share that is wo"),
    ("check_p_value", lambda v, r: (r <= v).float().mean(), "the share that is not better"),
    ("check_p_value", lambda v, r: 1 + (r >= v).sum(), "a number of circuits"),
    ("check_p_value", lambda v, r: 5 / 11, "0.4545 instead of 0.09091"),
    # random heads
    ("check_random_heads", lambda c, n, s: random_heads(c, n, s, count=3), "3 heads instead of 4"),
    ("check_random_heads", lambda c, n, s: random_heads(c, n, s, twice=True), "a head twice"),
    ("check_random_heads", lambda c, n, s: random_heads(c, n, s, own=True), "in the circuit"),
    ("check_random_heads", lambda c, n, s: random_heads(c, n, s, layers=False), "heads in layers"),
    ("check_random_heads", lambda c, n, s: random_heads(c, n, 0), "the same heads for eight"),
    ("check_random_heads", lambda c, n, s: random_heads(c, n, None), "other heads for the same"),
    ("check_random_heads", lambda c, n, s: ["L0H1"], "return a list of pairs"),
    ("check_random_heads", lambda c, n, s: [(a, b + 6) for a, b in c], "does not have"),
    # steering
    ("check_steer_edits", lambda *x: [], "return a list of edits"),
    ("check_steer_edits", lambda *x: steer_edits(*x, positions="all"), "every token is written to"),
    ("check_steer_edits", lambda *x: steer_edits(*x, when="every"), "written again at every token"),
    ("check_steer_edits", lambda v, n, i, s: circuit_edits([], v, s), "an edit at 'z'"),
    ("check_steer_edits", lambda v, n, i, s: steer_edits(v, n, range(6), s), "edits of layers 0"),
    ("check_steer_edits", lambda v, n, i, s: steer_edits(v, n, i, -s), "the wrong sign"),
    ("check_steer_edits", lambda v, n, i, s: steer_edits(v, n, i, 3 * s), "not shared by the lay"),
    ("check_steer_edits", lambda v, n, i, s: steer_edits(v, n, i, 1), "strength 1 whatever"),
    (
        "check_steer_edits",
        lambda v, n, i, s: steer_edits(v, n, i, s, each=lambda _, at: v[at] / 3),
        "unit length: strength 1 is not",
    ),
    (
        "check_steer_edits",
        lambda v, n, i, s: steer_edits(v, n, i, s, each=lambda _, at: v[at]),
        "unit length, and the strength is not shared",
    ),
    (
        "check_steer_edits",
        lambda v, n, i, s: steer_edits(v, n, i, s, each=lambda k, _: n[k] * v[k] / 3),
        "the vectors of layers 0, 1, 2",
    ),
    (
        "check_steer_edits",
        lambda v, n, i, s: steer_edits(v, n, i, s, each=lambda k, at: n[k] * v[at] / 3),
        "the lengths of layers 0, 1, 2",
    ),
    # writing a circuit
    (
        "check_circuit_edits",
        lambda c, x, s: [ec.Scale("z", 1, 1 + x[1])],
        "a Scale",
    ),
    ("check_circuit_edits", lambda c, x, s: [ec.Add("z", 1, x[1, 2], when="prompt")], "of shape"),
    (
        "check_circuit_edits",
        lambda c, x, s: [ec.Add("z", 7, x[1], when="prompt")],
        "an edit of layer 7",
    ),
    ("check_circuit_edits", lambda c, x, s: circuit_edits(c, x, -s), "the wrong sign"),
    ("check_circuit_edits", lambda c, x, s: circuit_edits(c, x, 1), "strength 1 whatever"),
    ("check_circuit_edits", lambda c, x, s: circuit_edits([], x, s), "nothing is written"),
    ("check_circuit_edits", swapped_writing, "layer and head are swapped"),
    (
        "check_circuit_edits",
        lambda c, x, s: circuit_edits(c, x, s, put=lambda own, all: all),
        "all heads are written",
    ),
    (
        "check_circuit_edits",
        lambda c, x, s: circuit_edits(c, x, s, put=lambda own, all: all - own),
        "all heads but the circuit's",
    ),
    # excess
    (
        "check_excess",
        lambda m, c, u: matches(m, m) - matches(c, c),
        "mixed: contexts in `used` are",
    ),
    ("check_excess", lambda m, c, u: matches(m, u) - matches(c, u), "only contexts in `used`"),
    ("check_excess", lambda m, c, u: -excess(m, c, u), "the wrong sign"),
    ("check_excess", lambda m, c, u: excess(m, dict.fromkeys(m, 0), u), "the method's share alone"),
    ("check_excess", lambda m, c, u: matches(m, m), "and the control is not taken off"),
    ("check_excess", lambda m, c, u: 6 * excess(m, c, u), "a number of contexts"),
    ("check_excess", lambda m, c, u: 0.6 * excess(m, c, u), "divided by all contexts"),
    ("check_excess", lambda m, c, u: 100 * excess(m, c, u), "a percentage"),
    ("check_excess", lambda m, c, u: 4.0, "a ratio"),
]


# --- what the checks say ------------------------------------------------------------------------


def check(name):
    return getattr(ec.workshop, name)


def said_of(name, answer):
    with pytest.raises(ExerciseError) as refused:
        check(name)(answer)
    return str(refused.value)


def test_every_check_has_a_right_and_several_wrong_answers():
    assert sorted(RIGHT) == CHECKS
    tried = [name for name, _, _ in WRONG]
    assert all(tried.count(name) >= 5 for name in CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_the_right_answer_passes(name):
    said = check(name)(RIGHT[name])
    assert ": right. " in said
    assert said.startswith("Exercise ")


@pytest.mark.parametrize(("name", "answer", "message"), WRONG)
def test_a_mistake_is_named(name, answer, message):
    said = said_of(name, answer)
    found = said.split("  found:")[1]
    assert re.search(message, found), said
    assert "  expected: " in said
    assert "  do:       " in said


@pytest.mark.parametrize("name", CHECKS)
def test_messages_of_different_mistakes_differ(name):
    said = [said_of(name, answer) for own, answer, _ in WRONG if own == name]
    assert len(set(said)) >= len(said) - 1


@pytest.mark.parametrize("name", CHECKS)
def test_a_stub_is_not_done_yet(name):
    def stub(*given):
        raise NotImplementedError

    assert "not done yet" in said_of(name, stub)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("nothing", [None, ...])
def test_an_answer_that_is_not_returned_is_named(name, nothing):
    assert "end the function with `return`" in said_of(name, lambda *given: nothing)


@pytest.mark.parametrize("name", CHECKS)
def test_a_value_in_place_of_a_function_is_named(name):
    assert "pass the function itself" in said_of(name, 3.0)


@pytest.mark.parametrize("name", CHECKS)
def test_an_error_of_the_learners_own_is_left_as_it_is_with_a_note(name):
    def broken(*given):
        raise IndexError("list index out of range")

    with pytest.raises(IndexError) as raised:
        check(name)(broken)
    assert "your own function" in raised.value.__notes__[0]


def test_an_answer_that_writes_into_what_it_is_given_spoils_nothing():
    def inside(stream):
        stream -= stream.mean(1, keepdim=True)
        return unit(stream.mean(0))

    assert "right" in ec.workshop.check_directions(inside)


def test_jupyter_shows_the_message_and_no_traceback():
    with pytest.raises(ExerciseError) as refused:
        ec.workshop.check_effect(lambda *given: 0)
    assert refused.value._render_traceback_() == [str(refused.value)]


# --- the right answers are right ----------------------------------------------------------------


def test_directions_find_the_planted_emotions_though_the_context_is_louder():
    said = ec.workshop.check_directions(RIGHT["check_directions"])
    assert float(said.split(": ")[-1].split()[0]) > 0.9


def test_accuracy_is_higher_on_the_contexts_that_made_the_directions():
    stream, _ = d._planted_stream(contexts=15, noise=4.0)
    assert d.accuracy(stream[:6], stream[:6]) > d.accuracy(stream[:6], stream[6:]) + 0.2


def test_the_planted_circuit_is_chosen_whole():
    said = ec.workshop.check_choose(choose)
    assert "precision 100%, recall 100%" in said


def test_the_closed_form_of_a_head_is_its_re_run():
    planted = the_plant()
    layer, head = writer_of(planted)
    ids = asked_ids(planted.model, planted.emotions)
    model: Any = planted.model
    _, cache = model.run_with_cache(ids)
    z, W_O = cache[f"blocks.{layer}.attn.hook_z"][:, -1], model.W_O[layer].detach()
    v = planted.readout[1]
    lost = (as_it_is(planted.model, ids, layer) - without_head(planted.model, ids, layer, head)) @ v
    torch.testing.assert_close(head_effects(z, W_O, v)[head], lost.mean(), atol=1e-5, rtol=1e-4)


def test_a_denoised_writer_brings_back_most_of_the_gap():
    said = ec.workshop.check_denoise_head(denoise_head)
    assert int(said.split("brings back ")[1].split("%")[0]) > 50

"""Every check takes the right answer and says of each typical mistake what is wrong with it."""

import random
import re
from typing import Any

import nbformat
import pytest
import torch
from workshop.scripts import FOLDER, script

import circuits as ec

checks = script("checks")
CHECKS = sorted(name for name in vars(checks) if name.startswith("check_"))
columns, directions, rows, share = (
    checks.columns,
    checks.right_directions,
    checks.rows,
    checks.right_accuracy,
)


def solutions() -> dict[str, Any]:
    """Name -> function of the answer cells of the solutions."""
    found: dict[str, Any] = {"torch": torch, "ec": ec}
    for path in sorted((FOLDER / "solutions").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "answer" in cell.metadata.get("tags", ()):
                exec(cell.source, found)
    return found


SOLVED = solutions()
RIGHT = {
    name: SOLVED[{"directions": "emotion_directions"}.get(name, name)]
    for name in (check.removeprefix("check_") for check in CHECKS)
}
choose, denoise_head, effect, faithfulness, head_effects, split, without_head = (
    SOLVED[name]
    for name in (
        "choose",
        "denoise_head",
        "effect",
        "faithfulness",
        "head_effects",
        "split",
        "without_head",
    )
)


def unit(x, dim=-1):
    return x / x.norm(dim=dim, keepdim=True)


def over_emotions(stream):
    return stream - stream.mean(1, keepdim=True)


def own_contexts(stream):
    return stream - stream.mean(0)


def stream(model, ids, layer):
    return ablate(model, ids, layer, rows(model, 0) & False)


def ablate(model, ids, layer, chosen, *, last=True):
    nothing = torch.zeros(model.cfg.n_heads, model.cfg.d_head)
    with ec.edited(model, [ec.Replace("z", layer, nothing, chosen, positions="all")]):
        _, cache = model.run_with_cache(ids)
    stream = cache[f"blocks.{layer}.hook_resid_mid"]
    return stream[:, -1] if last else stream


def top_heads(effect, count, key=torch.Tensor.abs, name="L{0}H{1}", descending=True):
    order = key(effect).flatten().argsort(descending=descending)[:count]
    return [name.format(*divmod(int(i), effect.shape[1])) for i in order]


def patch(model, ids, source, layer, chosen, *, last=True):
    _, cache = model.run_with_cache(source)
    value = cache[f"blocks.{layer}.attn.hook_z"]
    with ec.edited(model, [ec.Replace("z", layer, value, chosen, positions="all")]):
        logits = model(ids)
    return logits[:, -1] if last else logits


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


def excess(method, baseline, used):
    new = [name for name in method if name not in used]
    return matches(method, new) - matches(baseline, new)


WRONG = {
    "split": [
        (lambda c: c, "a list"),
        (lambda c: (c, []), "an empty side"),
        (lambda c: (c, c[:3]), "train and test mixed: 3 contexts are on both sides"),
        (lambda c: (c[:7], c[7:]), "is on both sides. Its three contexts share a text"),
        (lambda c: (split(c)[0], split(c)[1][1:]), "14 contexts on both sides together"),
    ],
    "directions": [
        (lambda s: -directions(s), "the wrong sign"),
        (lambda s: over_emotions(s).mean(0), "not normalised"),
        (lambda s: unit(s.mean(0)), "what the emotions share is still in"),
        (lambda s: unit(0 * own_contexts(s).mean(0)), "NaN"),
        (lambda s: unit(own_contexts(s).mean(1)), r"wrong axis \(over emotions\)"),
        (lambda s: unit(over_emotions(s)), "no mean over contexts"),
        (lambda s: unit(over_emotions(s).mean(0), dim=0), "normalised over the wrong axis"),
        (
            lambda s: unit(unit(over_emotions(s)).mean(0)),
            "every context was normalised before the mean",
        ),
        (lambda s: directions(s) + 0.5, r"at \[\d, \d+\] instead of"),
        (lambda s: "anger", "a str"),
    ],
    "accuracy": [
        (lambda a, b: share(a, a), "the share on train"),
        (lambda a, b: share(b, b), "directions were made from test"),
        (lambda a, b: share(torch.cat([a, b]), b), "directions were made from both"),
        (lambda a, b: 100 * share(a, b), "a percentage"),
        (lambda a, b: share(a, b, dim=1), "over the wrong axis"),
    ],
    "head_effects": [
        (lambda *x: -head_effects(*x), "the wrong sign"),
        (lambda *x: head_effects(*x).abs(), "the sign is lost: heads"),
        (lambda z, W, v: len(z) * head_effects(z, W, v), "a sum over contexts"),
        (lambda z, W, v: (unit(torch.einsum("chd,hdm->chm", z, W)) @ v).mean(0), "a cosine"),
        (
            lambda *x: head_effects(*x) - head_effects(*x).mean(),
            "the mean over the heads was taken off",
        ),
        (lambda z, W, v: torch.einsum("chd,hdm,m->ch", z, W, v), "no mean over contexts"),
        (
            lambda z, W, v: torch.einsum("chd,hdm,m->ch", z, W, v).mean(1),
            r"wrong axis \(over heads\)",
        ),
    ],
    "without_head": [
        (lambda m, ids, i, h: stream(m, ids, i), "nothing was ablated"),
        (
            lambda m, ids, i, h: without_head(m, ids, i, h) - stream(m, ids, i),
            "a difference of streams, with the sign",
        ),
        (
            lambda m, ids, i, h: ablate(m, ids, i, rows(m, h) | True),
            "all heads of the layer were ablated",
        ),
        (
            lambda m, ids, i, h: ablate(m, ids, i, columns(m, h)),
            "the wrong axis: one dimension of every head",
        ),
        (
            lambda m, ids, i, h: ablate(m, ids, i, rows(m, h), last=False),
            "the stream at every position",
        ),
    ],
    "top_heads": [
        (lambda e, n: top_heads(e, n, lambda x: x), "push away are missing"),
        (lambda e, n: top_heads(e, n, descending=False), "the smallest effects"),
        (lambda e, n: top_heads(e, n, lambda x: -x), "the most negative effects"),
        (lambda e, n: top_heads(e, n, name="L{1}H{0}"), "head are swapped"),
        (lambda e, n: top_heads(e, n)[::-1], "in the wrong order"),
        (lambda e, n: [(2, 0), (1, 1), (0, 2)], "no list of names"),
        (lambda e, n: top_heads(e, 1), "L2H0 instead of L2H0, L1H3, L0H2"),
    ],
    "effect": [
        (lambda *x: -effect(*x), "noising: the wrong sign"),
        (lambda mode, a, b, x: (x - b).mean(), "noising: compared with the wrong run"),
        (lambda mode, a, b, x: (b - x).mean(), "noising: compared with the wrong run"),
        (lambda mode, a, b, x: (a - x).mean(), "denoising: compared with the wrong"),
        (
            lambda mode, *x: effect(mode, *x) * (1 if mode == "noising" else -1),
            "denoising: the wrong sign",
        ),
        (lambda mode, a, b, x: a - x, "an effect for every context"),
    ],
    "share": [
        (lambda e, a, b: (e / (a - b)).mean(), "the mean of the ratios"),
        (lambda e, a, b: e.mean() / (b - a).mean(), "the wrong sign"),
        (lambda e, a, b: 100 * e.mean() / (a - b).mean(), "a percentage"),
        (lambda e, a, b: e.mean() / a.mean(), "a share of the clean readout"),
        (lambda e, a, b: e / (a - b), "a share for every context"),
    ],
    "denoise_head": [
        (lambda m, a, b, i, h: m(b)[:, -1], "nothing was patched"),
        (lambda m, a, b, i, h: m(a)[:, -1], "the clean run\n"),
        (lambda m, a, b, i, h: denoise_head(m, b, a, i, h), "noising: corrupt"),
        (
            lambda m, a, b, i, h: patch(m, b, a, i, rows(m, h) | True),
            "all heads of the layer were patched",
        ),
        (lambda m, a, b, i, h: patch(m, b, a, i, columns(m, h)), "the wrong axis: one dimension"),
        (lambda m, a, b, i, h: denoise_head(m, a, b, i, h) - m(b)[:, -1], "a difference of logits"),
        (
            lambda m, a, b, i, h: patch(m, b, a, i, rows(m, h), last=False),
            "logits at every position",
        ),
    ],
    "choose": [
        (lambda e, f: {n for n in choose(e, f) if e[n] > 0}, "away .* are missing"),
        (lambda e, f: {n for n in e if abs(e[n]) >= f}, "taken as an effect"),
        (lambda e, f: set(e) - choose(e, f), "the parts below the floor"),
        (lambda e, f: list(e), "all components"),
        (lambda e, f: [], "no part"),
        (lambda e, f: 3, "no collection of names"),
        (lambda e, f: sorted(choose(e, f))[1:], "missing: L0H2; too many: none"),
    ],
    "faithfulness": [
        (lambda c, e, m: c.mean() / m.mean(), "circuit of nothing would not"),
        (lambda c, e, m: (c - e).mean() / m.mean(), "not taken off below"),
        (lambda c, e, m: ((c - e) / (m - e)).mean(), "the mean of the ratios"),
        (lambda *x: -faithfulness(*x), "the wrong sign"),
        (lambda *x: 100 * faithfulness(*x), "a percentage"),
        (lambda c, e, m: (c - e) / (m - e), "a number for every context"),
    ],
    "p_value": [
        (lambda v, r: (r >= v).float().mean(), "without the two ones"),
        (lambda v, r: (1 + (r > v).sum()) / (1 + len(r)), "ties do not count"),
        (lambda v, r: (r < v).float().mean(), "the wrong side: the share that is wo"),
        (lambda v, r: 1 + (r >= v).sum(), "a number of circuits"),
        (lambda v, r: 5 / 11, "0.4545 instead of 0.09091"),
    ],
    "random_heads": [
        (lambda c, n, s: random_heads(c, n, s, count=3), "3 heads instead of 4"),
        (lambda c, n, s: random_heads(c, n, s, twice=True), "a head twice"),
        (lambda c, n, s: random_heads(c, n, s, own=True), "in the circuit"),
        (lambda c, n, s: random_heads(c, n, s, layers=False), "heads in layers"),
        (lambda c, n, s: random_heads(c, n, 0), "the same heads for eight"),
        (lambda c, n, s: random_heads(c, n, None), "other heads for the same"),
        (lambda c, n, s: ["L0H1"], "return a list of pairs"),
        (lambda c, n, s: [(a, b + 6) for a, b in c], "does not have"),
    ],
    "steer_edits": [
        (lambda *x: [], "return a list of edits"),
        (lambda *x: steer_edits(*x, positions="all"), "every token is written to"),
        (lambda *x: steer_edits(*x, when="every"), "written again at every token"),
        (lambda v, n, i, s: circuit_edits([], v, s), "an edit at 'z'"),
        (lambda v, n, i, s: steer_edits(v, n, range(6), s), "edits of layers 0"),
        (lambda v, n, i, s: steer_edits(v, n, i, -s), "the wrong sign"),
        (lambda v, n, i, s: steer_edits(v, n, i, 3 * s), "not shared by the lay"),
        (lambda v, n, i, s: steer_edits(v, n, i, 1), "strength 1 whatever"),
        (
            lambda v, n, i, s: steer_edits(v, n, i, s, each=lambda _, at: v[at] / 3),
            "unit length: strength 1 is not",
        ),
        (
            lambda v, n, i, s: steer_edits(v, n, i, s, each=lambda k, _: n[k] * v[k] / 3),
            "the vectors of layers 0, 1, 2",
        ),
        (
            lambda v, n, i, s: steer_edits(v, n, i, s, each=lambda k, at: n[k] * v[at] / 3),
            "the lengths of layers 0, 1, 2",
        ),
    ],
    "circuit_edits": [
        (lambda c, x, s: [ec.Scale("z", 1, 1 + x[1])], "a Scale"),
        (lambda c, x, s: [ec.Add("z", 1, x[1, 2], when="prompt")], "of shape"),
        (lambda c, x, s: [ec.Add("z", 7, x[1], when="prompt")], "an edit of layer 7"),
        (lambda c, x, s: circuit_edits(c, x, -s), "the wrong sign"),
        (lambda c, x, s: circuit_edits(c, x, 1), "strength 1 whatever"),
        (lambda c, x, s: circuit_edits([], x, s), "nothing is written"),
        (swapped_writing, "layer and head are swapped"),
        (lambda c, x, s: circuit_edits(c, x, s, put=lambda own, all: all), "all heads are written"),
    ],
    "excess": [
        (lambda m, c, u: matches(m, m) - matches(c, c), "mixed: contexts in `used` are"),
        (lambda m, c, u: matches(m, u) - matches(c, u), "only contexts in `used`"),
        (lambda m, c, u: -excess(m, c, u), "the wrong sign"),
        (lambda m, c, u: excess(m, dict.fromkeys(m, 0), u), "the method's share alone"),
        (lambda m, c, u: matches(m, m), "and the baseline is not taken off"),
        (lambda m, c, u: 100 * excess(m, c, u), "a percentage"),
        (lambda m, c, u: 4.0, "a ratio"),
    ],
}


def said_of(name, answer):
    with pytest.raises(checks.ExerciseError) as refused:
        getattr(checks, f"check_{name}")(answer)
    # Jupyter shows the message and no traceback.
    assert refused.value._render_traceback_() == [str(refused.value)]
    return str(refused.value)


def said_right(name, answer=None):
    said = getattr(checks, f"check_{name}")(answer or RIGHT[name])
    assert re.match(r"Exercise \d\.\d, \w+: right\. ", said)
    return said


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_answer_passes_and_each_mistake_is_named(name):
    said_right(name)
    said = []
    for answer, message in WRONG[name]:
        said.append(said_of(name, answer))
        assert re.search(message, said[-1].split("  found:")[1]), said[-1]
        assert "  expected: " in said[-1]
        assert "  do:       " in said[-1]
    assert len(said) >= 5
    assert len(set(said)) >= len(said) - 1


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_no_answer_yet_is_named(name):
    def stub(*given):
        raise NotImplementedError

    def broken(*given):
        raise IndexError("list index out of range")

    assert "not done yet" in said_of(name, stub)
    assert "end the function with `return`" in said_of(name, lambda *given: None)
    assert "end the function with `return`" in said_of(name, lambda *given: ...)
    assert "pass the function itself" in said_of(name, 3.0)
    with pytest.raises(IndexError) as raised:
        getattr(checks, f"check_{name}")(broken)
    assert "your own function" in raised.value.__notes__[0]


def test_an_answer_that_writes_into_what_it_is_given_spoils_nothing():
    def inside(stream):
        stream -= stream.mean(1, keepdim=True)
        return unit(stream.mean(0))

    said_right("directions", inside)


def test_directions_find_the_planted_emotions_though_the_context_is_louder():
    assert float(said_right("directions").split(": ")[-1].split()[0]) > 0.9


def test_accuracy_is_higher_on_the_contexts_that_made_the_directions():
    stream, _ = checks.planted_stream(contexts=15, noise=4.0)
    train, test = stream[:6], stream[6:]
    assert share(train, train) > share(train, test) + 0.2


def test_the_closed_form_of_a_head_is_its_re_run():
    model, ids = checks.small_model()
    layer, head = checks.LAYER, checks.HEAD
    _, cache = model.run_with_cache(ids)
    z, W_O = cache[f"blocks.{layer}.attn.hook_z"][:, -1].detach(), model.W_O[layer].detach()
    v = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    lost = (stream(model, ids, layer) - without_head(model, ids, layer, head)) @ v
    torch.testing.assert_close(head_effects(z, W_O, v)[head], lost.mean(), atol=1e-4, rtol=1e-4)


def test_a_denoised_head_brings_back_most_of_the_gap():
    assert int(said_right("denoise_head").split("brings back ")[1].split("%")[0]) > 50

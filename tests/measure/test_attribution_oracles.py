"""Every attribution method against plain runs of single prompts, in float64.

The oracles take no gradient: they move an activation a little and look at the readout.
"""

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.functional import silu
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.models.load import wrap_model
from circuits.names import hook as name_of
from circuits.patching.attribution import attribute
from circuits.patching.pairs import LogitDifference, Projection, make_pairs
from circuits.patching.patch import patch_components

STEP = 1e-3


@contextmanager
def in_float64():
    """Everything in float64; libraries that ask for float32 (norms, softmax) get it too."""
    tensor = torch.Tensor
    library = torch
    usual, single = tensor.float, torch.float32
    tensor.float = tensor.double
    torch.set_default_dtype(torch.float64)
    library.float32 = library.float = torch.float64
    try:
        yield
    finally:
        library.float32 = library.float = single
        torch.set_default_dtype(single)
        tensor.float = usual


class PlainPair:
    """The base and the other run of one pair, as prompts without padding."""

    def __init__(self, model, pair, readout, mode):
        self.model, self.readout, self.matched = model, readout, pair.matched
        ids = (pair.clean.ids, pair.corrupt.ids)
        self.other, self.base = ids if mode == "denoising" else ids[::-1]
        self.sign = 1.0 if mode == "denoising" else -1.0

    def run(self, ids, hooks=(), seen=()):
        """Readout, and activations of some places as the run's hooks leave them."""
        found = {}

        def see(place):
            def keep(activation, hook):
                found[place] = activation.clone()
                return activation

            return keep

        last = (self.readout.site, self.model.cfg.n_layers - 1)
        hooks = [*hooks, *((name_of(*place), see(place)) for place in (*seen, last))]
        tokens = torch.tensor([list(ids)])
        with torch.no_grad(), self.model.hooks(fwd_hooks=list(hooks)):
            self.model(tokens, attention_mask=torch.ones_like(tokens))
        return float(self.readout.score(found[last][:, -1])), found

    def change(self, place):
        """Other minus base activation, zero before the matched positions of the base run."""
        base, other = (self.run(ids, seen=[place])[1][place] for ids in (self.base, self.other))
        found = torch.zeros_like(base)
        found[:, -self.matched :] = other[:, -self.matched :] - base[:, -self.matched :]
        return found

    def slope(self, place, along, hooks=()):
        """How fast the base run's readout rises as the activation moves along a direction.

        Five-point difference: exact up to the fourth power of a small step.
        """

        def at(size):
            add = (name_of(*place), lambda activation, hook: activation + size * along)
            return self.run(self.base, [*hooks, add])[0]

        far, near = at(2 * STEP) - at(-2 * STEP), at(STEP) - at(-STEP)
        return self.sign * (8 * near - far) / (12 * STEP)

    def put(self, place, value):
        """A hook that sets an activation."""
        return name_of(*place), lambda activation, hook: value


def unit(change, index):
    """The part of a change that is one head's, group's or neuron's."""
    found = torch.zeros_like(change)
    found[:, :, index] = change[:, :, index]
    return found


CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-9}


@pytest.fixture
def double(tokenizer, make_llama):
    """A random model in float64, in which rounding hides no error."""
    with in_float64():
        yield make_llama(tokenizer)


def random_projection(model):
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(3))
    return Projection(vector / vector.norm())


class Setting:
    """One pair as plain runs, and what the package says of it."""

    def __init__(self, model, context, mode, other="fear", **options):
        readout = random_projection(model)
        pairs = make_pairs(model, [context], "anger", other)
        self.plain = PlainPair(model, pairs[0], readout, mode)
        self.scores = attribute(pairs, readout, mode=mode, sample=2, **options)

    def slope(self, place, index=None, hooks=()):
        change = self.plain.change(place)
        along = change if index is None else unit(change, index)
        return self.plain.slope(place, along, hooks)


MODES = ["denoising", "noising"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", [None, "fear"])
def test_atp_is_the_slope_of_the_readout_towards_the_other_run(double, contexts, mode, other):
    of = Setting(double, contexts[2], mode, other, method="atp")
    found, expected = [], []
    for layer in range(3):
        for site, table, units in (
            ("z", of.scores.heads, range(4)), ("q", of.scores.queries, range(4)),
            ("k", of.scores.keys, range(2)), ("v", of.scores.values, range(2)),
            ("post", of.scores.neurons, (0, 17, 47)),
        ):  # fmt: skip
            found += [table[0, layer, unit] for unit in units]
            expected += [of.slope((site, layer), unit) for unit in units]
        found += list(of.scores.sublayers[0, layer])
        expected += [of.slope(("attn_out", layer)), of.slope(("mlp_out", layer))]
    found.append(of.scores.inputs[0])
    expected.append(of.slope(("resid_pre", 0)))
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected), **CLOSE)
    assert of.scores.heads.abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_atp_star_patches_queries_and_keys_through_the_softmax_and_drops_layers(
    double, contexts, mode
):
    of = Setting(double, contexts[0], mode, method="atp*")
    base = of.plain.base
    layers = range(3)
    outs = [(site, i) for site in ("attn_out", "mlp_out") for i in layers]
    _, kept = of.plain.run(base, seen=outs)

    def frozen(layer):
        return [of.plain.put(place, kept[place]) for place in outs if place[1] == layer]

    def graded(place, along):
        sizes = [abs(of.plain.slope(place, along, frozen(i))) for i in layers]
        return torch.tensor(of.plain.slope(place, along)).sign() * sum(sizes) / 2

    for layer in (1,):
        for head in range(4):
            along = unit(of.plain.change(("z", layer)), head)
            torch.testing.assert_close(
                of.scores.heads[0, layer, head], graded(("z", layer), along), **CLOSE
            )
        patterns = pattern_changes(of, layer, "q", range(4))
        for head in range(4):
            expected = graded(("pattern", layer), patterns[head])
            torch.testing.assert_close(of.scores.queries[0, layer, head], expected, **CLOSE)
        patterns = pattern_changes(of, layer, "k", range(2))
        for group in range(2):
            expected = graded(("pattern", layer), patterns[group])
            torch.testing.assert_close(of.scores.keys[0, layer, group], expected, **CLOSE)
        along = unit(of.plain.change(("post", layer)), 11)
        expected = graded(("post", layer), along)
        torch.testing.assert_close(of.scores.neurons[0, layer, 11], expected, **CLOSE)
    assert of.scores.queries.abs().max() > 1e-4
    assert of.scores.keys.abs().max() > 1e-4


def pattern_changes(of, layer, site, units):
    """Sum over positions of what patching one position of a head or group does to the pattern."""
    place, pattern = (site, layer), ("pattern", layer)
    change = of.plain.change(place)
    _, kept = of.plain.run(of.plain.base, seen=[place, pattern])
    found = []
    for index in units:
        total = torch.zeros_like(kept[pattern])
        for position in range(-of.plain.matched, 0):
            patched = kept[place].clone()
            patched[:, position, index] += change[:, position, index]
            seen = of.plain.run(of.plain.base, [of.plain.put(place, patched)], [pattern])[1]
            total += seen[pattern] - kept[pattern]
        found.append(total)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", [None, "fear"])
def test_relp_is_the_gradient_of_a_model_written_with_its_rules(double, contexts, mode, other):
    of = Setting(double, contexts[1], mode, other, method="relp")
    values = relevance(double, of.plain)
    for kind, places in {"heads": "z", "neurons": "post", "values": "v"}.items():
        for layer in range(3):
            value, gradient = values[places, layer]
            change = of.plain.change((places, layer))[0].reshape(value.shape)
            expected = of.plain.sign * (change * gradient).sum(0)
            expected = expected if kind == "neurons" else expected.sum(-1)
            found = getattr(of.scores, kind)[0, layer]
            torch.testing.assert_close(found, expected, **CLOSE)
    assert bool(of.scores.queries.isnan().all())
    assert bool(of.scores.keys.isnan().all())


def relevance(model, plain):
    """Value and RelP coefficient at z, post and v of a Llama, from its weights and patterns."""
    own = model.original_model.model
    layers = range(3)
    seen = [("pattern", i) for i in layers] + [("resid_pre", 0)]
    kept = plain.run(plain.base, seen=seen)[1]
    x = kept["resid_pre", 0][0].clone().requires_grad_()
    leaves = {}

    def linear(module, value):
        return value @ module.original_component.weight.T

    def norm(module, value):
        inner = module.original_component
        scale = (value.square().mean(-1, keepdim=True) + inner.variance_epsilon).sqrt()
        return inner.weight * value / scale.detach()

    for i in layers:
        block = own.layers[i]._original_component
        v = linear(block.self_attn.v_proj, norm(block.input_layernorm, x)).unflatten(-1, (2, 8))
        z = torch.einsum("hqk,khd->qhd", kept["pattern", i][0], v.repeat_interleave(2, 1))
        x = x + linear(block.self_attn.o_proj, z.flatten(1))
        y = norm(block.post_attention_layernorm, x)
        gate, up = linear(block.mlp.gate_proj, y), linear(block.mlp.up_proj, y)
        by_gate = gate * (silu(gate) * up / gate).detach()
        post = (by_gate + up * silu(gate).detach()) / 2
        x = x + linear(block.mlp.down_proj, post)
        leaves |= {("z", i): z, ("post", i): post, ("v", i): v}
    score = plain.readout.score(x[-1:]).sum()
    gradients = torch.autograd.grad(score, list(leaves.values()))
    return {
        place: (value.detach(), gradient)
        for (place, value), gradient in zip(leaves.items(), gradients, strict=True)
    }


@pytest.mark.parametrize("mode", MODES)
def test_integrated_gradients_over_inputs_are_mean_slopes_along_the_way(double, contexts, mode):
    steps = 3
    of = Setting(double, contexts[0], mode, method="ig-inputs", steps=steps)
    way = of.plain.change(("resid_pre", 0))
    start = of.plain.run(of.plain.base, seen=[("resid_pre", 0)])[1]["resid_pre", 0]

    def mean_slope(place, index=None):
        total = 0.0
        for step in range(steps):
            at = start + (step + 0.5) / steps * way
            total += of.slope(place, index, [of.plain.put(("resid_pre", 0), at)])
        return total / steps

    found = [of.scores.heads[0, 1, 2], of.scores.neurons[0, 2, 5], of.scores.queries[0, 0, 1],
             of.scores.keys[0, 1, 0], of.scores.values[0, 2, 1], of.scores.sublayers[0, 1, 1],
             of.scores.inputs[0]]  # fmt: skip
    places = [("z", 1), ("post", 2), ("q", 0), ("k", 1), ("v", 2), ("mlp_out", 1), ("resid_pre", 0)]
    units = [2, 5, 1, 0, 1, None, None]
    expected = [mean_slope(place, unit) for place, unit in zip(places, units, strict=True)]
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected), **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", [None, "fear"])
def test_integrated_gradients_over_activations_are_mean_slopes_along_each_way(
    double, contexts, mode, other
):
    steps = 3
    of = Setting(double, contexts[0], mode, other, method="ig-activations", steps=steps)

    def mean_slope(moved, place, index):
        way, total = of.plain.change(moved), 0.0
        start = of.plain.run(of.plain.base, seen=[moved])[1][moved]
        for step in range(steps):
            at = start + (step + 0.5) / steps * way
            total += of.slope(place, index, [of.plain.put(moved, at)])
        return total / steps

    for layer in range(3):
        z, post = ("z", layer), ("post", layer)
        found = [of.scores.heads[0, layer, 1], of.scores.neurons[0, layer, 7],
                 *of.scores.sublayers[0, layer]]  # fmt: skip
        expected = [mean_slope(z, z, 1), mean_slope(post, post, 7),
                    mean_slope(z, ("attn_out", layer), None),
                    mean_slope(post, ("mlp_out", layer), None)]  # fmt: skip
        torch.testing.assert_close(torch.stack(found), torch.tensor(expected), **CLOSE)


def test_atp_agrees_with_exact_patching_to_second_order(double, contexts):
    readout, errors, sizes = random_projection(double), [], []
    pairs = make_pairs(double, contexts[:1], "anger", "fear")
    pair = pairs[0]
    apart = [(a, b) for a, b in zip(reversed(pair.clean.ids), reversed(pair.corrupt.ids),
             strict=False) if a != b][:1]  # fmt: skip
    ((own, other),) = apart
    weight = double.original_model.model.embed_tokens.original_component.weight
    direction = (weight[other] - weight[own]).detach().clone()
    names = [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    for size in (0.02, 0.01):
        with torch.no_grad():
            weight[other] = weight[own] + size * direction
        scores = attribute(pairs, readout, sample=2).heads[0].flatten()
        exact = patch_components(pairs, readout, names)[0]
        errors.append(float((scores - exact).norm()))
        sizes.append(float(exact.norm()))
    assert 1.9 < sizes[0] / sizes[1] < 2.1
    assert 3.7 < errors[0] / errors[1] < 4.3


def test_atp_equals_the_scores_of_transformer_lens(tokenizer, contexts):
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    with in_float64():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_inner=48, n_layer=2, n_head=4,
            n_positions=512, initializer_range=0.3,
        )  # fmt: skip
        model = wrap_model(GPT2LMHeadModel(config), tokenizer, name="random-gpt2")
        readout = LogitDifference(torch.tensor([5, 9]), torch.tensor([100, 200, 7]))
        pairs = make_pairs(model, contexts[:1], "anger", "fear")
        assert len(pairs[0].clean.ids) == len(pairs[0].corrupt.ids)
        clean, corrupt = pairs.clean.ids, pairs.corrupt.ids

        def metric(logits):
            return readout.score(logits[:, -1]).sum()

        found = attribution_patch(model, clean, corrupt, metric).node_scores
        scores = attribute(pairs, readout, sample=2)
    heads, mlps, embed = torch.zeros(2, 4), torch.zeros(2), 0.0
    for node, score in found.items():
        if node.kind == "attn_head_out":
            heads[node.layer, node.head] += score
        elif node.kind == "mlp_out":
            mlps[node.layer] += score
        else:
            embed += score
    size: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(scores.heads[0].float(), heads, **size)
    torch.testing.assert_close(scores.sublayers[0, :, 1].float(), mlps, **size)
    assert float(scores.inputs[0]) == pytest.approx(embed, rel=1e-6)
    assert heads.abs().max() > 0.01

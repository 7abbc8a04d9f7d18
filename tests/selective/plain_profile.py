"""Every statistic of a profile in plain loops: one text at a time, without padding."""

import math
from types import SimpleNamespace

import torch
from rounding import rounding
from torch.nn.functional import silu

from circuits.models.run import capture
from circuits.models.tokens import pad_left
from circuits.neurons.profile import balanced, read_spans


def read(model, ids):
    """Activations of one text: site -> [layer pos ...], in float64."""
    tokens = pad_left([ids], torch.device("cpu"))
    found = capture(model, tokens, dict.fromkeys(("pre", "post", "resid_post"), lambda a: a))
    return {site: values[0].double() for site, values in found.items()}


def texts_counted(model, texts, request, where, seed):
    """Every text that counts, with its tokens ``ids[start:stop]``, half and class."""
    spans = read_spans(model, texts, request, where)
    return cut(spans, balanced(spans, texts.truth, seed))


def cut(spans, counted):
    """What is counted of every text that counts for something."""
    parts = (own.tolist() for own in (counted.half, counted.label, counted.tokens))
    return [
        SimpleNamespace(
            ids=span.ids, start=span.start, stop=span.start + count, half=half, label=label
        )
        for span, half, label, count in zip(spans, *parts, strict=True)
        if count
    ]


def doubtful(model, texts, request, *, sign="gate"):
    """How many tokens of all texts have a sign that rounding may turn: [layer neuron].

    What is counted by sign may differ by so many between batches or processors, and by no more.
    """
    found = torch.zeros(model.cfg.n_layers, model.cfg.d_mlp, dtype=torch.long)
    for span in read_spans(model, texts, request, "all"):
        values = read(model, span.ids)
        gate, post = values["pre"], values["post"]
        near = rounding(gate)
        # A product has the sign of its gate and of what is multiplied, which is as large.
        own = post.abs() <= silu(gate).abs() * near if sign == "product" else False
        found += ((gate.abs() <= near) | own).sum(1)
    return found


def profile(model, counted, n_labels, *, sign="gate"):
    """Sums per (half, label) of what a profile holds, and the largest activation there is."""
    size = (2, n_labels, model.cfg.n_layers, model.cfg.d_mlp)
    named = ("active", "total", "absolute", "square", "peak", "at_last")
    sums = SimpleNamespace(**{name: torch.zeros(size, dtype=torch.float64) for name in named})
    sums.size = 0.0
    sums.tokens, sums.texts = (torch.zeros(2, n_labels, dtype=torch.long) for _ in range(2))
    sums.stream = torch.zeros(*size[:3], model.cfg.d_model, dtype=torch.float64)
    for text in counted:
        where, values = (text.half, text.label), read(model, text.ids)
        sums.texts[where] += 1
        sums.size = max(sums.size, float(values["post"].abs().max()))
        sums.at_last[where] += values["post"][:, -1]
        sums.stream[where] += values["resid_post"][:, -1]
        for pos in range(text.start, text.stop):
            post = values["post"][:, pos]
            sums.tokens[where] += 1
            sums.active[where] += (values["pre"][:, pos] if sign == "gate" else post) > 0
            sums.total[where] += post
            sums.absolute[where] += post.abs()
            sums.square[where] += post * post
            sums.peak[where] = torch.maximum(sums.peak[where], post.abs())
    return sums


def entropy(rates):
    """Entropy of one neuron's rates, normalised over classes."""
    whole = sum(rates)
    return -sum(rate / whole * math.log(rate / whole) for rate in rates if rate > 0)


def naive_entropy(rates):
    """As with a clamped denominator: zero, the lowest there is, for a neuron that never fires."""
    whole = max(sum(rates), 1e-12)
    return -sum(rate / whole * math.log(rate / whole) for rate in rates if rate > 0)


def lape(active, tokens, *, share, quantile):
    """(label, layer, neuron) of LAPE's neurons, each assigned to one class."""
    n_labels, n_layers, n_neurons = active.shape
    rate = (active / tokens[:, None, None]).tolist()
    every = sorted(r for label in rate for layer in label for r in layer)
    bar = every[round(quantile * len(every)) - 1]
    allowed = []
    for layer in range(n_layers):
        for neuron in range(n_neurons):
            rates = [rate[label][layer][neuron] for label in range(n_labels)]
            if max(rates) > bar and int(active[:, layer, neuron].sum()) >= 5 * n_labels:
                allowed.append((entropy(rates), -max(rates), layer, neuron, rates))
    count = math.ceil(share * n_layers * n_neurons)
    return {
        (rates.index(max(rates)), layer, neuron)
        for _, _, layer, neuron, rates in sorted(allowed)[:count]
    }

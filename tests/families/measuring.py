"""What is measured once per prompt, held against plain runs of single, unpadded prompts."""

from typing import Any

import torch
from families.models import EMOTIONS, N_HEADS, N_LAYERS, Evaluator, resid_mid
from torch import Tensor

from circuits.effects.activations import read_activations
from circuits.effects.directions import emotion_directions
from circuits.effects.heads import head_effects
from circuits.judges import LexiconJudge
from circuits.judges.replies import judge_replies
from circuits.models.families import check_identities, identity_gaps
from circuits.models.generate import elicit, reply_losses
from circuits.models.tokens import encode, encode_text, pad_left
from circuits.names import hook
from circuits.prompts.templates import neutral_prompt

LAYERS = range(N_LAYERS)
_STREAMS = tuple(hook(site, i) for site in ("resid_pre", "attn_out", "resid_post") for i in LAYERS)


def streams(evaluator: Evaluator, ids: Any, hooks: Any = ()) -> tuple[Tensor, Tensor]:
    """Streams after attention and after the MLP, ``[layer pos d_model]`` each."""
    found = evaluator.plainly(ids, _STREAMS, hooks)
    after = [found[hook("resid_post", i)] for i in LAYERS]
    return torch.stack([resid_mid(found, i) for i in LAYERS]), torch.stack(after)


def close(found: Tensor, wanted: Tensor, *, to: float = 1e-4) -> None:
    """Equal to within a share of the largest number."""
    size = float(wanted.abs().max())
    assert size > 0, "nothing to compare"
    torch.testing.assert_close(found, wanted, rtol=0, atol=to * size)


def identities(evaluator: Evaluator) -> None:
    check_identities(evaluator.model)
    gaps = identity_gaps(evaluator.model)
    assert len(gaps) == (4 if evaluator.has_neurons else 3)
    assert max(gaps.values()) < 1e-5


def logits(evaluator: Evaluator) -> None:
    """The wrapped model's logits are the Hugging Face model's, read off its last stream."""
    ids = evaluator.rows()[0]
    found = evaluator.plainly(ids, [hook("final")])
    with torch.no_grad():
        direct = evaluator.hf(torch.tensor([ids])).logits[0]
        read_off = evaluator.model.unembed(found[hook("final")])
    torch.testing.assert_close(found["logits"], direct, rtol=1e-4, atol=1e-4)
    softened = getattr(evaluator.hf.config, "final_logit_softcapping", None)
    if softened:
        read_off = softened * (read_off / softened).tanh()
    torch.testing.assert_close(read_off, direct, rtol=1e-4, atol=1e-4)


def replies(evaluator: Evaluator) -> None:
    """Batches with padding write what the Hugging Face model writes alone, likeliest first."""
    found = elicit(evaluator.model, evaluator.prompts, max_new_tokens=6)
    rows = evaluator.rows()
    for row, reply in zip(rows[:3], found, strict=False):
        ids = list(row)
        for _ in range(6):
            with torch.no_grad():
                best = int(evaluator.hf(torch.tensor([ids])).logits[0, -1].argmax())
            if best == evaluator.model.tokenizer.eos_token_id:
                break
            ids.append(best)
        written = evaluator.model.tokenizer.decode(ids[len(row) :], skip_special_tokens=True)
        assert reply.text == written.strip()


def judging(evaluator: Evaluator) -> None:
    found = judge_replies(
        elicit(evaluator.model, evaluator.prompts, max_new_tokens=6), LexiconJudge()
    )
    assert [row.reply.prompt for row in found] == evaluator.prompts


def likelihood(evaluator: Evaluator) -> None:
    texts = ["I am so angry.", "Fine."] * 3
    found = reply_losses(evaluator.model, evaluator.prompts, texts)
    for row, text, loss in zip(evaluator.rows(), texts, found.tolist(), strict=True):
        tail = encode_text(evaluator.model, text)
        logs = evaluator.plainly([*row, *tail], ())["logits"].log_softmax(-1)[len(row) - 1 : -1]
        wanted = -logs.gather(-1, torch.tensor(tail)[:, None]).mean()
        assert abs(loss - float(wanted)) < 1e-4 * abs(float(wanted))


def _contrast(values: Tensor) -> Tensor:
    """Directions of ``[context emotion sublayer layer d_model]``."""
    apart = (values - values.mean(1, keepdim=True)).mean(0)
    apart = apart - apart.mean(0, keepdim=True)
    return apart / apart.norm(dim=-1, keepdim=True)


def _by_context(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows).unflatten(0, (-1, len(EMOTIONS)))


def prompt_directions(evaluator: Evaluator) -> None:
    last = [torch.stack([s[:, -1] for s in streams(evaluator, ids)]) for ids in evaluator.rows()]
    close(evaluator.directions.vectors, _contrast(_by_context(last)))
    size = _by_context(last).square().mean(-1).sqrt().mean((0, 1))
    close(evaluator.directions.rms, size)


def reply_directions(evaluator: Evaluator) -> None:
    tail = encode_text(evaluator.model, "Fine, then.")
    rows = [[*ids, *tail] for ids in evaluator.rows()]
    means = [
        torch.stack([s[:, -len(tail) :].mean(1) for s in streams(evaluator, ids)]) for ids in rows
    ]
    found = emotion_directions(
        read_activations(evaluator.model, evaluator.grid, read="reply"), read="reply"
    )
    close(found.vectors, _contrast(_by_context(means)))


def final_directions(evaluator: Evaluator) -> None:
    """The last residual stream as Hugging Face hands it out, after the final norm."""
    found = emotion_directions(read_activations(evaluator.model, evaluator.grid, last="final"))
    rows = []
    for ids in evaluator.rows():
        with torch.no_grad():
            hidden = evaluator.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
        rows.append(hidden[-1][0, -1])
    close(found.vectors[:, 1, -1], _contrast(_by_context(rows)))


def _by_zeroing(evaluator: Evaluator, site: str, layer: int, part: int, after: int | str) -> Tensor:
    """Change of the stream after a sublayer, or at a hook, when a part is zero: ``[prompt d]``."""

    def zero(x: Tensor, hook: object) -> Tensor:
        x = x.clone()
        x[:, :, part] = 0
        return x

    def read(ids: Any, hooks: Any = ()) -> Tensor:
        if isinstance(after, str):
            return evaluator.plainly(ids, [after], hooks)[after][-1]
        return streams(evaluator, ids, hooks)[after][layer, -1]

    without = [(hook(site, layer), zero)]
    return torch.stack([read(ids) - read(ids, without) for ids in evaluator.rows()])


def _along(change: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("ced,ed->ce", change.unflatten(0, (-1, len(EMOTIONS))), vectors).mean(0)


def heads_after_norm(evaluator: Evaluator) -> None:
    """The published readout: the projection of what the norm before the MLP makes of the stream."""
    found = head_effects(
        evaluator.model, evaluator.swept, evaluator.directions, readout="post_norm"
    ).mean
    for layer, head in ((0, 1), (1, 2)):
        change = _by_zeroing(evaluator, "z", layer, head, hook("ln2_out", layer))
        wanted = _along(change, evaluator.directions.vectors[:, 0, layer])
        torch.testing.assert_close(found[:, layer, head], wanted, atol=5e-5, rtol=2e-4)


def heads(evaluator: Evaluator) -> None:
    found = evaluator.heads.mean
    assert found.abs().max() > 0.01
    for layer in LAYERS:
        for head in range(N_HEADS):
            oracle = _by_zeroing(evaluator, "z", layer, head, 0)
            wanted = _along(oracle, evaluator.directions.vectors[:, 0, layer])
            torch.testing.assert_close(found[:, layer, head], wanted, atol=5e-5, rtol=2e-4)


def neurons(evaluator: Evaluator) -> None:
    found = evaluator.neurons.mean
    assert found.abs().max() > 0.01
    for layer in LAYERS:
        strongest = found[:, layer].abs().amax(0).topk(2).indices.tolist()
        for neuron in {*strongest, 0, found.shape[2] - 1}:
            oracle = _by_zeroing(evaluator, "post", layer, neuron, 1)
            wanted = _along(oracle, evaluator.directions.vectors[:, 1, layer])
            torch.testing.assert_close(found[:, layer, neuron], wanted, atol=5e-5, rtol=2e-4)


def means(evaluator: Evaluator) -> None:
    for site, found in (("z", evaluator.means.z), ("post", evaluator.means.post)):
        if not found.shape[2]:
            continue
        names = [hook(site, i) for i in LAYERS]
        rows = [evaluator.plainly(ids, names) for ids in evaluator.rows()]
        values = [torch.stack([row[name][-1] for name in names]) for row in rows]
        close(found, _by_context(values).mean(0))


def importance(evaluator: Evaluator) -> None:
    """A dose at every sublayer, in a run of its own."""
    found, vectors, rms = (
        evaluator.importance,
        evaluator.directions.vectors,
        evaluator.directions.rms,
    )
    for e, readout in enumerate(found.reference):
        for s, site in enumerate(("attn_out", "mlp_out")):
            for layer in LAYERS:
                unit = vectors[e, s, layer]
                length = 0.5 * rms[s, layer]
                dose = length * unit * (1 if unit @ readout >= 0 else -1)
                wanted = _response(evaluator, hook(site, layer), dose, readout) / length
                torch.testing.assert_close(found.slope[e, s, layer], wanted, atol=1e-3, rtol=1e-3)


def _response(evaluator: Evaluator, name: str, dose: Tensor, readout: Tensor) -> Tensor:
    def add(x: Tensor, hook: object) -> Tensor:
        x = x.clone()
        x[:, -1] += dose
        return x

    moved = []
    for context in evaluator.contexts:
        ids = encode(evaluator.model, neutral_prompt(context))
        base, new = (streams(evaluator, ids, hooks)[1][-1, -1] for hooks in ((), [(name, add)]))
        moved.append((new - base) @ readout)
    return torch.stack(moved).mean()


def direct(evaluator: Evaluator) -> None:
    """All sublayers together are the whole readout; heads and neurons are their sublayers."""
    found = evaluator.direct
    close(found.sublayer_effect.sum((1, 2)), found.total)
    torch.testing.assert_close(found.head_effect.sum(-1), found.sublayer_effect[:, 0])
    if evaluator.has_neurons:
        torch.testing.assert_close(found.neuron_effect.sum(-1), found.sublayer_effect[:, 1])
    for e, emotion in enumerate(EMOTIONS):
        ends = [streams(evaluator, ids)[1][-1, -1] for ids in evaluator.rows()]
        apart = _by_context(ends).mean(0)
        wanted = (apart[e] - apart.mean(0)) @ evaluator.importance.reference[e]
        assert abs(float(found.total[e] - wanted)) < 1e-4 * float(found.total.abs().max()), emotion


def totals(evaluator: Evaluator) -> None:
    """The slope of the readout as a head moves from its plain towards its asked output."""
    found, pairs = evaluator.totals, evaluator.asked_pairs
    reference = evaluator.importance.reference[0]
    for layer, head in ((0, 1), (1, 2)):
        name, slopes = hook("z", layer), []
        for pair in pairs:
            apart = evaluator.plainly(pair.clean.ids, [name])[name][-1, head]
            apart = apart - evaluator.plainly(pair.corrupt.ids, [name])[name][-1, head]
            up, down = (
                _moved(evaluator, pair.clean.ids, name, head, step * apart) @ reference
                for step in (1e-2, -1e-2)
            )
            slopes.append((up - down) / 2e-2)
        wanted = torch.stack(slopes).mean()
        size = max(abs(float(wanted)), float(found.head_effect.abs().max()))
        assert abs(float(found.head_effect[0, layer, head] - wanted)) < 0.02 * size


def _moved(evaluator: Evaluator, ids: Any, name: str, head: int, by: Tensor) -> Tensor:
    def move(x: Tensor, hook: object) -> Tensor:
        x = x.clone()
        x[:, -1, head] += by
        return x

    return streams(evaluator, ids, [(name, move)])[1][-1, -1]


def padding(evaluator: Evaluator) -> None:
    """Left padding by hand changes nothing at the positions that are read."""
    ids = evaluator.rows()[0]
    tokens = pad_left([ids, [*ids, *ids[-5:]]], torch.device("cpu"))
    with torch.no_grad():
        padded = evaluator.model(tokens.ids, attention_mask=tokens.mask.long())[0, -1]
    torch.testing.assert_close(
        padded, evaluator.plainly(ids, ())["logits"][-1], rtol=1e-4, atol=1e-4
    )

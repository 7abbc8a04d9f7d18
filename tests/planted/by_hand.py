"""Plain interventions on planted models: one run each, and single parts computed from weights."""

import torch
from einops import einsum
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from circuits.models.tokens import encode
from circuits.names import component
from circuits.prompts.templates import emotion_prompt


def asking_rows(plant, context):
    """One prompt per emotion, all of one length: ``[emotion pos]``."""
    return torch.tensor([encode(plant.model, emotion_prompt(context, e)) for e in plant.emotions])


def without_emotion(plant, ids):
    """The prompts with an ordinary word where the emotion word stood."""
    vocabulary = plant.model.tokenizer.get_vocab()
    words = torch.tensor([vocabulary[emotion] for emotion in plant.emotions])
    return torch.where(torch.isin(ids, words), vocabulary["j"], ids)


def where_is(name):
    """Kind, layer and index of a head or neuron."""
    part = component(name)
    assert part.layer is not None
    assert part.index is not None
    return part.kind, part.layer, part.index


def place(name):
    kind, layer, index = where_is(name)
    site = "attn.hook_z" if kind == "head" else "mlp.hook_post"
    return f"blocks.{layer}.{site}", index


def putting(name, value):
    """Puts ``value`` for the part's activation at all positions; a number is put everywhere."""
    where, index = place(name)

    def put(activation, hook):
        activation = activation.clone()
        activation[:, :, index] = value
        return activation

    return where, put


@torch.no_grad()
def run(plant, ids, edits=()):
    """All activations of one pass by hook name, edited, and ``readout`` ``[prompt emotion]``."""
    found = {}

    def keep(name):
        return lambda activation, hook: found.__setitem__(name, activation.clone())

    layers = range(plant.model.cfg.n_layers)
    sites = (
        "hook_resid_pre",
        "hook_resid_mid",
        "attn.hook_z",
        "mlp.hook_post",
        "attn.hook_pattern",
    )
    names = [f"blocks.{layer}.{site}" for layer in layers for site in sites]
    names.append(f"blocks.{layers[-1]}.hook_resid_post")
    with plant.model.hooks(fwd_hooks=[*edits, *((name, keep(name)) for name in names)]):
        found["logits"] = plant.model(ids)
    found["readout"] = found[names[-1]][:, -1] @ plant.readout.T
    return found


def activation(found, name):
    where, index = place(name)
    return found[where][:, :, index]


def parts(plant):
    """Every head and neuron of the model."""
    cfg = plant.model.cfg
    for layer in range(cfg.n_layers):
        yield from (f"L{layer}H{head}" for head in range(cfg.n_heads))
        yield from (f"L{layer}N{neuron}" for neuron in range(cfg.d_mlp))


def noising(plant, clean, corrupt, names, edits=()):
    """Part -> ``[emotion]``: the asked readout as it is, minus with the part as corrupt."""
    found, other = run(plant, clean, edits), run(plant, corrupt, edits)
    effects = {}
    for name in names:
        without = run(plant, clean, [*edits, putting(name, activation(other, name))])
        effects[name] = (found["readout"] - without["readout"]).diagonal()
    return effects


def denoising(plant, clean, corrupt, names):
    """Part -> ``[emotion]``: the readout with the part as when clean, minus as it is corrupt."""
    found, other = run(plant, clean), run(plant, corrupt)
    effects = {}
    for name in names:
        patched = run(plant, corrupt, [putting(name, activation(found, name))])
        effects[name] = (patched["readout"] - other["readout"]).diagonal()
    return effects


@torch.no_grad()
def written(plant, found, name):
    """What a part, or the embedding, adds to the residual stream: ``[prompt pos d_model]``."""
    if name == "embed":
        return found["blocks.0.hook_resid_pre"]
    kind, layer, index = where_is(name)
    block, value = plant.model.original_model.model.layers[layer], activation(found, name)
    if kind == "neuron":
        return value[..., None] * block.mlp.down_proj.weight[:, index]
    d_head = plant.model.cfg.d_head
    own = slice(index * d_head, (index + 1) * d_head)
    return value @ block.self_attn.o_proj.weight[:, own].T


@torch.no_grad()
def recomputed(plant, found, name, entry=None, change=0.0):
    """A part's activation, from weights, with ``change`` added to what enters at ``entry``."""
    (kind, layer, index), body = where_is(name), plant.model.original_model.model
    block = body.layers[layer]
    if kind == "neuron":
        stream = found[f"blocks.{layer}.hook_resid_mid"] + (change if entry == "mlp" else 0)
        normed, mlp = block.post_attention_layernorm(stream), block.mlp
        gate = normed @ mlp.gate_proj.weight[index]
        return torch.nn.functional.silu(gate) * (normed @ mlp.up_proj.weight[index])
    stream, attention = found[f"blocks.{layer}.hook_resid_pre"], block.self_attn
    enters = {e: block.input_layernorm(stream + (change if e == entry else 0)) for e in "qkv"}
    own, d_head = {"q": index}, plant.model.cfg.d_head
    own["k"] = own["v"] = index * body.config.num_key_value_heads // plant.model.cfg.n_heads
    q, k, v = (
        enters[e]
        @ getattr(attention, f"{e}_proj").weight[own[e] * d_head : (own[e] + 1) * d_head].T
        for e in "qkv"
    )
    turned = body.rotary_emb(stream, torch.arange(stream.shape[1])[None])
    q, k = (x.squeeze(1) for x in apply_rotary_pos_emb(q.unsqueeze(1), k.unsqueeze(1), *turned))
    scores = einsum(q, k, "prompt to d, prompt at d -> prompt to at") / d_head**0.5
    later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ v


def edge_effects(plant, clean, corrupt, edits=()):
    """Edge -> ``[emotion]``: the readout as it is, minus with one edge as when corrupt.

    The source's change reaches the target at its entry alone; the target's change goes on freely.
    """
    found, other = run(plant, clean, edits), run(plant, corrupt, edits)
    effects = {}
    for source, target, entry in possible_edges(plant):
        change = written(plant, other, source) - written(plant, found, source)
        if target == "readout":
            effects[source, target, entry] = -(change[:, -1] @ plant.readout.T).diagonal()
            continue
        patch = putting(target, recomputed(plant, found, target, entry, change))
        without = run(plant, clean, [*edits, patch])["readout"]
        effects[source, target, entry] = (found["readout"] - without).diagonal()
    return effects


def possible_edges(plant):
    """All edges along the residual stream among the parts with hand-set weights."""
    names = [node.name for node in plant.nodes]

    def stage(name):
        kind, layer, _ = where_is(name)
        return 2 * layer + (kind == "neuron")

    for source in ("embed", *names):
        yield source, "readout", "readout"
        for target in names:
            if source != "embed" and stage(source) >= stage(target):
                continue
            for entry in "qkv" if component(target).kind == "head" else ("mlp",):
                yield source, target, entry

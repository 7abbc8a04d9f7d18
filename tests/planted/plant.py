"""Planted models: the ground truth against which methods are scored.

The residual stream is a sum of parts at right angles: a large constant that keeps the norm's scale
still, marks that attention looks for, the emotion word's code, the signal that the writer makes of
it, the readouts, the topic of ordinary words, and the ``blind`` directions in which distractors
write. A drawn rotation hides these coordinates, so that no axis of the model has a meaning.

The other kind of plant has class-selective neurons, and texts of its classes. A text is made of
the class's cue words and of filler words. A selective neuron is active at its class's cue words
only and writes towards the class's label; the last layer's head carries what was written from all
positions to the last. Cue words of different classes differ in nothing else, so no other neuron
tells classes apart. Among the others are neurons that are always active and write more than any,
and neurons that never are.
"""

import random
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuits.models.load import wrap_model
from circuits.models.protocol import Model
from circuits.names import EMOTIONS, component, head_name, neuron_name
from circuits.prompts.prompt import LabelledText, Split, Texts

_SPECIALS = ("<|pad|>", "<s>", "<|end|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>")
_PAD, _BEGIN, _END, _UNKNOWN, *_TURNS = _SPECIALS
_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def word_tokenizer(emotions: Sequence[str]) -> Any:
    """A word-level tokenizer with a chat template of system and user turns.

    An emotion word, written as in ``emotions``, is one token. Any other word is read as its first
    character, so that contexts of all kinds become a few dozen tokens with embeddings of their own.
    """
    characters = string.ascii_letters + string.digits + string.punctuation
    vocabulary = dict.fromkeys((*_SPECIALS, *emotions, *characters))
    ids = {token: place for place, token in enumerate(vocabulary)}
    core = Tokenizer(models.WordLevel(ids, unk_token=_UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Split(Regex(_rest(emotions)), behavior="removed"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        # With these TransformerLens takes the tokenizer as it is, not again from a file.
        name_or_path="planted",
        add_bos_token=True,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        additional_special_tokens=_TURNS,
        chat_template=_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def _rest(emotions: Sequence[str]) -> str:
    """Matches all of a word but its first character, unless the word is an emotion word."""
    firsts = sorted({emotion[0] for emotion in emotions})
    parts = [f"(?<=^[^{re.escape(''.join(firsts))}]).+"]
    for first in firsts:
        kept = "|".join(re.escape(e[1:]) + "$" for e in emotions if e[0] == first)
        parts.append(f"(?<=^{re.escape(first)})(?!{kept}).+")
    return "|".join(parts)


When = Literal["asked", "plain", "ablated"]
"""What must change for a part or an edge to show.

``asked``: the target emotion; it shows against a neutral prompt too. ``plain``: whether an emotion
is asked for at all; two emotion prompts do not show it. ``ablated``: the target emotion, once the
writer is ablated.
"""


@dataclass(frozen=True)
class PlantedNode:
    """A head or neuron with hand-set weights."""

    name: str
    role: str
    """``writer``, ``relay``, ``inhibitor``, ``backup`` or ``distractor``."""
    reads: str
    """The emotion word's ``code``, the writer's ``signal``, other words (``topic``), or what never
    changes (``constant``)."""
    emotion: str | None
    """The emotion it serves; ``None`` for all of them."""
    strength: float
    """What it adds to an emotion's readout when it is on; a distractor: to each direction."""
    when: When | None
    """What must change for its effect to show; ``None`` for a distractor: nothing does it."""

    @property
    def kind(self) -> str:
        """``head`` or ``neuron``."""
        return component(self.name).kind

    @property
    def layer(self) -> int:
        """The layer it is in."""
        return component(self.name).layer or 0

    @property
    def index(self) -> int:
        """The head or neuron of its layer."""
        return component(self.name).index or 0

    @property
    def sign(self) -> int:
        """Which way it pushes."""
        return 1 if self.strength > 0 else -1


@dataclass(frozen=True)
class PlantedEdge:
    """A hand-set connection."""

    source: str
    target: str
    """A head, a neuron or ``readout``."""
    kind: str
    """Where it enters: ``q``, ``k``, ``v``, ``mlp`` or ``readout``."""
    sign: int
    """Of its effect on the readout of the emotion: +1 pushes towards it, -1 away."""
    emotion: str | None
    """The emotion it serves; ``None`` for all of them."""
    when: When


def draw_nodes(
    rng: random.Random, emotions: Sequence[str], n_layers: int, n_heads: int
) -> tuple[PlantedNode, ...]:
    """All parts of a plant, at drawn places.

    Every emotion has a relay that lies after the backup, so that a backup is never idle.
    """
    taken: set[str] = set()

    def free(layer: int, name_of: Any = neuron_name, count: int = D_MLP) -> str:
        names = [name_of(layer, index) for index in range(count)]
        name = rng.choice([name for name in names if name not in taken])
        taken.add(name)
        return name

    def head(layer: int) -> str:
        return free(layer, head_name, n_heads)

    def distractor(name: str, reads: str, emotion: str | None = None) -> None:
        nodes.append(PlantedNode(name, "distractor", reads, emotion, rng.uniform(2, 3), None))

    last = n_layers - 1
    writer = rng.randint(0, last - 1)
    backup = rng.randint(writer + 1, last)
    nodes = [
        PlantedNode(head(writer), "writer", "code", None, rng.uniform(0.8, 1.2), "asked"),
        PlantedNode(head(backup), "backup", "code", None, 0.0, "ablated"),
    ]
    for emotion in emotions:
        for number in range(rng.choice((1, 2))):
            name = free(rng.randint(writer if number else backup, last))
            strength = rng.uniform(0.6, 1.2)
            nodes.append(PlantedNode(name, "relay", "signal", emotion, strength, "asked"))
    by_head = rng.random() < 0.5
    for emotion in (None,) if by_head else emotions:
        layer, strength = rng.randint(writer + by_head, last), -rng.uniform(0.3, 0.5)
        name = head(layer) if by_head else free(layer)
        nodes.append(PlantedNode(name, "inhibitor", "signal", emotion, strength, "asked"))
    topic = rng.randint(0, last)
    distractor(head(topic), "topic")
    distractor(free(rng.randint(topic, last)), "topic")
    distractor(free(rng.randint(0, last)), "constant")
    distractor(head(rng.randint(0, last)), "code")
    distractor(free(rng.randint(writer, last)), "signal", rng.choice(list(emotions)))
    return tuple(nodes)


def planted_edges(nodes: Sequence[PlantedNode]) -> tuple[PlantedEdge, ...]:
    """The connections among ``nodes``; none without a writer."""
    role = {node.role: node for node in nodes}
    if "writer" not in role:
        return ()
    writer = role["writer"].name
    edges = [
        PlantedEdge("embed", writer, "v", 1, None, "asked"),
        PlantedEdge("embed", writer, "k", 1, None, "plain"),
        PlantedEdge(writer, "readout", "readout", 1, None, "asked"),
    ]
    readers = [node for node in nodes if node.role in ("relay", "inhibitor")]

    def to(node: PlantedNode, source: str, when: When) -> PlantedEdge:
        entry = "v" if node.kind == "head" else "mlp"
        return PlantedEdge(source, node.name, entry, node.sign, node.emotion, when)

    for node in readers:
        own = PlantedEdge(node.name, "readout", "readout", node.sign, node.emotion, "asked")
        edges += [to(node, writer, "asked"), own]
    if "backup" in role:
        backup = role["backup"]
        edges.append(PlantedEdge("embed", backup.name, "v", 1, None, "ablated"))
        edges.append(PlantedEdge(writer, backup.name, "q", -1, None, "plain"))
        # The MLP of a layer reads what its heads have written; the heads of a layer do not.
        later = [node for node in readers if (node.layer, node.kind) > (backup.layer, "head")]
        edges += [to(node, backup.name, "ablated") for node in later]
    return tuple(edges)


D_MODEL, D_HEAD, D_MLP = 96, 24, 48

CONSTANT = 200.0
"""So much more than all else in the stream that the norm's scale moves by under 2%."""
_TOPICS = 8
_QUIET, _BACKGROUND = 2e-5, 3e-3
"""Size of the random weights: beside hand-set ones, and of parts with no role.

A relay's steep gate and a large distractor multiply the first, so it is the smaller.
"""
_SCORE, _KEY, _NEAR = 12.0, 10.0, 11.0
"""Attention score of the sink (an emotion word has twice that); sizes of keys."""
_MARK, _SINK = D_HEAD // 2 - 1, D_HEAD // 2 - 2
"""The slots of a key that rotary embedding turns slowest: under 1e-5 a token."""
_FAST = slice(0, 6)
"""The slots that turn fastest; equal queries and keys there meet only at the same token."""
_STEEP = 16.0
"""Rise of a relay's gate from no signal to the whole one; it is zero at half the signal."""


@dataclass(frozen=True)
class Coordinates:
    """Where in the residual stream each quantity lies, and how the model's axes hide it."""

    emotions: tuple[str, ...]
    basis: Float[Tensor, "named d_model"]
    """Orthonormal rows: the direction of each named coordinate."""

    def span(self, name: str) -> slice:
        """The coordinates of a quantity."""
        count = len(self.emotions)
        sizes = {"constant": 1, "mark": 1, "sink": 1, "code": count, "signal": count}
        sizes |= {"readout": count, "topic": _TOPICS, "blind_topic": 4, "blind_code": count}
        sizes |= {"blind_signal": 4}
        start = sum(list(sizes.values())[: list(sizes).index(name)])
        return slice(start, start + sizes[name])

    def at(self, name: str, emotion: str) -> int:
        """The coordinate of an emotion's part of a quantity."""
        return self.span(name).start + self.emotions.index(emotion)


@dataclass(frozen=True)
class Draft:
    """All weights in named coordinates."""

    embed: Float[Tensor, "vocab named"]
    unembed: Float[Tensor, "vocab named"]
    q: Float[Tensor, "layer head d_head named"]
    k: Float[Tensor, "layer group d_head named"]
    v: Float[Tensor, "layer group d_head named"]
    o: Float[Tensor, "layer head d_head named"]
    gate: Float[Tensor, "layer neuron named"]
    up: Float[Tensor, "layer neuron named"]
    out: Float[Tensor, "layer neuron named"]


def _random(
    drawn: Sequence[PlantedNode],
    vocab: int,
    shape: tuple[int, int, int],
    generator: torch.Generator,
) -> Draft:
    n_layers, n_heads, n_groups = shape
    of_head, of_group, of_neuron = (
        torch.full((n_layers, size), _BACKGROUND) for size in (n_heads, n_groups, D_MLP)
    )
    size = n_heads // n_groups
    for node in drawn:
        if node.kind == "head":
            # All heads of a group hold its hand-set values.
            group = node.index // size
            of_group[node.layer, group] = _QUIET
            of_head[node.layer, group * size : (group + 1) * size] = _QUIET
        else:
            of_neuron[node.layer, node.index] = _QUIET

    def weights(scale: Tensor, *inner: int, reads: bool = True) -> Tensor:
        values = torch.randn(*scale.shape, *inner, D_MODEL, generator=generator)
        if reads:
            values[..., 0] /= CONSTANT  # or the constant would drown all else
        return scale.reshape(*scale.shape, *(1 for _ in inner), 1) * values

    word = torch.full((vocab,), _BACKGROUND)
    return Draft(
        embed=weights(word, reads=False),
        unembed=weights(word),
        q=weights(of_head, D_HEAD),
        k=weights(of_group, D_HEAD),
        v=weights(of_group, D_HEAD),
        o=weights(of_head, D_HEAD, reads=False),
        gate=weights(of_neuron),
        up=weights(of_neuron),
        out=weights(of_neuron, reads=False),
    )


def _words(
    made: Draft, where: Coordinates, vocabulary: dict[str, int], generator: torch.Generator
) -> None:
    made.embed[:, where.span("constant")] = CONSTANT
    topics = 3 * torch.randn(len(vocabulary), _TOPICS, generator=generator)
    # What emotion words are about is the same for all of them.
    topics[[vocabulary[emotion] for emotion in where.emotions]] = 0
    made.embed[:, where.span("topic")] += topics
    made.embed[vocabulary["<s>"], where.span("sink")] += 1
    for emotion in where.emotions:
        made.embed[vocabulary[emotion], where.span("mark")] += 1
        made.embed[vocabulary[emotion], where.at("code", emotion)] += 1
        made.unembed[vocabulary[emotion], where.at("readout", emotion)] += 5


def _look(made: Draft, node: PlantedNode, where: Coordinates, group: int) -> None:
    """Queries and keys of a head: at the emotion word or else the sink, at itself, or at all."""
    query, key = made.q[node.layer, node.index], made.k[node.layer, group]
    constant = where.span("constant")
    if node.reads == "signal":
        query[_FAST, constant] += _NEAR / CONSTANT
        key[_FAST, constant] = _NEAR / CONSTANT
    if node.reads == "code":
        unit = _SCORE * D_HEAD**0.5 / _KEY
        query[_MARK, constant] += 2 * unit / CONSTANT
        query[_SINK, constant] += unit / CONSTANT
        key[_MARK, where.span("mark")] = _KEY
        key[_SINK, where.span("sink")] = _KEY
        if node.role == "backup":
            query[_MARK, where.span("signal")] -= 2 * unit
    # Heads of a group share keys and values, so these are set, not added.
    slots = _values(node, where)
    made.v[node.layer, group, slots, where.span(node.reads)] = torch.eye(slots.stop - slots.start)


def _values(node: PlantedNode, where: Coordinates) -> slice:
    """The slots of a head's value that hold what it reads; each quantity has its own."""
    count = len(where.emotions)
    starts = {"code": 0, "signal": count, "topic": 2 * count}
    size = _TOPICS if node.reads == "topic" else count
    return slice(starts[node.reads], starts[node.reads] + size)


def _write_head(made: Draft, node: PlantedNode, where: Coordinates, mixing: Tensor) -> None:
    out = made.o[node.layer, node.index, _values(node, where)]
    if node.reads == "topic":
        out[:, where.span("blind_topic")] += node.strength * mixing
        return
    each = torch.eye(len(where.emotions))
    if node.role in ("writer", "backup"):
        out[:, where.span("signal")] += each
    target = "blind_code" if node.role == "distractor" else "readout"
    out[:, where.span(target)] += node.strength * each


def _set_neuron(made: Draft, node: PlantedNode, where: Coordinates) -> None:
    gate, up, out = (table[node.layer, node.index] for table in (made.gate, made.up, made.out))
    constant = where.span("constant")
    if node.reads in ("topic", "constant"):
        gate[constant] += 2 / CONSTANT
        up[constant] += 0.5 / CONSTANT
        if node.reads == "topic":
            up[where.span("blind_topic")] += 0.1
        out[where.span("blind_signal" if node.reads == "topic" else "readout")] += node.strength
        return
    assert node.emotion is not None
    signal = where.at("signal", node.emotion)
    gate[signal] += _STEEP
    gate[constant] -= _STEEP / 2 / CONSTANT
    up[signal] += 2 / _STEEP
    if node.role == "distractor":
        out[where.span("blind_signal")] += node.strength
    else:
        out[where.at("readout", node.emotion)] += node.strength


_ROPE_THETA = 1e6
"""Slow enough for the slots of the marks to stand still, fast enough to tell neighbours apart."""


@dataclass(frozen=True, eq=False)
class Plant:
    """A small model and the circuit that was put into it.

    The target emotion's word stands in the prompt. The writer attends to it from every later
    position and writes a signal, and a part of the readout directly. Relays read the signal and
    push the readout of their emotion, inhibitors push it back. The backup does the writer's work
    (but for the direct part) where there is no signal. Distractors write more than any of them: in
    directions that no readout has, or into all readouts alike.
    """

    seed: int
    model: Model
    emotions: tuple[str, ...]
    readout: Float[Tensor, "emotion d_model"]
    """Orthonormal directions in the last ``resid_post``."""
    nodes: tuple[PlantedNode, ...]
    edges: tuple[PlantedEdge, ...]

    def true_nodes(
        self, kind: str | None = None, *, emotion: str | None = None, when: When = "asked"
    ) -> frozenset[str]:
        """Names of the parts of a kind with an effect on an emotion's readout; ``None`` is any."""
        own = [(node.name, node) for node in self.nodes if self.edges and kind in (None, node.kind)]
        return _serving(own, emotion, when)

    def true_edges(
        self, kind: str | None = None, *, emotion: str | None = None, when: When = "asked"
    ) -> frozenset[tuple[str, str, str]]:
        """Source, target and entry of the connections of a kind that have such an effect.

        ``embed`` is among the sources: it is where the emotion word's code comes from.
        """
        edges = [edge for edge in self.edges if kind in (None, edge.kind)]
        own = [((edge.source, edge.target, edge.kind), edge) for edge in edges]
        return _serving(own, emotion, when)


def _serving(own: Sequence[tuple[Any, Any]], emotion: str | None, when: When) -> frozenset[Any]:
    return frozenset(
        name
        for name, value in own
        if value.when == when and (emotion is None or value.emotion in (None, emotion))
    )


@dataclass(frozen=True)
class Recovery:
    """How well what was found agrees with what is there."""

    precision: float
    """Share of the found that is true; 1 if nothing was found."""
    recall: float
    """Share of the true that was found; 1 if nothing is there."""


def recovery(found: Iterable[object], truth: Iterable[object]) -> Recovery:
    """Precision and recall of ``found``.

    >>> recovery(["L0H1", "L2H3"], ["L0H1"])
    Recovery(precision=0.5, recall=1.0)
    """
    found, truth = frozenset(found), frozenset(truth)
    common = len(found & truth)
    return Recovery(
        precision=common / len(found) if found else 1.0,
        recall=common / len(truth) if truth else 1.0,
    )


def plant(
    seed: int,
    *,
    emotions: Sequence[str] = EMOTIONS,
    n_layers: int = 4,
    n_heads: int = 4,
    backup: bool = True,
    remove: str | None = None,
) -> Plant:
    """A Llama with hand-set weights at drawn places and small random ones elsewhere.

    The seed decides where each part lies, how strong it is, whether inhibition is a head or
    neurons, and whether heads share keys and values. Contexts should not contain the emotion words
    themselves: the writer attends to them wherever they stand.

    Args:
        seed: Equal seeds give equal models.
        emotions: Different single words, three to eight.
        n_layers: Three or more.
        n_heads: Four or more, even.
        backup: Plant the backup head.
        remove: ``writer`` leaves the writer and the backup out and everything else as it is. Then
            nothing has an effect.
    """
    emotions = tuple(emotions)
    assert 3 <= len(set(emotions)) == len(emotions) <= 8, "a head's values have room for eight"
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = n_layers, n_heads, rng.choice((n_heads, n_heads // 2))
    drawn = draw_nodes(rng, emotions, n_layers, n_heads)
    gone = {"writer", "backup"} if remove else set() if backup else {"backup"}
    present = tuple(node for node in drawn if node.role not in gone)
    basis, _ = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator))
    where = Coordinates(emotions, basis)
    tokenizer = word_tokenizer(emotions)
    # The random weights do not depend on which parts are present.
    made = _random(drawn, len(tokenizer.get_vocab()), shape, generator)
    _words(made, where, tokenizer.get_vocab(), generator)
    mixing, _ = torch.linalg.qr(torch.randn(_TOPICS, 4, generator=generator))
    for node in present:
        if node.kind == "head":
            _look(made, node, where, node.index // (shape[1] // shape[2]))
            _write_head(made, node, where, mixing)
        else:
            _set_neuron(made, node, where)
    return Plant(
        seed=seed,
        model=build_model(made, basis, tokenizer, name=f"plant-{seed}"),
        emotions=emotions,
        readout=basis[where.span("readout")].clone(),
        nodes=present,
        edges=planted_edges(present),
    )


@torch.no_grad()
def build_model(made: Draft, basis: Tensor, tokenizer: Any, *, name: str) -> Model:
    """A Llama with the drafted weights, their coordinates hidden by the rotation ``basis``."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=len(made.q),
        num_attention_heads=made.q.shape[1],
        num_key_value_heads=made.k.shape[1],
        head_dim=D_HEAD,
        max_position_embeddings=tokenizer.model_max_length,
        # Slow enough for the slots of the marks to stand still, fast enough to tell neighbours.
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Its own draws are all overwritten; the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        hf_model = LlamaForCausalLM(config)
    gain = CONSTANT / D_MODEL**0.5  # a normed stream is about the stream itself
    weights = {"embed_tokens": made.embed @ basis, "norm": torch.full((D_MODEL,), gain)}
    for layer in range(len(made.q)):
        own = {f"self_attn.{x}_proj": getattr(made, x)[layer].flatten(0, 1) for x in "qkvo"}
        own |= {"mlp.gate_proj": made.gate[layer], "mlp.up_proj": made.up[layer]}
        own |= {"mlp.down_proj": made.out[layer]}
        for part, table in own.items():
            turned = table @ basis
            writes = part.endswith(("o_proj", "down_proj"))
            weights[f"layers.{layer}.{part}"] = turned.T if writes else turned
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"layers.{layer}.{norm}"] = weights["norm"]
    state = {f"model.{part}.weight": table for part, table in weights.items()}
    hf_model.load_state_dict({**state, "lm_head.weight": made.unembed @ basis})
    return wrap_model(hf_model, tokenizer, name=name)


_CUES, _FILLERS = 8, ("bag", "cup", "desk", "flat", "green", "hall", "ink", "jar")
_CLASS_STEEP, _DEAD, _CLASS_TOPICS = 16.0, -8.0, 8
_ALIKE = 2
"""Always-active neurons, and never-active ones."""


@dataclass(frozen=True, eq=False)
class SelectivePlant:
    """A small model, and the neurons in it that are selective for each class."""

    model: Model
    label: tuple[str, ...]
    selective: tuple[frozenset[str], ...]
    """Names of the neurons of each class."""
    uniform: frozenset[str]
    """Neurons that are active on every token."""
    dead: frozenset[str]
    """Neurons that are active on none."""

    def texts(
        self, per_label: int, *, split: Split = "train", seed: int = 0, blank: bool = False
    ) -> Texts:
        """Texts of every class.

        Args:
            per_label: How many of each.
            split: What they are called.
            seed: Of the words.
            blank: Fillers only, so that labels say nothing about texts.
        """
        rng, rows = random.Random(f"{split} {seed}"), list[LabelledText]()
        for label in self.label * per_label:
            words = [] if blank else [f"{label}{rng.choice(range(_CUES))}" for _ in range(7)]
            words += [rng.choice(_FILLERS) for _ in range(10 - len(words))]
            rng.shuffle(words)
            rows.append(LabelledText(" ".join(words), label))
        return Texts(split, self.label, tuple(rows))


def plant_selective(
    seed: int, *, labels: Sequence[str] = EMOTIONS, n_layers: int = 3, per_label: int = 2
) -> SelectivePlant:
    """A Llama with hand-set selective neurons at drawn places.

    Args:
        seed: Equal seeds give equal models.
        labels: The classes; different words, two to eight.
        n_layers: Two or more; the neurons lie before the last.
        per_label: Selective neurons of each class.
    """
    labels = tuple(labels)
    needed = len(labels) * per_label + 2 * _ALIKE
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    places = [(layer, index) for layer in range(n_layers - 1) for index in range(D_MLP)]
    drawn = iter(rng.sample(places, needed))
    own = [[next(drawn) for _ in range(per_label)] for _ in labels]
    uniform, dead = ([next(drawn) for _ in range(_ALIKE)] for _ in range(2))
    tokenizer = word_tokenizer(
        (*labels, *(f"{label}{i}" for label in labels for i in range(_CUES)))
    )
    made = _draft(labels, tokenizer.get_vocab(), n_layers, generator)
    # Coordinates: the constant, the classes' codes, their readouts, topics.
    count = len(labels)
    for place in (*sum(own, []), *uniform, *dead):
        made.gate[place], made.up[place] = 0.0, 0.0
    for label, neurons in enumerate(own):
        for place in neurons:
            gate, up, out = (table[place] for table in (made.gate, made.up, made.out))
            gate[1 + label], gate[0] = _CLASS_STEEP, -_CLASS_STEEP / 2 / CONSTANT
            up[0] = 2 / _CLASS_STEEP / CONSTANT
            out.zero_()[1 + count + label] = rng.uniform(0.8, 1.2)
    for places, gate in ((uniform, 4.0), (dead, _DEAD)):
        for place in places:
            made.gate[place][0], made.up[place][0] = gate / CONSTANT, 0.5 / CONSTANT
    for place in uniform:
        made.out[place][1 + count : 1 + 2 * count] = 2.0
    basis, _ = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator))
    return SelectivePlant(
        model=build_model(made, basis, tokenizer, name=f"selective-plant-{seed}"),
        label=labels,
        selective=tuple(_names(neurons) for neurons in own),
        uniform=_names(uniform),
        dead=_names(dead),
    )


def _names(places: Sequence[tuple[int, int]]) -> frozenset[str]:
    return frozenset(neuron_name(*place) for place in places)


def _draft(
    labels: Sequence[str], vocabulary: dict[str, int], n_layers: int, generator: torch.Generator
) -> Draft:
    """Words, background neurons and the head that carries.

    Coordinates are the constant, the classes' codes, their readouts, and topics.
    """
    count, n_heads = len(labels), 4
    topics = slice(1 + 2 * count, 1 + 2 * count + _CLASS_TOPICS)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    made = Draft(
        embed=torch.zeros(len(vocabulary), D_MODEL),
        unembed=1e-3 * normal(len(vocabulary), D_MODEL),
        **{name: torch.zeros(n_layers, n_heads, D_HEAD, D_MODEL) for name in "qkvo"},
        **{name: torch.zeros(n_layers, D_MLP, D_MODEL) for name in ("gate", "up")},
        out=3e-3 * normal(n_layers, D_MLP, D_MODEL),
    )
    made.embed[:, 0] = CONSTANT
    made.embed[:, topics] = normal(len(vocabulary), _CLASS_TOPICS)
    alike = normal(_CUES, _CLASS_TOPICS)
    for place, label in enumerate(labels):
        for i in range(_CUES):
            made.embed[vocabulary[f"{label}{i}"], 1 + place] = 1
            made.embed[vocabulary[f"{label}{i}"], topics] = alike[i]
        made.unembed[vocabulary[label], 1 + count + place] = 5
    made.unembed[:, 0] = 0
    made.gate[..., topics] = normal(n_layers, D_MLP, _CLASS_TOPICS) / _CLASS_TOPICS**0.5
    # Seldom active: LAPE only looks at the one rate in twenty that is largest.
    made.gate[..., 0] = -(0.7 + normal(n_layers, D_MLP).abs()) / CONSTANT
    made.up[..., topics] = 0.3 * normal(n_layers, D_MLP, _CLASS_TOPICS) / _CLASS_TOPICS**0.5
    readout = range(1 + count, 1 + 2 * count)
    # Queries and keys of zero look at all positions alike.
    made.v[-1, 0, range(count), readout] = 1
    made.o[-1, 0, range(count), readout] = 1
    return made

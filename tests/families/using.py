"""What is done with a model: edits, circuits, choices, traces, files and whole runs."""

from dataclasses import replace
from typing import Any

import torch
from families.measuring import close, streams
from families.models import D_MODEL, EMOTIONS, N_HEADS, N_LAYERS, N_NEURONS, Evaluator
from plans import plan_in
from rounding import rounding
from torch import Tensor

from circuits.circuit.circuit import Circuit, Node
from circuits.circuit.find import Budget, Measurements, assemble
from circuits.circuit.score import score_circuits
from circuits.effects.inspection import token_trace, trace_scale
from circuits.export import export_circuit
from circuits.export.node_link import read_circuit, write_circuit
from circuits.judges.judge import Verdict
from circuits.judges.replies import Judged, Reply, write_rows
from circuits.models.edits import Replace
from circuits.models.generate import choice_logs, elicit
from circuits.models.tokens import encode, encode_text
from circuits.names import head_name, hook, neuron_name
from circuits.neurons.profile import label_attribution, profile_texts
from circuits.patching.pairs import make_pairs
from circuits.prompts.prompt import EMOTION_REQUEST, LabelledText, Texts, questions
from circuits.prompts.templates import emotion_prompts, neutral_prompt
from circuits.runs import run as run_plan
from circuits.steering.control_vectors import control_vector
from circuits.steering.hook_files import read_hooks, write_hooks
from circuits.steering.interventions import Modulation, Steering, circuit_edits, steer

LAYERS = range(N_LAYERS)
TEXTS = Texts(
    "train",
    EMOTIONS,
    tuple(
        LabelledText(text, EMOTIONS[i % 2])
        for i, text in enumerate(("They ran late.", "A storm came.", "He shouted.", "She hid."))
    ),
)


def circuits(evaluator: Evaluator) -> None:
    """The circuit of an emotion has what its totals rank first, and no more than its budget."""
    neurons = evaluator.neurons if evaluator.has_neurons else evaluator.no_neurons
    measured = Measurements(
        evaluator.importance, evaluator.heads, neurons, evaluator.direct, evaluator.totals
    )
    found = assemble(measured, "anger", budget=Budget(0.5, 0.1))
    best = evaluator.totals.head_effect[0].flatten().argsort(descending=True)[:4].tolist()
    wanted = [i for i in best if evaluator.totals.head_effect[0].flatten()[i] > 0]
    assert sorted(layer * N_HEADS + head for layer, head in found.heads) == sorted(wanted)
    assert bool(found.neurons) == evaluator.has_neurons


def _whole(emotion: str, evaluator: Evaluator) -> Circuit:
    nodes = [Node(head_name(i, h), "head", i, effect=1.0) for i in LAYERS for h in range(N_HEADS)]
    count = evaluator.model.cfg.d_mlp
    nodes += [
        Node(neuron_name(i, n), "neuron", i, effect=1.0) for i in LAYERS for n in range(count)
    ]
    return Circuit(emotion, tuple(nodes), ())


def scores(evaluator: Evaluator) -> None:
    """The whole model is faithful and complete; what a circuit keeps is a run with that alone."""
    named = {
        "anger": _whole("anger", evaluator),
        "fear": replace(evaluator.circuit, emotion="fear"),
    }
    readouts = dict.fromkeys(EMOTIONS, evaluator.readout)
    ranking = replace(evaluator.totals, emotion=EMOTIONS)
    found = score_circuits(evaluator.model, named, evaluator.contexts, readouts, ranking, draws=2)
    near = _near_in_shares(evaluator, "anger")
    assert abs(found["anger"].scores["faithfulness"].value - 1) < near
    assert abs(found["anger"].scores["completeness"].value) < near
    whole, own, empty = _kept_alone(evaluator, named["fear"])
    wanted = (own - empty) / (whole - empty)
    near = max(1, abs(wanted)) * _near_in_shares(evaluator, "fear")
    assert abs(found["fear"].scores["faithfulness"].value - wanted) < near


def _near_in_shares(evaluator: Evaluator, emotion: str) -> float:
    """What a score may be off by: the rounding of readouts over what asking moves them by."""
    whole, _, empty = _kept_alone(evaluator, replace(evaluator.circuit, emotion=emotion))
    pair = make_pairs(evaluator.model, evaluator.contexts, emotion)[0]
    last = hook("resid_post", N_LAYERS - 1)
    size = float(evaluator.plainly(pair.clean.ids, [last])[last][-1].norm())
    near = rounding(size) / abs(whole - empty)
    assert near < 0.1, "nothing to compare"
    return near


def _kept_alone(evaluator: Evaluator, circuit: Circuit) -> tuple[float, ...]:
    """Mean readouts of plain runs of the model, of the circuit and of an empty one.

    Everything else is as in the neutral prompt, at the last position.
    """
    ends: dict[str, list[Tensor]] = {"whole": [], "own": [], "empty": []}
    names = [hook(site, i) for site in ("z", "post") for i in LAYERS]
    last = hook("resid_post", N_LAYERS - 1)
    for pair in make_pairs(evaluator.model, evaluator.contexts, circuit.emotion):
        plain_values = evaluator.plainly(pair.corrupt.ids, names)
        for case, inside in (
            ("whole", None),
            ("own", circuit),
            ("empty", Circuit(circuit.emotion, (), ())),
        ):
            hooks = [] if inside is None else _outside(evaluator, inside, plain_values)
            end = evaluator.plainly(pair.clean.ids, [last], hooks)[last][-1]
            ends[case].append(end @ evaluator.readout.vector)
    return tuple(float(torch.stack(ends[case]).mean()) for case in ends)


def _outside(evaluator: Evaluator, circuit: Circuit, values: dict[str, Tensor]) -> list[Any]:
    hooks = []
    for layer in LAYERS:
        for site, members in (("z", circuit.heads), ("post", circuit.neurons)):
            if site == "post" and not evaluator.has_neurons:
                continue
            name = hook(site, layer)
            own = [part for i, part in members if i == layer]
            hooks.append((name, _setting(values[name][-1], own)))
    return hooks


def _setting(value: Tensor, kept: list[int]) -> Any:
    def put(x: Tensor, hook: object) -> Tensor:
        x = x.clone()
        own = x[:, -1, kept].clone()
        x[:, -1] = value
        x[:, -1, kept] = own
        return x

    return put


def _written(evaluator: Evaluator, ids: Any, edits: Any, count: int) -> str:
    """Likeliest tokens of whole runs, edits made at the prompt's last position by hand."""
    at, ids, start = len(ids) - 1, list(ids), len(ids)

    def adding(edit: Any) -> Any:
        def add(x: Tensor, hook: object) -> Tensor:
            x = x.clone()
            x[:, at] += edit.value
            return x

        return hook(edit.site, edit.layer), add

    for _ in range(count):
        best = int(evaluator.plainly(ids, (), [adding(e) for e in edits])["logits"][-1].argmax())
        if best == evaluator.model.tokenizer.eos_token_id:
            break
        ids.append(best)
    return evaluator.model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def _says(evaluator: Evaluator, edits: Any) -> None:
    prompts = [neutral_prompt(context) for context in evaluator.contexts]
    found = elicit(
        evaluator.model,
        prompts,
        emotions=["anger"] * len(prompts),
        edits=lambda places: edits,
        max_new_tokens=4,
    )
    for prompt, reply in list(zip(prompts, found, strict=True))[:2]:
        assert reply.text == _written(evaluator, encode(evaluator.model, prompt), edits, 4)


def steering(evaluator: Evaluator) -> None:
    edits = steer(evaluator.directions, "anger", Steering((0, 1), 4.0))
    assert edits
    _says(evaluator, edits)


def modulation(evaluator: Evaluator) -> None:
    edits = circuit_edits(evaluator.circuit, evaluator.differences, Modulation(6.0))
    assert len(edits) == (3 if evaluator.has_neurons else 2)
    _says(evaluator, edits)


def choices(evaluator: Evaluator) -> None:
    asked = questions(TEXTS.rows, EMOTION_REQUEST)
    close(choice_logs(evaluator.model, asked, EMOTIONS), _named(evaluator, asked))


def _named(evaluator: Evaluator, asked: Any, hooks: Any = ()) -> Tensor:
    found = []
    for question in asked:
        ids, row = encode(evaluator.model, question), []
        for label in EMOTIONS:
            tail = encode_text(evaluator.model, label)
            logs = evaluator.plainly([*ids, *tail], (), hooks)["logits"].log_softmax(-1)
            row.append(logs[len(ids) - 1 : -1].gather(-1, torch.tensor(tail)[:, None]).sum())
        found.append(torch.stack(row))
    return torch.stack(found)


def profile(evaluator: Evaluator) -> None:
    """Mean activation at the last position of prompts that ask about the texts of a class."""
    found = profile_texts(evaluator.model, TEXTS, EMOTION_REQUEST, n_shuffles=1)
    names = [hook("post", i) for i in LAYERS]
    asked = questions(TEXTS.rows, EMOTION_REQUEST)
    rows = [evaluator.plainly(encode(evaluator.model, q), names) for q in asked]
    values = torch.stack([torch.stack([row[name][-1] for name in names]) for row in rows])
    close(found.last.float(), values.unflatten(0, (2, 2)).mean(0))


def label_gradients(evaluator: Evaluator) -> None:
    """The gradient of a factor on every neuron, at one, text by text."""
    model = evaluator.model
    found = label_attribution(model, TEXTS, EMOTION_REQUEST)
    first = [encode_text(model, label)[0] for label in EMOTIONS]
    total = torch.zeros(2, N_LAYERS, N_NEURONS)
    for row, question in zip(TEXTS.rows, questions(TEXTS.rows, EMOTION_REQUEST), strict=True):
        own = EMOTIONS.index(row.label)
        factor = torch.ones(N_LAYERS, N_NEURONS, requires_grad=True)
        hooks = [(hook("post", i), _times(factor[i])) for i in LAYERS]
        with model.hooks(fwd_hooks=hooks):
            logits = model(torch.tensor([encode(model, question)]))[0, -1]
        margin = logits[first[own]] - logits[first[1 - own]]
        total[own] += torch.autograd.grad(margin, factor)[0]
    close(found.total.sum(0).float(), total, to=1e-3)


def _times(factor: Tensor) -> Any:
    return lambda x, hook: x * factor


def masks(evaluator: Evaluator) -> None:
    chosen = torch.zeros(N_NEURONS, dtype=torch.bool)
    chosen[:24] = True
    asked = questions(TEXTS.rows, EMOTION_REQUEST)
    found = choice_logs(
        evaluator.model,
        asked,
        EMOTIONS,
        edits=[Replace("post", 0, torch.zeros(N_NEURONS), chosen, "all")],
    )
    zero = (hook("post", 0), lambda x, hook: x.masked_fill(chosen, 0.0))
    close(found, _named(evaluator, asked, [zero]))


def traces(evaluator: Evaluator) -> None:
    """A token's projection, zero where neutral prompts stand, one where asking moves it."""
    directions = evaluator.directions
    scale = trace_scale(evaluator.model, evaluator.contexts, directions)
    said = Reply(evaluator.prompts[0], "Fine, then.", 3, "anger")
    found = token_trace(evaluator.model, said, directions, scale)
    ids = [*evaluator.rows()[0], *encode_text(evaluator.model, said.text)]
    stream = streams(evaluator, ids)[1]
    zero = torch.stack(
        [
            streams(evaluator, encode(evaluator.model, neutral_prompt(c)))[1][:, -1]
            for c in evaluator.contexts
        ]
    ).mean(0)
    at = len(evaluator.rows()[0]) - 1
    along = ((stream[:, at] - zero)[None] * directions.vectors[:, 1]).sum(-1)
    wanted = along / scale.moved
    shown = ~found.value[:, :, at].isnan()
    torch.testing.assert_close(found.value[:, :, at][shown], wanted[shown], rtol=1e-3, atol=1e-3)


def files(evaluator: Evaluator) -> None:
    """A circuit and its edits, written and read again; what they write as a control vector."""
    path = evaluator.folder / "anger.json"
    write_circuit(evaluator.circuit, path)
    assert read_circuit(path) == evaluator.circuit
    assert len(export_circuit(evaluator.circuit, evaluator.folder / "export")) >= 6
    edits = circuit_edits(evaluator.circuit, evaluator.differences, Modulation(2.0))
    write_hooks(evaluator.model, edits, "anger", evaluator.folder / "anger.safetensors")
    emotion, again = read_hooks(evaluator.folder / "anger.safetensors", evaluator.model)
    assert emotion == "anger"
    for one, other in zip(edits, again, strict=True):
        assert (one.site, one.layer) == (other.site, other.layer)
        assert torch.equal(one.value, other.value)


def control_vectors(evaluator: Evaluator) -> None:
    """What a circuit's parts write, through the model itself: with them less without them."""
    edits = circuit_edits(evaluator.circuit, evaluator.differences, Modulation(2.0))
    vector, _ = control_vector(evaluator.model, edits, "anger")
    ids = evaluator.rows()[0]
    site = hook("resid_post", 1)
    attn = hook("attn_out", 1)
    head = next(edit for edit in edits if (edit.site, edit.layer) == ("z", 1))

    def add(x: Tensor, hook: object) -> Tensor:
        return x + head.value

    name = hook("z", 1)
    moved = evaluator.plainly(ids, [attn, site], [(name, add)])[attn]
    wrote = moved[-1] - evaluator.plainly(ids, [attn])[attn][-1]
    assert vector.vectors.shape == (N_LAYERS - 1, D_MODEL)
    rest = [edit for edit in edits if edit is not head]
    without, _ = control_vector(evaluator.model, rest, "anger")
    close(vector.vectors[0] - without.vectors[0], wrote, to=1e-3)


def run(evaluator: Evaluator) -> None:
    """A whole brief run from a folder in Hugging Face's layout, judged replies given."""
    home = evaluator.folder / "model"
    evaluator.hf.save_pretrained(home)
    evaluator.model.tokenizer.save_pretrained(home)
    accepted = evaluator.folder / "accepted.jsonl"
    rows = [
        Judged(Reply(p, "Fine, then.", 3, p.emotion or ""), Verdict(True, p.emotion, "given"))
        for p in emotion_prompts(evaluator.more, EMOTIONS)
    ]
    write_rows(accepted, rows)
    plan = plan_in(
        evaluator.folder / "run",
        model=str(home),
        accepted=accepted,
        emotions=EMOTIONS,
        scenarios=8,
        dev_scenarios=1,
        test_scenarios=1,
        score_contexts=2,
        draws=2,
        max_new_tokens=2,
        methods=("circuit",),
        tuning="brief",
        sweep_contexts=0,
        ablation_draws=1,
        doses=(0.5,),
    )
    study = run_plan(plan)
    assert set(study.circuits) == {*EMOTIONS}
    assert (study.folder / "report.html").is_file()
    assert bool(study.neurons.mean.numel()) == evaluator.has_neurons
    close(study.direct.sublayer_effect.sum((1, 2)), study.direct.total)

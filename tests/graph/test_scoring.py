"""Scores of circuits: identities, planted circuits, intervals, p-values, refusals."""

import json
from dataclasses import replace

import pytest
import torch
from parts import circuit_of
from rounding import rounding
from scipy import stats

from circuits.circuit.ablate import Masks, random_masks, run_circuits, stand
from circuits.circuit.circuit import SCORES, Circuit, CircuitScores, Node, core, with_scores
from circuits.circuit.score import check_held_out, judge, score_circuits, scores_of
from circuits.errors import CircuitError, DataError
from circuits.export.node_link import circuit_from_json, circuit_to_json
from circuits.patching.pairs import Projection, make_pairs
from circuits.patching.totals import TotalEstimates
from circuits.provenance import Provenance
from circuits.running import execution

EMOTIONS: tuple[str, ...] = ("fear", "anger")
LAYERS, HEADS, NEURONS = 3, 4, 48


EVERYTHING = (
    [(layer, i) for layer in range(LAYERS) for i in range(HEADS)],
    [(layer, i) for layer in range(LAYERS) for i in range(NEURONS)],
)
CIRCUITS = {
    "fear": circuit_of("fear", *EVERYTHING),
    "anger": circuit_of("anger", [(0, 1), (2, 3)], [(0, 5), (1, 7), (2, 40)]),
}
READOUT = Projection(torch.nn.functional.normalize(torch.arange(32.0) - 15, dim=0))


def ranking(seed=0):
    random = torch.Generator().manual_seed(seed)
    return TotalEstimates(
        provenance=Provenance(),
        head_effect=torch.randn(2, LAYERS, HEADS, generator=random),
        neuron_effect=torch.randn(2, LAYERS, NEURONS, generator=random),
        emotion=EMOTIONS, layer=tuple(range(LAYERS)), head=tuple(range(HEADS)),
        neuron=tuple(range(NEURONS)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scored(llama, contexts):
    readouts = dict.fromkeys(EMOTIONS, READOUT)
    return score_circuits(llama, CIRCUITS, contexts[:4], readouts, ranking(), draws=20)


@pytest.fixture(scope="module")
def near(llama, contexts):
    """What a score may be off by, and an end of its interval: the rounding of readouts as a share
    of what asking moves their mean by, in all contexts and in the least moved draw of them."""
    pairs = make_pairs(llama, contexts[:4], "fear")
    ends = Masks.of(llama, [CIRCUITS["fear"], circuit_of("fear")])
    model, empty = run_circuits(stand(llama, pairs), ends, [READOUT])[..., 0].double()
    drawn = torch.cartesian_prod(*[model - empty] * 4).mean(1)
    return [
        rounding(model) / float(gap.abs()) for gap in ((model - empty).mean(), drawn.abs().min())
    ]


def test_the_whole_model_is_faithful_and_complete(scored, near):
    own, end = near
    assert max(near) < 0.01
    found = scored["fear"].scores
    assert found["faithfulness"].value == pytest.approx(1.0, rel=0, abs=own)
    assert found["faithfulness"].low == pytest.approx(1.0, rel=0, abs=end)
    assert found["faithfulness"].high == pytest.approx(1.0, rel=0, abs=end)
    assert found["completeness"].value == pytest.approx(0.0, abs=own)
    assert scored["fear"].worst_gap == pytest.approx(0.0, abs=own)


def test_a_circuit_that_is_the_whole_model_beats_no_random_circuit_of_its_size(scored):
    assert scored["fear"].scores["faithfulness"].p == 1.0
    assert "faithfulness" in scored["fear"].failures


def test_every_score_has_an_interval_controls_and_a_p_value(scored):
    for found in scored.values():
        assert tuple(found.scores) == SCORES
        for own in found.scores.values():
            assert own.low <= own.high
            assert 1 / 21 <= own.p <= 1
        assert len(found.loses) == found.heads_fraction * 12 + found.neurons_fraction * 144
        assert set(found.loses) == {n.id for n in CIRCUITS[found.emotion].nodes}
        assert found.curve[-1] == 1.0


def masks_of(flat):
    heads, neurons = flat.split([LAYERS * HEADS, LAYERS * NEURONS], dim=1)
    return Masks(heads.unflatten(1, (LAYERS, -1)), neurons.unflatten(1, (LAYERS, -1)))


PLACES = [0, 5, 11, 20, 60, 130]
"""Planted components, in flat form."""


def planted(noise=0.0, own=None, draws=100, seed=0, n_contexts=12):
    """A linear model in which six components carry everything, scored as if it had been run."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.zeros(LAYERS * (HEADS + NEURONS), dtype=torch.float64)
    truth[PLACES] = torch.tensor([1.0, 2.0, 1.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    chosen = torch.zeros(1, len(truth), dtype=torch.bool)
    chosen[0, PLACES if own is None else own] = True
    other = torch.zeros_like(chosen)
    other[0, [1, 2, 30]] = True
    shift = noise * torch.randn(1, n_contexts, generator=random, dtype=torch.float64)

    def run(rows):
        return rows.flat.double() @ truth[:, None] * (1 + shift) + 7.0

    with execution(seed=seed):
        return scores_of("fear", masks_of(chosen), masks_of(other), truth.float(), run, draws)


def test_a_planted_circuit_gets_the_scores_that_it_was_planted_with():
    found = planted()
    value = {name: own.value for name, own in found.scores.items()}
    assert value["faithfulness"] == pytest.approx(1.0)
    assert value["completeness"] == pytest.approx(0.0, abs=1e-12)
    assert value["specificity"] == pytest.approx(1.0)
    assert found.loses["L0H0"] == pytest.approx(0.1)
    assert found.loses["L0N8"] == pytest.approx(0.3)
    assert found.needed_share == 1.0
    assert found.failures == ()
    assert list(found.curve) == sorted(found.curve)
    assert all(own.p == pytest.approx(1 / 101) for own in found.scores.values())


def test_half_of_a_planted_circuit_is_half_as_faithful_and_not_a_bit_less_complete():
    found = planted(own=PLACES[:3])
    assert found.scores["faithfulness"].value == pytest.approx(0.4)
    # Gaps are those of what was left out: the model keeps it, the circuit does not.
    assert found.scores["completeness"].value == pytest.approx(0.6)


def test_an_idle_component_loses_nothing_and_is_not_needed():
    found = planted(own=[*PLACES, 70])
    assert min(found.loses.values()) == pytest.approx(0.0)
    assert found.needed_share == pytest.approx(6 / 7)


def test_random_circuits_have_uniform_p_values():
    """A circuit that was itself drawn at random is one of its baselines: p is uniform."""
    random = torch.Generator().manual_seed(3)
    effects = torch.randn(156, generator=random).double()
    seen = []
    for _ in range(400):
        own = masks_of(torch.rand(1, 156, generator=random) < 0.1)
        drawn = random_masks(own, 99, random)
        # Drawn from what the circuit has not, so the circuit itself must be redrawn from all.
        pool = torch.cat([own.flat, drawn.flat]).double() @ effects
        again = pool[torch.randperm(100, generator=random)]
        seen.append(judge("faithfulness", float(again[0]), again[:1], again[1:]).p)
    assert stats.kstest(torch.tensor(seen).numpy(), stats.uniform(0.005, 1).cdf).pvalue > 0.05


@pytest.mark.parametrize("name", ["faithfulness", "cmd"])
def test_p_values_count_controls_that_are_at_least_as_good_in_the_scores_own_direction(name):
    baselines = torch.arange(100, dtype=torch.float64)
    value = 98.0 if name == "faithfulness" else 1.0
    found = judge(name, value, baselines[:1], baselines)
    assert found.p == pytest.approx(3 / 101)
    assert found.baseline_p99 == pytest.approx(98.01 if name == "faithfulness" else 0.99)


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(200):
        random = torch.Generator().manual_seed(1000 + seed)
        own = masks_of(torch.zeros(1, 156, dtype=torch.bool).index_fill(1, torch.tensor([0]), True))
        # In every context the circuit brings a share of 0.6 on average, with independent noise.
        model = 1 + 0.2 * torch.randn(30, generator=random).double()
        part = 0.6 + 0.3 * torch.randn(30, generator=random).double()

        def run(rows, own=own, model=model, part=part):
            is_model, is_own = rows.flat.all(1), (rows.flat == own.flat).all(1)
            return torch.stack([is_model, is_own], 1).double() @ torch.stack([model, part])

        found = scores_of("fear", own, own[:0], torch.zeros(156), run, 1)
        score = found.scores["faithfulness"]
        held.append(score.low <= 0.6 <= score.high)
    # Percentile intervals of 30 contexts are a little too narrow.
    assert 0.88 <= sum(held) / 200 <= 0.99


def test_scores_go_into_the_circuits_file_and_say_where_they_are_no_better_than_random(
    scored, near
):
    circuit = with_scores(CIRCUITS["fear"], scored["fear"])
    assert circuit.scores["faithfulness_above_baseline"] == 0.0
    assert circuit.scores["faithfulness"] == pytest.approx(1.0, rel=0, abs=near[0])
    again = circuit_from_json(json.loads(json.dumps(circuit_to_json(circuit))))
    assert again.scores == pytest.approx(dict(circuit.scores))


def test_scores_are_saved_and_read_again(scored):
    for found in scored.values():
        assert CircuitScores.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert set(found.summary()) == {*SCORES, "heads_fraction", "neurons_fraction"}


def test_too_few_contexts_and_contexts_of_the_train_set_are_refused(contexts):
    with pytest.raises(DataError, match="2 or more for their intervals; found 0"):
        check_held_out((), ())
    renamed = replace(contexts[1], scenario="new_00")
    with pytest.raises(DataError, match="new_00/.* is one that the circuits were made from"):
        check_held_out((contexts[0], renamed), contexts[1:])


def test_an_empty_circuit_another_models_and_no_controls_are_refused(llama, contexts):
    readouts = {"fear": READOUT}
    none = {"fear": circuit_of("fear")}
    strange = {"fear": circuit_of("fear", [(9, 0)])}
    with pytest.raises(CircuitError, match="neither heads nor neurons"):
        score_circuits(llama, none, contexts[:2], readouts, ranking())
    with pytest.raises(CircuitError, match="another model's circuit"):
        score_circuits(llama, strange, contexts[:2], readouts, ranking())
    with pytest.raises(DataError, match="0 random circuits are too few"):
        score_circuits(llama, CIRCUITS, contexts[:2], readouts, ranking(), draws=0)


def test_a_readout_that_does_not_move_is_refused(llama, contexts):
    nothing = {"anger": Projection(torch.zeros(32))}
    only = {"anger": CIRCUITS["anger"]}
    with pytest.raises(CircuitError, match="does not move its readout"):
        score_circuits(llama, only, contexts[:2], nothing, ranking(), draws=2)


def moved_by(gap):
    """Scores of a circuit in a model that asking moves by so much, of readouts of ten."""
    own = masks_of(torch.arange(LAYERS * (HEADS + NEURONS))[None] < 2)

    def run(rows):
        # All circuits keep the whole effect, up to a rounding of readouts that others put off.
        m = 10.0 + gap * rows.flat.any(1).double()
        apart = rows.flat.any(1) & ~(rows.flat & own.flat).any(1)
        return (m - apart * 8 * torch.finfo(torch.float32).eps * 10)[:, None].expand(-1, 3)

    return scores_of("fear", own, own[:0], torch.zeros(156), run, 20)


def test_a_readout_that_moves_by_rounding_alone_is_refused():
    with pytest.raises(CircuitError, match="does not move its readout"):
        moved_by(2e-5)
    moved_by(1e-3)


@pytest.mark.parametrize("gap", [1e-3, 1.0, 100.0])
def test_controls_that_are_worse_by_rounding_alone_are_as_good(gap):
    assert moved_by(gap).scores["faithfulness"].p == 1.0


def test_the_core_of_a_circuit_is_its_strongest_part():
    heads = [Node(f"L0H{i}", "head", 0, effect=float(i)) for i in range(3)]
    later = Node("L1H0", "head", 1, effect=1.5)
    sites = [Node(f"L{i}.attn", "sublayer", i, importance=1.0 + 9 * i) for i in range(2)]
    circuit = Circuit("fear", (*heads, sites[0], later, sites[1]), ())
    assert [node.id for node in core(circuit, 2, 0).of_kind("head")] == ["L0H2", "L1H0"]
    assert core(circuit, 4, 0) is circuit

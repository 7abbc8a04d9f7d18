"""Tables and samples say what the content says."""

import dataclasses

import pytest

from circuits.circuit.circuit import Circuit, Node
from circuits.report.page import cell, component_rows, flat, sample_replies
from circuits.steering.evaluate import BASELINES


def test_components_are_listed_by_size_with_interval_and_control(samples):
    heads, neurons = component_rows(samples.circuit(layers=2, n_heads=2, n_neurons=30), 5)
    assert [row["component"] for row in heads] == ["L1H0", "L0H0", "L1H1", "L0H1"]
    first = [cell(value) for value in heads[0].values()]
    assert first == ["L1H0", "0.2", "0.18 to 0.22", "0.05", "yes", "0.1"]
    assert len(neurons) == 5


def test_what_was_not_measured_is_a_dash():
    circuit = Circuit("fear", (Node("L0H0", "head", 0, effect=0.5),), ())
    (row,) = component_rows(circuit)[0]
    assert [cell(value) for value in row.values()] == ["L0H0", "0.5", "–", "–", "–", "–"]


def test_settings_are_flattened_with_dotted_names():
    assert list(flat({"a": {"b": 1.5, "c": None}, "d": (), "e": True})) == [
        ("a.b", "1.5"),
        ("a.c", "–"),
        ("d", "–"),
        ("e", "True"),
    ]


def test_samples_show_the_same_context_in_every_emotion_by_every_method(samples):
    shown = sample_replies(samples.judged(), samples.EMOTIONS, without=tuple(BASELINES))
    assert [sample.context.id for sample in shown] == [
        "work_00/positive",
        "work_01/neutral",
        "work_02/negative",
        "work_03/positive",
    ]
    first = shown[0]
    assert list(first.methods) == ["unsteered", "prompting", "steering", "circuit"]
    assert [emotion for emotion, _ in first.rows] == list(samples.EMOTIONS)
    emotion, answers = first.rows[4]
    assert emotion == "surprise"
    assert [answer is not None and answer.match for answer in answers] == [
        False,
        True,
        False,
        False,
    ]


def test_a_reply_that_never_changes_is_shown_once(samples):
    replies = samples.judged(contexts=1)
    same = [
        dataclasses.replace(row, reply=dataclasses.replace(row.reply, text="Hm."))
        for row in replies["none"]
    ]
    sample = sample_replies({**replies, "none": same}, samples.EMOTIONS)[0]
    assert [(answer.method, answer.text, answer.verdict) for answer in sample.alike] == [
        ("unsteered", "Hm.", "judged neutral")
    ]
    assert "unsteered" not in sample.methods


@pytest.mark.parametrize("contexts", [1, 2, 7, 60])
def test_samples_are_few_and_spread_over_valences(samples, contexts):
    shown = sample_replies(samples.judged(contexts=contexts), samples.EMOTIONS, most=6)
    assert 1 <= len(shown) <= 6
    assert len({sample.context.valence for sample in shown}) == min(3, contexts)
    assert len({sample.context.id for sample in shown}) == len(shown)


def test_a_missing_reply_leaves_its_place_empty(samples):
    replies = samples.judged(contexts=1)
    replies["steer"] = replies["steer"][1:]
    sample = sample_replies(replies, samples.EMOTIONS, without=tuple(BASELINES))[0]
    assert sample.rows[0][1][2] is None

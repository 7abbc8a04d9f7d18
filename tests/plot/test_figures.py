"""What is drawn equals what the record says."""

import dataclasses
import itertools
import json
from typing import Any

import pytest
import torch

from circuits import plots as plot
from circuits.circuit.circuit import Edge
from circuits.effects.directions import similarity
from circuits.errors import DataError
from circuits.judges.replies import JudgeConfusion, wilson
from circuits.names import EMOTIONS
from circuits.plots.style import BASELINE, EMOTION_COLOURS, colour
from circuits.steering.evaluate import Comparison

OWN = ("joy", "<i>awe</i>")


@pytest.fixture(scope="module")
def figures(samples):
    records = (
        samples.directions(),
        samples.generality(),
        samples.heads(),
        samples.neurons(),
        samples.importance(),
        samples.circuit(),
    )
    drawn = {type(record).__name__: draw(record) for record in records}
    drawn["paths"] = draw(samples.paths())
    drawn["trace"] = draw(samples.trace())
    drawn["validation"] = draw(samples.validation("neuron"))
    drawn["replies"] = draw(samples.heard())
    drawn["accuracy"] = plot.accuracy_bars(samples.accuracy())
    drawn["valence"] = plot.accuracy_bars(samples.accuracy(), by="valence")
    drawn["side_effects"] = plot.side_effects_map(samples.accuracy())
    drawn["strengths"] = plot.strength_curve(samples.accuracy())
    return drawn


def draw(record) -> Any:
    # Plotly declares no types for what is inside a figure.
    return plot.draw(record)


def graph(circuit, most) -> Any:
    return plot.circuit_graph(circuit, most)


def named(figure, name) -> Any:
    return [trace for trace in figure.data if trace.name == name]


def test_every_figure_has_a_title_and_axis_titles(figures):
    for name, figure in figures.items():
        assert figure.layout.title.text, name
        titles = [axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
        assert sum(title is not None for title in titles) >= 2, name
        last = list(figure.select_xaxes())[-1]
        assert last.title.text, name


def test_every_trace_that_shows_numbers_has_hover_text(figures):
    for name, figure in figures.items():
        for trace in figure.data:
            assert trace.hovertemplate or trace.hoverinfo == "skip", (name, trace.name)


def test_figures_are_json_without_anything_that_is_not_a_number(figures):
    for figure in figures.values():
        text = figure.to_json()
        assert "NaN" not in text
        assert "Infinity" not in text
        assert json.loads(text)["data"]


def test_missing_errors_are_drawn_as_gaps_and_dashes(samples):
    heads, importance = samples.heads(), samples.importance()
    gap = torch.full_like(heads.stderr, float("nan"))
    text = draw(dataclasses.replace(heads, stderr=gap, centred_stderr=gap)).to_json()
    assert "nan" not in text.lower()
    bars = draw(dataclasses.replace(importance, stderr=importance.stderr * float("nan")))
    assert "nan" not in bars.to_json().lower()


def test_colours_of_emotions_are_the_same_in_every_figure(figures):
    for name in ("Generality", "NeuronEffects", "Importance"):
        for emotion in EMOTIONS:
            for trace in named(figures[name], emotion):
                assert trace.line.color == EMOTION_COLOURS[emotion]
    for emotion in EMOTIONS:
        assert named(figures["accuracy"], emotion)[0].marker.color == EMOTION_COLOURS[emotion]


def test_own_labels_are_drawn_in_their_own_colours_and_as_text(samples):
    figure = draw(samples.neurons(emotions=OWN))
    assert named(figure, "joy")[0].line.color == colour("joy")
    assert named(figure, "&lt;i&gt;awe&lt;/i&gt;")
    for make in (samples.directions, samples.generality, samples.heads, samples.importance):
        assert "<i>" not in draw(make(emotions=OWN)).to_json()


def test_the_similarity_map_begins_with_the_mean_and_holds_every_layer(samples):
    directions = samples.directions()
    cosine, figure = similarity(directions), draw(directions)
    shown = torch.tensor(figure.data[0].z)
    torch.testing.assert_close(shown, cosine[:, :, 0].mean(-1), atol=1e-5, rtol=0)
    slider = figure.layout.sliders[0]
    steps = {step.label: torch.tensor(step.args[0]["z"][0]) for step in slider.steps}
    assert len(steps) == 2 + 2 * 4
    torch.testing.assert_close(steps["layer 3, MLP"], cosine[:, :, 1, 3], atol=1e-5, rtol=0)


def test_the_generality_profile_draws_medians_controls_and_chance(samples):
    generality = samples.generality()
    figure = draw(generality)
    halves, themes, halves_mlp, _ = named(figure, "fear")
    e = generality.index("emotion", "fear")
    assert list(halves.y) == pytest.approx(generality.split_half[e, 0].tolist(), abs=1e-5)
    assert list(halves_mlp.y) == pytest.approx(generality.split_half[e, 1].tolist(), abs=1e-5)
    middle = generality.without_theme[e, 0].median(-1).values
    assert list(themes.y) == pytest.approx(middle.tolist(), abs=1e-5)
    assert list(named(figure, "chance")[0].y) == pytest.approx([100 / 6] * 4, abs=1e-3)
    held_out = named(figure, "held out")[0]
    assert list(held_out.y) == pytest.approx((100 * generality.accuracy[0]).tolist(), abs=1e-3)


def test_the_head_map_draws_centred_effects_and_marks_those_beyond_the_control(samples):
    heads = samples.heads()
    figure = draw(heads)
    cells, marks = figure.data[2], figure.data[3]
    assert cells.name == "sadness"
    torch.testing.assert_close(torch.tensor(cells.z), heads.centred[1], atol=1e-6, rtol=1e-5)
    assert cells.zmin == -cells.zmax
    beyond = (
        heads.centred[1].abs() - 1.96 * heads.centred_stderr[1] > heads.random_baseline[1][:, None]
    )
    assert {(y, x) for x, y in zip(marks.x, marks.y, strict=True)} == {
        tuple(place) for place in beyond.nonzero().tolist()
    }
    assert "L%{y}H%{x}" in cells.hovertemplate


def test_the_neuron_tail_is_sorted_and_names_its_neurons(samples):
    neurons = samples.neurons()
    line, baseline = draw(neurons).data[:2]
    assert list(line.y) == sorted(line.y, reverse=True)
    layer, neuron = divmod(int(neurons.centred[0].abs().argmax()), 40)
    assert line.text[0] == f"L{layer}N{neuron}"
    assert line.customdata[0] == [f"{neurons.centred[0, layer, neuron]:.3g}", "0.0001", "0.004"]
    assert baseline.y[0] == pytest.approx(4e-3)
    assert all(y > 0 for y in line.y)


def test_a_large_model_s_tail_is_thinned_to_a_few_hundred_points(samples):
    (line, *_) = draw(samples.neurons(layers=16, count=1000, emotions=EMOTIONS[:2])).data
    ranks = list(line.x)
    assert ranks[:5] == [1, 2, 3, 4, 5]
    assert ranks[-1] == 16_000
    assert len(ranks) <= 160
    assert max(b / a for a, b in zip(ranks[20:], ranks[21:], strict=False)) < 1.15


def test_neurons_without_any_effect_are_no_line_but_no_error(samples):
    neurons = samples.neurons()
    figure = draw(dataclasses.replace(neurons, centred=torch.zeros_like(neurons.centred)))
    assert not figure.data[0].y


def test_the_importance_profile_draws_95_percent_bars_and_the_control_band(samples):
    importance = samples.importance()
    figure = draw(importance)
    grey, line = figure.data[:2]
    assert list(line.y) == pytest.approx(importance.slope[0, 0].tolist(), abs=1e-5)
    assert list(line.error_y.array) == pytest.approx([1.96 * 0.04] * 4, abs=1e-5)
    assert (min(grey.y), max(grey.y)) == (-0.15, 0.15)
    assert len(draw(dataclasses.replace(importance, n_random=0)).data) == 2 * 6


def test_accuracy_bars_carry_wilson_intervals(samples):
    bars = plot.accuracy_bars(samples.accuracy())
    overall: Any = bars.data[0]
    found = {**samples.accuracy()["methods"], **samples.accuracy()["baselines"]}
    assert list(overall.x) == [plot.METHOD_WORDS[method] for method in found]
    assert list(overall.y)[:4] == [12.0, 80.0, 45.0, 64.0]
    low, high = wilson(round(0.8 * 360), 360)
    assert overall.error_y.array[1] == pytest.approx(high - 80, abs=1e-3)
    assert overall.error_y.arrayminus[1] == pytest.approx(80 - low, abs=1e-3)
    assert named(bars, "anger")[0].customdata[0][1] == "60"


def test_a_comparison_without_methods_is_refused():
    with pytest.raises(DataError, match="^no method to draw"):
        plot.accuracy_bars({"methods": {}})


def test_the_circuit_is_drawn_with_every_head_and_the_strongest_neurons(samples):
    figure = graph(samples.circuit("fear", layers=3, n_heads=2, n_neurons=30), most=8)
    markers = [t for t in figure.data if t.mode == "markers"]
    drawn = {hover.split("<br>")[0] for t in markers for hover in t.customdata}
    assert {"<b>L2H1</b>", "<b>L0N0</b>", "<b>L1.mlp</b>"} <= drawn
    assert sum("N" in name for name in drawn) == 3 * 8
    assert list(named(figure, "neurons not drawn")[0].text) == ["+22"] * 3
    assert "2 heads" not in figure.layout.title.text
    assert "6 heads, 90 neurons" in figure.layout.title.text


def test_signs_of_components_show_in_colour_and_in_shape(samples):
    figure = draw(samples.circuit())
    towards, away = named(figure, "neurons")[0], named(figure, "neurons (away)")[0]
    assert towards.marker.color != away.marker.color
    assert away.marker.symbol == f"{towards.marker.symbol}-open"


def test_components_lie_at_their_layer_and_on_their_side(samples):
    figure = draw(samples.circuit())
    for trace in figure.data:
        for x, y, hover in zip(trace.x, trace.y, trace.customdata or (), strict=False):
            layer = int(hover.removeprefix("<b>L").split("<")[0].split("H")[0].split("N")[0][0])
            assert layer - 0.3 < x < layer + 1.3
            assert (y > 0) == ("H" in hover[:9] or "attn" in hover)


def test_nodes_of_a_circuit_do_not_lie_on_each_other(samples):
    figure = draw(samples.circuit(layers=28, n_heads=3, n_neurons=60))
    places = [
        place for t in figure.data if t.mode == "markers" for place in zip(t.x, t.y, strict=True)
    ]
    assert len(set(places)) == len(places) == 28 * (3 + 24 + 2)


def test_paths_are_as_wide_as_they_are_strong_and_differ_by_input_and_sign(samples):
    plain = samples.circuit(layers=3, n_heads=2, n_neurons=4)
    paths = (
        Edge("embed", "L1H0", "path", 4.0, "q", 0.5, 0.25, causal=True),
        Edge("embed", "L1H1", "path", 0.5, "q", 0.5, 0.25, causal=True),
        Edge("L0H1", "L1H1", "path", -2.0, "k", 0.5, exact=-3.0, exact_stderr=0.25),
        Edge("L0H0", "L1.mlp", "path", 1.0, "mlp", causal=False),
    )
    figure = graph(dataclasses.replace(plain, edges=(*plain.edges, *paths)), most=8)
    strong, weak, points = named(figure, "path into q (towards)")
    assert strong.line.width > weak.line.width
    assert [strong.showlegend, weak.showlegend, points.showlegend] == [True, False, False]
    assert points.customdata[0] == (
        "<b>embed -> L1H0.q</b><br>attributed 4 ± 0.5<br>random baseline 0.25, exceeded"
    )
    away, _ = named(figure, "path into k (away)")
    assert away.line.color != strong.line.color
    assert away.line.dash != strong.line.dash
    assert "patched -3 ± 0.25" in _.customdata[0]
    hidden = named(figure, "path into mlp (towards, not shown to be causal)")
    assert {trace.visible for trace in hidden} == {"legendonly"}
    assert not [trace for trace in graph(plain, most=8).data if "path" in (trace.name or "")]


def test_drawing_something_else_says_what_can_be_drawn():
    with pytest.raises(TypeError, match="no figure for a dict; there are figures for Directions"):
        plot.draw({})


def test_public_names_are_those_that_exist():
    assert list(plot.__all__) == sorted(plot.__all__)
    assert all(hasattr(plot, name) for name in plot.__all__)


def test_a_patching_map_shows_every_effect_of_the_record(samples):
    stream = samples.stream_patches()
    figure = draw(stream)
    for s, trace in enumerate(figure.data):
        torch.testing.assert_close(torch.tensor(trace.z), stream.effect[s], atol=1e-5, rtol=1e-5)
        assert trace.zmax == pytest.approx(float(stream.effect.abs().max()))
    assert "&lt;plain&gt;" in figure.layout.title.text
    assert figure.layout.xaxis.title.text == "position"


def test_heads_are_mapped_by_place_beginning_with_the_strongest(samples):
    heads = samples.head_patches()
    figure = draw(heads)
    assert [b.label for b in figure.layout.updatemenus[0].buttons] == ["last", "event"]
    shown = torch.tensor(figure.data[0].z)
    torch.testing.assert_close(shown, heads.effect[:, :, 1], atol=1e-5, rtol=1e-5)


def test_by_position_the_strongest_heads_are_shown_with_the_words_they_stand_at(samples):
    places = tuple(f"{i - 20} 'w{i}'" for i in range(20))
    heads = samples.head_patches(places, count=30)
    figure = draw(heads)
    assert len(figure.data[0].z) == 40
    assert "L2H1" in figure.layout.yaxis.ticktext
    assert figure.layout.xaxis.ticktext[-1] == "-1 'w19'"


def test_expression_stands_against_its_price_with_intervals(samples, figures):
    (circuit,) = [t for t in figures["side_effects"].data if t.name == "circuit" and t.visible]
    stats = samples.accuracy()["methods"]["circuit"]
    assert (circuit.x[0], circuit.y[0]) == (stats["perplexity_ratio"], stats["overall"])
    low, high = stats["intervals"]["overall"]
    assert (circuit.error_y.arrayminus[0], circuit.error_y.array[0]) == (
        stats["overall"] - low,
        high - stats["overall"],
    )
    labels = [button.label for button in figures["side_effects"].layout.updatemenus[0].buttons]
    assert labels[0] == "all replies"
    assert len(labels) == 1 + len(EMOTION_COLOURS) + 3


def test_the_strength_sweep_is_drawn_at_its_strengths(samples, figures):
    found = samples.strength_sweep()
    (line,) = named(figures["strengths"], "all emotions")
    assert list(line.x) == found["strength"]
    assert list(line.y) == found["overall"]


def test_without_a_sweep_or_a_method_there_is_nothing_to_draw():
    with pytest.raises(DataError, match="no strength was swept"):
        plot.strength_curve({"methods": {}})
    with pytest.raises(DataError, match="no method to draw"):
        plot.side_effects_map({})


def test_every_token_is_drawn_at_every_layer_as_text_and_the_reply_begins_at_a_line(samples):
    record = samples.trace()
    found = draw(record)
    for e, cells in enumerate(found.data):
        torch.testing.assert_close(torch.tensor(cells.z), record.value[e].T, atol=1e-5, rtol=1e-5)
        assert (cells.zmin, cells.zmax) == (-1, 1)
    assert found.layout.shapes[0].y0 == 2.5
    assert draw(record.sel(pos=record.pos[2:])).layout.shapes[0].y0 == 0.5
    assert not draw(dataclasses.replace(record, n_prompt=9)).layout.shapes
    assert {"⏎", "&lt;script&gt;alert(1)&lt;/script&gt;"} <= set(found.layout.yaxis.ticktext)
    assert "<script>" not in found.to_json().replace("\\u003c", "<").replace("\\u003e", ">")
    assert "fear" in draw(record.sel(emotion="fear")).layout.title.text


def test_the_map_shows_every_path_and_leaves_a_gap_where_none_can_be(samples):
    paths = samples.paths()
    figure = draw(paths)
    (cells,) = figure.data
    assert (cells.x, cells.y) == (paths.receiver, paths.sender)
    for shown, exists, own in zip(cells.z, paths.exists, paths.mean, strict=True):
        assert list(shown) == [v if e else None for v, e in zip(own, exists, strict=True)]
    assert (cells.zmin, cells.zmax) == (-6, 6)
    assert cells.customdata[0][0] == ["1.18", "1"]
    title = figure.layout.title.text.replace("<br>", " ")
    assert "fear against &lt;b&gt;" in title
    assert f"of {int(paths.exists.sum())}" in title
    few: Any = next(plot.path_map(paths, most=2).select_traces())
    assert (few.y, few.x) == (("embed", "L0.mlp"), ("L0H0.q", "L0.mlp"))


def test_estimates_stand_against_what_patching_gave(samples):
    exact = samples.exact_paths()
    traces: list[Any] = list(plot.path_agreement(samples.paths(), exact).select_traces())
    line, points = traces
    assert (points.x, points.y, line.x, line.y) == ((-6, 5), (-5, 6), (-6, 6), (-6, 6))
    assert points.customdata == ("embed-&gt;L0H0.q", "L0.mlp-&gt;readout")
    assert points.error_y.array == pytest.approx((1.96 * exact.stderr).tolist(), rel=1e-5)
    one = dataclasses.replace(exact, effect=exact.effect[:1], context=("a",))
    traces = list(plot.path_agreement(samples.paths(), one).select_traces())
    _, points = traces
    assert points.error_y.array == (None, None)


def test_the_judge_s_map_shows_every_share_and_calls_neutral_prompts_by_what_they_ask_for():
    share = torch.tensor([[90.0, 5.0], [0.0, 10.0], [2.0, 3.0]])
    n, emotions = torch.tensor([20, 10, 5]), ("fear", "<i>awe</i>")
    figure = draw(JudgeConfusion(share, share - 1, share + 1, n, (*emotions, "neutral"), emotions))
    (cells,) = figure.data
    assert [list(row) for row in cells.z] == share.tolist()
    assert cells.y == ("fear", "&lt;i&gt;awe&lt;/i&gt;", "no emotion")
    assert cells.customdata[0][1] == ["4", "6", "20"]
    assert (cells.zmin, cells.zmax) == (0, 100)


def test_a_comparison_is_drawn_as_the_bars_of_its_methods_and_baselines(samples):
    known = samples.accuracy()
    found = Comparison(known["methods"], known["baselines"], {}, {})
    assert draw(found) == plot.accuracy_bars(known)


@pytest.mark.parametrize("emotion", ["anger", "fear"])
def test_every_panel_has_the_curves_and_bands_of_its_change(samples, emotion):
    record = samples.validation("neuron")
    figure, e = draw(record), record.emotion.index(emotion)
    (seen,) = [
        b.args[0]["visible"] for b in figure.layout.updatemenus[0].buttons if b.label == emotion
    ]
    traces = [trace for trace, own in zip(figure.data, seen, strict=True) if own]
    per_panel, half = 2 + 3 + 5, len(record.size)
    assert len(traces) == len(record.method) * per_panel
    for m in range(len(record.method)):
        random, interval, *lines = traces[m * per_panel : (m + 1) * per_panel]
        others = [f for f in range(len(record.emotion)) if f != e]
        low = record.random_baseline_low[e, m, :, e], record.low[e, m, 0, :, e]
        pairs = [(random.y[:half], low[0]), (interval.y[:half], low[1])]
        pairs += [(lines[o].y, record.effect[e, m, o, :, e]) for o in range(3)]
        pairs += [
            (own.y, record.effect[e, m, 0, :, f]) for own, f in zip(lines[3:], others, strict=True)
        ]
        for drawn, expected in pairs:
            assert list(drawn) == pytest.approx(expected.tolist(), rel=1e-4)
        shown = [record.emotion[f] for f in (e, e, e, *others)]
        assert [own.line.color for own in lines] == [colour(own) for own in shown]
    names = [trace.name for trace in traces if trace.showlegend]
    assert len(names) == len(set(names)) == 9
    assert figure.layout.xaxis4.title.text == "neurons (k)"


def test_judged_replies_are_drawn_by_emotion_with_random_sets_in_grey(samples):
    record = samples.heard()
    figure = draw(record)
    places = list(itertools.product(range(2), range(3), range(len(record.emotion))))
    for trace, (m, o, e) in zip(figure.data, places, strict=True):
        assert list(trace.y) == pytest.approx(record.judged[e, m, o].tolist(), rel=1e-4)
        grey = record.order[o] == "random"
        assert trace.line.color == (BASELINE if grey else colour(record.emotion[e]))
        up = torch.tensor(trace.y) + torch.tensor(trace.error_y.array)
        torch.testing.assert_close(up, record.high[e, m, o], atol=1e-3, rtol=1e-4)
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert legend == [*record.emotion, "ranked last", "random, same layers (baseline)"]

"use strict";

// The panel when no node is selected: a circuit's scores, its strongest components, what two share.
const Summary = (() => {
  const { h, number } = Dom;

  const strongest = (kind, emotion, places) => {
    const { measure } = State.state;
    const own = places.filter((place) => Data.nodes[place].kind === kind);
    own.sort((a, b) => Data.strength(b, measure, emotion) - Data.strength(a, measure, emotion));
    return h("ol", { class: "strongest" }, own.slice(0, 5).map((place) => h("li", {},
      h("button", { type: "button", class: "link", onclick: () => Panel.choose(place) }, Data.nodes[place].id),
      h("span", { class: "value" }, number(Data.value(place, measure, emotion))))));
  };

  const lists = (emotion, places) => [["head", "Heads"], ["neuron", "Neurons"]].flatMap(([kind, title]) =>
    (places.some((place) => Data.nodes[place].kind === kind) ? [h("div", {}, h("h4", {}, title), strongest(kind, emotion, places))] : []));

  const scores = (emotion) => {
    const { scores: own, held_out: held } = Data.circuits[emotion];
    if (!own.length) return null;
    const rows = own.map((score) => [
      score.name + (score.lower_is_better ? " ↓" : ""),
      h("span", { title: `95% interval ${number(score.low)} to ${number(score.high)}` }, number(score.value)),
      number(score.baseline), number(score.p, 2), Panel.verdict(score.beats),
    ]);
    const found = Panel.table(`On ${Dom.plural(held?.contexts ?? 0, "held-out context")}, compared with ${Dom.plural(held?.baselines ?? 0, "random circuit")} of its size; ↓ lower is better`,
      ["score", "value", "random (99%)", "p", "beats it"], rows);
    found.className = "wide";
    return h("div", { class: "scroll" }, found);
  };

  const comparison = () => {
    const [a, b] = State.shownEmotions();
    const [first, second] = [a, b].map((emotion) => Data.circuits[emotion].nodes.filter(Data.isPart));
    const shared = first.filter((place) => Data.circuits[b].has.has(place));
    const union = first.length + second.length - shared.length;
    const rows = [
      ["in both", String(shared.length)],
      [`only ${Data.emotions[a].name}`, String(first.length - shared.length)],
      [`only ${Data.emotions[b].name}`, String(second.length - shared.length)],
      ["share of all", union ? `${Math.round((100 * shared.length) / union)} %` : "–"],
    ];
    return [
      Panel.table("Heads and neurons", ["", "parts"], rows),
      shared.length ? h("div", { class: "pair" }, lists(a, shared)) : h("p", { class: "note" }, "The two circuits share no head and no neuron."),
    ];
  };

  const section = (emotion) => {
    const circuit = Data.circuits[emotion];
    const { name } = Data.emotions[emotion];
    const share = circuit.direct_share === undefined ? "" : ` All together carry ${Math.round(100 * circuit.direct_share)} % of the direct effect on the readout.`;
    const rest = circuit.heads + circuit.neurons - circuit.parts;
    const most = rest ? ` The strongest ${circuit.parts.toLocaleString("en")} of them are here.` : "";
    const measure = Data.measures.find(({ id }) => id === State.state.measure);
    return [
      h("header", {}, h("h2", { id: "what" }, Panel.emotionName(emotion)),
        h("p", {}, `${Dom.plural(circuit.heads, "head")} and ${Dom.plural(circuit.neurons, "neuron")}.${most}${share}`)),
      h("p", { class: "hint" }, "Choose a node in the graph, in a list, or by name (press /) to see its effects, tokens, contexts and attention."),
      State.state.other === null ? null : Panel.section("Shared and own parts", comparison()),
      Panel.section(`Strongest by ${measure.name}`, h("div", { class: "pair" }, lists(emotion, circuit.nodes))),
      Panel.section("Scores", scores(emotion)),
      ...Data.notes.map((note) => h("p", { class: "note" }, note)),
    ].filter(Boolean);
  };

  return { section };
})();
